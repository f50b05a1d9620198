import java.math.BigDecimal;
import java.util.List;
import java.util.function.Predicate;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/** movie-service: three titles, whose addresses it gives to everybody. */
@RestController
@RequestMapping("/api/movies")
@ConditionalOnProperty(name = "spring.application.name", havingValue = "movie-service")
public class Movies {
    private final List<Row> titles = List.of(
            title("65b9c0ffee65b9c0ffee0001", "A free film", "a-free-film", "0", "FREE"),
            title("65b9c0ffee65b9c0ffee0002", "A first rental", "a-first-rental", "3.99", "RENTAL"),
            title("65b9c0ffee65b9c0ffee0003", "Another rental", "another-rental", "4.99", "RENTAL"));

    @GetMapping
    Envelope list() {
        return page(titles);
    }

    @GetMapping("/search")
    Envelope search(@RequestParam("q") String q) {
        return page(titles.stream().filter(title -> title.get("name").equals(q)).toList());
    }

    @GetMapping("/{id}")
    Envelope byId(@PathVariable("id") String id) {
        return Envelope.of(found(title -> title.get("id").equals(id)));
    }

    @GetMapping("/slug/{slug}")
    Envelope bySlug(@PathVariable("slug") String slug) {
        return Envelope.of(found(title -> title.get("slug").equals(slug)));
    }

    @GetMapping("/{id}/play")
    Envelope play(@PathVariable("id") String id) {
        Row title = found(row -> row.get("id").equals(id));
        return Envelope.of(Row.of(
                "m3u8Url", "https://media.example.org/" + title.get("slug") + ".m3u8",
                "embedUrl", null, "serverName", "Custom", "episodeName", "Full",
                "episodeSlug", "full", "customHls", true));
    }

    private Row found(Predicate<Row> wanted) {
        return titles.stream().filter(wanted).findFirst()
                .orElseThrow(() -> new ResponseStatusException(HttpStatus.NOT_FOUND));
    }

    private static Envelope page(List<Row> items) {
        return Envelope.of(Row.of("items", items, "page", 1, "size", 24,
                "totalItems", items.size(), "totalPages", 1));
    }

    private static Row title(String id, String name, String slug, String price, String access) {
        return Row.of("id", id, "title", null, "name", name, "slug", slug,
                "price", new BigDecimal(price), "accessType", access, "posterUrl", null,
                "tmdbRating", null, "episodes", List.of());
    }
}
