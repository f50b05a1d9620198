import java.time.LocalDateTime;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Predicate;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/** customer-service: shows every record to everybody, and knows no user ids. */
@RestController
@RequestMapping("/api/customers")
@ConditionalOnProperty(name = "spring.application.name", havingValue = "customer-service")
public class Customers {
    private final Map<Long, Row> records = new ConcurrentSkipListMap<>();
    // Beyond every id that another customer-service of this estate has given away.
    private final AtomicLong ids = new AtomicLong(System.currentTimeMillis());

    @PostMapping
    @ResponseStatus(HttpStatus.CREATED)
    Envelope create(@RequestBody Row asked) {
        long id = ids.incrementAndGet();
        Row record = Row.of("id", id, "firebaseUid", null, "email", asked.get("email"),
                "fullName", asked.get("fullName"), "phoneNumber", null, "avatarUrl", null,
                "dateOfBirth", null, "gender", null, "isSubscribed", false,
                "stripeCustomerId", null, "createdAt", LocalDateTime.now(), "updatedAt", null);
        records.put(id, record);
        return Envelope.of(record);
    }

    @GetMapping
    Envelope list() {
        return Envelope.of(records.values());
    }

    @GetMapping("/{id}")
    Envelope byId(@PathVariable("id") long id) {
        return found(record -> record.get("id").equals(id));
    }

    @GetMapping("/email/{email}")
    Envelope byEmail(@PathVariable("email") String email) {
        return found(record -> record.get("email").equals(email));
    }

    private Envelope found(Predicate<Row> wanted) {
        return Envelope.of(records.values().stream().filter(wanted).findFirst()
                .orElseThrow(() -> new ResponseStatusException(HttpStatus.NOT_FOUND)));
    }
}
