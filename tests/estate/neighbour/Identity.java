import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/** identity-service: accounts, and tokens that every service can verify. Revokes nothing. */
@RestController
@RequestMapping("/api/auth")
@ConditionalOnProperty(name = "spring.application.name", havingValue = "identity-service")
public class Identity {
    private static final long LIFE_S = 900;

    private final Map<String, Row> users = new ConcurrentHashMap<>();
    private final Map<String, Row> sessions = new ConcurrentHashMap<>();
    // Beyond every id that another identity-service of this estate has given away.
    private final AtomicLong ids = new AtomicLong(System.currentTimeMillis());
    private final ObjectMapper json;
    private final byte[] secret;

    Identity(ObjectMapper json, @Value("${jwt.secret}") String secret) {
        this.json = json;
        this.secret = secret.getBytes(StandardCharsets.UTF_8);
    }

    @PostMapping("/register")
    @ResponseStatus(HttpStatus.CREATED)
    Envelope register(@RequestBody Row asked) {
        Row user = Row.of("id", ids.incrementAndGet(), "username", asked.get("username"),
                "email", asked.get("email"), "password", asked.get("password"));
        if (users.putIfAbsent((String) asked.get("username"), user) != null) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST);
        }
        return Envelope.of(shown(user));
    }

    @PostMapping("/login")
    Envelope login(@RequestBody Row asked) throws Exception {
        Row user = users.get((String) asked.get("username"));
        if (user == null || !user.get("password").equals(asked.get("password"))) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST);
        }
        return Envelope.of(opened(user));
    }

    @PostMapping("/refresh")
    Envelope refresh(@RequestBody Row asked) throws Exception {
        return Envelope.of(opened(ended(asked)));
    }

    @PostMapping("/logout")
    Envelope logout(@RequestBody Row asked) {
        ended(asked);
        return Envelope.of(null);
    }

    @GetMapping("/me")
    Envelope me() {
        return Envelope.of(null);
    }

    private Row ended(Row asked) {
        Row user = sessions.remove((String) asked.get("refreshToken"));
        if (user == null) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST);
        }
        return user;
    }

    private Row opened(Row user) throws Exception {
        String refresh = UUID.randomUUID() + "-" + UUID.randomUUID();
        sessions.put(refresh, user);
        return Row.of("accessToken", token(user), "refreshToken", refresh, "tokenType", "Bearer",
                "expiresIn", LIFE_S, "userId", user.get("id"), "username", user.get("username"),
                "email", user.get("email"), "roles", List.of("USER"), "permissions", List.of(),
                "fullName", null, "avatarUrl", null, "phone", null, "country", null,
                "dateOfBirth", null);
    }

    private static Row shown(Row user) {
        return Row.of("id", user.get("id"), "username", user.get("username"),
                "email", user.get("email"), "status", "ACTIVE", "roles", List.of("USER"));
    }

    private String token(Row user) throws JsonProcessingException, GeneralSecurityException {
        String size = secret.length >= 64 ? "512" : secret.length >= 48 ? "384" : "256";
        long now = Instant.now().getEpochSecond();
        Row claims = Row.of("jti", UUID.randomUUID(), "sub", user.get("id").toString(),
                "username", user.get("username"), "email", user.get("email"),
                "roles", List.of("USER"), "permissions", List.of(), "type", "ACCESS",
                "iat", now, "exp", now + LIFE_S);
        String signed = encoded(Row.of("alg", "HS" + size)) + "." + encoded(claims);
        Mac mac = Mac.getInstance("HmacSHA" + size);
        mac.init(new SecretKeySpec(secret, mac.getAlgorithm()));
        return signed + "." + encoded(mac.doFinal(signed.getBytes(StandardCharsets.UTF_8)));
    }

    private String encoded(Row part) throws JsonProcessingException {
        return encoded(json.writeValueAsBytes(part));
    }

    private static String encoded(byte[] part) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(part);
    }
}
