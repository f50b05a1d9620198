"""Each request as operators see it: one span, one log line, its metrics, its correlation id."""

import re
import uuid
from contextlib import ExitStack
from functools import cache
from http import HTTPStatus
from time import perf_counter, time

import structlog
from flask import Flask, Response, g, request
from opentelemetry.trace import SpanKind, StatusCode

from cloud import tracing
from cloud.exchanges import recent
from cloud.metrics import METHODS, count_lines, http_server_requests, outcome
from cloud.web.settings import settings

log = structlog.get_logger()

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_SECURITY = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SERVER_FAULT = 500


def install(app: Flask) -> None:
    """Observe every request of `app`; the first hook in and the last one out."""
    count_lines()
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_close)


def _begin() -> None:
    g.started = perf_counter()
    g.closing = closing = ExitStack()
    g.correlation_id = _given_id() or str(uuid.uuid4())
    parent = tracing.extract(dict(request.headers))
    g.span = closing.enter_context(
        tracing.span(
            f"{request.method} {_route(HTTPStatus.NOT_FOUND)}",
            SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "http.route": _route(HTTPStatus.NOT_FOUND),
            },
            parent=parent,
            # A new trace gets the correlation id as its own, so that either finds the other.
            trace_id=None if parent else g.correlation_id.replace("-", ""),
        )
    )
    token = tracing.correlation_id.set(g.correlation_id)
    closing.callback(tracing.correlation_id.reset, token)
    closing.callback(structlog.contextvars.unbind_contextvars, "principal")


def _given_id() -> str | None:
    """Take the caller's when it is a UUID: anything else could forge lines of our logs."""
    given = request.headers.get(tracing.CORRELATION, "")
    return given if _UUID.fullmatch(given) and given.strip("0-") else None


def _end(response: Response) -> Response:
    took = perf_counter() - g.started
    status, route = response.status_code, _route(response.status_code)
    response.headers[tracing.CORRELATION] = g.correlation_id
    for name, value in _SECURITY.items():
        response.headers.setdefault(name, value)
    if request.method == "OPTIONS":
        response.headers.pop("Content-Type", None)  # Flask's own answer, without a body
    _allow_origin(response)
    kind = g.get("failure") or "none"
    method = request.method if request.method in METHODS else "UNKNOWN"
    labels = (kind, kind, method, outcome(status), str(status), route)
    http_server_requests.add(labels, 1, took, took)
    principal = g.get("principal")
    who = str(principal.user_id) if principal else None
    # Questions of operators would only push out what they want to see.
    own = (request.blueprint or "").startswith("actuator")
    if not own and recent.admits():
        _keep(response, took, who)
    g.span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_FAULT:
        g.span.set_status(StatusCode.ERROR)
    write = log.debug if own else log.info
    write(
        "request",
        method=request.method,
        route=route,
        status=status,
        took_ms=round(took * 1000, 1),
        principal=principal.user_id if principal else None,
    )
    return response


def _keep(response: Response, took_s: float, principal: str | None) -> None:
    recent.keep(
        request.method,
        request.url,
        response.status_code,
        at=time() - took_s,
        took_s=took_s,
        remote=request.remote_addr or "",
        principal=principal,
        request=request.headers,
        response=response.headers,
    )


def _close(_error: BaseException | None) -> None:
    if "closing" in g:
        g.closing.close()


def _route(status: int) -> str:
    """Return the route's template: never a path, which may hold an e-mail address."""
    if request.url_rule is not None:
        return _template(request.url_rule.rule)
    if status == HTTPStatus.NOT_FOUND:
        return "NOT_FOUND"
    return "REDIRECTION" if 300 <= status < 400 else "UNKNOWN"  # noqa: PLR2004 - status classes


@cache
def _template(rule: str) -> str:
    """Spell a rule as Spring does: `/api/customers/{id}`."""
    return _PLACEHOLDER.sub(r"{\1}", rule)


def _allow_origin(response: Response) -> None:
    """Answer a browser that calls this port itself; behind the gateway CORS is the gateway's."""
    origin = request.headers.get("Origin")
    if origin not in settings().allowed_origins or "X-Forwarded-For" in request.headers:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.vary.add("Origin")
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        response.headers["Access-Control-Allow-Headers"] = (
            f"Authorization, Content-Type, {tracing.CORRELATION}"
        )
        response.headers["Access-Control-Max-Age"] = "1800"
