"""The door of a Flask house: what every operation gets before its first own line, and answers with.

`install` comes before the house's routes: it replaces the converters their rules are built with.
"""

from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import structlog
from flask import Flask, current_app

from cloud.config import Environment, Properties
from cloud.errors import CloudError
from cloud.refresh import scope
from cloud.security import Principal
from cloud.web import callers, document, failures, inputs, observed, settings
from cloud.web.answers import created, ok, plain
from cloud.web.callers import (
    authenticated,
    caller,
    client_ip,
    owner,
    owner_or_admin,
    principal,
    roles,
)
from cloud.web.inputs import json_body, query_bool, query_int, query_text
from cloud.web.streams import event_stream, stopping

__all__ = [
    "authenticated",
    "caller",
    "client_ip",
    "created",
    "current",
    "event_stream",
    "install",
    "json_body",
    "lean_on",
    "ok",
    "owner",
    "owner_or_admin",
    "plain",
    "principal",
    "query_bool",
    "query_int",
    "query_text",
    "roles",
    "stopping",
]

T = TypeVar("T")

log = structlog.get_logger()

_ANEW = "deps.anew"
_renewing = Lock()


def install(
    app: Flask,
    environment: Environment,
    *,
    revoked: Callable[[Principal], bool] | None = None,
    translations: Mapping[type[Exception], type[CloudError]] | None = None,
) -> None:
    """Give `app` its door.

    Args:
        app: an application that has no routes yet.
        environment: the instance's properties; a refresh takes effect with the next request.
        revoked: tells whether a token that is good in itself has been taken back.
        translations: errors of a store's driver to the kind they mean.

    Raises:
        ConfigurationError: a property cannot be used.
    """
    settings.install(app, environment)
    observed.install(app)
    inputs.install(app)
    callers.install(app, revoked)
    failures.install(app, translations or {})
    document.install(app)


def lean_on(
    app: Flask,
    environment: Environment,
    connect: Callable[[], object],
    *checks: Callable[[Properties], object],
) -> None:
    """Keep `app.extensions["deps"]`: made now, and again, as a whole, after every refresh.

    Made again by the first request that needs it: companions, which have the application from the
    fork, build nothing. A request that has begun ends with what it began with.

    Args:
        app: the house's application.
        environment: the instance's properties.
        connect: makes the frozen list; what must outlive a refresh it takes from the
            environment's `cloud.refresh.scope`.
        checks: read settings; raise ConfigurationError for those that must not come in force.
    """

    def forget(_properties: Properties, _changed: frozenset[str]) -> None:
        app.extensions[_ANEW] = partial(connect_anew)  # told apart from that of another refresh

    def connect_anew() -> None:
        own = scope(environment)
        try:
            app.extensions["deps"], own.failed = connect(), None
        except Exception as error:
            log.exception("refresh_without_effect")
            own.failed = str(error) if isinstance(error, CloudError) else type(error).__name__

    for check in checks:
        environment.require(check)
    app.extensions["deps"] = connect()
    environment.subscribe(forget)


def current(kind: type[T]) -> T:
    """Return the frozen list of what the house leans on: `app.extensions["deps"]`."""
    if _ANEW in current_app.extensions:
        _renew(current_app.extensions)
    deps = current_app.extensions["deps"]
    if not isinstance(deps, kind):
        raise TypeError(f"deps is no {kind.__name__}")
    return deps


def _renew(extensions: dict[str, Any]) -> None:
    """Make the list anew; who asks meanwhile waits. One that cannot be made leaves the old."""
    with _renewing:
        connect = extensions.get(_ANEW)
        if connect is None:
            return
        connect()
        # Only now: who does not find it any more must find the new list.
        if extensions.get(_ANEW) is connect:
            del extensions[_ANEW]
