"""Answers: the envelope, or plain JSON where the contract wants none."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import orjson
from flask import Response

from cloud.clock import utc_now
from cloud.envelope import envelope, local_date_time

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME


def ok(
    data: Any = None,
    message: str = "Success",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with `data` in the envelope."""
    return plain(envelope(data, message, success=True, now=utc_now()), status, headers)


def created(
    data: Any, message: str = "Success", headers: Mapping[str, str] | None = None
) -> Response:
    """Answer 201 with what was made."""
    return ok(data, message, 201, headers)


def failed(
    status: int, message: str, data: Any = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer that it did not work; `data` is null or field name to reason."""
    return plain(envelope(data, message, success=False, now=utc_now()), status, headers)


def plain(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with `data` as it is.

    A Decimal becomes a JSON number that keeps its scale (`10.00`), a date-time the local spelling.
    """
    body = orjson.dumps(data, default=_encode, option=_OPTIONS)
    return Response(body, status, headers, mimetype="application/json")


def _encode(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    if isinstance(value, datetime):
        return local_date_time(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in an answer")
