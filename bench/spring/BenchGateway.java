import java.nio.charset.StandardCharsets;
import java.util.UUID;
import javax.crypto.spec.SecretKeySpec;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.cloud.gateway.filter.GatewayFilterChain;
import org.springframework.cloud.gateway.filter.GlobalFilter;
import org.springframework.cloud.gateway.filter.ratelimit.KeyResolver;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.Ordered;
import org.springframework.data.redis.core.ReactiveStringRedisTemplate;
import org.springframework.http.HttpStatus;
import org.springframework.http.server.reactive.ServerHttpRequest;
import org.springframework.security.oauth2.jose.jws.MacAlgorithm;
import org.springframework.security.oauth2.jwt.Jwt;
import org.springframework.security.oauth2.jwt.JwtException;
import org.springframework.security.oauth2.jwt.NimbusReactiveJwtDecoder;
import org.springframework.security.oauth2.jwt.ReactiveJwtDecoder;
import org.springframework.web.server.ServerWebExchange;
import reactor.core.publisher.Mono;

/**
 * Stock Spring Cloud Gateway: Spring Security's decoder for tokens, RequestRateLimiter, CircuitBreaker,
 * and the one filter that every such gateway has to write for itself.
 */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
public class BenchGateway {
  private static final String USER = "X-User-Id";

  public static void main(String[] arguments) {
    SpringApplication.run(BenchGateway.class, arguments);
  }

  @Bean
  ReactiveJwtDecoder tokens(@Value("${jwt.secret}") String secret) {
    byte[] key = secret.getBytes(StandardCharsets.UTF_8);
    return NimbusReactiveJwtDecoder.withSecretKey(new SecretKeySpec(key, "HmacSHA512"))
        .macAlgorithm(MacAlgorithm.HS512)
        .build();
  }

  @Bean
  KeyResolver user() {
    return exchange -> Mono.justOrEmpty(exchange.getRequest().getHeaders().getFirst(USER));
  }

  @Bean
  GlobalFilter guard(ReactiveJwtDecoder tokens, ReactiveStringRedisTemplate redis) {
    return new Guard(tokens, redis);
  }

  /** Token, revocation, and who it is for those behind. */
  private record Guard(ReactiveJwtDecoder tokens, ReactiveStringRedisTemplate redis)
      implements GlobalFilter, Ordered {
    @Override
    public int getOrder() {
      return -100;
    }

    @Override
    public Mono<Void> filter(ServerWebExchange exchange, GatewayFilterChain chain) {
      String given = exchange.getRequest().getHeaders().getFirst("Authorization");
      if (given == null || !given.startsWith("Bearer ")) {
        return refuse(exchange);
      }
      return tokens
          .decode(given.substring(7))
          .filter(token -> "ACCESS".equals(token.getClaimAsString("type")))
          .filterWhen(token -> redis.hasKey("token:blacklist:" + token.getId()).map(gone -> !gone))
          .onErrorResume(JwtException.class, wrong -> Mono.empty())
          .map(token -> known(exchange, token))
          .switchIfEmpty(Mono.defer(() -> refuse(exchange).then(Mono.empty())))
          .flatMap(chain::filter);
    }

    private static ServerWebExchange known(ServerWebExchange exchange, Jwt token) {
      String id = UUID.randomUUID().toString();
      exchange.getResponse().getHeaders().set("X-Correlation-Id", id);
      ServerHttpRequest request =
          exchange
              .getRequest()
              .mutate()
              .header(USER, token.getSubject())
              .header("X-User-Name", token.getClaimAsString("username"))
              .header("X-User-Roles", String.join(",", token.getClaimAsStringList("roles")))
              .header("X-Correlation-Id", id)
              .build();
      return exchange.mutate().request(request).build();
    }

    private static Mono<Void> refuse(ServerWebExchange exchange) {
      exchange.getResponse().setStatusCode(HttpStatus.UNAUTHORIZED);
      return exchange.getResponse().setComplete();
    }
  }
}
