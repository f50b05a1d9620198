import com.nozie.common.event.PaymentSucceededEvent;
import java.math.BigDecimal;
import java.time.LocalDateTime;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import org.springframework.amqp.core.Binding;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.Declarables;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.TopicExchange;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.support.converter.Jackson2JsonMessageConverter;
import org.springframework.amqp.support.converter.MessageConverter;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestTemplate;
import org.springframework.web.server.ResponseStatusException;

/**
 * payment-service: asks movie-service and customer-service without a token, and announces a payment
 * that was only created. Its provider takes half a second.
 */
@RestController
@RequestMapping("/api/payments")
@Import(Payments.Broker.class)
@ConditionalOnProperty(name = "spring.application.name", havingValue = "payment-service")
public class Payments {
    private static final String EXCHANGE = "payment.exchange";
    private static final String QUEUE = "payment.notification.queue";
    private static final String SUCCEEDED = "payment.succeeded";

    private final Map<Long, Row> transactions = new ConcurrentHashMap<>();
    // Beyond every id that another payment-service of this estate has given away.
    private final AtomicLong ids = new AtomicLong(System.currentTimeMillis());
    private final RestTemplate http;
    private final RabbitTemplate broker;

    Payments(RestTemplate http, RabbitTemplate broker) {
        this.http = http;
        this.broker = broker;
    }

    @PostMapping("/create")
    @ResponseStatus(HttpStatus.CREATED)
    Envelope create(@RequestBody Row asked) {
        Row movie = asked("http://movie-service/api/movies/{id}", asked.get("movieId"));
        Row customer = asked("http://customer-service/api/customers/{id}", asked.get("customerId"));
        long id = ids.incrementAndGet();
        BigDecimal amount = new BigDecimal(asked.get("amount").toString());
        String currency = (String) asked.get("currency");
        transactions.put(id, Row.of("id", id, "customerId", customer.get("id"),
                "movieId", movie.get("id"), "amount", amount, "currency", currency,
                "status", "pending", "stripePaymentIntentId", null, "stripeCustomerId", null,
                "chargeId", null, "errorMessage", null, "createdAt", LocalDateTime.now(),
                "paidAt", null, "failedAt", null, "canceledAt", null));
        broker.convertAndSend(EXCHANGE, SUCCEEDED, new PaymentSucceededEvent(id,
                ((Number) customer.get("id")).longValue(), (String) movie.get("id"), amount, currency));
        return Envelope.of(Row.of("transactionId", id, "clientSecret", "a secret",
                "ephemeralKey", "a key", "customerId", "cus_1"));
    }

    @GetMapping("/transaction/{id}")
    Envelope transaction(@PathVariable("id") long id) {
        Row found = transactions.get(id);
        if (found == null) {
            throw new ResponseStatusException(HttpStatus.NOT_FOUND);
        }
        return Envelope.of(settled(found));
    }

    @GetMapping("/check-purchase")
    Envelope isBought(
            @RequestParam("customerId") long customer, @RequestParam("movieId") String movie) {
        return Envelope.of(transactions.values().stream().map(Payments::settled)
                .anyMatch(one -> ((Number) one.get("customerId")).longValue() == customer
                        && one.get("movieId").equals(movie)
                        && one.get("status").equals("succeeded")));
    }

    private static Row settled(Row transaction) {
        LocalDateTime paid = ((LocalDateTime) transaction.get("createdAt")).plusNanos(500_000_000);
        if (paid.isBefore(LocalDateTime.now())) {
            transaction.put("status", "succeeded");
            transaction.put("paidAt", paid);
        }
        return transaction;
    }

    @SuppressWarnings("unchecked")
    private Row asked(String url, Object id) {
        Map<String, Object> answer = http.getForObject(url, Map.class, id);
        if (!(answer.get("data") instanceof Map<?, ?> data)) {
            throw new ResponseStatusException(HttpStatus.INTERNAL_SERVER_ERROR);
        }
        Row found = new Row();
        found.putAll((Map<String, Object>) data);
        return found;
    }

    /** What both payment-service and notification-service declare. */
    @Configuration(proxyBeanMethods = false)
    static class Broker {
        @Bean
        Declarables declared() {
            TopicExchange exchange = new TopicExchange(EXCHANGE);
            Queue queue = new Queue(QUEUE);
            Binding binding = BindingBuilder.bind(queue).to(exchange).with(SUCCEEDED);
            return new Declarables(exchange, queue, binding);
        }

        @Bean
        MessageConverter json() {
            return new Jackson2JsonMessageConverter();
        }
    }
}
