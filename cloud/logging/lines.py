"""What a line holds: a record of either logger as one object, in ECS's field names.

Elastic Common Schema 8 (https://www.elastic.co/guide/en/ecs/current/); passwords and tokens are
masked whoever logs them.
"""

import json
import logging
import re
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from cloud import tracing

if TYPE_CHECKING:
    from cloud.config import Properties

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
# Docker's json-file driver cuts lines at 16 KiB, and pieces of an object tell nobody anything.
_LONGEST_LINE = 16_000


def mask(text: str) -> str:
    """Hide user-info of URLs, bearer and basic credentials, and JWTs."""
    return _SECRET_TEXT.sub(lambda m: (m["lead"] or m["scheme"] or "") + _MASK, text)


class Ecs(logging.Formatter):
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
        return _fitted(fields).decode()


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


def _fitted(fields: dict[str, Any]) -> bytes:
    """Write a line; of one that is too long the longest values lose half, until it fits."""
    line = dump(fields)
    while len(line) > _LONGEST_LINE:
        sizes = {name: len(dump({name: value})) for name, value in fields.items()}
        longest = max(sizes, key=sizes.__getitem__)
        text = fields[longest]
        if not isinstance(text, str):
            text = dump({longest: text}).decode()
        half = len(text) // 2
        # A stack trace says at its end where it happened.
        fields[longest] = f"…{text[-half:]}" if longest.endswith("trace") else f"{text[:half]}…"
        line = dump(fields)
    return line


def dump(fields: Mapping[str, Any]) -> bytes:
    """Write the fields of one line, whatever they are."""
    try:
        return orjson.dumps(fields)
    except TypeError:  # a lone surrogate, a number beyond 64 bits
        return json.dumps(fields, default=str).encode(errors="replace")
