import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.context.annotation.Configuration;

/** A Spring Cloud Gateway as it comes: routes by Eureka, no filter, no token looked at. */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
public class StockGateway {
    public static void main(String[] args) {
        SpringApplication.run(StockGateway.class, args);
    }
}
