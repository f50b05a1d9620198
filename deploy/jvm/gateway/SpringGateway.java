import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.context.annotation.Configuration;

/** The stock Spring Cloud Gateway, for comparison: nothing of the platform runs through it. */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
public class SpringGateway {
    public static void main(String[] args) {
        SpringApplication.run(SpringGateway.class, args);
    }
}
