"""/actuator/httpexchanges: the last requests to the instance, of all its processes."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from flask import Blueprint, Response

from cloud.actuator.answers import answer
from cloud.actuator.env import HIDDEN
from cloud.config import Environment
from cloud.exchanges import CAPACITY, Exchange, Field, recent
from cloud.logging import mask
from cloud.peers import peers, values

_TOPIC: Final = "httpexchanges"
_RECORDING: Final = "management.httpexchanges.recording"
# Spring's default, and who asked. Cookies and credentials are never shown.
_INCLUDED: Final = ("time-taken", "request-headers", "response-headers", "principal")
_SECRET: Final = re.compile(
    r"authorization|cookie|token|secret|password|api-?key|signature|code|otp", re.IGNORECASE
)


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint; `management.httpexchanges.recording.enabled` set to false leaves it out."""
    if not environment.properties.boolean(f"{_RECORDING}.enabled", default=True):
        return {}
    asked = peers(environment)

    def included() -> set[str]:
        given = environment.properties.listing(f"{_RECORDING}.include", _INCLUDED)
        return {item.lower().replace("_", "-") for item in given}

    # What is secret is left out before it leaves the process that knows it.
    asked.on(_TOPIC, lambda _: [_told(one, included()) for one in recent.list()])

    @rooms.get("/httpexchanges")
    def httpexchanges() -> Response:
        told = [one for those in values(asked.ask(_TOPIC)).values() for one in those]
        told.sort(key=lambda one: one["timestamp"], reverse=True)
        return answer({"exchanges": told[:CAPACITY]})

    return {"httpexchanges": "/httpexchanges"}


def _told(exchange: Exchange, included: set[str]) -> dict[str, Any]:
    """Spell an exchange as Spring Boot does; what is not included is absent."""
    moment = datetime.fromtimestamp(exchange.at, UTC).isoformat(timespec="microseconds")
    asked: dict[str, Any] = {"method": exchange.method, "uri": _uri(exchange.uri)}
    if "remote-address" in included:
        asked["remoteAddress"] = exchange.remote
    asked["headers"] = _headers(exchange.request if "request-headers" in included else ())
    answered = _headers(exchange.response if "response-headers" in included else ())
    told: dict[str, Any] = {
        "timestamp": moment.replace("+00:00", "Z"),
        "request": asked,
        "response": {"status": exchange.status, "headers": answered},
    }
    if "principal" in included and exchange.principal is not None:
        told["principal"] = {"name": exchange.principal}
    if "time-taken" in included:
        told["timeTaken"] = f"PT{exchange.took_s:.6f}S"
    return told


def _headers(fields: Iterable[Field]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for name, value in ((_text(name), _text(value)) for name, value in fields):
        told.setdefault(name, []).append(HIDDEN if _SECRET.search(name) else mask(value))
    return told


def _uri(uri: str) -> str:
    """Hide values of secret parameters: a link of a mail may carry a token."""
    parts = urlsplit(uri)
    if not _SECRET.search(parts.query):
        return mask(uri)
    query = [
        (key, HIDDEN if _SECRET.search(key) else value) for key, value in parse_qsl(parts.query)
    ]
    return mask(parts._replace(query=urlencode(query, safe="*")).geturl())


def _text(given: str | bytes) -> str:
    return given if isinstance(given, str) else given.decode("latin-1")
