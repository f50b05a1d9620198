package io.github.resilience4j.circuitbreaker.internal;

import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;

/**
 * Stands before the library's class of this name: timers that run when the recorder's clock gets
 * there, instead of in real time. The state machine itself is the library's.
 */
public class SchedulerFactory {

    private record Timer(long due, Runnable task, boolean[] over) {}

    private static final SchedulerFactory ONLY = new SchedulerFactory();
    private static final List<Timer> TIMERS = new ArrayList<>();
    public static long now;

    public static SchedulerFactory getInstance() {
        return ONLY;
    }

    /** Move the clock, and run every timer on the way at its own moment. */
    public static void advance(long millis) {
        long end = now + millis;
        while (true) {
            Timer next = TIMERS.stream().filter(t -> !t.over[0] && t.due <= end)
                .min(Comparator.comparingLong(Timer::due)).orElse(null);
            if (next == null) {
                break;
            }
            now = next.due;
            next.over[0] = true;
            next.task.run();
        }
        TIMERS.removeIf(t -> t.over[0]);
        now = end;
    }

    public static void clear() {
        TIMERS.clear();
        now = 0;
    }

    public ScheduledExecutorService getScheduler() {
        return (ScheduledExecutorService) Proxy.newProxyInstance(
            SchedulerFactory.class.getClassLoader(), new Class<?>[] {ScheduledExecutorService.class},
            (self, method, given) -> {
                if (!method.getName().equals("schedule")) {
                    throw new UnsupportedOperationException(method.getName());
                }
                long millis = ((TimeUnit) given[2]).toMillis((Long) given[1]);
                Timer timer = new Timer(now + millis, (Runnable) given[0], new boolean[1]);
                TIMERS.add(timer);
                return Proxy.newProxyInstance(
                    SchedulerFactory.class.getClassLoader(), new Class<?>[] {ScheduledFuture.class},
                    (future, asked, none) -> switch (asked.getName()) {
                        case "cancel" -> timer.over[0] = true;
                        case "isDone" -> timer.over[0];
                        default -> throw new UnsupportedOperationException(asked.getName());
                    });
            });
    }
}
