"""Answers that are given again for `management.endpoint.<id>.cache.time-to-live`."""

from datetime import timedelta
from time import monotonic
from typing import Final

from flask import Response, request

from cloud.actuator.access import Access
from cloud.config import Environment

_MOST: Final = 64

Key = tuple[str, str, bool]


class Kept:
    """What each endpoint has answered to nobody in particular; each worker has its own.

    As in Spring Boot: what is asked with a selector, parameters or a token is never kept.
    """

    def __init__(self, environment: Environment, access: Access) -> None:
        self._environment = environment
        self._access = access
        self._held: dict[Key, tuple[float, bytes, int, str]] = {}

    def find(self) -> Response | None:
        """Answer the present request, if there is something to answer it with."""
        until, body, status, kind = self._held.get(self._key(), (0.0, b"", 0, ""))
        return Response(body, status, content_type=kind) if until > monotonic() else None

    def keep(self, response: Response) -> Response:
        """Keep the answer to the present request, if it may be."""
        key = self._key()
        span_s = self._span(key[0]).total_seconds() if key[0] else 0.0
        known, now = self._held.get(key), monotonic()
        if span_s > 0 and (known is None or known[0] <= now) and not response.is_streamed:
            if len(self._held) >= _MOST:
                self._held.clear()
            told = response.get_data(), response.status_code, response.content_type or ""
            self._held[key] = now + span_s, *told
        return response

    def _key(self) -> Key:
        """Name the endpoint, empty for what is never kept, and what else the answer depends on."""
        plain = request.method == "GET" and not request.args and not request.authorization
        name = (self._access.whole() or "") if plain else ""
        return name, request.headers.get("Accept", ""), bool(name) and self._access.trusts_client()

    def _span(self, name: str) -> timedelta:
        key = f"management.endpoint.{name}.cache.time-to-live"
        return self._environment.properties.duration(key, timedelta())
