"""Looks whether the Config Server says something new, and has the instance refreshed when it does.

With `spring.cloud.config.watch.enabled` it looks every `.delay`. Without, it looks only for as long
as a snapshot is in force: until the server that was away at the start is back.
"""

import threading
from datetime import timedelta
from typing import Final

import structlog

from cloud import schedule
from cloud.config import Environment, Properties, PropertySource
from cloud.config.snapshot import TAKEN
from cloud.config.sources import ENVIRONMENT
from cloud.errors import ConfigurationError, UnavailableError
from cloud.refresh import MANAGER, refresher

log = structlog.get_logger()

_WATCH: Final = "spring.cloud.config.watch"
_DELAY: Final = timedelta(minutes=1)
_SHORTEST_S: Final = 1.0
_AGAIN_S: Final = 15.0


def follow(environment: Environment, stop: threading.Event, again_s: float = _AGAIN_S) -> None:
    """Look until told to stop; for a thread of one process of the instance.

    Args:
        environment: its properties.
        stop: ends it.
        again_s: between two looks for a server that is away.
    """
    said = ""
    while True:
        watched = environment.properties.boolean(f"{_WATCH}.enabled", default=False)
        delay_s = _delay_s(environment.properties) if watched else again_s
        if watched:
            schedule.repeats(_look, timedelta(seconds=delay_s))
        if stop.wait(delay_s):
            return
        if not watched and environment.properties.get(TAKEN) is None:
            continue
        said = _look(environment, said)


def _look(environment: Environment, said: str) -> str:
    """Look once; gives what is wrong, which is told when it is not what was wrong before."""
    try:
        if _told(environment.reload()) != _told(environment.properties):
            refresher(environment).refresh()
    except UnavailableError:
        return said  # what the server said holds on; health tells
    except Exception as error:
        if str(error) != said:
            expected = isinstance(error, ConfigurationError)
            log.exception("refresh_failed", reason=str(error), exc_info=not expected)
        return str(error)
    return ""


def _delay_s(properties: Properties) -> float:
    # Spring's half second is no request, but a look at what a heartbeat brought.
    delay = properties.duration(f"{_WATCH}.delay", _DELAY)
    return max(_SHORTEST_S, delay.total_seconds())


def _told(properties: Properties) -> list[PropertySource]:
    """Return what could be said anew: neither the process's own nor an operator's."""
    own = (ENVIRONMENT, MANAGER)
    return [source for source in properties.sources if source.name not in own]
