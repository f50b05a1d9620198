"""How every endpoint answers: JSON in the media type that is asked for."""

from typing import Any

import orjson
from flask import Response, request

V3 = "application/vnd.spring-boot.actuator.v3+json"
V2 = "application/vnd.spring-boot.actuator.v2+json"
KINDS = (V3, V2, "application/json")
"""What endpoints write and read, the preferred one first."""


def answer(data: Any, status: int = 200) -> Response:
    """Answer in the media type that is asked for; Spring Boot Admin knows an actuator by it."""
    return Response(orjson.dumps(data), status, content_type=media_type())


def media_type() -> str:
    """Choose the first of ours that the client takes; who takes none of them gets ours."""
    return request.accept_mimetypes.best_match(KINDS) or V3


def done() -> Response:
    """Answer a write that has nothing to tell."""
    return Response(status=204)
