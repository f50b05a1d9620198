"""/actuator/circuitbreakers and circuitbreakerevents: the breakers of an instance, as one.

Each process has breakers of its own; what is shown is put together from all of them, and what an
operator sets holds in all of them, in workers that are forked later too. Source: Resilience4j's
CircuitBreakerEndpoint, CircuitBreakerEventsEndpoint, CircuitBreakersHealthIndicator.
"""

import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog
from flask import Blueprint, Response, request
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from werkzeug.exceptions import UnsupportedMediaType

from cloud import breaker
from cloud.actuator import meters
from cloud.actuator.answers import KINDS, answer
from cloud.breaker import Breakers, CircuitBreaker, State
from cloud.breaker.events import TYPES
from cloud.breaker.meters import GROUP
from cloud.breaker.shared import ENABLED, Shared, runner
from cloud.config import Environment
from cloud.errors import InvalidError, NotFoundError
from cloud.peers import peers, values

log = structlog.get_logger()

Component = dict[str, Any]

_TOPIC: Final = "breakers"
_REGISTRAR: Final = "registrar"
_UPDATES: Final = {
    "CLOSE": State.CLOSED,
    "FORCE_OPEN": State.FORCED_OPEN,
    "DISABLE": State.DISABLED,
}
# Of the states that processes are in, the instance shows the first.
_TELLING: Final = ("FORCED_OPEN", "DISABLED", "METRICS_ONLY", "OPEN", "HALF_OPEN", "CLOSED")
_COUNTS: Final = ("bufferedCalls", "failedCalls", "slowCalls", "slowFailedCalls")
_STATUS: Final = {"CLOSED": "UP", "OPEN": "CIRCUIT_OPEN", "HALF_OPEN": "CIRCUIT_HALF_OPEN"}
# Spring Boot's order; it leaves out what it does not know.
_ORDER: Final = ("DOWN", "OUT_OF_SERVICE", "UP", "UNKNOWN")


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoints, and keep the instance's breakers over a change of configuration."""
    peers(environment).at_begin(breaker.follow(environment).wake)
    endpoint = _Endpoint(environment)
    if environment.properties.boolean(ENABLED, default=False):
        _share(environment)
    meters.add("breakers", _Gauges(environment))
    rooms.get("/circuitbreakers")(endpoint.breakers)
    rooms.post("/circuitbreakers/<name>")(endpoint.update)
    rooms.get("/circuitbreakerevents")(endpoint.events)
    rooms.get("/circuitbreakerevents/<name>", endpoint="events-name")(endpoint.events)
    rooms.get("/circuitbreakerevents/<name>/<kind>", endpoint="events-type")(endpoint.events)
    return {
        "circuitbreakers": "/circuitbreakers",
        "circuitbreakers-name": "/circuitbreakers/{name}",
        "circuitbreakerevents": "/circuitbreakerevents",
        "circuitbreakerevents-name": "/circuitbreakerevents/{name}",
        "circuitbreakerevents-name-eventType": "/circuitbreakerevents/{name}/{eventType}",
    }


def component(environment: Environment) -> Component | None:
    """Describe the health component `circuitBreakers`; None unless configuration asks for it."""
    enabled = "management.health.circuitbreakers.enabled"
    if not environment.properties.boolean(enabled, default=False):
        return None
    found = {
        name: {"status": _status(one), "details": _details(one)}
        for name, one in gather(environment).items()
        if one["inHealth"]
    }
    known = [one["status"] for one in found.values() if one["status"] in _ORDER]
    status = min(known, key=_ORDER.index, default="UNKNOWN")
    return {"status": status, "details": found}


def gather(environment: Environment) -> dict[str, dict[str, Any]]:
    """Put together what all processes know, by breaker; rates in percent, -1 without a verdict."""
    told: dict[str, list[dict[str, Any]]] = {}
    for answered in values(peers(environment).ask(_TOPIC, {})).values():
        for name, one in answered["breakers"].items():
            told.setdefault(name, []).append(one)
    return {name: _together(told[name]) for name in sorted(told)}


def percent(rate: float) -> str:
    """Write a rate as Java writes a float: the fewest digits that tell it from its neighbours."""
    bits = struct.pack("<f", rate)
    (single,) = struct.unpack("<f", bits)
    texts = (f"{single:.{digits}g}" for digits in range(1, 10))
    text = next(text for text in texts if struct.pack("<f", float(text)) == bits)
    return f"{float(text)}%"


def _share(environment: Environment) -> None:
    """Have every process that makes calls follow what Redis says of the breakers."""
    # Loaded before the fork, and only where it is needed.
    import redis  # noqa: PLC0415

    from cloud.stores import redis as store  # noqa: PLC0415

    def begin() -> None:
        if peers(environment).process == _REGISTRAR:
            return
        properties = environment.properties
        made = Breakers(properties)
        run = runner(store.client(properties), redis.RedisError, redis.exceptions.NoScriptError)
        shared = Shared.of(properties, made, run)
        made.share(shared)
        shared.start()

    peers(environment).at_begin(begin)


class _Placed:
    """What operators put breakers into, in every process; on each the newest word holds.

    Attributes:
        set: by breaker: when (nanoseconds), and the name of the state.
    """

    def __init__(self, environment: Environment) -> None:
        self.set: dict[str, tuple[int, str]] = {}
        self._environment = environment
        self._lock = threading.Lock()
        self._peers = peers(environment)
        self._peers.on(_TOPIC, self._hear)
        self._peers.at_begin(self._catch_up)

    def put(self, name: str, state: State) -> None:
        """Put a breaker into a state, in all processes."""
        fresh = {name: (time.time_ns(), state.name)}
        # Here first: a process that is just born, and not asked below, finds it when it asks us.
        self._take(fresh)
        late = [reply.process for reply in self._peers.ask(_TOPIC, fresh) if reply.error]
        if late:
            # The question waits for them at their socket.
            log.warning("breaker_state_late", processes=late)

    def events(self) -> list[dict[str, Any]]:
        told = values(self._peers.ask(_TOPIC, None)).values()
        found = [event for answered in told for event in answered["events"]]
        return sorted(found, key=lambda event: event["creationTime"])

    def _catch_up(self) -> None:
        for known in values(self._peers.ask(_TOPIC, {})).values():
            # Nobody is told: other instances may have heard a newer word.
            self._take(known["placed"], told=False)

    def _hear(self, what: Mapping[str, Any] | None) -> dict[str, Any]:
        """Answer: to None with events, to {} with numbers; else put breakers into states."""
        made = Breakers(self._environment.properties)
        if what is None:
            return {"events": [event for one in made for event in _events(one)]}
        if what:
            self._take(what)
            return {}
        breaker.flush(made)
        return {"breakers": {one.name: _numbers(one) for one in made}, "placed": self.set}

    def _take(self, words: Mapping[str, Sequence[Any]], *, told: bool = True) -> None:
        made = Breakers(self._environment.properties)
        with self._lock:
            for name, (at, state) in words.items():
                if at > self.set.get(name, (0, ""))[0]:
                    self.set = self.set | {name: (at, state)}
                    made.place(name, State[state], told=told)


class _Endpoint:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._placed = _Placed(environment)

    def breakers(self) -> Response:
        known = gather(self._environment)
        return answer({"circuitBreakers": {name: _details(one) for name, one in known.items()}})

    def update(self, name: str) -> Response:
        """Take `{"updateState": "FORCE_OPEN"}`, or DISABLE, or CLOSE."""
        state = _update()
        if name not in gather(self._environment):
            raise NotFoundError("No such circuit breaker")
        log.warning("breaker_set", breaker=name, state=state.name)
        self._placed.put(name, state)
        message = f"{name} state has been changed successfully"
        told = {"circuitBreakerName": name, "currentState": state.name, "message": message}
        return answer(told)

    def events(self, name: str | None = None, kind: str | None = None) -> Response:
        if kind is not None and kind.upper() not in TYPES:
            raise InvalidError(f"Event type is none of {', '.join(TYPES)}")
        found = [
            event
            for event in self._placed.events()
            if name in (None, event["circuitBreakerName"])
            and (kind is None or kind.upper() == event["type"])
        ]
        return answer({"circuitBreakerEvents": found})


class _Gauges(Collector):
    """What the breakers are at the moment; asking makes all processes write down their counts."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def collect(self) -> Iterator[Metric]:
        found = gather(self._environment)
        if not found:
            return
        state = _gauge("state", "1 for the state that a breaker is in", "state")
        buffered = _gauge("buffered_calls", "Calls in the window", "kind")
        slow = _gauge("slow_calls", "Slow calls in the window", "kind")
        failure_rate = _gauge("failure_rate", "Percent; -1 below the minimum number of calls")
        slow_rate = _gauge("slow_call_rate", "Percent; -1 below the minimum number of calls")
        for name, one in found.items():
            for known in State.__members__:
                state.add_metric((GROUP, name, known.lower()), float(one["state"] == known))
            good, bad = one["bufferedCalls"] - one["failedCalls"], one["failedCalls"]
            slow_bad = one["slowFailedCalls"]
            for gauge, kinds in (
                (buffered, (good, bad)),
                (slow, (one["slowCalls"] - slow_bad, slow_bad)),
            ):
                for kind, count in zip(("successful", "failed"), kinds, strict=True):
                    gauge.add_metric((GROUP, name, kind), count)
            failure_rate.add_metric((GROUP, name), one["failureRate"])
            slow_rate.add_metric((GROUP, name), one["slowCallRate"])
        yield from (state, buffered, slow, failure_rate, slow_rate)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        f"resilience4j_circuitbreaker_{name}", text, labels=("group", "name", *labels)
    )


def _numbers(one: CircuitBreaker) -> dict[str, Any]:
    """Describe a breaker of this process."""
    seen, rules = one.numbers(), one.settings
    return {
        "failureRate": seen.failure_rate,
        "slowCallRate": seen.slow_rate,
        "failureRateThreshold": rules.failure_rate,
        "slowCallRateThreshold": rules.slow_rate,
        "bufferedCalls": seen.calls,
        "failedCalls": seen.failed,
        "slowCalls": seen.slow,
        "slowFailedCalls": seen.slow_failed,
        "notPermittedCalls": seen.refused,
        "state": seen.state.name,
        "inHealth": rules.in_health,
        "mayFailHealth": rules.may_fail_health,
    }


def _together(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one of what several processes say of a breaker.

    Calls add up. Rates are those of the processes that have seen enough for a verdict.
    """
    summed = {key: sum(one[key] for one in told) for key in (*_COUNTS, "notPermittedCalls")}
    judged = [one for one in told if one["failureRate"] >= 0]
    calls = sum(one["bufferedCalls"] for one in judged)
    failed, slow = (sum(one[key] for one in judged) for key in ("failedCalls", "slowCalls"))
    return {
        **told[0],
        **summed,
        "failureRate": 100.0 * failed / calls if calls else -1.0,
        "slowCallRate": 100.0 * slow / calls if calls else -1.0,
        "state": min((one["state"] for one in told), key=_TELLING.index),
    }


def _details(one: Mapping[str, Any]) -> dict[str, Any]:
    """Show a breaker in Resilience4j's shape: rates as text with a sign."""
    rates = ("failureRate", "slowCallRate", "failureRateThreshold", "slowCallRateThreshold")
    shown = {rate: percent(one[rate]) for rate in rates}
    return {**shown, **{key: one[key] for key in (*_COUNTS, "notPermittedCalls", "state")}}


def _status(one: Mapping[str, Any]) -> str:
    if one["state"] == "OPEN" and one["mayFailHealth"]:
        return "DOWN"
    return _STATUS.get(one["state"], "UNKNOWN")


def _events(one: CircuitBreaker) -> Iterator[dict[str, Any]]:
    """Tell a breaker's events in Resilience4j's shape; what an event does not have is null."""
    began = time.time() - time.monotonic()
    for event in one.events:
        at = datetime.fromtimestamp(began + event.at, UTC).replace(tzinfo=None)
        yield {
            "circuitBreakerName": one.name,
            "type": event.type,
            "creationTime": f"{at.isoformat(timespec='microseconds')}Z[Etc/UTC]",
            "errorMessage": event.error,
            "durationInMs": None if event.took_s is None else int(event.took_s * 1000),
            "stateTransition": event.transition,
        }


def _update() -> State:
    if request.mimetype not in KINDS:
        raise UnsupportedMediaType
    try:
        wanted = orjson.loads(request.get_data(cache=False)).get("updateState")
    except (orjson.JSONDecodeError, AttributeError):
        raise InvalidError("Body is not a JSON object") from None
    if not isinstance(wanted, str) or wanted not in _UPDATES:
        raise InvalidError(f"updateState is none of {', '.join(_UPDATES)}")
    return _UPDATES[wanted]
