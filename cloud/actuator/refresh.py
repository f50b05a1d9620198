"""POST /actuator/refresh: Spring Cloud's endpoint, for all processes of the instance."""

from collections.abc import Callable, Mapping
from http import HTTPStatus

from flask import Blueprint, Response, request

from cloud.actuator.answers import answer
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.envelope import zoned_date_time
from cloud.errors import ConfigurationError, InvalidError, UnavailableError
from cloud.refresh import refresher


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint; `spring.cloud.refresh.enabled` set to false leaves it out."""
    if not environment.properties.boolean("spring.cloud.refresh.enabled", default=True):
        return {}
    own = refresher(environment)

    @rooms.post("/refresh")
    def refresh() -> Response:
        """Answer the array of changed keys (RefreshEndpoint of Spring Cloud Context)."""
        return told(lambda: answer(own.refresh()))

    return {"refresh": "/refresh"}


def setting() -> tuple[str, str]:
    """Read a body of `{"name", "value"}`; the value as configuration spells it."""
    body = request.get_json(silent=True)
    name, value = (body.get("name"), body.get("value")) if isinstance(body, dict) else (0, 0)
    if not isinstance(name, str) or not name or not isinstance(value, str | int | float):
        raise InvalidError("name and value are needed")
    return name, str(value).lower() if isinstance(value, bool) else str(value)


def told(work: Callable[[], Response]) -> Response:
    """Answer a refresh that could not be with what is wrong, in the shape of Spring's errors.

    503: a server or a process that is needed does not answer. 500: the new configuration cannot
    be used; key and source are named. Nothing has changed in both.
    """
    try:
        return work()
    except UnavailableError as error:
        status, text = HTTPStatus.SERVICE_UNAVAILABLE, str(error)
    except ConfigurationError as error:
        status, text = HTTPStatus.INTERNAL_SERVER_ERROR, str(error)
    return answer(
        {
            "timestamp": zoned_date_time(utc_now()),
            "status": status.value,
            "error": status.phrase,
            "message": text,
            "path": request.path,
        },
        status.value,
    )
