"""Swagger UI over every service's own OpenAPI document, found through the registry."""

import importlib.util
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import yaml
from flask import Blueprint, Response, render_template, send_from_directory

from cloud.client import ServiceClient
from cloud.config import Environment
from cloud.errors import NotFoundError, UpstreamError
from cloud.eureka import view
from gateway.route import Target, definitions

_FILES = frozenset(
    {"swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js",
     "favicon-32x32.png"}
)  # fmt: skip
# Where a service keeps its document: ours, and springdoc's.
_PATHS = ("/openapi.json", "/v3/api-docs")
_OWN = Path(__file__).parents[1] / "openapi.yaml"
# Swagger UI sets styles in attributes, and pictures in its style sheet; it needs no more.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_OK, _YEAR_S = 200, 31_536_000


def blueprint(environment: Environment) -> Blueprint:
    """Build the pages; `nozie.gateway.docs: false` makes them a 404."""
    rooms, docs = Blueprint("docs", __name__, url_prefix="/docs"), _Docs(environment)
    rooms.before_request(docs.ensure_wanted)
    rooms.get("")(docs.index)
    rooms.get("/start.js")(docs.start)
    rooms.get("/ui/<version>/<name>")(docs.file)
    rooms.get("/openapi/<service_id>.json")(docs.openapi)
    return rooms


class _Docs:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._clients: dict[str, ServiceClient] = {}

    def ensure_wanted(self) -> None:
        if not self._environment.properties.boolean("nozie.gateway.docs", default=True):
            raise NotFoundError("Resource not found")

    def index(self) -> Response:
        urls = [{"name": name, "url": f"/docs/openapi/{name}.json"} for name in self._services()]
        page = render_template("docs.html", version=_version(), urls=orjson.dumps(urls).decode())
        return _told(Response(page, mimetype="text/html"))

    def start(self) -> Response:
        return _told(send_from_directory(Path(__file__).parent / "static", "docs.js"))

    def file(self, version: str, name: str) -> Response:
        if version != _version() or name not in _FILES:
            raise NotFoundError("Resource not found")
        answer = send_from_directory(_distribution(), name, max_age=_YEAR_S)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    def openapi(self, service_id: str) -> Response:
        """Answer a service's document as a caller of the gateway sees it.

        Raises:
            NotFoundError: no route leads to such a service, or it has no document.
            UnavailableError, UpstreamError, DeadlineError: it cannot be had at the moment.
        """
        if service_id not in self._services():
            raise NotFoundError("Resource not found")
        document = _own() if service_id == self._own_id() else self._fetched(service_id)
        # Whatever address a service believes to have: requests go where this page came from.
        body = orjson.dumps({**document, "servers": [{"url": "/"}]})
        return _told(Response(body, mimetype="application/json"))

    def _own_id(self) -> str:
        return self._environment.properties.application

    def _services(self) -> list[str]:
        """List whom we may ask: those that are registered, and that a route leads to."""
        routed = set()
        for item in definitions(self._environment.properties):
            uri = str(item.get("uri", ""))
            if uri.startswith("lb:"):
                routed.add(Target.parse(uri).name)
        return [self._own_id(), *sorted(routed & set(view(self._environment).services()))]

    def _fetched(self, service_id: str) -> dict[str, Any]:
        client = self._clients.get(service_id)
        if client is None:
            client = ServiceClient(service_id, self._environment, timeout=timedelta(seconds=3))
            self._clients[service_id] = client
        for path in _PATHS:
            answer = client.get(path, token=None)
            if answer.status == _OK:
                document = answer.json()
                if not isinstance(document, dict):
                    raise UpstreamError(f"{service_id} answered no document")
                return document
        raise NotFoundError("This service has no document")


def _told(answer: Response) -> Response:
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


@cache
def _own() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(_OWN.read_text("utf-8"))
    return document


@cache
def _distribution() -> Path:
    """Find Swagger UI's files in the package that ships them; nothing of its code is loaded."""
    found = importlib.util.find_spec("flask_swagger_ui")
    if found is None or found.origin is None:
        raise NotFoundError("Swagger UI is not installed")
    return Path(found.origin).parent / "dist"


@cache
def _version() -> str:
    return (_distribution() / "VERSION").read_text().strip()
