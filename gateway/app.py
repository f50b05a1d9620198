"""What the gateway answers itself: fallbacks, its own health and metrics, and every error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

import cloud.stores.redis
from cloud import actuator, tls
from cloud.config import Environment
from cloud.config.management import base_path
from cloud.errors import CloudError, UnavailableError
from gateway.exchange import Reply, message
from gateway.filters.metadata_cache import INDEX, drop
from gateway.handler import answer
from gateway.pages import docs, ops
from gateway.route import ensure_readable
from gateway.routes import blueprint, mappings
from gateway.settings import PREFIXES, Settings

log = structlog.get_logger(__name__)

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_AWAY = {
    "movies": "The film catalogue is not available at the moment. Please try again later.",
    "customers": "Customer profiles are not available at the moment. Please try again later.",
    "payments": "Payments are not available at the moment. Nothing was charged by this request.",
    "notifications": "Notifications are not available at the moment. Please try again later.",
    "identity": "Signing in is not available at the moment. Please try again later.",
}
_TEXTS = {404: "Resource not found", 405: "Method is not supported here"}


@dataclass(frozen=True, slots=True)
class Deps:
    """What the application leans on."""

    environment: Environment


def connect(environment: Environment) -> Deps:
    """Describe the neighbours; nothing is opened before it is used.

    Raises:
        ConfigurationError: a setting cannot be used.
    """
    for check in (Settings.of, ensure_readable, cloud.stores.redis.client, tls.serving):
        check(environment.properties)
        environment.require(check)
    return Deps(environment)


def create_app(deps: Deps) -> Flask:
    """Build the application."""
    app = Flask("gateway", static_folder=None, template_folder="pages/templates")
    app.extensions["environment"] = deps.environment
    app.extensions["deps"] = deps
    app.register_error_handler(Exception, _failed)
    for name, text in _AWAY.items():
        app.add_url_rule(f"/fallback/{name}", name, _fallback(text), methods=_METHODS)
    checks = {"redis": _redis(deps.environment), "routes": _routes(deps.environment)}
    app.extensions[actuator.ROUTES] = mappings(deps.environment)
    base = base_path(deps.environment.properties)
    actuator.install(
        app,
        deps.environment,
        checks=checks,
        essential=["routes"],
        links={"gateway": "/gateway"},
        kept={"metadata": actuator.Cache(f"redis {INDEX}", _forget(deps.environment))},
    )
    app.register_blueprint(docs.blueprint(deps.environment))
    app.register_blueprint(ops.blueprint(deps.environment))
    app.register_blueprint(blueprint(deps.environment), url_prefix=f"{base}/gateway")
    return app


def _fallback(text: str) -> Any:
    def answer_away() -> Response:
        return _response(message(503, text, status=503))

    return answer_away


def _failed(error: Exception) -> Response:
    if isinstance(error, CloudError):
        return _response(answer(error))
    if isinstance(error, HTTPException) and error.code:
        told = _response(message(error.code, _TEXTS.get(error.code, error.name)))
        if isinstance(error, MethodNotAllowed):
            told.headers["Allow"] = ", ".join(error.valid_methods or ())
        return told
    log.error("local_answer_failed", exc_info=error)
    return _response(message(500, "Internal server error"))


def _response(reply: Reply) -> Response:
    headers = [(name.decode(), value.decode()) for name, value in reply.headers]
    return Response(reply.body if isinstance(reply.body, bytes) else b"", reply.status, headers)


def _redis(environment: Environment) -> actuator.Check:
    inner = cloud.stores.redis.check(environment)

    def check() -> Mapping[str, Any]:
        try:
            return inner()
        except redis.RedisError as error:
            raise UnavailableError("Redis is away; limits are local") from error

    return check


def _forget(environment: Environment) -> Callable[[], object]:
    def forget() -> None:
        try:
            drop(cloud.stores.redis.shared(environment))
        except redis.RedisError as error:
            raise UnavailableError("Redis is away") from error
        log.info("cache_dropped", by="operator")

    return forget


def _routes(environment: Environment) -> actuator.Check:
    def check() -> Mapping[str, Any]:
        tree = environment.properties.tree
        count = max(len(tree(f"{prefix}.routes", lenient=True)) for prefix in PREFIXES)
        if not count:
            raise UnavailableError("no routes: the Config Server has not been heard")
        return {"count": count}

    return check
