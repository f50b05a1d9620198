import java.net.URI;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.context.properties.bind.Bindable;
import org.springframework.boot.context.properties.bind.Binder;
import org.springframework.boot.web.client.RestTemplateBuilder;
import org.springframework.cloud.bus.event.AckRemoteApplicationEvent;
import org.springframework.cloud.bus.event.RemoteApplicationEvent;
import org.springframework.cloud.client.loadbalancer.LoadBalanced;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.event.EventListener;
import org.springframework.core.env.Environment;
import org.springframework.http.HttpEntity;
import org.springframework.http.HttpHeaders;
import org.springframework.http.HttpMethod;
import org.springframework.http.ResponseEntity;
import org.springframework.http.client.ClientHttpResponse;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.DefaultResponseErrorHandler;
import org.springframework.web.client.RestTemplate;

/**
 * An ordinary Spring Cloud application of the same estate. Under the id of one of the six services
 * it also answers that service's calls.
 */
@RestController
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
@Import({Neighbour.Clients.class, Identity.class, Movies.class, Customers.class, Payments.class,
        Notifications.class})
public class Neighbour {
    private final RestTemplate http;
    private final Environment environment;
    private final List<Map<String, String>> heard = new CopyOnWriteArrayList<>();

    Neighbour(RestTemplate http, Environment environment) {
        this.http = http;
        this.environment = environment;
    }

    public static void main(String[] args) {
        SpringApplication.run(Neighbour.class, args);
    }

    /** Calls another service by its id and passes on what it answers. */
    @GetMapping("/call/{service}")
    ResponseEntity<byte[]> call(
            @PathVariable("service") String service,
            @RequestParam("path") String path,
            @RequestHeader(name = HttpHeaders.AUTHORIZATION, required = false) String token) {
        HttpHeaders headers = new HttpHeaders();
        if (token != null) {
            headers.set(HttpHeaders.AUTHORIZATION, token);
        }
        ResponseEntity<byte[]> answer = http.exchange(URI.create("http://" + service + path),
                HttpMethod.GET, new HttpEntity<>(headers), byte[].class);
        return ResponseEntity.status(answer.getStatusCode())
                .contentType(answer.getHeaders().getContentType())
                .body(answer.getBody());
    }

    /** Tells how Spring reads a property: as text, and as a list. */
    @GetMapping("/property/{key}")
    Map<String, Object> property(@PathVariable("key") String key) {
        String text = environment.getProperty(key);
        List<String> list =
                Binder.get(environment).bind(key, Bindable.listOf(String.class)).orElse(List.of());
        return text == null ? Map.of("list", list) : Map.of("text", text, "list", list);
    }

    /** Tells what came over the bus, oldest first. */
    @GetMapping("/heard")
    List<Map<String, String>> heard() {
        return heard;
    }

    @EventListener
    void on(RemoteApplicationEvent event) {
        String about = event instanceof AckRemoteApplicationEvent ack
                ? ack.getEvent().getSimpleName() : "";
        heard.add(Map.of("type", event.getClass().getSimpleName(), "about", about,
                "origin", event.getOriginService()));
    }

    @Configuration(proxyBeanMethods = false)
    static class Clients {
        @Bean
        @LoadBalanced
        RestTemplate http(RestTemplateBuilder builder) {
            return builder.errorHandler(new DefaultResponseErrorHandler() {
                @Override
                public boolean hasError(ClientHttpResponse response) {
                    return false;
                }
            }).build();
        }
    }
}
