"""Spring Boot's management endpoints, in its shapes: health, info, metrics, prometheus.

Everybody may ask whether the service is well. Why, and everything else, is for
`nozie.management.allowed-networks` only.
"""

import platform
from collections.abc import Callable, Collection, Mapping
from os import getpid, getppid
from typing import Any

from flask import Blueprint, Flask, Response, request
from prometheus_client.exposition import choose_encoder

import cloud
from cloud import security
from cloud.actuator import loggers, meters, refresh
from cloud.actuator.answers import answer
from cloud.actuator.health import Check, Health
from cloud.config import Environment
from cloud.errors import DeniedError, NotFoundError

__all__ = ["Check", "install"]

# A group of endpoints is a module here. Its function adds its rooms to the blueprint, below the
# guard of all, and gives its links: name to path, as the index lists them.
Install = Callable[[Blueprint, Environment], Mapping[str, str]]
_GROUPS: tuple[Install, ...] = (
    loggers.install,
    refresh.install,
)

_LINKS = {
    "self": "",
    "health": "/health",
    "health-path": "/health/{*path}",
    "info": "/info",
    "metrics": "/metrics",
    "metrics-requiredMetricName": "/metrics/{requiredMetricName}",
    "prometheus": "/prometheus",
}
_NOT_SERVING = frozenset({"DOWN", "OUT_OF_SERVICE"})


def install(
    app: Flask, environment: Environment, *, checks: Mapping[str, Check], essential: Collection[str]
) -> None:
    """Serve the endpoints below /actuator.

    Args:
        app: has `cloud.web` installed, which answers this room's errors.
        environment: the instance's properties.
        checks: component name to check, in Spring's names (`db`, `redis`, `rabbit`, `mongo`).
        essential: the checks without which the house cannot serve: they decide on readiness.
    """
    endpoints = _Endpoints(environment, Health(environment, checks, essential))
    rooms = Blueprint("actuator", __name__, url_prefix="/actuator")
    rooms.before_request(endpoints.guard)
    rooms.get("")(endpoints.index)
    rooms.get("/health", endpoint="health")(endpoints.health)
    rooms.get("/health/<path:name>", endpoint="health-path")(endpoints.health)
    rooms.get("/info")(endpoints.info)
    rooms.get("/metrics")(endpoints.metrics)
    rooms.get("/metrics/<name>")(endpoints.metric)
    rooms.get("/prometheus")(endpoints.prometheus)
    for add in _GROUPS:
        endpoints.links.update(add(rooms, environment))
    app.register_blueprint(rooms)


class _Endpoints:
    def __init__(self, environment: Environment, health: Health) -> None:
        self._environment = environment
        self._health = health
        self.links = dict(_LINKS)

    def guard(self) -> None:
        if not (request.endpoint or "").startswith("actuator.health") and not self._trusted():
            raise DeniedError("Not for this network")

    def _trusted(self) -> bool:
        """Tell whether the client's address, not what its headers claim, is an operator's."""
        properties = self._environment.properties
        client = security.client_address(
            request.remote_addr or "",
            request.headers.get("X-Forwarded-For"),
            security.trusted_proxies(properties, "web"),
        )
        return security.is_within(client, security.allowed_networks(properties))

    def index(self) -> Response:
        links = {
            name: {"href": f"{request.base_url}{path}", "templated": "{" in path}
            for name, path in self.links.items()
        }
        return answer({"_links": links})

    def health(self, name: str | None = None) -> Response:
        found = self._health.of(name)
        if found is None:
            raise NotFoundError("No such health component")
        if not self._trusted():
            found = {key: found[key] for key in ("status", "groups") if key in found}
        return answer(found, 503 if found["status"] in _NOT_SERVING else 200)

    def info(self) -> Response:
        properties = self._environment.properties
        name = properties.application
        told: dict[str, Any] = properties.tree("info")
        build = {"group": "nozie", "artifact": name, "name": name, "version": cloud.__version__}
        return answer(
            {
                **told,
                "build": {**build, **told.get("build", {})},
                "python": {
                    "version": platform.python_version(),
                    "implementation": platform.python_implementation(),
                },
                "process": {"pid": getpid(), "parentPid": getppid()},
            }
        )

    def metrics(self) -> Response:
        return answer({"names": meters.names()})

    def metric(self, name: str) -> Response:
        found = meters.find(name, request.args.getlist("tag"))
        if found is None:
            raise NotFoundError("No such metric")
        return answer(found)

    def prometheus(self) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(meters.registry()), content_type=content_type)
