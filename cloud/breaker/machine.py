"""The state machine: one breaker, its permits and its counts.

Only the bookkeeping is locked, for microseconds; calls run side by side, and a closed breaker is
asked without a lock. Source: Resilience4j 2.3, CircuitBreakerStateMachine; pybreaker's names.
"""

import random
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

import structlog
from pybreaker import CircuitBreakerError, CircuitBreakerListener

from cloud.breaker.events import Event, Events, told
from cloud.breaker.settings import CircuitBreakerSettings, State, waits
from cloud.breaker.window import FAILED, SLOW, CountWindow, TimeWindow, Window
from cloud.errors import UnavailableError

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")
Now = Callable[[], float]

_PASSING: Final = frozenset({State.CLOSED, State.DISABLED, State.METRICS_ONLY})
_SILENT: Final = frozenset({State.DISABLED, State.FORCED_OPEN})
# Turns between open and half-open that nobody looked at are made up for this far back.
_LOOK_BACK_S: Final = 60.0
# Later than the instant that a timer, and a machine that is asked, may disagree about.
_LATE_S: Final = 0.002


class NotPermittedError(CircuitBreakerError, UnavailableError):
    """The breaker refused the call; it was never made."""


class Sharing(Protocol):
    """Who decides together with this process; none of these waits. See `cloud.breaker.shared`.

    Attributes:
        online: whether the others can be heard; otherwise each decides for itself.
    """

    online: bool

    def opened(self, breaker: "CircuitBreaker", seconds: float) -> None:
        """Hear that the calls of this process opened the breaker for so long."""

    def wants(self, breaker: "CircuitBreaker") -> None:
        """Hear that a call would have been a probe, had there been a permit."""

    def probed(self, breaker: "CircuitBreaker", outcome: int) -> None:
        """Hear how a probe ended."""

    def placed(self, breaker: "CircuitBreaker", state: State) -> None:
        """Hear that somebody set the state by hand."""


@dataclass(slots=True)
class Tally:
    """Calls of one kind since they were last asked for."""

    count: int = 0
    total_s: float = 0.0
    slowest_s: float = 0.0

    def add(self, took_s: float) -> None:
        self.count += 1
        self.total_s += took_s
        if took_s > self.slowest_s:  # noqa: PLR1730 - a call of `max` costs thrice as much
            self.slowest_s = took_s


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a breaker shows of itself at one moment; rates in percent, -1 without a verdict."""

    state: State
    failure_rate: float
    slow_rate: float
    calls: int
    failed: int
    slow: int
    slow_failed: int
    refused: int


class Permit:
    """Leave to make one call. Its outcome must be told: exactly one of the three methods."""

    __slots__ = ("_breaker", "_started", "_window")

    def __init__(self, breaker: "CircuitBreaker", window: Window, started: float) -> None:
        self._breaker: CircuitBreaker | None = breaker
        self._window = window
        self._started = started

    def succeeded(self) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._record(self._window, self._started, 0, None)  # noqa: SLF001 - two halves of one thing

    def failed(self, error: BaseException | None = None) -> None:
        """Tell that the call failed; what `error` is may make it a success, or neither."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._failed(self._window, self._started, error)  # noqa: SLF001

    def released(self) -> None:
        """Give the permit back: the call was not made, or its outcome says nothing."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._release(self._window)  # noqa: SLF001


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

    Attributes:
        sharing: who decides together with this process, None for nobody.
        turn: the number that they give to this stay in a state, 0 for none.
        cautious: half-open, it permits one call at a time until one has succeeded. Resilience4j
            permits all probes at once: with a callee that hangs as many callers wait for nothing.
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
        self.sharing: Sharing | None = None
        self.turn = 0
        self.cautious = False
        self._exclude = tuple(exclude)
        self._listeners = list(listeners)
        self._now = now
        self._lock = threading.Lock()
        self._changes: deque[tuple[State, State]] = deque()
        self._tallies = (Tally(), Tally(), Tally())
        self._refused = 0
        self._openings = 0
        self._govern(settings or CircuitBreakerSettings())
        self._events = Events(self.settings.events)
        self._window = self._fresh_window(State.CLOSED)
        self._settle(self.settings.initial, now())

    # --- what it shows

    @property
    def state(self) -> State:
        self.look()
        return self._state

    @property
    def current_state(self) -> str:
        """Return the state in pybreaker's spelling."""
        return self.state.name_of_pybreaker

    @property
    def fail_counter(self) -> int:
        """Return the failed calls in the window."""
        return self.numbers().failed

    @property
    def buffered_calls(self) -> int:
        """Return the calls in the window."""
        return self.numbers().calls

    @property
    def failure_rate(self) -> float:
        """Return percent, -1 below the minimum number of calls."""
        return self.numbers().failure_rate

    @property
    def events(self) -> list[Event]:
        """Return the last events, oldest first."""
        self.look()
        return list(self._events)

    def numbers(self) -> Numbers:
        """Return all numbers of one moment."""
        self.look()
        with self._lock:
            window = self._window
            window.trim(self._now())
            return Numbers(
                self._state,
                *window.rates,
                window.calls,
                window.failed,
                window.slow,
                window.slow_failed,
                window.refused,
            )

    def take_tallies(self) -> tuple[tuple[Tally, Tally, Tally], int]:
        """Hand over the calls since the last time: successful, failed, ignored; and the refused."""
        self.look()
        with self._lock:
            taken, self._tallies = self._tallies, (Tally(), Tally(), Tally())
            refused, self._refused = self._refused, 0
        return taken, refused

    # --- calls

    def acquire(self) -> Permit:
        """Ask for leave to call; never waits.

        Raises:
            NotPermittedError: the breaker is open, or half-open with all probes under way.
        """
        now = self._now()
        # Read first: should the state change right now, the outcome counts in the one that is over.
        window: Window | None = self._window
        if not self._passes and (window := self._window_to_count_in(now)) is None:
            raise NotPermittedError(f"{self.name} is not available at the moment")
        return Permit(self, cast("Window", window), now)

    def _window_to_count_in(self, now: float) -> Window | None:
        """Permit a call, or count it as refused."""
        with self._lock:
            self._move_on(now, called=True)
            permitted = self._state in _PASSING
            window = self._window
            if self._state is State.HALF_OPEN and self._permits and not self._awaits_proof(window):
                self._permits -= 1
                self._probes += 1
                permitted = True
            if not permitted:
                self._refused += 1
                window.refused += 1
                if self._state is not State.FORCED_OPEN:
                    self._events.add(("NOT_PERMITTED", now))
                if self._state is State.HALF_OPEN:
                    self._want_probe()
        self._tell()
        return window if permitted else None

    def _awaits_proof(self, window: Window) -> bool:
        """Tell whether a probe is under way that may be the first to succeed."""
        alone = self.cautious and not self.sharing  # else they are handed out one by one anyway
        return alone and window.calls == window.failed and self._probes > window.calls

    def _failed(self, window: Window, started: float, error: BaseException | None) -> None:
        rules = self.settings
        if error is not None and isinstance(error, rules.ignore):
            self._ignored(window, started, error)
        elif error is None or rules.record is None or isinstance(error, rules.record):
            self._record(window, started, FAILED, error)
        else:
            self._record(window, started, 0, error)

    def _record(
        self, window: Window, started: float, outcome: int, error: BaseException | None
    ) -> None:
        now = self._now()
        took_s = now - started
        reason = told(error) if outcome else None
        with self._lock:
            if self._counts:
                self._tallies[outcome].add(took_s)
                self._events.add(("ERROR" if outcome else "SUCCESS", now, took_s, reason))
                # Else it was begun in an earlier state, which it says nothing about.
                if window is self._window:
                    self._count(now, outcome if took_s <= self._slow_s else outcome | SLOW)
        if self._listeners:
            self._tell_outcome(outcome, error)
        if self._changes:
            self._tell()

    def _count(self, now: float, outcome: int) -> None:
        window = self._window
        window.add(now, outcome)
        if self._state is State.HALF_OPEN and self.sharing and self.sharing.online:
            self.sharing.probed(self, outcome)
        elif window.calls >= window.least:
            self._judge(now, window)

    def _judge(self, now: float, window: Window) -> None:
        """Draw the conclusion from the window."""
        failing = 100.0 * window.failed / window.calls >= self._most_failed
        slowing = 100.0 * window.slow / window.calls >= self._most_slow
        state = self._state
        if not (failing or slowing):
            if state is State.HALF_OPEN:
                self._enter(State.CLOSED, now)
            return
        if state in {State.CLOSED, State.METRICS_ONLY}:
            for exceeded, kind in ((failing, "FAILURE"), (slowing, "SLOW_CALL")):
                if exceeded and kind not in self._exceeded:
                    self._exceeded.add(kind)
                    self._events.add((f"{kind}_RATE_EXCEEDED", now))
        if state in {State.CLOSED, State.HALF_OPEN}:
            self._enter(State.OPEN, now)
            if self.sharing:
                self.sharing.opened(self, (self._until or now) - now)

    def _ignored(self, window: Window, started: float, error: BaseException) -> None:
        now = self._now()
        with self._lock:
            if self._counts:
                self._tallies[2].add(now - started)
                self._events.add(("IGNORED_ERROR", now, now - started, told(error)))
        self._release(window)

    def _release(self, window: Window) -> None:
        with self._lock:
            if window is self._window and self._state is State.HALF_OPEN:
                self._permits += 1
                self._probes -= 1

    # --- states

    def look(self) -> None:
        """Notice that a time is over which nobody's call ends."""
        if self._until is not None:
            with self._lock:
                self._move_on(self._now(), called=False)
            self._tell()

    def _move_on(self, now: float, *, called: bool) -> None:
        """Leave open or half-open when their time is over."""
        if self.sharing and self.sharing.online:
            # The others have a say; they are asked beside the calls.
            if called and self._state is State.OPEN and now > (self._until or 0.0):
                self._want_probe()
            return
        while self._until is not None:
            at = max(self._until, now - _LOOK_BACK_S)
            if self._state is State.HALF_OPEN and now >= self._until:
                self._enter(State.OPEN, at)
            elif self._state is State.OPEN and self.settings.automatic and now >= self._until:
                self._enter(State.HALF_OPEN, at)
            elif self._state is State.OPEN and called and now > self._until:
                self._enter(State.HALF_OPEN, now)
            else:
                return

    def _want_probe(self) -> None:
        if self.sharing and self.sharing.online:
            self.sharing.wants(self)

    def _govern(self, settings: CircuitBreakerSettings) -> None:
        self.settings = settings
        self._wait_s = waits(settings, random.random)
        self._slow_s = settings.slow_call.total_seconds()
        self._most_failed = _threshold(settings.failure_rate)
        self._most_slow = _threshold(settings.slow_rate)

    def _enter(self, state: State, now: float) -> None:
        old = self._state
        if state is not old:
            # Told when the lock is free.
            self._changes.append((old, state))
            self._events.add(("STATE_TRANSITION", now, None, None, f"{old.name}_TO_{state.name}"))
        self._settle(state, now)

    def _settle(self, state: State, now: float) -> None:
        """Be in a state, from now on."""
        rules = self.settings
        self._until: float | None = None
        self._permits = self._probes = 0
        self._exceeded: set[str] = set()
        if state in {State.OPEN, State.FORCED_OPEN}:
            self._openings += 1
        elif state is not State.HALF_OPEN:
            self._openings = 0
        if state is State.OPEN:
            self._until = now + self._wait_s(self._openings)
        elif state is State.HALF_OPEN:
            self._permits = rules.permitted
            if rules.half_open_wait:
                self._until = now + rules.half_open_wait.total_seconds()
        # While open the numbers stay that led there. Outcomes of calls made in a state that is
        # over no longer count, for they were begun with another window.
        if state is not State.OPEN:
            self._window = self._fresh_window(state)
        self._counts = state not in _SILENT
        self._state = state
        self._passes = state in _PASSING

    def _fresh_window(self, state: State) -> Window:
        rules = self.settings
        if state is State.HALF_OPEN:
            return CountWindow(rules.permitted, rules.minimum_calls)
        if rules.window_type == "TIME_BASED":
            return TimeWindow(rules.window_size, rules.minimum_calls)
        return CountWindow(rules.window_size, rules.minimum_calls)

    def transition(self, state: State, *, told: bool = True) -> None:
        """Put the breaker into a state by hand; those that share it are told, if `told`."""
        with self._lock:
            self._enter(state, self._now())
        if self.sharing and told:
            self.sharing.placed(self, state)
        self._tell()

    def adopt(
        self,
        state: State,
        seconds: float | None = None,
        *,
        turn: int,
        openings: int,
        permits: int = 0,
    ) -> None:
        """Follow those that share the state.

        Args:
            state: theirs.
            seconds: until the wait in open is over.
            turn: the number of their last change of state.
            openings: how often in a row they opened.
            permits: probes that this process may make, beside those that it may already.
        """
        with self._lock:
            if turn == self.turn:
                self._permits += permits
                return
            self.turn = turn
            now = self._now()
            self._enter(state, now)
            self._permits, self._openings = permits, openings
            self._until = now + seconds if seconds is not None else None
        self._tell()

    def give_back(self) -> tuple[int, int]:
        """Take the permits that no call has used, for others to use; the turn, and how many."""
        with self._lock:
            unused, self._permits = self._permits, 0
            return self.turn, unused

    def automatic_is_due(self) -> bool:
        """Tell whether half-open should begin without waiting for a call."""
        due = self.settings.automatic and self._state is State.OPEN
        return due and self.wait_left_s() <= 0

    def wait_left_s(self) -> float:
        """Return the seconds until probes are due; 0 when they are, or nothing is waited for."""
        until = self._until if self._state is State.OPEN else None
        return max(0.0, until - self._now()) if until is not None else 0.0

    @property
    def time_limit_s(self) -> float | None:
        """Return how long a call may take; whoever makes it keeps the limit."""
        limit = self.settings.time_limit
        return limit.total_seconds() if limit else None

    def next_wait_s(self) -> float:
        """Return how long the breaker would be open, if it opened now."""
        return self._wait_s(self._openings + 1)

    @property
    def thresholds(self) -> tuple[float, float]:
        """Return the rates, failed and slow, at which the breaker opens."""
        return self._most_failed, self._most_slow

    def alone(self) -> None:
        """Go on without the others, whose probes will not be heard of."""
        with self._lock:
            if self._state is State.HALF_OPEN:
                self._enter(State.HALF_OPEN, self._now())

    def govern(self, settings: CircuitBreakerSettings) -> None:
        """Take over other rules; the state stays, what was counted is forgotten."""
        with self._lock:
            if settings == self.settings:
                return
            self._govern(settings)
            self._events = Events(settings.events, self._events.held)
            if self._state is State.CLOSED:
                self._settle(State.CLOSED, self._now())
        self.look_when_due()

    def open(self) -> None:
        self.transition(State.OPEN)

    def half_open(self) -> None:
        self.transition(State.HALF_OPEN)

    def close(self) -> None:
        self.transition(State.CLOSED)

    def reset(self) -> None:
        """Close, and forget what was counted."""
        self.transition(State.CLOSED)
        with self._lock:
            self._events.add(("RESET", self._now()))

    # --- pybreaker's interface

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
        except self._exclude as error:
            self._ignored(permit._window, permit._started, error)  # noqa: SLF001
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

    def _tell(self) -> None:
        while self._changes:
            try:
                before, state = self._changes.popleft()
            except IndexError:  # another thread tells it
                return
            self.look_when_due()
            log.warning("breaker_changed", breaker=self.name, before=before.name, state=state.name)
            for listener in self._listeners:
                self._safely(listener.state_change, before, state)

    def look_when_due(self) -> None:
        """Have this state end when its time is over, where that needs no call."""
        until, waits = self._until, self._state is State.OPEN and not self.settings.automatic
        if until is None or waits:
            return
        # A thread for as long as that, since a breaker is seldom open, and often at rest.
        timer = threading.Timer(max(0.0, until - self._now()) + _LATE_S, self.look)
        timer.name, timer.daemon = f"breaker {self.name}", True
        timer.start()

    def _tell_outcome(self, outcome: int, error: BaseException | None) -> None:
        for listener in self._listeners:
            if outcome:
                self._safely(listener.failure, error or UnavailableError(self.name))
            else:
                self._safely(listener.success)

    def _safely(self, hear: Callable[..., object], *args: object, **kwargs: object) -> None:
        """Tell a listener; its fault must not become the call's."""
        try:
            hear(cast("Any", self), *args, **kwargs)
        except Exception:
            log.exception("breaker_listener_failed", breaker=self.name)


def _threshold(percent: float) -> float:
    """Return the least rate that Resilience4j, which reckons in 32 bits, takes for `percent`."""
    (bits,) = struct.unpack("<I", struct.pack("<f", percent))
    near, below = (struct.unpack("<f", struct.pack("<I", n))[0] for n in (bits, bits - 1))
    return float(near + below) / 2
