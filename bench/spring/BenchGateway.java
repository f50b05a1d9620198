import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.cloud.gateway.filter.GatewayFilterChain;
import org.springframework.cloud.gateway.filter.GlobalFilter;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.Ordered;
import org.springframework.data.redis.core.ReactiveStringRedisTemplate;
import org.springframework.data.redis.core.script.RedisScript;
import org.springframework.http.HttpStatus;
import org.springframework.http.server.reactive.ServerHttpRequest;
import org.springframework.web.server.ServerWebExchange;
import reactor.core.publisher.Mono;

/** Stock Spring Cloud Gateway with the one filter that makes its chain the same as ours. */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
public class BenchGateway {
  public static void main(String[] arguments) {
    SpringApplication.run(BenchGateway.class, arguments);
  }

  @Bean
  GlobalFilter guard(
      ReactiveStringRedisTemplate redis, ObjectMapper json, @Value("${jwt.secret}") String secret) {
    return new Guard(redis, json, secret);
  }

  private record Caller(String user, String name, String roles, List<String> keys, long expires) {}

  /** Token, revocation and limit: verified tokens are kept, one script a request, as with ours. */
  private static final class Guard implements GlobalFilter, Ordered {
    private static final RedisScript<List> CHECK =
        RedisScript.of(
            "if redis.call('EXISTS', KEYS[1]) == 1 then return {1, 0} end "
                + "local count = redis.call('INCR', KEYS[2]) "
                + "if count == 1 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end "
                + "return {0, count}",
            List.class);
    private static final List<String> WINDOW = List.of("60");
    private static final long LIMIT = 1_000_000_000L;

    private final Map<String, Caller> known = new ConcurrentHashMap<>();
    private final ReactiveStringRedisTemplate redis;
    private final ObjectMapper json;
    private final byte[] secret;

    Guard(ReactiveStringRedisTemplate redis, ObjectMapper json, String secret) {
      this.redis = redis;
      this.json = json;
      this.secret = secret.getBytes(StandardCharsets.UTF_8);
    }

    @Override
    public int getOrder() {
      return -100;
    }

    @Override
    public Mono<Void> filter(ServerWebExchange exchange, GatewayFilterChain chain) {
      Caller caller = identify(exchange.getRequest().getHeaders().getFirst("Authorization"));
      if (caller == null) {
        return refuse(exchange, HttpStatus.UNAUTHORIZED);
      }
      return redis
          .execute(CHECK, caller.keys(), WINDOW)
          .next()
          .flatMap(
              answer -> {
                if (((Number) answer.get(0)).longValue() == 1) {
                  return refuse(exchange, HttpStatus.UNAUTHORIZED);
                }
                if (((Number) answer.get(1)).longValue() > LIMIT) {
                  return refuse(exchange, HttpStatus.TOO_MANY_REQUESTS);
                }
                String id = UUID.randomUUID().toString();
                exchange.getResponse().getHeaders().set("X-Correlation-Id", id);
                ServerHttpRequest known =
                    exchange
                        .getRequest()
                        .mutate()
                        .header("X-User-Id", caller.user())
                        .header("X-User-Name", caller.name())
                        .header("X-User-Roles", caller.roles())
                        .header("X-Correlation-Id", id)
                        .build();
                return chain.filter(exchange.mutate().request(known).build());
              });
    }

    private Caller identify(String authorization) {
      if (authorization == null || !authorization.startsWith("Bearer ")) {
        return null;
      }
      Caller caller = known.get(authorization);
      if (caller == null) {
        caller = verify(authorization.substring(7));
        if (caller != null) {
          known.put(authorization, caller);
        }
      }
      return caller == null || caller.expires() <= System.currentTimeMillis() / 1000 ? null : caller;
    }

    private Caller verify(String token) {
      try {
        String[] parts = token.split("\\.");
        Mac mac = Mac.getInstance("HmacSHA512");
        mac.init(new SecretKeySpec(secret, "HmacSHA512"));
        byte[] expected =
            mac.doFinal((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
        if (!MessageDigest.isEqual(expected, Base64.getUrlDecoder().decode(parts[2]))) {
          return null;
        }
        JsonNode claims = json.readTree(Base64.getUrlDecoder().decode(parts[1]));
        String user = claims.path("sub").asText();
        List<String> keys =
            List.of("token:blacklist:" + claims.path("jti").asText(), "ratelimit:user:" + user);
        return "ACCESS".equals(claims.path("type").asText())
            ? new Caller(
                user,
                claims.path("username").asText(),
                claims.path("roles").toString(),
                keys,
                claims.path("exp").asLong())
            : null;
      } catch (Exception malformed) {
        return null;
      }
    }

    private static Mono<Void> refuse(ServerWebExchange exchange, HttpStatus status) {
      exchange.getResponse().setStatusCode(status);
      return exchange.getResponse().setComplete();
    }
  }
}
