"""Logs: one JSON object a line on stdout, in ECS's field names, for structlog and stdlib alike.

Elastic Common Schema 8 (https://www.elastic.co/guide/en/ecs/current/). A reader of stdout that
stalls costs lines, never requests; passwords and tokens are masked whoever logs them.
"""

import json
import logging
import os
import re
import select
import stat
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson
import structlog

from cloud import tracing
from cloud.errors import ConfigurationError

if TYPE_CHECKING:
    from cloud.config import Properties

log = structlog.get_logger()

LEVELS: Final = {
    "OFF": logging.CRITICAL + 1,
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": 5,
}
"""Spring's names, the quietest first."""

ROOT: Final = "ROOT"

# `com.nozie` in an estate's shared YAML means the JVM services' own code.
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "com.nozie": ("cloud", "gateway", "identity", "movie", "customer", "payment", "notification"),
    "sql": ("sqlalchemy.engine", "sqlalchemy.pool", "alembic", "pymongo.command"),
    "web": ("cloud.web", "cloud.actuator", "gateway.access", "gateway.edge", "gunicorn", "flask"),
}
# `off` without quotes is false in YAML, which Spring takes for a level all the same.
_ALIASES: Final = {"WARNING": "WARN", "FALSE": "OFF"}
_QUIET = {
    "opentelemetry": "ERROR",
    # Tells of one lost connection in a dozen lines; `cloud.messaging` tells it in one.
    "pika": "FATAL",
    "urllib3": "WARN",
    "alembic": "WARN",
    "pymongo": "WARN",
    # SQLAlchemy names a pool's logger by its class: under ours, but as chatty as theirs.
    "cloud.stores.postgres._Pool": "WARN",
}

_FIELDS = {
    "correlation_id": "labels.correlation_id",
    "method": "http.request.method",
    "path": "url.path",
    "client_ip": "client.ip",
    "principal": "user.id",
}
_SECRET_KEY = re.compile(
    r"password|passwd|secret|token$|authorization|cookie|^otp|credential", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"(?P<lead>://)[^/\s:@\"]*:[^/\s@\"]+(?=@)"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?",
    re.IGNORECASE,
)
_MASK = "***"
_LONGEST_TEXT = 32_768
_PATIENCE_MS = 100


def mask(text: str) -> str:
    """Hide user-info of URLs, bearer and basic credentials, and JWTs."""
    return _SECRET_TEXT.sub(lambda m: (m["lead"] or m["scheme"] or "") + _MASK, text)


class _Ecs(logging.Formatter):
    """Writes a record of either logger as one object."""

    def __init__(self, properties: "Properties", process: str) -> None:
        super().__init__()
        self.fixed = {
            "ecs.version": "8.11.0",
            "service.name": properties.application,
            "service.environment": ",".join(properties.profiles),
            "process.name": process,
        }

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": _text(record.getMessage()),
            **self.fixed,
            "process.pid": record.process,
            "process.thread.name": record.threadName,
            "log.logger": record.name,
        }
        bound = {**structlog.contextvars.get_contextvars(), **getattr(record, "values", {})}
        fields |= _around() | _named(bound) | _error(record)
        return _dump(fields).decode()


def _around() -> dict[str, str]:
    around = {
        "trace.id": tracing.current_trace_id(),
        "span.id": tracing.current_span_id(),
        "labels.correlation_id": tracing.correlation_id.get(),
    }
    return {name: value for name, value in around.items() if value}


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give values ECS's names; what ECS does not know stands under our own."""
    named = {}
    for key, value in values.items():
        if value is None:
            continue
        if key == "status" and isinstance(value, int):
            name = "http.response.status_code"
        else:
            name = _FIELDS.get(key, key if "." in key else f"nozie.{key}")
        named[name] = _MASK if _SECRET_KEY.search(key) else _value(value)
    return named


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {
            str(key): _MASK if _SECRET_KEY.search(str(key)) else _value(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_value(item) for item in value]
    return value if isinstance(value, (bool, int, float)) else _text(str(value))


def _text(text: str) -> str:
    return mask(text[:_LONGEST_TEXT])


def _error(record: logging.LogRecord) -> dict[str, str]:
    if not record.exc_info or record.exc_info[0] is None:
        return {}
    kind, error, trace = record.exc_info
    stack = "".join(traceback.format_exception(kind, error, trace))
    return {
        "error.type": f"{kind.__module__}.{kind.__qualname__}",
        "error.message": _text(str(error)),
        "error.stack_trace": mask(stack[-_LONGEST_TEXT:]),
    }


def _dump(fields: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError:  # a lone surrogate, a number beyond 64 bits
        return json.dumps(fields, default=str).encode(errors="replace")


class _Stdout(logging.Handler):
    """Writes lines to file descriptor 1 without ever waiting long for its reader.

    Attributes:
        file: of a file that gets the same lines, None for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.file: int | None = None
        self._fd = _opened()
        self._stalled = False
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record).encode(errors="replace") + b"\n")
        except Exception:  # noqa: BLE001 - a log line is never worth a request
            self._dropped += 1

    def write(self, line: bytes) -> None:
        if self.file is not None:
            with suppress(OSError):  # a full disk; stdout has the line
                os.write(self.file, line)
        at = 0
        while at < len(line):
            try:
                at += os.write(self._fd, line[at:])
            except BlockingIOError:
                if self._stalled or not self._wait():
                    self._stalled = True
                    self._dropped += 1
                    return
        self._stalled = False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", count=dropped)

    def _wait(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(_PATIENCE_MS))


def _opened() -> int:
    """Return the descriptor to write to; a pipe or terminal is opened once more, non-blocking.

    A description of its own: non-blocking on the shared one would change it for all who inherited
    it. A regular file never makes a writer wait, and a second offset would overwrite lines.
    """
    mode = os.fstat(1).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return 1
    try:
        return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC)
    except OSError:  # of another user, as in some containers: then writes may wait
        return 1


def file_of(properties: "Properties") -> Path | None:
    """Return the file that Spring Boot would write to: `logging.file.name`, or in `.path`."""
    name, folder = (properties.get(f"logging.file.{key}") for key in ("name", "path"))
    if name:
        return Path(name)
    return Path(folder) / "spring.log" if folder else None


def _opened_file(properties: "Properties") -> int | None:
    """Open that file for all processes of the instance: each line is one write, at its end.

    It grows until somebody cuts it (logrotate's `copytruncate`).
    """
    path = file_of(properties)
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        fault = f"cannot be written to: {error.strerror}"
        key = "name" if properties.get("logging.file.name") else "path"
        raise properties.wrong(f"logging.file.{key}", fault) from None


def _for_stdlib(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> tuple[tuple[Any], dict[str, Any]]:
    """Hand structlog's event to the stdlib logger: name as the message, values beside it."""
    message = str(event.pop("event", ""))
    keywords = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    return (message,), {"extra": {"values": event}, **keywords}


def write_batch(logger: str, batch: Sequence[Mapping[str, Any]]) -> None:
    """Write many lines in one go; for what logs thousands a second.

    Args:
        logger: its level decides whether INFO is wanted.
        batch: fields in ECS's names, with `@timestamp` and `message`; values are not masked.
    """
    handler = _Once.handler
    if handler is None or not logging.getLogger(logger).isEnabledFor(logging.INFO):
        return
    fixed = {"log.level": "info", "log.logger": logger, "process.pid": os.getpid()}
    if isinstance(handler.formatter, _Ecs):
        fixed |= handler.formatter.fixed
    # One object a line, whose first half is always the same.
    half = _dump(fixed)[:-1]
    lines = b"".join([b"%b,%b\n" % (half, _dump(fields)[1:]) for fields in batch])
    with handler.lock or nullcontext():
        handler.write(lines)


class _Once:
    """What this process's logs are set to, as levels by logger, `root` among them.

    Attributes:
        given: by configuration.
        set: by an operator, above it.
        before: what loggers that have a level because of us had without it.
    """

    handler: _Stdout | None = None
    given: Mapping[str, int] = MappingProxyType({})
    set: Mapping[str, int] = MappingProxyType({})
    before: ClassVar[dict[str, int]] = {}


def configure(properties: "Properties", process: str) -> None:
    """Set up this process's logs; called again it takes over new levels and names.

    Args:
        properties: `logging.level.<logger or group>` and `logging.group.<name>` count; `root` is
            INFO without one; lines also go to the file of `file_of`.
        process: what this process is within its instance, `worker-1`, `relay`.

    Raises:
        ConfigurationError: a level that does not exist, or a file that cannot be written to.
    """
    levels = levels_of(properties)
    handler = _Once.handler = _Once.handler or _Stdout()
    if handler.file is None:
        handler.file = _opened_file(properties)
    handler.setFormatter(_Ecs(properties, process))
    root = logging.getLogger()
    if handler not in root.handlers:
        root.addHandler(handler)
    _Once.given = levels
    _apply()
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_failed
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _process_failed
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, _for_stdlib],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def set_levels(levels: Mapping[str, str]) -> None:
    """Put an operator's levels above configuration's; a logger that is not named has its own back.

    Args:
        levels: Spring's level names by logger, `ROOT` for the root.
    """
    _Once.set = {_own_name(name): LEVELS[level] for name, level in levels.items()}
    _apply()


def loggers() -> dict[str, dict[str, str]]:
    """Describe every logger there is: `effectiveLevel`, `configuredLevel` where it has its own."""
    root = logging.getLogger()
    known = dict(root.manager.loggerDict)
    found = {ROOT: _described(root)}
    found |= {
        name: _described(logger)
        for name, logger in sorted(known.items())
        if isinstance(logger, logging.Logger)
    }
    return found


def groups(properties: "Properties") -> dict[str, tuple[str, ...]]:
    """List the loggers of each group: Spring's and ours, then `logging.group.<name>`."""
    given = {key.partition("[")[0] for key in properties.subset("logging.group")}
    own = {name: properties.listing(f"logging.group.{name}") for name in sorted(given)}
    return {**_GROUPS, **own}


def _described(logger: logging.Logger) -> dict[str, str]:
    own = {"configuredLevel": _level_name(logger.level)} if logger.level else {}
    return {**own, "effectiveLevel": _level_name(logger.getEffectiveLevel())}


def _level_name(level: int) -> str:
    return next((name for name, bound in LEVELS.items() if level >= bound), "TRACE")


def _own_name(name: str) -> str:
    return "root" if name.upper() == ROOT else name


def _apply() -> None:
    levels = {**_Once.given, **_Once.set}
    for name in _Once.before.keys() - levels.keys():
        logging.getLogger(name).setLevel(_Once.before.pop(name))
    for name, level in levels.items():
        logger = logging.getLogger(name)
        _Once.before.setdefault(name, logger.level)
        logger.setLevel(level)


def levels_of(properties: "Properties") -> dict[str, int]:
    """Read `logging.level`; a logger that is named itself goes before the groups it is in.

    Raises:
        ConfigurationError: a level that does not exist.
    """
    given = properties.subset("logging.level")
    known = groups(properties)
    members = {member: given[name] for name in known if name in given for member in known[name]}
    named = {_own_name(name): level for name, level in given.items() if name not in known}
    levels = {}
    for name, level in ({"root": "INFO"} | _QUIET | members | named).items():
        spelled = _ALIASES.get(level.upper(), level.upper())
        if spelled not in LEVELS:
            raise ConfigurationError(
                f"{properties.application}: logging.level.{name} is not a level"
                f" (from {properties.origin(f'logging.level.{name}')})"
            )
        levels[name] = LEVELS[spelled]
    return levels


def _process_failed(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Report what ends the process: a setting that cannot be used needs no stack trace."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif isinstance(error, ConfigurationError):
        log.critical("start_refused", reason=str(error))
    else:
        log.critical("process_failed", exc_info=(kind, error, trace))


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is not SystemExit and failure.exc_value is not None:
        name = failure.thread.name if failure.thread else "?"
        trace = (failure.exc_type, failure.exc_value, failure.exc_traceback)
        log.error("thread_failed", thread=name, exc_info=trace)
