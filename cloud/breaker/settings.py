"""What one breaker goes by, read from `resilience4j.circuitbreaker.*` and `.timelimiter.*`.

Source: Resilience4j 2.3, CommonCircuitBreakerConfigurationProperties and CircuitBreakerConfig.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

import structlog

from cloud import errors
from cloud.config import Properties
from cloud.errors import ConfigurationError

log = structlog.get_logger()

_ROOT: Final = "resilience4j.circuitbreaker"
_TIME_LIMITER: Final = "resilience4j.timelimiter"
_SPRING_CLOUD: Final = "spring.cloud.circuitbreaker.resilience4j"
# Classes of predicates that only a JVM can load.
_NOT_OURS: Final = (
    "record-failure-predicate",
    "record-result-predicate",
    "ignore-exception-predicate",
)

Kinds = tuple[type[BaseException], ...]

_CLIENT_ERRORS: Final = (
    errors.InvalidError,
    errors.UnauthenticatedError,
    errors.DeniedError,
    errors.NotFoundError,
    errors.ConflictError,
    errors.ThrottledError,
)
# Which of our exceptions mean what the JVM's say. A name covers its subclasses, there as here.
_JVM: Final[Mapping[str, Kinds]] = {
    "java.lang.Throwable": (BaseException,),
    "java.lang.Exception": (Exception,),
    "java.lang.RuntimeException": (Exception,),
    "java.lang.IllegalArgumentException": (ValueError, errors.InvalidError),
    "java.lang.IllegalStateException": (RuntimeError,),
    "java.io.IOException": (OSError, errors.UnavailableError, errors.DeadlineError),
    "java.io.UncheckedIOException": (OSError, errors.UnavailableError, errors.DeadlineError),
    "java.net.ConnectException": (ConnectionError, errors.UnavailableError),
    "java.net.SocketException": (ConnectionError, errors.UnavailableError),
    "java.net.SocketTimeoutException": (TimeoutError, errors.DeadlineError),
    "java.net.UnknownHostException": (errors.UnavailableError,),
    "java.net.http.HttpTimeoutException": (TimeoutError, errors.DeadlineError),
    "java.util.concurrent.TimeoutException": (TimeoutError, errors.DeadlineError),
    "io.netty.handler.timeout.ReadTimeoutException": (TimeoutError, errors.DeadlineError),
    "feign.FeignException": (errors.CloudError,),
    "feign.RetryableException": (errors.UnavailableError, errors.DeadlineError),
    "org.springframework.web.client.RestClientException": (errors.CloudError,),
    "org.springframework.web.client.HttpClientErrorException": _CLIENT_ERRORS,
    "org.springframework.web.client.HttpServerErrorException": (
        errors.UpstreamError,
        errors.UnavailableError,
        errors.DeadlineError,
    ),
    "org.springframework.web.client.ResourceAccessException": (
        errors.UnavailableError,
        errors.DeadlineError,
    ),
    "org.springframework.web.reactive.function.client.WebClientResponseException": (
        errors.CloudError,
    ),
    "org.springframework.cloud.gateway.support.NotFoundException": (errors.UnavailableError,),
    "org.springframework.cloud.gateway.support.TimeoutException": (errors.DeadlineError,),
}


class State(Enum):
    """States by Resilience4j's order numbers; the last three are only set by hand."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2
    DISABLED = 3
    FORCED_OPEN = 4
    METRICS_ONLY = 5

    @property
    def name_of_pybreaker(self) -> str:
        """Return pybreaker's spelling: `closed`, `open`, `half-open`."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class CircuitBreakerSettings:
    """One breaker's rules; the defaults are Resilience4j's.

    Attributes:
        window_size: calls (COUNT_BASED) or seconds (TIME_BASED) that are looked back on.
        minimum_calls: no verdict before so many.
        failure_rate, slow_rate: percent at which the breaker opens.
        slow_call: a call that takes longer counts as slow.
        wait: time in open; with `multiplier` it grows with every return to open.
        longest_wait: where that growth ends; None is nowhere.
        automatic: half-open begins when the wait is over, not with the first call after it.
        permitted: probes let through while half-open.
        half_open_wait: time in half-open after which missing verdicts mean open; 0 is for ever.
        randomize: share by which `wait` may differ, so that instances do not probe in step.
        record: what counts as a failure; None is everything. The rest counts as success.
        ignore: what counts as neither, whatever `record` says.
        initial: the state to begin in.
        events: how many of the last events are kept.
        in_health: whether `/actuator/health` shows it.
        may_fail_health: whether open means DOWN there.
        time_limit: how long a call may take, None when nobody says.
    """

    window_type: str = "COUNT_BASED"
    window_size: int = 100
    minimum_calls: int = 100
    failure_rate: float = 50.0
    slow_call: timedelta = timedelta(seconds=60)
    slow_rate: float = 100.0
    wait: timedelta = timedelta(seconds=60)
    permitted: int = 10
    half_open_wait: timedelta = timedelta(0)
    automatic: bool = False
    multiplier: float = 1.0
    longest_wait: timedelta | None = None
    randomize: float = 0.0
    record: Kinds | None = None
    ignore: Kinds = ()
    initial: State = State.CLOSED
    events: int = 100
    in_health: bool = False
    may_fail_health: bool = False
    time_limit: timedelta | None = None

    @classmethod
    def of(cls, properties: Properties, name: str) -> "CircuitBreakerSettings":
        """Read `instances.<name>` (or `backends.<name>`), its `base-config`, `configs.default`.

        Raises:
            ConfigurationError: a value is no such thing, or names a missing base.
        """
        read = _Reader(properties, list(dict.fromkeys(_places(properties, name))))
        found = cls._read(read, _time_limit(properties, name))
        read.tell(name)
        if found.record == ():
            key = read.key("record-exceptions")
            raise properties.wrong(key, "names no exception that exists here")
        return found

    @classmethod
    def _read(
        cls, read: "_Reader", time_limit: timedelta | None = None
    ) -> "CircuitBreakerSettings":
        backs_off = read.flag("enable-exponential-backoff")
        varies = read.flag("enable-randomized-wait")
        if backs_off and varies:
            raise read.wrong("enable-randomized-wait", "has enable-exponential-backoff beside it")
        plain = cls()
        return cls(
            window_type=read.word(
                "sliding-window-type", plain.window_type, ("COUNT_BASED", "TIME_BASED")
            ),
            window_size=read.count("sliding-window-size", plain.window_size),
            minimum_calls=read.count("minimum-number-of-calls", plain.minimum_calls),
            failure_rate=read.percent("failure-rate-threshold", plain.failure_rate),
            slow_call=read.span("slow-call-duration-threshold", plain.slow_call),
            slow_rate=read.percent("slow-call-rate-threshold", plain.slow_rate),
            wait=read.span("wait-duration-in-open-state", plain.wait),
            permitted=read.count("permitted-number-of-calls-in-half-open-state", plain.permitted),
            half_open_wait=read.span("max-wait-duration-in-half-open-state", timedelta(0), 0),
            automatic=read.flag("automatic-transition-from-open-to-half-open-enabled"),
            multiplier=read.number("exponential-backoff-multiplier", 1.5, 1.0)
            if backs_off
            else 1.0,
            longest_wait=read.optional_span("exponential-max-wait-duration-in-open-state"),
            randomize=read.number("randomized-wait-factor", 0.5, 0.0, 1.0) if varies else 0.0,
            record=read.exceptions("record-exceptions"),
            ignore=read.exceptions("ignore-exceptions") or (),
            initial=State[read.word("initial-state", "CLOSED", tuple(State.__members__))],
            events=read.count("event-consumer-buffer-size", plain.events),
            in_health=read.flag("register-health-indicator"),
            may_fail_health=read.flag("allow-health-indicator-to-fail"),
            time_limit=time_limit,
        )

    @classmethod
    def check(cls, properties: Properties) -> None:
        """Read what is said of any breaker, whether it is ever made or not.

        Exceptions may be unknown, as a JVM's are: only who needs them can say what that means.

        Raises:
            ConfigurationError: as `of`.
        """
        known = properties.tree(_ROOT)
        named = {name for place in ("instances", "backends") for name in known.get(place, ())}
        for name in {*named, *properties.tree(f"{_TIME_LIMITER}.instances"), "default"}:
            places = list(dict.fromkeys(_places(properties, str(name))))
            cls._read(_Reader(properties, places), _time_limit(properties, str(name)))
        for name in known.get("configs", ()):
            cls._read(_Reader(properties, [f"configs.{name}"]))


def _time_limit(properties: Properties, name: str) -> timedelta | None:
    """Return how long a call under the breaker `name` may take; None when nobody says.

    The JVM's default of one second is left out: a limit that no file shows is a riddle.

    Raises:
        ConfigurationError: the limit is no duration.
    """
    off = f"{_SPRING_CLOUD}.disable-time-limiter"
    if properties.boolean(off, default=False):
        return None
    if properties.boolean(f"{_SPRING_CLOUD}.disable-time-limiter-map.{name}", default=False):
        return None
    base = properties.text(f"{_TIME_LIMITER}.instances.{name}.base-config", "default")
    for place in (f"instances.{name}", f"configs.{base}", "configs.default"):
        key = f"{_TIME_LIMITER}.{place}.timeout-duration"
        if properties.get(key) is not None:
            return properties.duration(key)
    return None


def _places(properties: Properties, name: str) -> Iterator[str]:
    """Name the places below the root that a setting of `name` is looked for in, nearest first."""
    yield f"instances.{name}"
    yield f"backends.{name}"
    holders, seen = [f"instances.{name}", f"backends.{name}"], set[str]()
    while True:
        keys = [f"{_ROOT}.{holder}.base-config" for holder in holders]
        key = next((key for key in keys if properties.get(key) is not None), None)
        base = properties.text(key) if key else "default"
        if base == "default" or base in seen:
            break
        if not properties.subset(f"{_ROOT}.configs.{base}"):
            raise properties.wrong(str(key), "is no config that there is")
        seen.add(base)
        holders = [f"configs.{base}"]
        yield holders[0]
    yield "configs.default"


class _Reader:
    """Reads options from the nearest place that has them."""

    def __init__(self, properties: Properties, places: list[str]) -> None:
        self._properties = properties
        self._places = places
        self._unknown: dict[str, list[str]] = {}

    def key(self, option: str) -> str:
        keys = [f"{_ROOT}.{place}.{option}" for place in self._places]
        return next((key for key in keys if self._is_given(key)), keys[0])

    def _is_given(self, key: str) -> bool:
        found = self._properties.get
        return found(key) is not None or found(f"{key}[0]") is not None

    def flag(self, option: str) -> bool:
        return self._properties.boolean(self.key(option), default=False)

    def count(self, option: str, default: int) -> int:
        return self._properties.integer(self.key(option), default, minimum=1)

    def number(
        self, option: str, default: float, minimum: float, maximum: float | None = None
    ) -> float:
        return self._properties.number(self.key(option), default, minimum=minimum, maximum=maximum)

    def percent(self, option: str, default: float) -> float:
        return self.number(option, default, 0.001, 100.0)

    def span(self, option: str, default: timedelta, least_ms: int = 1) -> timedelta:
        found = self._properties.duration(self.key(option), default)
        if found < timedelta(milliseconds=least_ms):
            raise self.wrong(option, "is too short")
        return found

    def optional_span(self, option: str) -> timedelta | None:
        given = self._is_given(self.key(option))
        return self.span(option, timedelta(milliseconds=1)) if given else None

    def word(self, option: str, default: str, known: tuple[str, ...]) -> str:
        found = self._properties.text(self.key(option), default).upper().replace("-", "_")
        if found not in known:
            raise self.wrong(option, f"is none of {', '.join(known)}")
        return found

    def exceptions(self, option: str) -> Kinds | None:
        """Return the classes that the names stand for, None when the option is absent.

        A name that only the JVM's neighbour knows is left out, to be told.
        """
        names = self._properties.listing(self.key(option))
        if not names:
            return None
        found = {name: _kinds(name) for name in names}
        if unknown := [name for name, kinds in found.items() if not kinds]:
            self._unknown[self.key(option)] = unknown
        return tuple(dict.fromkeys(kind for kinds in found.values() for kind in kinds))

    def wrong(self, option: str, fault: str) -> ConfigurationError:
        return self._properties.wrong(self.key(option), fault)

    def tell(self, name: str) -> None:
        """Log what has no effect here."""
        for key, names in self._unknown.items():
            log.warning("breaker_exceptions_unknown", setting=key, names=names)
        given = [option for option in _NOT_OURS if self._is_given(self.key(option))]
        if given:
            log.warning("breaker_settings_without_effect", breaker=name, settings=given)


def _kinds(name: str) -> Kinds:
    """Find the classes that a name means: the JVM's, a builtin's, or a loaded module's.

    Nothing is imported: a setting must not be able to run code.
    """
    if name in _JVM:
        return _JVM[name]
    module, _, last = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), last, None)
    return (found,) if isinstance(found, type) and issubclass(found, BaseException) else ()


def waits(settings: CircuitBreakerSettings, chance: Callable[[], float]) -> Callable[[int], float]:
    """Build the function from the number of openings in a row to seconds in open.

    Whole milliseconds, cut after every step of growth (IntervalFunction).

    Args:
        settings: the rules.
        chance: gives a number from 0 to below 1.
    """
    first_ms = settings.wait // timedelta(milliseconds=1)
    longest = settings.longest_wait
    longest_ms = longest // timedelta(milliseconds=1) if longest else sys.maxsize

    def wait(openings: int) -> float:
        ms = first_ms
        for _ in range(openings - 1):
            if ms >= longest_ms:
                break
            ms = int(ms * settings.multiplier)
            if settings.multiplier == 1.0:
                break
        if settings.multiplier > 1.0:
            ms = min(ms, longest_ms)
        spread = settings.randomize * ms
        return (ms + (int(2 * chance() * spread) - spread if spread else 0)) / 1000

    return wait
