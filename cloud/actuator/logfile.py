"""/actuator/logfile: the log of the instance, where it is in a file."""

from collections.abc import Mapping
from pathlib import Path

from flask import Blueprint, Response, request, send_file

from cloud import logging
from cloud.config import Environment, Properties
from cloud.errors import NotFoundError


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint, Spring Boot's LogFileWebEndpoint, where there is such a file.

    `management.endpoint.logfile.external-file` names what stdout was led to, by whoever did so.
    """
    if _path(environment.properties) is None:
        return {}

    @rooms.get("/logfile")
    def logfile() -> Response:
        """Answer text, the part that is asked for (`Range`, RFC 9110 section 14.2)."""
        path = _path(environment.properties)
        if path is None or not path.is_file():
            raise NotFoundError("No log file")
        size, asked = path.stat().st_size, request.range
        if asked and asked.ranges[0][0] < -size:
            # More than there is means all there is; Werkzeug would refuse it.
            request.environ["HTTP_RANGE"] = f"bytes=-{size}"
        return send_file(path.absolute(), "text/plain", conditional=True, etag=False)

    return {"logfile": "/logfile"}


def _path(properties: Properties) -> Path | None:
    external = properties.get("management.endpoint.logfile.external-file")
    return Path(external) if external else logging.file_of(properties)
