import io.github.resilience4j.circuitbreaker.CircuitBreaker;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig.SlidingWindowType;
import io.github.resilience4j.circuitbreaker.event.CircuitBreakerOnStateTransitionEvent;
import io.github.resilience4j.circuitbreaker.internal.CircuitBreakerStateMachine;
import io.github.resilience4j.circuitbreaker.internal.SchedulerFactory;
import io.github.resilience4j.core.IntervalFunction;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/**
 * Plays sequences of calls on the real library and writes down what it decides, step by step.
 *
 * <p>Settings stand under their Spring names. Times are multiples of 125 ms, which binary fractions
 * hold exactly. The random sequences are the same on every run.
 */
public final class Recorder {

    private static final int TICK = 125;
    private static final int RANDOM_STEPS = 160;
    private static final String[] KINDS = {
        "java.net.ConnectException", "java.lang.IllegalArgumentException",
        "java.lang.IllegalStateException",
    };

    /** The library's clock. */
    private static final Clock CLOCK = new Clock() {
        @Override
        public ZoneId getZone() {
            return ZoneOffset.UTC;
        }

        @Override
        public Clock withZone(ZoneId zone) {
            return this;
        }

        @Override
        public Instant instant() {
            return Instant.ofEpochMilli(SchedulerFactory.now);
        }
    };

    private record Call(int id, long begun, int generation) {}

    private final String name;
    private final Map<String, String> settings;
    private final CircuitBreaker breaker;
    private final List<String> steps = new ArrayList<>();
    private final List<String> events = new ArrayList<>();
    private final Map<Integer, Call> running = new LinkedHashMap<>();
    private int generation;
    private int calls;

    private Recorder(String name, Map<String, String> settings) {
        SchedulerFactory.clear();
        this.name = name;
        this.settings = settings;
        this.breaker = new CircuitBreakerStateMachine("recorded", config(settings));
        breaker.getEventPublisher().onEvent(event -> {
            String told = event.getEventType().name();
            if (event instanceof CircuitBreakerOnStateTransitionEvent transition) {
                told += " " + transition.getStateTransition().name();
                if (breaker.getState() != CircuitBreaker.State.OPEN) {
                    generation++;
                }
            }
            events.add(quoted(told));
        });
    }

    private static CircuitBreakerConfig config(Map<String, String> settings) {
        CircuitBreakerConfig.Builder made = CircuitBreakerConfig.custom().clock(CLOCK);
        Duration wait = Duration.ofSeconds(60);
        Double multiplier = null;
        Duration longest = null;
        for (Map.Entry<String, String> entry : settings.entrySet()) {
            String value = entry.getValue();
            switch (entry.getKey()) {
                case "sliding-window-type" -> made.slidingWindowType(SlidingWindowType.valueOf(value));
                case "sliding-window-size" -> made.slidingWindowSize(Integer.parseInt(value));
                case "minimum-number-of-calls" -> made.minimumNumberOfCalls(Integer.parseInt(value));
                case "failure-rate-threshold" -> made.failureRateThreshold(Float.parseFloat(value));
                case "slow-call-rate-threshold" -> made.slowCallRateThreshold(Float.parseFloat(value));
                case "slow-call-duration-threshold" -> made.slowCallDurationThreshold(millis(value));
                case "wait-duration-in-open-state" -> wait = millis(value);
                case "permitted-number-of-calls-in-half-open-state" ->
                    made.permittedNumberOfCallsInHalfOpenState(Integer.parseInt(value));
                case "max-wait-duration-in-half-open-state" ->
                    made.maxWaitDurationInHalfOpenState(millis(value));
                case "automatic-transition-from-open-to-half-open-enabled" ->
                    made.automaticTransitionFromOpenToHalfOpenEnabled(Boolean.parseBoolean(value));
                case "enable-exponential-backoff" -> { }
                case "exponential-backoff-multiplier" -> multiplier = Double.valueOf(value);
                case "exponential-max-wait-duration-in-open-state" -> longest = millis(value);
                case "record-exceptions" -> made.recordExceptions(classes(value));
                case "ignore-exceptions" -> made.ignoreExceptions(classes(value));
                default -> throw new IllegalArgumentException(entry.getKey());
            }
        }
        if (multiplier == null) {
            made.waitDurationInOpenState(wait);
        } else if (longest == null) {
            made.waitIntervalFunctionInOpenState(
                IntervalFunction.ofExponentialBackoff(wait, multiplier));
        } else {
            made.waitIntervalFunctionInOpenState(
                IntervalFunction.ofExponentialBackoff(wait, multiplier, longest));
        }
        return made.build();
    }

    private static Duration millis(String value) {
        return Duration.ofMillis(Long.parseLong(value.replace("ms", "")));
    }

    @SuppressWarnings("unchecked")
    private static Class<? extends Throwable>[] classes(String names) {
        return java.util.Arrays.stream(names.split(",")).map(Recorder::type).toArray(Class[]::new);
    }

    private static Class<?> type(String name) {
        try {
            return Class.forName(name);
        } catch (ClassNotFoundException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private int begin() {
        int id = calls++;
        boolean permitted = breaker.tryAcquirePermission();
        if (permitted) {
            running.put(id, new Call(id, SchedulerFactory.now, generation));
        }
        note("begin", id, permitted ? "permitted" : "refused");
        return permitted ? id : -1;
    }

    /** End a call: with "ok", "released", or the class of an exception. */
    private void end(int id, String how) {
        Call call = running.remove(id);
        if (call == null) {
            return;
        }
        long took = SchedulerFactory.now - call.begun;
        switch (how) {
            case "ok" -> breaker.onSuccess(took, TimeUnit.MILLISECONDS);
            case "released" -> breaker.releasePermission();
            default -> breaker.onError(took, TimeUnit.MILLISECONDS, exception(how));
        }
        note("end", id, how);
    }

    private static Throwable exception(String name) {
        try {
            return (Throwable) type(name).getConstructor(String.class).newInstance("recorded");
        } catch (ReflectiveOperationException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private void tick(int millis) {
        SchedulerFactory.advance(millis);
        note("tick", millis, "");
    }

    private void place(CircuitBreaker.State state) {
        switch (state) {
            case CLOSED -> breaker.transitionToClosedState();
            case OPEN -> breaker.transitionToOpenState();
            case HALF_OPEN -> breaker.transitionToHalfOpenState();
            case DISABLED -> breaker.transitionToDisabledState();
            case FORCED_OPEN -> breaker.transitionToForcedOpenState();
            case METRICS_ONLY -> breaker.transitionToMetricsOnlyState();
        }
        generation++;
        note("place", 0, state.name());
    }

    private void reset() {
        breaker.reset();
        generation++;
        note("reset", 0, "");
    }

    /** The library's reset forgets to stop timers, and a stale one opens a breaker that is closed. */
    private boolean timed() {
        return settings.keySet().stream()
            .anyMatch(key -> key.startsWith("automatic") || key.startsWith("max-wait"));
    }

    private void note(String step, int number, String word) {
        CircuitBreaker.Metrics seen = breaker.getMetrics();
        steps.add("[" + quoted(step) + "," + number + "," + quoted(word) + ","
            + quoted(breaker.getState().name()) + "," + quoted(seen.getFailureRate() + "%") + ","
            + quoted(seen.getSlowCallRate() + "%") + "," + seen.getNumberOfBufferedCalls() + ","
            + seen.getNumberOfFailedCalls() + "," + seen.getNumberOfSlowCalls() + ","
            + seen.getNumberOfSlowFailedCalls() + "," + seen.getNumberOfNotPermittedCalls() + "]");
    }

    /**
     * Play at random. A call that outlives the state it was begun in never ends here: there we
     * differ from the library on purpose.
     */
    private Recorder random(Random chance) {
        for (int i = 0; i < RANDOM_STEPS; i++) {
            running.values().removeIf(call -> call.generation != generation);
            if (breaker.getState().getOrder() > 2 && chance.nextInt(8) == 0) {
                place(CircuitBreaker.State.CLOSED);  // else most of the time would pass there
            }
            int dice = chance.nextInt(1000);
            if (dice < 430) {
                int id = begin();
                if (chance.nextInt(3) > 0) {
                    if (chance.nextInt(3) == 0) {
                        tick(TICK * (1 + chance.nextInt(6)));
                    }
                    finish(id, chance);
                }
            } else if (dice < 700 && !running.isEmpty()) {
                List<Integer> ids = new ArrayList<>(running.keySet());
                finish(ids.get(chance.nextInt(ids.size())), chance);
            } else if (dice < 975) {
                tick(TICK * (1 + chance.nextInt(chance.nextInt(6) == 0 ? 40 : 4)));
            } else if (dice < 980 && !timed()) {
                reset();
            } else {
                CircuitBreaker.State[] all = CircuitBreaker.State.values();
                try {
                    place(all[chance.nextInt(all.length)]);
                } catch (RuntimeException refused) {
                    tick(TICK);
                }
            }
        }
        return this;
    }

    private void finish(int id, Random chance) {
        Call call = running.get(id);
        if (call == null || call.generation != generation) {
            return;
        }
        int dice = chance.nextInt(20);
        end(id, dice < 9 ? "ok" : dice == 9 ? "released" : KINDS[chance.nextInt(KINDS.length)]);
    }

    private String written() {
        String rules = settings.entrySet().stream()
            .map(e -> quoted(e.getKey()) + ":" + quoted(e.getValue())).collect(Collectors.joining(","));
        return "{\"name\":" + quoted(name) + ",\"settings\":{" + rules + "},\n\"steps\":["
            + String.join(",\n", steps) + "],\n\"events\":[" + String.join(",", events) + "]}";
    }

    private static String quoted(String text) {
        return '"' + text + '"';
    }

    private static Map<String, String> rules(String... pairs) {
        Map<String, String> rules = new LinkedHashMap<>();
        for (String pair : pairs) {
            String[] parts = pair.split("=");
            rules.put(parts[0], parts[1]);
        }
        return rules;
    }

    private static final String SIZE = "sliding-window-size=";
    private static final String LEAST = "minimum-number-of-calls=";
    private static final String FAILED = "failure-rate-threshold=";
    private static final String SLOW = "slow-call-rate-threshold=";
    private static final String SLOW_CALL = "slow-call-duration-threshold=";
    private static final String WAIT = "wait-duration-in-open-state=";
    private static final String PROBES = "permitted-number-of-calls-in-half-open-state=";
    private static final String HALF = "max-wait-duration-in-half-open-state=";
    private static final String TIMED = "sliding-window-type=TIME_BASED";
    private static final String AUTO = "automatic-transition-from-open-to-half-open-enabled=true";
    private static final String GROWS = "enable-exponential-backoff=true";
    private static final String BY = "exponential-backoff-multiplier=";

    private static Map<String, Map<String, String>> table() {
        Map<String, Map<String, String>> table = new LinkedHashMap<>();
        table.put("the last ten calls", rules(SIZE + 10, LEAST + 5, WAIT + "1000ms", PROBES + 3));
        table.put("a minimum above the window", rules(SIZE + 4, LEAST + 50, WAIT + "1000ms"));
        table.put("a minimum below the probes", rules(SIZE + 8, LEAST + 2, WAIT + "500ms", PROBES + 5));
        table.put("a third", rules(SIZE + 3, LEAST + 3, FAILED + "33.3333333", WAIT + "500ms", PROBES + 3));
        table.put("two thirds, rounded up", rules(SIZE + 3, LEAST + 3, FAILED + "66.66667", WAIT + "500ms", PROBES + 3));
        table.put("slow calls", rules(SIZE + 6, LEAST + 4, FAILED + 100, SLOW + 50,
            SLOW_CALL + "250ms", WAIT + "1000ms", PROBES + 2));
        table.put("slow and failed", rules(SIZE + 5, LEAST + 5, FAILED + 40, SLOW + 60,
            SLOW_CALL + "125ms", WAIT + "750ms", PROBES + 4));
        table.put("the calls of ten seconds", rules(TIMED, SIZE + 10, LEAST + 5, WAIT + "1000ms", PROBES + 2));
        table.put("the calls of two seconds", rules(TIMED, SIZE + 2, LEAST + 3, SLOW + 50,
            SLOW_CALL + "500ms", WAIT + "1500ms", PROBES + 3));
        table.put("half-open by itself", rules(SIZE + 4, LEAST + 4, WAIT + "1000ms", PROBES + 2, AUTO));
        table.put("half-open not for ever", rules(SIZE + 4, LEAST + 2, WAIT + "1000ms", PROBES + 3, HALF + "750ms"));
        table.put("both by themselves", rules(SIZE + 4, LEAST + 2, WAIT + "625ms", PROBES + 3, HALF + "500ms", AUTO));
        table.put("waits that grow", rules(SIZE + 2, LEAST + 2, WAIT + "500ms", PROBES + 2, GROWS, BY + "1.5"));
        table.put("waits that grow, to a limit", rules(SIZE + 2, LEAST + 2, WAIT + "500ms", PROBES + 1,
            GROWS, BY + 2, "exponential-max-wait-duration-in-open-state=3000ms"));
        table.put("some exceptions only", rules(SIZE + 6, LEAST + 3, WAIT + "1000ms", PROBES + 2,
            "record-exceptions=java.io.IOException"));
        table.put("but for some exceptions", rules(SIZE + 6, LEAST + 3, WAIT + "1000ms", PROBES + 2,
            "ignore-exceptions=java.lang.IllegalArgumentException"));
        table.put("some, but for some", rules(SIZE + 6, LEAST + 3, FAILED + 30, WAIT + "1000ms", PROBES + 2,
            "record-exceptions=java.io.IOException,java.lang.IllegalStateException",
            "ignore-exceptions=java.net.ConnectException"));
        return table;
    }

    /** A call begun before the opening ends while probes decide. */
    private static Recorder late() {
        Recorder late = new Recorder("a late outcome", rules(SIZE + 2, LEAST + 2, WAIT + "500ms", PROBES + 2));
        int slow = late.begin();
        for (int i = 0; i < 2; i++) {
            late.end(late.begin(), KINDS[0]);
        }
        late.tick(625);
        late.end(late.begin(), "ok");
        late.end(slow, KINDS[0]);
        return late;
    }

    public static void main(String[] files) throws Exception {
        List<String> recorded = new ArrayList<>();
        for (Map.Entry<String, Map<String, String>> row : table().entrySet()) {
            for (int seed = 1; seed <= 2; seed++) {
                String name = row.getKey() + ", " + seed;
                Random chance = new Random(name.hashCode());
                recorded.add(new Recorder(name, row.getValue()).random(chance).written());
            }
        }
        recorded.add(late().written());
        Files.writeString(Path.of(files[0]), "[" + String.join(",\n", recorded) + "]\n");
    }
}
