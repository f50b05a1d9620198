"""Spring Boot's management endpoints, in its shapes: health, info, metrics, prometheus.

Everybody may ask whether the service is well. Why, and everything else, is for
`nozie.management.allowed-networks` only.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Flask, Response, request
from prometheus_client.exposition import choose_encoder

from cloud.actuator import (
    breakers,
    bus,
    caches,
    env,
    exchanges,
    info,
    logfile,
    loggers,
    mappings,
    meters,
    refresh,
    registry,
    shutdown,
    tasks,
    threads,
)
from cloud.actuator.access import Access
from cloud.actuator.answers import V2, answer, media_type
from cloud.actuator.caches import Cache
from cloud.actuator.health import Check, Component, Health
from cloud.actuator.kept import Kept
from cloud.actuator.mappings import ROUTES
from cloud.config import Environment, Properties
from cloud.config.management import base_path, name_of, root_path
from cloud.errors import NotFoundError

__all__ = ["ROUTES", "Cache", "Check", "install"]

# A group of endpoints is a module here. Its function adds its rooms to the blueprint, below the
# guard of all, and gives its links: name to path, as the index lists them.
Install = Callable[[Blueprint, Environment], Mapping[str, str]]
_GROUPS: tuple[Install, ...] = (
    breakers.install,
    bus.install,
    env.install,
    exchanges.install,
    info.install,
    logfile.install,
    loggers.install,
    mappings.install,
    refresh.install,
    registry.install,
    shutdown.install,
    tasks.install,
    threads.install,
)

_LINKS = {
    "self": "",
    "health": "/health",
    "health-path": "/health/{*path}",
    "metrics": "/metrics",
    "metrics-requiredMetricName": "/metrics/{requiredMetricName}",
    "prometheus": "/prometheus",
}


def install(
    app: Flask,
    environment: Environment,
    *,
    checks: Mapping[str, Check],
    essential: Collection[str],
    links: Mapping[str, str] = MappingProxyType({}),
    kept: Mapping[str, Cache] = MappingProxyType({}),
) -> None:
    """Serve the endpoints below `management.endpoints.web.base-path`, /actuator when unset.

    Args:
        app: has `cloud.web` installed, which answers this room's errors.
        environment: the instance's properties.
        checks: component name to check, in Spring's names (`db`, `redis`, `rabbit`, `mongo`).
        essential: the checks without which the house cannot serve: they decide on readiness.
        links: of endpoints that the house itself adds below the base path, id to path.
        kept: the house's caches, by name.

    Raises:
        ConfigurationError: a `management` property cannot be used.
    """
    access, health = Access(environment), Health(environment, checks, essential)
    endpoints = _Endpoints(environment.properties, access, health)
    meters.install(environment)
    rooms = _Rooms(environment.properties)
    rooms.get("")(endpoints.index)
    rooms.get("/health", endpoint="health")(endpoints.health)
    rooms.get("/health/<path:name>", endpoint="health-path")(endpoints.health)
    rooms.get("/metrics")(endpoints.metrics)
    rooms.get("/metrics/<name>")(endpoints.metric)
    rooms.get("/prometheus")(endpoints.prometheus)
    for add in _GROUPS:
        endpoints.links.update(add(rooms, environment))
    endpoints.links.update(caches.install(rooms, kept))
    endpoints.links.update(links)
    access.known.update(
        (name_of(environment.properties, path.split("/")[1]), path.split("/")[1])
        for path in endpoints.links.values()
        if path
    )
    # For the whole application: the house's own endpoints are no rooms of ours.
    kept_answers = Kept(environment, access)
    app.before_request(access.guard)
    app.before_request(kept_answers.find)
    app.after_request(access.allow_origin)
    app.after_request(kept_answers.keep)
    app.register_blueprint(rooms)
    for name, group in health.groups(environment.properties).items():
        if group.path:
            where, _, path = group.path.partition(":")
            if where == "management":
                path = f"{root_path(environment.properties)}{path}"
                access.beside.add(path)
            app.add_url_rule(path, f"health-{name}", endpoints.health, defaults={"name": name})


class _Rooms(Blueprint):
    """The blueprint of all endpoints; their rules open with an id, which may be mapped."""

    def __init__(self, properties: Properties) -> None:
        super().__init__("actuator", __name__, url_prefix=base_path(properties))
        self._properties = properties

    def add_url_rule(self, rule: str, *given: Any, **more: Any) -> None:
        super().add_url_rule(_mapped(self._properties, rule), *given, **more)


def _mapped(properties: Properties, path: str) -> str:
    """Call the endpoint that a path opens with as configuration does."""
    _, slash, below = path.partition("/")
    name, *rest = below.split("/")
    return slash + "/".join((name_of(properties, name), *rest)) if name else path


class _Endpoints:
    def __init__(self, properties: Properties, access: Access, health: Health) -> None:
        self._properties = properties
        self._access = access
        self._health = health
        self.links = dict(_LINKS)

    def index(self) -> Response:
        links = {
            name: {
                "href": f"{request.base_url}{_mapped(self._properties, path)}",
                "templated": "{" in path,
            }
            for name, path in self.links.items()
            if not path or self._access.exposes(path.split("/")[1])
        }
        return answer({"_links": links})

    def health(self, name: str | None = None) -> Response:
        found = self._health.of(name)
        if found is None:
            raise NotFoundError("No such health component")
        component, group = found
        details = self._access.shows("details", "always", *group.owners)
        default = "always" if details else "never"
        components = self._access.shows("components", default, *group.owners)
        told = _told(component, details=details, components=components)
        return answer(told, group.codes.get(component["status"], 200))

    def metrics(self) -> Response:
        return answer({"names": meters.names()})

    def metric(self, name: str) -> Response:
        found = meters.find(name, request.args.getlist("tag"))
        if found is None:
            raise NotFoundError("No such metric")
        return answer(found)

    def prometheus(self) -> Response:
        """Answer all meters, or those of `?includedNames=a,b`, as text or OpenMetrics."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        given = ",".join(request.args.getlist("includedNames"))
        names = [name for name in given.split(",") if name]
        return Response(encode(meters.registry(names)), content_type=content_type)


def _told(component: Component, *, details: bool, components: bool) -> Component:
    """Leave out what the client may not see; version 2 calls components details."""
    parts = "details" if media_type() == V2 else "components"
    told: Component = {key: component[key] for key in ("status", "description") if key in component}
    if details and "details" in component:
        told["details"] = component["details"]
    if components and "components" in component:
        told[parts] = {
            name: _told(part, details=details, components=True)
            for name, part in component["components"].items()
        }
    if "groups" in component:
        told["groups"] = component["groups"]
    return told
