"""POST /actuator/shutdown: end the instance; only where `management.endpoint.shutdown` is on."""

import os
import signal
from collections.abc import Mapping

import structlog
from flask import Blueprint, Response

from cloud.actuator.answers import answer
from cloud.actuator.process import parent, served
from cloud.config import Environment

log = structlog.get_logger()


def install(rooms: Blueprint, _environment: Environment) -> Mapping[str, str]:
    """Add the endpoint, Spring Boot's ShutdownEndpoint, to what `cloud.server` runs."""
    if not served():
        return {}

    @rooms.post("/shutdown")
    def shutdown() -> Response:
        """Answer, and go as with SIGTERM: out of Eureka first, then what is under way ends."""
        log.warning("shutdown_ordered")
        os.kill(parent(), signal.SIGTERM)
        return answer({"message": "Shutting down, bye..."})

    return {"shutdown": "/shutdown"}
