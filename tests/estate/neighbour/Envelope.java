import java.time.LocalDateTime;

/** What every answer of a service is wrapped in. */
public record Envelope(boolean success, String message, Object data, LocalDateTime timestamp) {
    static Envelope of(Object data) {
        return new Envelope(true, "Success", data, LocalDateTime.now());
    }
}
