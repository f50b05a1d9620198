"""Spring's endpoint /actuator/gateway: routes as they are, and, where it is allowed, changed.

Reading is for `nozie.management.allowed-networks`, like all of the actuator. Writing is off unless
`management.endpoint.gateway.access` is `unrestricted`, and needs a principal with the role ADMIN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from flask import Blueprint, Response, request

from cloud.config import Environment, Properties
from cloud.errors import (
    ConflictError,
    DeniedError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
)
from cloud.security import Principal
from gateway.filters import FILTERS
from gateway.handler import refusal
from gateway.handler.added import Added
from gateway.predicates import NAMES
from gateway.route import Reader, define, definitions

PRINCIPAL = "nozie.principal"
_PACKAGE = "org.springframework.cloud.gateway"
# Where each step of ours stands in Spring's order of global filters.
_GLOBAL = {
    "RemoveCachedBodyFilter": -2147483648,
    "NettyWriteResponseFilter": -1,
    "GatewayMetricsFilter": 0,
    "ForwardPathFilter": 0,
    "RouteToRequestUrlFilter": 10000,
    "ReactiveLoadBalancerClientFilter": 10150,
    "WebsocketRoutingFilter": 2147483646,
    "NettyRoutingFilter": 2147483647,
    "ForwardRoutingFilter": 2147483647,
}
_LINKS = (
    ("GET", "/routes"),
    ("GET", "/routes/{id}"),
    ("GET", "/routes/{id}/combinedfilters"),
    ("GET", "/globalfilters"),
    ("GET", "/routefilters"),
    ("GET", "/routepredicates"),
    ("GET", "/routedefinitions"),
    ("POST", "/refresh"),
    ("POST", "/routes"),
    ("POST", "/routes/{id}"),
    ("DELETE", "/routes/{id}"),
)


def blueprint(environment: Environment) -> Blueprint:
    """Build the endpoint, to be mounted below the actuator."""
    rooms, endpoint = Blueprint("gateway", __name__), _Endpoint(environment)
    rooms.before_request(endpoint.ensure_open)
    rooms.get("")(endpoint.index)
    rooms.get("/routes")(endpoint.routes)
    rooms.get("/routes/<name>")(endpoint.route)
    rooms.get("/routes/<name>/combinedfilters")(endpoint.combined)
    rooms.get("/routedefinitions")(endpoint.definitions)
    rooms.get("/globalfilters")(endpoint.global_filters)
    rooms.get("/routefilters")(endpoint.route_filters)
    rooms.get("/routepredicates")(endpoint.route_predicates)
    rooms.post("/refresh")(endpoint.refresh)
    rooms.post("/routes")(endpoint.put_all)
    rooms.post("/routes/<name>")(endpoint.put)
    rooms.delete("/routes/<name>")(endpoint.delete)
    return rooms


def mappings(environment: Environment) -> Callable[[], list[dict[str, str]]]:
    """Give what describes the routes for /actuator/mappings."""
    endpoint = _Endpoint(environment)

    def told() -> list[dict[str, str]]:
        routes = endpoint.usable()
        return [{"handler": route["uri"], "predicate": route["predicate"]} for route in routes]

    return told


class _Endpoint:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    @property
    def _properties(self) -> Properties:
        return self._environment.properties

    def _added(self) -> Added:
        return Added(self._properties)

    # --- who may

    @staticmethod
    def ensure_open() -> None:
        """Let an ADMIN write; exposure, access and network are the actuator's guard's."""
        if request.method in {"GET", "HEAD"}:
            return
        caller: Principal | None = request.environ.get(PRINCIPAL)
        if caller is None:
            raise UnauthenticatedError("Authorization header is missing")
        if not caller.has_role("ADMIN"):
            raise DeniedError("Role is missing")

    # --- reading

    def index(self) -> Response:
        return _json([{"href": f"{request.path}{path}", "methods": [m]} for m, path in _LINKS])

    def _all(self) -> list[Mapping[str, Any]]:
        return definitions(self._properties, self._added().read())

    def usable(self) -> list[dict[str, Any]]:
        """Describe every route that serves; one that was refused is in the log, not here."""
        given, added = self._all(), self._added().read()
        read = Reader(self._properties, given)
        return [
            _described(item, read)
            for item in given
            if str(item.get("enabled", "true")).lower() != "false"
            and refusal(item, self._properties, added) is None
        ]

    def routes(self) -> Response:
        return _json(sorted(self.usable(), key=lambda route: route["order"]))

    def _find(self, name: str) -> dict[str, Any]:
        found = next((route for route in self.usable() if route["route_id"] == name), None)
        if found is None:
            raise NotFoundError("No such route")
        return found

    def route(self, name: str) -> Response:
        return _json(self._find(name))

    def combined(self, name: str) -> Response:
        """Answer as Spring does: the route as text, and its order."""
        route = self._find(name)
        text = (
            f"Route{{id='{name}', uri={route['uri']}, order={route['order']},"
            f" predicate={route['predicate']}, gatewayFilters=[{', '.join(route['filters'])}],"
            f" metadata={route['metadata']}}}"
        )
        return _json({text: route["order"]})

    def definitions(self) -> Response:
        return _json([_definition(item) for item in self._all()])

    def global_filters(self) -> Response:
        return _json({f"{_PACKAGE}.filter.{name}": order for name, order in _GLOBAL.items()})

    def route_filters(self) -> Response:
        return _json({f"[{name}GatewayFilterFactory]": None for name in sorted(FILTERS)})

    def route_predicates(self) -> Response:
        return _json({f"[{name}RoutePredicateFactory]": None for name in sorted(NAMES)})

    # --- writing: all or nothing, into a file that every worker reads

    def refresh(self) -> Response:
        self._added().change(lambda held: held)
        return Response(status=200)

    def put(self, name: str) -> Response:
        self._put([{**_body(dict), "id": name}])
        return Response(status=201, headers={"Location": f"/routes/{name}"})

    def put_all(self) -> Response:
        fresh = _body(list)
        if not all(isinstance(item, dict) for item in fresh):
            raise InvalidError("Body is not a JSON array of objects")
        self._put(fresh)
        return Response(status=200)

    def _put(self, fresh: Sequence[Mapping[str, Any]]) -> None:
        for item in fresh:
            if not isinstance(item.get("id"), str) or not item["id"]:
                raise InvalidError("A route needs an id")
            reason = refusal(item, self._properties, [*self._added().read(), *fresh])
            if reason is not None:
                raise InvalidError(f"Route {item['id']} cannot be used: {reason}")
        ids = {item["id"] for item in fresh}
        self._change(lambda held: [*(one for one in held if one["id"] not in ids), *fresh])

    def delete(self, name: str) -> Response:
        if all(item["id"] != name for item in self._added().read()):
            raise NotFoundError("No such route among those that were added")
        self._change(lambda held: [one for one in held if one["id"] != name])
        return Response(status=200)

    def _change(self, change: Any) -> None:
        try:
            self._added().change(change)
        except OSError as error:
            raise ConflictError("The run folder cannot be written to") from error


def _body(kind: type[Any]) -> Any:
    try:
        found = orjson.loads(request.get_data(cache=False))
    except orjson.JSONDecodeError:
        raise InvalidError("Body is not JSON") from None
    if not isinstance(found, kind):
        raise InvalidError(f"Body is not a JSON {'object' if kind is dict else 'array'}")
    return found


def _json(data: object) -> Response:
    return Response(orjson.dumps(data), content_type="application/json")


def _definition(item: Mapping[str, Any]) -> dict[str, Any]:
    """Write a definition as Spring's RouteDefinition, arguments of shortcuts under its names."""

    def long(entries: Any) -> list[dict[str, Any]]:
        found = (define(entry) for entry in entries or ())
        return [
            {
                "name": one.name,
                "args": {
                    f"_genkey{name}" if name.startswith("_") else name: value
                    for name, value in one.args.items()
                },
            }
            for one in found
        ]

    return {
        "id": item["id"],
        "predicates": long(item.get("predicates")),
        "filters": long(item.get("filters")),
        "uri": item.get("uri"),
        "metadata": item.get("metadata") or {},
        "order": int(item.get("order") or 0),
    }


def _described(item: Mapping[str, Any], read: Reader) -> dict[str, Any]:
    """Describe a route as Spring does: predicates and filters as text."""
    route = read.route(item)
    predicates = " && ".join(
        f"{one.name}: [{', '.join(map(str, one.args.values()))}]"
        for one in map(define, item.get("predicates") or ())
    )
    return {
        "predicate": f"({predicates})" if " && " in predicates else predicates,
        "route_id": route.id,
        "filters": [
            f"[[{one.name} {', '.join(f'{k} = {v!r}' for k, v in one.args.items())}], order = {at}]"
            for at, one in enumerate(route.filters, 1)
        ],
        "uri": route.uri,
        "order": route.order,
        "metadata": dict(route.metadata),
    }
