"""/actuator/serviceregistry: how Eureka lists this instance, and an operator's word on it."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request

from cloud.actuator.answers import answer
from cloud.actuator.process import served
from cloud.config import Environment
from cloud.errors import InvalidError, UnavailableError
from cloud.eureka.health import CANCEL_OVERRIDE, TOPIC
from cloud.peers import peers

# UNKNOWN is no order: what Eureka keeps under that name is the absence of one.
_ORDERS = ("UP", "DOWN", "OUT_OF_SERVICE", CANCEL_OVERRIDE)
_REGISTERS = "eureka.client.register-with-eureka"
_LIMIT_S = 20.0


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint, Spring Cloud Commons' ServiceRegistryEndpoint.

    It speaks through the instance's registrar, so that an order and a renewal stay in order. An
    instance that does not register has no such endpoint.
    """
    ask = partial(environment.properties.boolean, default=True)
    if not served() or not ask("eureka.client.enabled") or not ask(_REGISTERS):
        return {}

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
        UnavailableError: Eureka does not answer, or does not know us; or the registrar is just
            being replaced.
    """
    replies = peers(environment).ask(TOPIC, order, limit_s=_LIMIT_S)
    if not replies or replies[0].error is not None:
        raise UnavailableError(replies[0].error if replies else "no registration found")
    return dict(replies[0].value)
