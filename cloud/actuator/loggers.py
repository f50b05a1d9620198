"""/actuator/loggers: the levels of an instance, the same in all its processes.

What an operator sets holds in workers that are forked later too, until it is reset: then what
configuration says has its place back.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import structlog
from flask import Blueprint, Response, request
from werkzeug.exceptions import UnsupportedMediaType

from cloud import logging
from cloud.actuator.answers import KINDS, answer, done
from cloud.config import Environment, Properties
from cloud.errors import InvalidError, NotFoundError
from cloud.peers import peers, values

log = structlog.get_logger()

_TOPIC: Final = "loggers"
_MOST: Final = 1000
_LONGEST: Final = 255


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint."""
    endpoint = _Endpoint(environment)
    rooms.get("/loggers", endpoint="loggers")(endpoint.index)
    rooms.get("/loggers/<name>", endpoint="loggers-name")(endpoint.one)
    rooms.post("/loggers/<name>", endpoint="loggers-set")(endpoint.set)
    return {"loggers": "/loggers", "loggers-name": "/loggers/{name}"}


class _Levels:
    """What operators have set, in every process; on each logger the newest word holds.

    Attributes:
        set: by logger or group: when (nanoseconds), and the level; None once it is reset.
    """

    def __init__(self, environment: Environment) -> None:
        self.set: dict[str, tuple[int, str | None]] = {}
        self._lock = threading.Lock()
        self._peers = peers(environment)
        self._peers.on(_TOPIC, self._hear)
        self._peers.at_begin(self._catch_up)

    def put(self, names: Sequence[str], level: str | None) -> None:
        """Set loggers to a level, or back to what configuration says, in all processes."""
        fresh = dict.fromkeys(names, (time.time_ns(), level))
        # Here first: a process that is just born, and not asked below, finds it when it asks us.
        self._take(fresh)
        late = [reply.process for reply in self._peers.ask(_TOPIC, fresh) if reply.error]
        if late:
            # The question waits for them at their socket.
            log.warning("log_levels_late", processes=late)

    def list(self) -> dict[str, dict[str, str]]:
        """Describe the loggers of all processes."""
        known = values(self._peers.ask(_TOPIC, {})).values()
        found = {name: one for told in known for name, one in told["loggers"].items()}
        return dict(sorted((found | logging.loggers()).items(), key=lambda one: _rank(one[0])))

    def _catch_up(self) -> None:
        for told in values(self._peers.ask(_TOPIC, {})).values():
            self._take(told["set"])

    def _hear(self, what: Mapping[str, Any]) -> dict[str, Any]:
        if what:
            self._take(what)
            return {}
        return {"set": self.set, "loggers": logging.loggers()}

    def _take(self, told: Mapping[str, Sequence[Any]]) -> None:
        with self._lock:
            newer = {
                name: (at, level)
                for name, (at, level) in told.items()
                if at > self.set.get(name, (0, None))[0]
            }
            if newer:
                self.set = self.set | newer
                logging.set_levels({name: level for name, (_, level) in self.set.items() if level})


class _Endpoint:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._levels = _Levels(environment)

    @property
    def _properties(self) -> Properties:
        return self._environment.properties

    def index(self) -> Response:
        known = logging.groups(self._properties)
        return answer(
            {
                "levels": [*logging.LEVELS],
                "loggers": {
                    name: one for name, one in self._levels.list().items() if name not in known
                },
                "groups": {name: self._group(name, known[name]) for name in known},
            }
        )

    def _group(self, name: str, members: Sequence[str]) -> dict[str, Any]:
        level = self._levels.set.get(name, (0, None))[1]
        level = level or self._properties.get(f"logging.level.{name}")
        own = {"configuredLevel": level.upper()} if level else {}
        return {**own, "members": list(members)}

    def one(self, name: str) -> Response:
        known = logging.groups(self._properties)
        if name in known:
            return answer(self._group(name, known[name]))
        found = self._levels.list().get(_spelled(name))
        if found is None:
            raise NotFoundError("No such logger")
        return answer(found)

    def set(self, name: str) -> Response:
        """Take `{"configuredLevel": "DEBUG"}`; null, nothing, or no body resets."""
        level = _level()
        known = _spelled(name) in self._levels.set or len(self._levels.set) < _MOST
        if len(name) > _LONGEST or not known:
            raise InvalidError("Too many loggers, or too long a name")
        members = logging.groups(self._properties).get(name, ())
        log.info("log_level_set", logger=name, level=level)
        self._levels.put([_spelled(name), *members], level)
        return done()


def _level() -> str | None:
    body = request.get_data(cache=False)
    if not body.strip():
        return None
    if request.mimetype not in KINDS:
        raise UnsupportedMediaType
    try:
        given = orjson.loads(body)
        level = given.get("configuredLevel")
    except (orjson.JSONDecodeError, AttributeError):
        raise InvalidError("Body is not a JSON object") from None
    if level is None:
        return None
    if not isinstance(level, str) or level.upper() not in logging.LEVELS:
        raise InvalidError(f"configuredLevel is none of {', '.join(logging.LEVELS)}")
    return level.upper()


def _spelled(name: str) -> str:
    return logging.ROOT if name.upper() == logging.ROOT else name


def _rank(name: str) -> tuple[bool, str]:
    """Sort by name, the root first."""
    return name != logging.ROOT, name
