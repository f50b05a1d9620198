"""Spring Boot's management endpoints, in its shapes: health, info, metrics, prometheus.

Everybody may ask whether the service is well. Why, and everything else, is for
`nozie.management.allowed-networks` only.
"""

import platform
from collections.abc import Collection, Mapping
from os import getpid, getppid
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, request
from prometheus_client.exposition import choose_encoder

import cloud
from cloud import security
from cloud.actuator import meters
from cloud.actuator.health import Check, Health
from cloud.config import Environment
from cloud.errors import DeniedError, NotFoundError

__all__ = ["Check", "install"]

_V3 = "application/vnd.spring-boot.actuator.v3+json"
_V2 = "application/vnd.spring-boot.actuator.v2+json"
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
    app.register_blueprint(rooms)


class _Endpoints:
    def __init__(self, environment: Environment, health: Health) -> None:
        self._environment = environment
        self._health = health

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
            for name, path in _LINKS.items()
        }
        return _answer({"_links": links})

    def health(self, name: str | None = None) -> Response:
        found = self._health.of(name)
        if found is None:
            raise NotFoundError("No such health component")
        if not self._trusted():
            found = {key: found[key] for key in ("status", "groups") if key in found}
        return _answer(found, 503 if found["status"] in _NOT_SERVING else 200)

    def info(self) -> Response:
        properties = self._environment.properties
        name = properties.application
        told: dict[str, Any] = properties.tree("info")
        build = {"group": "nozie", "artifact": name, "name": name, "version": cloud.__version__}
        return _answer(
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
        return _answer({"names": meters.names()})

    def metric(self, name: str) -> Response:
        found = meters.find(name, request.args.getlist("tag"))
        if found is None:
            raise NotFoundError("No such metric")
        return _answer(found)

    def prometheus(self) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(meters.registry()), content_type=content_type)


def _answer(data: dict[str, Any], status: int = 200) -> Response:
    """Answer in the media type that is asked for; Spring Boot Admin knows an actuator by it."""
    kinds = (_V3, _V2, "application/json")
    kind = request.accept_mimetypes.best_match(kinds) or _V3
    return Response(orjson.dumps(data), status, content_type=kind)
