"""Logs: one JSON object a line on stdout, for structlog and stdlib alike.

`lines` writes them, `output` brings them out, `levels` decides which there are.
"""

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

import structlog

from cloud.errors import ConfigurationError
from cloud.logging.levels import LEVELS, ROOT, give_levels, groups, levels_of, loggers, set_levels
from cloud.logging.lines import Ecs, dump, mask
from cloud.logging.output import Stdout, file_of, opened_file

if TYPE_CHECKING:
    from cloud.config import Properties

__all__ = [
    "LEVELS",
    "ROOT",
    "configure",
    "file_of",
    "groups",
    "levels_of",
    "loggers",
    "mask",
    "set_levels",
    "write_batch",
]

log = structlog.get_logger()


class _Once:
    handler: Stdout | None = None


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
    handler = _Once.handler = _Once.handler or Stdout()
    if handler.file is None:
        handler.file = opened_file(properties)
    handler.setFormatter(Ecs(properties, process))
    root = logging.getLogger()
    if handler not in root.handlers:
        root.addHandler(handler)
    give_levels(levels)
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
    if isinstance(handler.formatter, Ecs):
        fixed |= handler.formatter.fixed
    # One object a line, whose first half is always the same.
    half = dump(fixed)[:-1]
    lines = b"".join([b"%b,%b\n" % (half, dump(fields)[1:]) for fields in batch])
    with handler.lock or nullcontext():
        handler.write(lines)


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
