"""The house's own description of its operations, `<house>/openapi.yaml`, as JSON."""

from functools import cache
from pathlib import Path

import orjson
import yaml
from flask import Flask, Response

from cloud.errors import NotFoundError


def install(app: Flask) -> None:
    """Serve /openapi.json."""
    path = Path(app.root_path) / "openapi.yaml"

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(_json(path), mimetype="application/json")


@cache
def _json(path: Path) -> bytes:
    try:
        return orjson.dumps(yaml.safe_load(path.read_text("utf-8")))
    except FileNotFoundError:
        raise NotFoundError("This service has no document") from None
