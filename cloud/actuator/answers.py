"""How every endpoint answers: JSON in the media type that is asked for."""

from typing import Any

import orjson
from flask import Response, request

V3 = "application/vnd.spring-boot.actuator.v3+json"
V2 = "application/vnd.spring-boot.actuator.v2+json"


def answer(data: Any, status: int = 200) -> Response:
    """Answer in the media type that is asked for; Spring Boot Admin knows an actuator by it."""
    kinds = (V3, V2, "application/json")
    kind = request.accept_mimetypes.best_match(kinds) or V3
    return Response(orjson.dumps(data), status, content_type=kind)


def done() -> Response:
    """Answer a write that has nothing to tell."""
    return Response(status=204)
