"""Routes as Spring Cloud Gateway's YAML writes them; one bad route harms no other."""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import structlog

from cloud.config import Properties
from gateway.exchange import LOCAL_CACHE, Definition, Exchange, Handler
from gateway.predicates import Predicate, bind, build, gather, version
from gateway.settings import PREFIXES, Cors, ignored, spring_key, spring_option

log = structlog.get_logger(__name__)

REFUSED = (ValueError, TypeError, KeyError, AttributeError, re.error)
_PORTS = {"http": 80, "https": 443}
_PLAIN = {"ws": "http", "wss": "https"}
_OLD_KEY = re.compile(r"spring\.cloud\.gateway\.(?!server\.)")
# Arguments of filters that change nothing here, each with the reason.
_IGNORED = {
    "RequestRateLimiter": {"throwOnLimit": "the answer says the same, and nothing is thrown"}
}
_LOCATOR = "discovery.locator"
_TERM = re.compile(r"\s*(?:'((?:[^']|'')*)'|(serviceId))\s*(?:\+|$)")


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
        # `lb:ws://movies`: an instance's own registration tells whether it speaks TLS.
        parts = urlsplit(re.sub(r"^lb:\w+:", "lb:", uri))
        scheme = _PLAIN.get(parts.scheme, parts.scheme)
        if scheme not in {"lb", "http", "https"} or not parts.hostname:
            raise ValueError(f"uri {uri!r} is none of lb://, http(s)://, ws(s)://, forward:")
        return cls(scheme, parts.hostname, parts.port or _PORTS.get(scheme, 0))


@dataclass(frozen=True, slots=True)
class Route:
    """One route; its filters are still definitions, which the handler builds into a chain.

    Attributes:
        connect_timeout, response_timeout: seconds; None leaves it to the settings, and a
            `response-timeout` of -1 means none.
        max_in_flight: calls that may wait for their answers; None leaves it to the settings.
        located: the service's prefix, which the platform's rules must look behind, for a route
            that the discovery locator made.
        cors: rules of its own, for its paths.
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
    max_in_flight: int | None = None
    located: str = ""
    cors: Cors | None = None
    paths: tuple[str, ...] = ()

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


def load(
    properties: Properties,
    bind_chain: Callable[[Route], Handler],
    *,
    added: Sequence[Mapping[str, Any]] = (),
    services: Sequence[str] = (),
) -> RouteTable:
    """Read all routes; a bad one is refused with its reason in the log.

    Args:
        properties: the configuration.
        bind_chain: builds what a route does.
        added: definitions beside the configuration's; one with the id of another takes its place.
        services: ids known to the registry, for the discovery locator.
    """
    given = definitions(properties, added, services)
    _warn_of_old(properties)
    for key, reason in ignored(properties).items():
        log.warning("setting_ignored", key=key, reason=reason)
    read = Reader(properties, given)
    bound: list[tuple[Route, Handler]] = []
    for item in given:
        if str(item.get("enabled", "true")).lower() == "false":
            continue
        try:
            route = read.route(item)
            bound.append((route, bind_chain(route)))
            _warn_of_ignored(route)
        except REFUSED as refused:
            reason = f"{type(refused).__name__}: {refused}"
            log.error("route_refused", route=item["id"], reason=reason)  # noqa: TRY400 - says it all
    return RouteTable(bound)


def definitions(
    properties: Properties, added: Sequence[Mapping[str, Any]] = (), services: Sequence[str] = ()
) -> list[Mapping[str, Any]]:
    """List all definitions as they were written, each with its id.

    Raises:
        ConfigurationError: what is given is no list of routes.
    """
    prefix = _prefix(properties)
    tree = properties.tree(prefix, lenient=True)
    try:
        listed = [*_items(tree.get("routes")), *_by_id(tree.get("routes-map"))]
        if not all(isinstance(item, Mapping) for item in listed):
            raise TypeError
    except REFUSED:
        raise properties.wrong(f"{prefix}.routes", "is no list of routes") from None
    given = [dict(item, id=item.get("id") or f"route-{at}") for at, item in enumerate(listed)]
    merged = {item["id"]: item for item in given} | {item["id"]: item for item in added}
    doubled = len(given) - len({item["id"] for item in given})
    kept = list(merged.values()) if not doubled else [*given, *added]
    return [*kept, *_located(properties, services)]


def ensure_readable(properties: Properties) -> None:
    """Refuse a configuration whose list of routes cannot be taken over as a whole.

    Raises:
        ConfigurationError: it is none.
    """
    definitions(properties)


def _by_id(tree: Any) -> list[Any]:
    """Read the map form that the MVC gateway also takes."""
    return [{"id": name, **item} for name, item in (tree or {}).items()]


def _prefix(properties: Properties) -> str:
    def holds(prefix: str) -> bool:
        names = ("routes", "routes-map")
        return any(properties.tree(f"{prefix}.{name}", lenient=True) for name in names)

    return next(filter(holds, PREFIXES), PREFIXES[0])


def _warn_of_ignored(route: Route) -> None:
    for one in route.filters:
        for name, reason in _IGNORED.get(one.name, {}).items():
            if str(one.args.get(name, "false")).lower() != "false":
                key = f"routes.{route.id}.filters.{one.name}.{name}"
                log.warning("setting_ignored", key=key, reason=reason)


def _warn_of_old(properties: Properties) -> None:
    old = sorted(key for key in properties.keys() if _OLD_KEY.match(key))  # noqa: SIM118 - no dict
    if old:
        log.warning("old_prefix", instead=PREFIXES[0], count=len(old), first=old[0])


def locates(properties: Properties) -> bool:
    """Tell whether the registry's services are routes of their own."""
    return (spring_option(properties, f"{_LOCATOR}.enabled") or "false").lower() == "true"


def _located(properties: Properties, services: Sequence[str]) -> list[Mapping[str, Any]]:
    """Make a route for every service, when the estate asks for it."""

    def option(name: str, default: str) -> str:
        return spring_option(properties, f"{_LOCATOR}.{name}") or default

    if not locates(properties):
        return []
    own = properties.tree(spring_key(properties, _LOCATOR), lenient=True)
    try:
        if option("include-expression", "true").lower() != "true":
            raise ValueError("include-expression can only be true: no expression is evaluated")
        return [_route_to(service, own, option) for service in services]
    except REFUSED as refused:
        log.error("locator_refused", reason=str(refused))  # noqa: TRY400 - says it all
        return []


def _route_to(
    name: str, own: Mapping[str, Any], option: Callable[[str, str], str]
) -> Mapping[str, Any]:
    path, rest = "'/'+serviceId+'/**'", "'/'+serviceId+'/?(?<remaining>.*)'"
    rewrite = {"regexp": rest, "replacement": "'/${remaining}'"}
    predicates = own.get("predicates") or [{"name": "Path", "args": {"pattern": path}}]
    filters = own.get("filters") or [{"name": "RewritePath", "args": rewrite}]
    # As in Spring the id and the address keep the name that the registry tells.
    service = name.lower() if option("lower-case-service-id", "false") == "true" else name
    held = [_spelled(item, service) for item in _items(predicates)]
    return {
        "id": option("route-id-prefix", "ReactiveCompositeDiscoveryClient_") + name,
        "uri": spelled(option("url-expression", "'lb://'+serviceId"), name),
        "predicates": held,
        "filters": [_spelled(item, service) for item in _items(filters)],
        "located": _prefix_of(map(define, held)) or f"/{service}",
    }


def _prefix_of(predicates: Iterable[Definition]) -> str:
    """Name what the paths of a located route begin with, before the service's own."""
    paths = (path for one in predicates if one.name == "Path" for path in paths_of(one))
    return next((path.removesuffix("/**") for path in paths if path.endswith("/**")), "")


def _spelled(item: Mapping[str, Any], service: str) -> Mapping[str, Any]:
    args = {name: spelled(text, service) for name, text in (item.get("args") or {}).items()}
    return {"name": item["name"], "args": args}


def spelled(expression: str, service: str) -> str:
    """Read `'lb://'+serviceId`: texts and the service's id, joined; nothing is evaluated.

    Raises:
        ValueError: anything else.
    """
    parts, at = [], 0
    while at < len(expression):
        found = _TERM.match(expression, at)
        if found is None:
            raise ValueError(f"{expression} is more than texts and serviceId, joined by +")
        parts.append(service if found[2] else found[1].replace("''", "'"))
        at = found.end()
    return "".join(parts)


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
    if isinstance(tree, str) and tree:
        raise TypeError("one text is no list")
    if isinstance(tree, Mapping):
        return [tree[key] for key in sorted(tree, key=int)]
    return list(tree or [])


class Reader:
    """Reads single routes among all that are given, for their defaults and weights."""

    def __init__(self, properties: Properties, given: Sequence[Mapping[str, Any]]) -> None:
        tree = properties.tree(f"{_prefix(properties)}.default-filters", lenient=True)
        self._defaults = [define(item) for item in _items(tree)]
        self._weights = _weights(given)
        self._properties = properties

    def route(self, item: Mapping[str, Any]) -> Route:
        """Read one route.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, re.error: it cannot be used.
        """
        if not item.get("predicates"):
            raise ValueError("a route needs a predicate")
        own = [define(entry) for entry in _items(item.get("filters"))]
        # As in Spring, default and own filters take turns: both lists are numbered from one.
        numbered = [*enumerate(self._defaults), *enumerate(own)]
        # But for one, which has a place of its own before all others.
        numbered.sort(key=lambda pair: (pair[1].name != LOCAL_CACHE, pair[0]))
        filters = tuple(definition for _, definition in numbered)
        predicates = tuple(map(define, _items(item.get("predicates"))))
        self._ensure_enabled("filter", filters)
        self._ensure_enabled("predicate", predicates)
        metadata = item.get("metadata") or {}
        cors, most = metadata.get("cors"), metadata.get("max-in-flight")
        return Route(
            id=item["id"],
            uri=item["uri"],
            target=Target.parse(item["uri"]),
            predicates=tuple(self._predicate(item["id"], one) for one in predicates),
            filters=filters,
            order=int(item.get("order") or 0),
            metadata=metadata,
            connect_timeout=_seconds(metadata.get("connect-timeout")),
            response_timeout=_seconds(metadata.get("response-timeout")),
            max_in_flight=int(most) if most is not None else None,
            located=item.get("located", ""),
            cors=Cors.of(cors) if cors else None,
            paths=tuple(path for one in predicates if one.name == "Path" for path in paths_of(one)),
        )

    def _predicate(self, route_id: str, definition: Definition) -> Predicate:
        if definition.name == "Weight":
            return _weight(route_id, definition, self._weights)
        if definition.name == "Version":
            return version(definition.args, self._properties)
        return build(definition, option=partial(spring_option, self._properties))

    def _ensure_enabled(self, kind: str, used: Sequence[Definition]) -> None:
        for definition in used:
            option = spring_option(self._properties, f"{kind}.{definition.name}.enabled")
            default = "false" if definition.name == LOCAL_CACHE else "true"
            if (option or default).lower() == "false":
                raise ValueError(f"{kind} {definition.name} is switched off")


def paths_of(definition: Definition) -> list[str]:
    """List the patterns of a Path predicate."""
    return [path for path in gather(definition.args, "patterns") if path not in {"true", "false"}]


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
