import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.cloud.gateway.filter.ratelimit.KeyResolver;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import reactor.core.publisher.Mono;

/** The stock Spring Cloud Gateway, for comparison: nothing of the platform runs through it. */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
public class SpringGateway {
    public static void main(String[] args) {
        SpringApplication.run(SpringGateway.class, args);
    }

    @Bean
    KeyResolver remoteAddrKeyResolver() {
        return exchange ->
            Mono.just(exchange.getRequest().getRemoteAddress().getAddress().getHostAddress());
    }
}
