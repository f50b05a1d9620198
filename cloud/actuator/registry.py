"""/actuator/serviceregistry: how Eureka lists this instance, and an operator's word on it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request

from cloud.actuator.answers import answer
from cloud.config import Environment
from cloud.errors import InvalidError, NotFoundError, UnavailableError
from cloud.eureka.health import CANCEL_OVERRIDE, TOPIC
from cloud.peers import peers

# UNKNOWN is no order: what Eureka keeps under that name is the absence of one.
_ORDERS = ("UP", "DOWN", "OUT_OF_SERVICE", CANCEL_OVERRIDE)
_LIMIT_S = 20.0


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint, Spring Cloud Commons' ServiceRegistryEndpoint.

    It speaks through the instance's registrar, so that an order and a renewal stay in order.
    """

    @rooms.get("/serviceregistry")
    def standing() -> Response:
        """Answer `status` and `overriddenStatus` as the server has them at this moment."""
        return answer(_ask(environment, None))

    @rooms.post("/serviceregistry")
    def order() -> Response:
        """Order a status over the instance's own, or take the order back; no body, as in Spring."""
        given: Any = request.get_json(force=True, silent=True)
        status = str(given.get("status")).upper() if isinstance(given, dict) else ""
        if status not in _ORDERS:
            raise InvalidError(f"status is one of {', '.join(_ORDERS)}")
        _ask(environment, status)
        return Response(status=HTTPStatus.OK)

    return {"serviceregistry": "/serviceregistry"}


def _ask(environment: Environment, order: str | None) -> dict[str, str]:
    """Ask the registrar.

    Raises:
        NotFoundError: this instance does not register.
        UnavailableError: Eureka does not answer, or does not know us.
    """
    replies = peers(environment).ask(TOPIC, order, limit_s=_LIMIT_S)
    if not replies:
        raise NotFoundError("no registration found")
    if replies[0].error is not None:
        raise UnavailableError(replies[0].error)
    return dict(replies[0].value)
