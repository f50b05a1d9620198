"""Routes as Spring Cloud Gateway's YAML writes them; one bad route harms no other."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import structlog

from cloud.config import Properties
from gateway.exchange import Definition, Exchange, Handler
from gateway.predicates import Predicate, bind, build

log = structlog.get_logger(__name__)

# Newest first: an estate in the middle of an upgrade may hold both.
PREFIXES = (
    "spring.cloud.gateway.server.webflux",
    "spring.cloud.gateway.server.webmvc",
    "spring.cloud.gateway",
    "spring.cloud.gateway.mvc",
)
_REFUSED = (ValueError, TypeError, KeyError, AttributeError, re.error)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a route leads.

    Attributes:
        scheme: lb, http, https or forward.
        name: service id, host, or local path.
    """

    scheme: str
    name: str
    port: int = 0

    @classmethod
    def parse(cls, uri: str) -> "Target":
        if uri.startswith("forward:"):
            return cls("forward", uri.removeprefix("forward:"))
        parts = urlsplit(uri)
        if parts.scheme not in {"lb", "http", "https"} or not parts.hostname:
            raise ValueError(f"uri {uri!r} is none of lb://, http://, https://, forward:")
        return cls(parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme, 0))


@dataclass(frozen=True, slots=True)
class Route:
    """One route; its filters are still definitions, which the handler builds into a chain.

    Attributes:
        connect_timeout, response_timeout: seconds; None leaves it to the settings, and a
            `response-timeout` of -1 means none.
    """

    id: str
    uri: str
    target: Target
    predicates: tuple[Predicate, ...]
    filters: tuple[Definition, ...]
    order: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    connect_timeout: float | None = None
    response_timeout: float | None = None

    def match(self, exchange: Exchange) -> Mapping[str, str] | None:
        """Return the variables of a match, None when a predicate does not hold."""
        found: dict[str, str] = {}
        for predicate in self.predicates:
            taken = predicate(exchange)
            if taken is None:
                return None
            if taken:
                found |= taken
        return found


class RouteTable:
    """Routes by order, each with its chain; replaced whole when the configuration changes."""

    def __init__(self, bound: Sequence[tuple[Route, Handler]]) -> None:
        self.bound = tuple(sorted(bound, key=lambda pair: pair[0].order))

    def find(self, exchange: Exchange) -> tuple[Route, Handler] | None:
        """First route whose predicates all hold; its variables go into the exchange."""
        for pair in self.bound:
            variables = pair[0].match(exchange)
            if variables is not None:
                exchange.variables = variables
                return pair
        return None


def load(properties: Properties, bind_chain: Callable[[Route], Handler]) -> RouteTable:
    """Read all routes; a bad one is refused with its reason in the log."""
    prefix = next((p for p in PREFIXES if properties.tree(f"{p}.routes")), PREFIXES[0])
    tree = properties.tree(prefix)
    given = [
        dict(item, id=item.get("id") or f"route-{at}")
        for at, item in enumerate(_items(tree.get("routes")))
    ]
    defaults = [define(item) for item in _items(tree.get("default-filters"))]
    weights = _weights(given)
    bound: list[tuple[Route, Handler]] = []
    for item in given:
        if str(item.get("enabled", "true")).lower() == "false":
            continue
        try:
            route = _route(item, defaults, weights)
            bound.append((route, bind_chain(route)))
        except _REFUSED as refused:
            reason = f"{type(refused).__name__}: {refused}"
            log.error("route_refused", route=item["id"], reason=reason)  # noqa: TRY400 - says it all
    return RouteTable(bound)


def define(item: Any) -> Definition:
    """Read `Name=a,b` or `{name: …, args: {…}}`."""
    if isinstance(item, str):
        name, _, rest = item.partition("=")
        parts = [part.strip() for part in rest.split(",")]
        args = {f"_{at}": part for at, part in enumerate(part for part in parts if part)}
        return Definition(name.strip(), args)
    args = item.get("args") or {}
    # Spring writes shortcut arguments of the long form as _genkey_0, _genkey_1 …
    return Definition(item["name"], {k.replace("_genkey_", "_"): v for k, v in args.items()})


def _items(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        return [tree[key] for key in sorted(tree, key=int)]
    return list(tree or [])


def _route(
    item: Mapping[str, Any],
    defaults: Sequence[Definition],
    weights: Mapping[str, list[tuple[str, float]]],
) -> Route:
    if not item.get("predicates"):
        raise ValueError("a route needs a predicate")
    own = [define(entry) for entry in _items(item.get("filters"))]
    # As in Spring, default and own filters take turns: both lists are numbered from one.
    merged = [
        f for _, f in sorted([*enumerate(defaults), *enumerate(own)], key=lambda pair: pair[0])
    ]
    metadata = item.get("metadata") or {}
    return Route(
        id=item["id"],
        uri=item["uri"],
        target=Target.parse(item["uri"]),
        predicates=tuple(
            _weight(item["id"], definition, weights)
            if definition.name == "Weight"
            else build(definition)
            for definition in map(define, _items(item.get("predicates")))
        ),
        filters=tuple(merged),
        order=int(item.get("order") or 0),
        metadata=metadata,
        connect_timeout=_seconds(metadata.get("connect-timeout")),
        response_timeout=_seconds(metadata.get("response-timeout")),
    )


def _seconds(milliseconds: Any) -> float | None:
    if milliseconds is None:
        return None
    return int(milliseconds) / 1000 if int(milliseconds) >= 0 else float("inf")


def _weight_in(entry: Any) -> Definition | None:
    name = entry.partition("=")[0].strip() if isinstance(entry, str) else entry.get("name")
    return define(entry) if name == "Weight" else None


def _weights(given: Sequence[Mapping[str, Any]]) -> Mapping[str, list[tuple[str, float]]]:
    groups: dict[str, list[tuple[str, float]]] = {}
    for item in given:
        for entry in _items(item.get("predicates")):
            if (definition := _weight_in(entry)) is not None:
                group, weight = bind(definition.args, "group", "weight", required=0)
                if group and (weight or "").isdigit():
                    groups.setdefault(group, []).append((item["id"], float(str(weight))))
    return groups


def _weight(
    route_id: str, definition: Definition, weights: Mapping[str, list[tuple[str, float]]]
) -> Predicate:
    group, weight = bind(definition.args, "group", "weight")
    if not str(weight).isdigit():
        raise ValueError(f"weight {weight!r} is no whole number")
    shares = weights[str(group)]
    total = sum(share for _, share in shares) or 1.0
    at = [route for route, _ in shares].index(route_id)
    low = sum(share for _, share in shares[:at]) / total
    high = low + shares[at][1] / total

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        # One draw a group and request, so that exactly one of its routes is chosen.
        draw = exchange.draws.setdefault(str(group), random.random())  # noqa: S311 - a fair share
        return {} if low <= draw < high else None

    return held
