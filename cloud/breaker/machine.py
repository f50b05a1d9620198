"""The circuit breaker: Resilience4j's rules behind pybreaker's interface.

A breaker counts the outcomes of the last calls. When too many failed, or were too slow, it opens:
calls are refused at once, the called service gets rest, its callers an answer. After a while it
lets a few probes through, and their outcomes decide.

Only the bookkeeping is locked, for microseconds; calls run side by side.
Source: Resilience4j's CircuitBreakerConfig and CircuitBreakerStateMachine; pybreaker's names.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import structlog
from pybreaker import CircuitBreakerError, CircuitBreakerListener

from cloud.config import Properties
from cloud.errors import ConfigurationError, UnavailableError

__all__ = [
    "Breakers",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerListener",
    "CircuitBreakerSettings",
    "NotPermittedError",
    "Permit",
    "State",
]

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")
Now = Callable[[], float]

_ROOT = "resilience4j.circuitbreaker"


class NotPermittedError(CircuitBreakerError, UnavailableError):
    """The breaker refused the call; it was never made."""


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
        permitted: probes let through while half-open.
        half_open_wait: time in half-open after which missing verdicts mean open; 0 is for ever.
        randomize: share by which `wait` may differ, so that instances do not probe in step.
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
    multiplier: float = 1.0
    longest_wait: timedelta = timedelta(minutes=10)
    randomize: float = 0.0

    @classmethod
    def of(cls, properties: Properties, name: str) -> "CircuitBreakerSettings":
        """Read `instances.<name>`, then its `base-config`, then `configs.default`.

        Raises:
            ConfigurationError: a value is no such thing, or names a missing base.
        """
        base = properties.text(f"{_ROOT}.instances.{name}.base-config", "default")
        if base != "default" and not properties.subset(f"{_ROOT}.configs.{base}"):
            raise ConfigurationError(f"{_ROOT}.instances.{name}.base-config: no such config")
        places = (f"instances.{name}", f"configs.{base}", "configs.default")

        def key(option: str) -> str:
            keys = [f"{_ROOT}.{place}.{option}" for place in dict.fromkeys(places)]
            return next((key for key in keys if properties.get(key) is not None), keys[0])

        rate = {"minimum": 0.0, "maximum": 100.0}
        backs_off = properties.boolean(key("enable-exponential-backoff"), default=False)
        varies = properties.boolean(key("enable-randomized-wait"), default=False)
        window_type = properties.text(key("sliding-window-type"), cls().window_type)
        if window_type not in {"COUNT_BASED", "TIME_BASED"}:
            raise ConfigurationError(f"{key('sliding-window-type')}: COUNT_BASED or TIME_BASED")
        return cls(
            window_type=window_type,
            window_size=properties.integer(key("sliding-window-size"), 100, minimum=1),
            minimum_calls=properties.integer(key("minimum-number-of-calls"), 100, minimum=1),
            failure_rate=properties.number(key("failure-rate-threshold"), 50.0, **rate),
            slow_call=properties.duration(
                key("slow-call-duration-threshold"), timedelta(seconds=60)
            ),
            slow_rate=properties.number(key("slow-call-rate-threshold"), 100.0, **rate),
            wait=properties.duration(key("wait-duration-in-open-state"), timedelta(seconds=60)),
            permitted=properties.integer(
                key("permitted-number-of-calls-in-half-open-state"), 10, minimum=1
            ),
            half_open_wait=properties.duration(
                key("max-wait-duration-in-half-open-state"), timedelta(0)
            ),
            multiplier=properties.number(key("exponential-backoff-multiplier"), 1.5, minimum=1.0)
            if backs_off
            else 1.0,
            longest_wait=properties.duration(
                key("exponential-max-wait-duration-in-open-state"), timedelta(minutes=10)
            ),
            randomize=properties.number(
                key("randomized-wait-factor"), 0.5, minimum=0.0, maximum=1.0
            )
            if varies
            else 0.0,
        )


@dataclass(slots=True)
class _Slot:
    """Outcomes counted together: one call, or one second."""

    second: int
    calls: int = 0
    failed: int = 0
    slow: int = 0


class _Window:
    """The last calls, or the calls of the last seconds, with running totals."""

    def __init__(self, size: int, *, by_time: bool) -> None:
        self._size = size
        self._by_time = by_time
        self._slots: deque[_Slot] = deque()
        self.total = _Slot(0)

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        second = int(now)
        if not (self._by_time and self._slots and self._slots[-1].second == second):
            self._slots.append(_Slot(second))
        for slot in (self._slots[-1], self.total):
            slot.calls += 1
            slot.failed += failed
            slot.slow += slow
        self.trim(now)

    def trim(self, now: float) -> None:
        """Forget what has left the window."""
        while self._slots and self._outside(self._slots[0], int(now)):
            gone = self._slots.popleft()
            self.total.calls -= gone.calls
            self.total.failed -= gone.failed
            self.total.slow -= gone.slow

    def _outside(self, slot: _Slot, second: int) -> bool:
        if self._by_time:
            return slot.second <= second - self._size
        return self.total.calls > self._size


@dataclass(slots=True)
class Permit:
    """Leave to make one call. Its outcome must be told: exactly one of the three methods."""

    _breaker: "CircuitBreaker"
    _epoch: int
    _started: float
    _open: bool = field(default=True, repr=False)

    def succeeded(self) -> None:
        self._close(failed=False, error=None)

    def failed(self, error: BaseException | None = None) -> None:
        self._close(failed=True, error=error)

    def released(self) -> None:
        """Give the permit back: the call was not made, or its outcome says nothing."""
        if self._open:
            self._open = False
            self._breaker._release(self._epoch)  # noqa: SLF001 - two halves of one thing

    def _close(self, *, failed: bool, error: BaseException | None) -> None:
        if self._open:
            self._open = False
            self._breaker._record(self._epoch, self._started, failed=failed, error=error)  # noqa: SLF001


class CircuitBreaker:
    """One breaker.

    pybreaker's interface: `call`, decorator, `calling()`, `open`, `half_open`, `close`,
    `current_state`, listeners. For an event loop: `acquire()` and the permit's methods.

    Args:
        name: what it guards; a key of the settings.
        settings: its rules.
        exclude: exception types that say nothing about the callee: neither success nor failure.
        listeners: told of calls, outcomes and changes of state; what they raise is logged.
        now: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        settings: CircuitBreakerSettings | None = None,
        *,
        exclude: Sequence[type[BaseException]] = (),
        listeners: Sequence[CircuitBreakerListener] = (),
        now: Now = time.monotonic,
    ) -> None:
        self.name = name
        self.settings = settings or CircuitBreakerSettings()
        self.not_permitted = 0
        self._exclude = tuple(exclude)
        self._listeners = list(listeners)
        self._now = now
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._epoch = 0
        self._until: float | None = None
        self._openings = 0
        self._permits = 0
        self._window = self._fresh_window()

    @property
    def state(self) -> State:
        return self._state

    @property
    def current_state(self) -> str:
        """Return the state in pybreaker's spelling."""
        return self._state.name_of_pybreaker

    @property
    def fail_counter(self) -> int:
        """Return the failed calls in the window."""
        return self._window.total.failed

    @property
    def buffered_calls(self) -> int:
        """Return the calls in the window."""
        return self._window.total.calls

    @property
    def slow_calls(self) -> int:
        """Return the slow calls in the window."""
        return self._window.total.slow

    @property
    def failure_rate(self) -> float:
        """Return percent, -1 below the minimum number of calls."""
        return self._rates()[0]

    def acquire(self) -> Permit:
        """Ask for leave to call; never waits.

        Raises:
            NotPermittedError: the breaker is open, or half-open with all probes under way.
        """
        with self._lock:
            now = self._now()
            changed = self._move_on(now)
            permitted = self._permits_one()
            permit = Permit(self, self._epoch, now)
        self._tell(changed)
        if not permitted:
            self.not_permitted += 1
            raise NotPermittedError(f"{self.name} is not available at the moment")
        return permit

    def _permits_one(self) -> bool:
        if self._state is State.HALF_OPEN:
            if not self._permits:
                return False
            self._permits -= 1
        return self._state not in {State.OPEN, State.FORCED_OPEN}

    def _move_on(self, now: float) -> State | None:
        """Leave open or half-open when their time is over; gives the state left."""
        if self._until is None or now < self._until:
            return None
        if self._state is State.OPEN:
            return self._enter(State.HALF_OPEN, now)
        return self._enter(State.OPEN, now) if self._state is State.HALF_OPEN else None

    def _enter(self, state: State, now: float) -> State:
        old, self._state = self._state, state
        # Outcomes of calls made under an earlier state no longer count.
        self._epoch += 1
        rules = self.settings
        self._until = None
        if state is State.OPEN:
            self._openings += 1
            self._until = now + self._wait_s()
        elif state is State.HALF_OPEN:
            self._permits = rules.permitted
            if rules.half_open_wait:
                self._until = now + rules.half_open_wait.total_seconds()
        elif state is State.CLOSED:
            self._openings = 0
        if state is not State.OPEN:
            self._window = self._fresh_window()
        return old

    def _wait_s(self) -> float:
        rules = self.settings
        grown = rules.wait * rules.multiplier ** (self._openings - 1)
        seconds = (
            min(grown, rules.longest_wait) if rules.multiplier > 1 else rules.wait
        ).total_seconds()
        return seconds * (1 + random.uniform(-rules.randomize, rules.randomize))  # noqa: S311

    def _fresh_window(self) -> _Window:
        rules = self.settings
        if self._state is State.HALF_OPEN:
            return _Window(rules.permitted, by_time=False)
        return _Window(rules.window_size, by_time=rules.window_type == "TIME_BASED")

    def _release(self, epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch and self._state is State.HALF_OPEN:
                self._permits += 1

    def _record(
        self, epoch: int, started: float, *, failed: bool, error: BaseException | None
    ) -> None:
        changed = None
        with self._lock:
            now = self._now()
            if epoch == self._epoch and self._state is not State.DISABLED:
                slow = now - started > self.settings.slow_call.total_seconds()
                self._window.add(now, failed=failed, slow=slow)
                changed = self._judge(now)
        for listener in self._listeners:
            if failed:
                self._safely(listener.failure, error or UnavailableError(self.name))
            else:
                self._safely(listener.success)
        self._tell(changed)

    def _judge(self, now: float) -> State | None:
        """Draw the conclusion from the window, if there is one; gives the state left."""
        failure_rate, slow_rate = self._rates()
        if failure_rate < 0:
            return None
        rules = self.settings
        bad = failure_rate >= rules.failure_rate or slow_rate >= rules.slow_rate
        if self._state is State.CLOSED and bad:
            return self._enter(State.OPEN, now)
        if self._state is State.HALF_OPEN:
            return self._enter(State.OPEN if bad else State.CLOSED, now)
        return None

    def _rates(self) -> tuple[float, float]:
        total, rules = self._window.total, self.settings
        half_open = self._state is State.HALF_OPEN
        least = rules.permitted if half_open else rules.minimum_calls
        # A window of calls can never hold more than its size.
        if rules.window_type == "COUNT_BASED" or half_open:
            least = min(least, rules.permitted if half_open else rules.window_size)
        if total.calls < least:
            return -1.0, -1.0
        return 100.0 * total.failed / total.calls, 100.0 * total.slow / total.calls

    def transition(self, state: State) -> None:
        """Put the breaker into a state by hand."""
        with self._lock:
            changed = self._enter(state, self._now())
        self._tell(changed)

    def open(self) -> None:
        self.transition(State.OPEN)

    def half_open(self) -> None:
        self.transition(State.HALF_OPEN)

    def close(self) -> None:
        self.transition(State.CLOSED)

    def call(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `func` under the breaker."""
        for listener in self._listeners:
            self._safely(listener.before_call, func, *args, **kwargs)
        with self.calling():
            return func(*args, **kwargs)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Guard a block: what it raises is a failure, unless excluded."""
        permit = self.acquire()
        try:
            yield
        except self._exclude:
            permit.released()
            raise
        except Exception as error:
            permit.failed(error)
            raise
        except BaseException:
            permit.released()
            raise
        permit.succeeded()

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        @wraps(func)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.call(func, *args, **kwargs)

        return guarded

    @property
    def listeners(self) -> tuple[CircuitBreakerListener, ...]:
        return tuple(self._listeners)

    def add_listener(self, listener: CircuitBreakerListener) -> None:
        self._listeners.append(listener)

    def remove_listener(self, listener: CircuitBreakerListener) -> None:
        self._listeners.remove(listener)

    def _tell(self, left: State | None) -> None:
        if left is None:
            return
        state = self._state
        log.warning("breaker_changed", breaker=self.name, before=left.name, state=state.name)
        for listener in self._listeners:
            self._safely(listener.state_change, left, state)

    def _safely(self, hear: Callable[..., object], *args: object, **kwargs: object) -> None:
        """Tell a listener; its fault must not become the call's."""
        try:
            hear(cast("Any", self), *args, **kwargs)
        except Exception:
            log.exception("breaker_listener_failed", breaker=self.name)


class Breakers:
    """The breakers of a process, by name, made on first use."""

    def __init__(self, properties: Properties, *, now: Now = time.monotonic) -> None:
        self._properties = properties
        self._now = now
        self._made: dict[str, CircuitBreaker] = {}

    def get(self, name: str) -> CircuitBreaker:
        """Return the breaker of that name, always the same one."""
        found = self._made.get(name)
        if found is None:
            fresh = CircuitBreaker(
                name, CircuitBreakerSettings.of(self._properties, name), now=self._now
            )
            found = self._made.setdefault(name, fresh)
        return found

    def __iter__(self) -> Iterator[CircuitBreaker]:
        return iter(list(self._made.values()))
