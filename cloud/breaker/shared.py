"""The state of breakers, shared by all processes and instances of a service through Redis.

Nothing here is in a call's way. Each process follows a mirror of its own; beside the calls one
thread tells Redis what happened here and hears what happened elsewhere. While Redis is away each
process decides for itself, as it does without sharing.

One breaker is one hash, and one script is all that changes it. It never expires: there are few, and
who has missed a change, an operator's above all, must find it. A breaker that opens anywhere opens
everywhere. Half-open, Redis hands out the probes, one permit each, and counts how they end; a
permit that is not used goes back as soon as somebody else wants it, and one whose holder died is
replaced when its lease is over.
Every change of state has a number, the turn: what belongs to an earlier turn no longer counts.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import structlog

from cloud.breaker.machine import CircuitBreaker, Now
from cloud.breaker.settings import State
from cloud.config import Properties
from cloud.errors import UnavailableError

log = structlog.get_logger()

ENABLED: Final = "nozie.circuitbreaker.shared.enabled"

SCRIPT: Final = """
local key, op, number = KEYS[1], ARGV[1], tonumber(ARGV[3])
local permitted, least = tonumber(ARGV[4]), tonumber(ARGV[5])
local most_failed, most_slow = tonumber(ARGV[6]), tonumber(ARGV[7])
local wait_ms, lease_ms, lease_opens = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', key, 'state', 'turn', 'until', 'openings', 'permits', 'calls',
                        'failed', 'slow', 'hungry')
local state = held[1] or 'NONE'
-- A life of the hash that is over must not lend its numbers to the next.
local turn, till = tonumber(held[2] or now), tonumber(held[3] or 0)
local openings, permits = tonumber(held[4] or 0), tonumber(held[5] or 0)
local calls, failed = tonumber(held[6] or 0), tonumber(held[7] or 0)
local slow, hungry = tonumber(held[8] or 0), tonumber(held[9] or 0)
local granted, changed = 0, false

local function enter(fresh, span_ms)
  state, turn, till, changed = fresh, turn + 1, now + span_ms, true
  permits, calls, failed, slow = 0, 0, 0, 0
  if fresh == 'OPEN' or fresh == 'FORCED_OPEN' then openings = openings + 1
  elseif fresh == 'HALF_OPEN' then permits = permitted
  else openings = 0 end
end

if state == 'HALF_OPEN' and now >= till then
  if lease_opens then enter('OPEN', wait_ms) else enter('HALF_OPEN', lease_ms) end
end
if op == 'open' then
  if state == 'NONE' or state == 'CLOSED' then enter('OPEN', number) end
elseif op == 'claim' then
  if state == 'OPEN' and now >= till then enter('HALF_OPEN', lease_ms) end
  if state == 'HALF_OPEN' then
    granted = math.min(number, permits)
    permits, changed = permits - granted, changed or granted > 0
    if granted < number then hungry, changed = now, true end
  end
elseif op == 'return' then
  if state == 'HALF_OPEN' and turn == tonumber(ARGV[2]) then
    permits, changed = permits + number, true
  end
elseif op == 'report' then
  if state == 'HALF_OPEN' and turn == tonumber(ARGV[2]) then
    calls, failed, slow = calls + 1, failed + number % 2, slow + math.floor(number / 2)
    changed = true
    if calls >= least then
      if failed * 100 / calls >= most_failed or slow * 100 / calls >= most_slow then
        enter('OPEN', wait_ms)
      else
        enter('CLOSED', 0)
      end
    end
  end
elseif op == 'set' and state ~= ARGV[11] and not (state == 'NONE' and ARGV[11] == 'CLOSED') then
  enter(ARGV[11], ARGV[11] == 'OPEN' and wait_ms or lease_ms)
end
if changed then
  redis.call('HSET', key, 'state', state, 'turn', turn, 'until', till, 'openings', openings,
             'permits', permits, 'calls', calls, 'failed', failed, 'slow', slow,
             'hungry', hungry)
end
local wanted = now - hungry < 2000 and 1 or 0
return {state, tostring(turn), math.max(till - now, 0), granted, openings, wanted}
"""

Call = tuple[str, Sequence[str | int | float]]
# Runs the script on each key with its arguments, in one round trip. Raises UnavailableError.
Run = Callable[[Sequence[Call]], Sequence[Any]]

_HOLD_S: Final = 1.0
_BY_HAND: Final = frozenset({State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY})
_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class _Order:
    """What Redis is to be told of a breaker; `number` is a count, an outcome, or milliseconds."""

    breaker: CircuitBreaker
    op: str
    turn: int = 0
    number: int = 0
    state: str = ""


class Shared:
    """One process's side.

    Args:
        application: breakers of one name are one within it.
        breakers: those of this process, whichever there are by now.
        run: how the script is run.
        interval_s: how often the others are listened to; what happens here is told at once.
        now: monotonic seconds.

    Attributes:
        online: whether Redis answers.
    """

    def __init__(
        self,
        application: str,
        breakers: Iterable[CircuitBreaker],
        run: Run,
        interval_s: float = 0.25,
        now: Now = time.monotonic,
    ) -> None:
        self.online = False
        self._prefix = f"nozie:circuitbreaker:{application}:"
        self._breakers = breakers
        self._run = run
        self._interval_s = interval_s
        self._now = now
        self._orders: deque[_Order] = deque()
        self._wanted: dict[str, int] = {}
        self._granted_at: dict[str, float] = {}
        self._hungry: set[str] = set()
        self._wake = threading.Event()
        self._said_away = False

    @classmethod
    def of(cls, properties: Properties, breakers: Iterable[CircuitBreaker], run: Run) -> "Shared":
        """Read `nozie.circuitbreaker.shared.interval`."""
        interval = properties.duration(
            "nozie.circuitbreaker.shared.interval", timedelta(milliseconds=250)
        )
        return cls(properties.application, breakers, run, max(interval.total_seconds(), 0.01))

    def start(self) -> None:
        """Begin to follow, until the process ends; call after the fork."""
        threading.Thread(target=self._follow_for_ever, name="breakers", daemon=True).start()

    # --- what breakers tell, within their own lock

    def opened(self, breaker: CircuitBreaker, seconds: float) -> None:
        self._order(_Order(breaker, "open", number=round(seconds * 1000)))

    def wants(self, breaker: CircuitBreaker) -> None:
        self._wanted[breaker.name] = self._wanted.get(breaker.name, 0) + 1
        self._wake.set()

    def probed(self, breaker: CircuitBreaker, outcome: int) -> None:
        self._order(_Order(breaker, "report", breaker.turn, outcome))

    def placed(self, breaker: CircuitBreaker, state: State) -> None:
        self._order(_Order(breaker, "set", state=state.name))

    def _order(self, order: _Order) -> None:
        self._orders.append(order)
        self._wake.set()

    # --- beside the calls

    def _follow_for_ever(self) -> None:
        while True:
            try:
                self.turn()
            except UnavailableError as error:
                self._lost(str(error))
            except Exception:
                log.exception("breakers_not_shared")
                self._lost("see above")
            self._wake.wait(self._interval_s)
            self._wake.clear()

    def turn(self) -> None:
        """Tell what happened here, and hear what happened elsewhere.

        Raises:
            UnavailableError: Redis is away.
        """
        breakers = list(self._breakers)
        orders = self._taken(breakers)
        try:
            answers = self._run([self._call(order) for order in orders])
        except UnavailableError:
            # Told as soon as somebody hears it, the newest word on each; the rest grows old.
            kept = {(o.breaker.name, o.op): o for o in orders if o.op in {"set", "open"}}
            self._orders.extendleft(reversed(kept.values()))
            raise
        if not self.online:
            self.online = True
            if self._said_away:
                log.info("breakers_shared_again")
            self._said_away = False
        for order, answer in zip(orders, answers, strict=True):
            self._follow(order, answer)

    def _taken(self, breakers: list[CircuitBreaker]) -> list[_Order]:
        """Take what is to be told, and ask for what is to be heard."""
        orders = []
        while self._orders:
            order = self._orders.popleft()
            # While nobody could be told it may have closed again.
            if order.op != "open" or order.breaker.state is State.OPEN:
                orders.append(order)
        now = self._now()
        for breaker in breakers:
            wanted = self._wanted.pop(breaker.name, 0)
            held_s = now - self._granted_at.get(breaker.name, now)
            if breaker.name in self._hungry and held_s > _HOLD_S and not wanted:
                turn, unused = breaker.give_back()
                if unused:
                    orders.append(_Order(breaker, "return", turn, unused))
            claims = wanted or breaker.automatic_is_due()
            orders.append(_Order(breaker, "claim" if claims else "look", number=wanted))
        return orders

    def _call(self, order: _Order) -> Call:
        rules, breaker = order.breaker.settings, order.breaker
        least = min(rules.minimum_calls, rules.permitted)
        lease = rules.half_open_wait or max(rules.wait, rules.slow_call)
        return self._prefix + breaker.name, (
            *(order.op, order.turn, order.number, rules.permitted, least),
            *(repr(most) for most in breaker.thresholds),
            round(breaker.next_wait_s() * 1000),
            lease // _MS,
            int(bool(rules.half_open_wait)),
            order.state,
        )

    def _follow(self, order: _Order, answer: Sequence[Any]) -> None:
        state, turn, left_ms, granted, openings, wanted = answer
        breaker = order.breaker
        known = breaker.turn
        if granted:
            self._granted_at[breaker.name] = self._now()
        (self._hungry.add if wanted else self._hungry.discard)(breaker.name)
        if state == "NONE":
            self._tell_what_was_lost(breaker)
        elif int(turn) == known:
            if granted:
                breaker.adopt(State.HALF_OPEN, turn=known, permits=granted, openings=openings)
        else:
            seconds = left_ms / 1000 if state == "OPEN" else None
            breaker.adopt(State[state], seconds, turn=int(turn), permits=granted, openings=openings)

    def _tell_what_was_lost(self, breaker: CircuitBreaker) -> None:
        """Tell a Redis that knows nothing of a breaker, when there is something to know."""
        breaker.turn = 0
        state = breaker.state
        if state in _BY_HAND:
            self.placed(breaker, state)
        elif state in {State.OPEN, State.HALF_OPEN}:
            self.opened(breaker, breaker.wait_left_s())

    def _lost(self, reason: str) -> None:
        was_online, self.online = self.online, False
        self._granted_at.clear()
        if not self._said_away:
            self._said_away = True
            log.warning("breakers_not_shared", reason=reason, effect="each process decides alone")
        for breaker in self._breakers:
            breaker.look()
            # Once only: what each finds out by itself from then on must count.
            if was_online:
                breaker.turn = 0
                breaker.alone()


def runner(client: Any, away: type[Exception], missing: type[Exception]) -> Run:
    """Build what runs the script over a client of Redis.

    Args:
        client: redis-py's.
        away: what the client raises when Redis is not there.
        missing: what it raises when Redis does not know the script.
    """
    digest = ""

    def attempt(calls: Sequence[Call]) -> Sequence[Any]:
        with client.pipeline(transaction=False) as pipe:
            for key, words in calls:
                pipe.evalsha(digest, 1, key, *words)
            return cast("Sequence[Any]", pipe.execute())

    def run(calls: Sequence[Call]) -> Sequence[Any]:
        nonlocal digest
        try:
            if digest:
                try:
                    return attempt(calls)
                except missing:
                    pass
            digest = client.script_load(SCRIPT)
            return attempt(calls)
        except away as error:
            raise UnavailableError(f"Redis is away: {type(error).__name__}") from error

    return run
