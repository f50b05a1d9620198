import com.nozie.common.event.PaymentSucceededEvent;
import java.time.LocalDateTime;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import org.springframework.amqp.rabbit.annotation.RabbitListener;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.context.annotation.Import;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PatchMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/** notification-service: listens as the JVM's does and keeps what it hears. It pushes nothing. */
@RestController
@RequestMapping("/api/notifications")
@Import(Payments.Broker.class)
@ConditionalOnProperty(name = "spring.application.name", havingValue = "notification-service")
public class Notifications {
    private final Map<String, Row> kept = new ConcurrentHashMap<>();

    @RabbitListener(queues = "payment.notification.queue")
    void on(PaymentSucceededEvent event) {
        String id = UUID.randomUUID().toString().replace("-", "").substring(0, 24);
        kept.put(id, Row.of("id", id, "customerId", event.customerId(), "type", "purchase",
                "title", "Purchase complete", "description", event.amount() + " " + event.currency(),
                "deepLink", "movie:" + event.movieId(), "read", false,
                "createdAt", LocalDateTime.now()));
    }

    @GetMapping("/{customer}")
    Envelope list(@PathVariable("customer") long customer) {
        return Envelope.of(of(customer));
    }

    @GetMapping("/{customer}/count")
    Envelope count(@PathVariable("customer") long customer) {
        long unread = of(customer).stream().filter(one -> one.get("read").equals(false)).count();
        return Envelope.of(Row.of("unreadCount", unread));
    }

    @PatchMapping("/{id}/read")
    Envelope read(@PathVariable("id") String id) {
        Row found = kept.get(id);
        if (found == null) {
            throw new ResponseStatusException(HttpStatus.INTERNAL_SERVER_ERROR);
        }
        found.put("read", true);
        return Envelope.of(found);
    }

    private List<Row> of(long customer) {
        return kept.values().stream()
                .filter(one -> one.get("customerId").equals(customer)).toList();
    }
}
