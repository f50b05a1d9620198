"""Reading a request: strict JSON, typed query and path values, and a limit on bodies.

What is ill-typed is the caller's fault and a 400, never a 404 and never a 500.
"""

import re
from dataclasses import dataclass
from typing import Any

from flask import Flask, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.routing import BaseConverter

from cloud.errors import InvalidError
from cloud.schema import ensure_storable, is_int64, parse_json

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_BOOLEANS = {
    **dict.fromkeys(("true", "on", "yes", "1"), True),
    **dict.fromkeys(("false", "off", "no", "0"), False),
}
_WHOLE = "must be a whole number"
_UNREADABLE = "holds characters that cannot be stored"


@dataclass(frozen=True, slots=True)
class _IllTyped:
    """A path value its converter could not read: the route stands, the answer is 400."""

    reason: str


class _Integer(BaseConverter):
    """`<int:id>`: 64 bits, as Java's long."""

    def to_python(self, value: str) -> int | _IllTyped:
        number = _integer(value)
        return _IllTyped(_WHOLE) if number is None else number


class _String(BaseConverter):
    """`<id>`: text that a store can hold."""

    def to_python(self, value: str) -> str | _IllTyped:
        try:
            ensure_storable(value)
        except ValueError:
            return _IllTyped(_UNREADABLE)
        return value


def install(app: Flask) -> None:
    """Register the converters and refuse large bodies before the view runs."""
    app.url_map.converters |= {"int": _Integer, "string": _String, "default": _String}
    app.url_map.merge_slashes = False  # `//` is another path, not a redirect

    @app.before_request
    def refuse() -> None:
        limit = request.max_content_length
        if limit is not None and (request.content_length or 0) > limit:
            raise RequestEntityTooLarge
        values = (request.view_args or {}).items()
        if wrong := {name: v.reason for name, v in values if isinstance(v, _IllTyped)}:
            raise InvalidError("Validation failed", wrong)


def json_body() -> Any:
    """Read the body as one JSON document.

    Raises:
        InvalidError: it is missing or not strict JSON.
        UnsupportedMediaType: it does not say that it is JSON.
        RequestEntityTooLarge: it is over `nozie.web.max-body-size`, chunked ones included.
    """
    if not request.is_json:
        raise UnsupportedMediaType
    body = request.get_data(cache=False)
    # Werkzeug ends a chunked body at the limit without a word; reading on makes it say so.
    request.stream.read(1)
    return parse_json(body)


def query_int(
    name: str,
    default: int,
    minimum: int | None = None,
    maximum: int | None = None,
    *,
    clamp: bool = False,
) -> int:
    """Read a number from the query; absent or empty is `default`.

    Raises:
        InvalidError: ill-typed or, unless `clamp` takes it to the nearest bound, out of bounds.
    """
    text = request.args.get(name, "")
    if not text:
        return default
    number = _integer(text)
    if number is None:
        raise _invalid(name, _WHOLE)
    low = number if minimum is None else max(number, minimum)
    bounded = low if maximum is None else min(low, maximum)
    if bounded != number and not clamp:
        raise _invalid(name, f"must be {'at least' if bounded > number else 'at most'} {bounded}")
    return bounded


def query_bool(name: str, *, default: bool | None = None) -> bool | None:
    """Read true/false, on/off, yes/no or 1/0 in any case; absent or empty is `default`.

    Raises:
        InvalidError: anything else.
    """
    text = request.args.get(name, "")
    if not text:
        return default
    if text.lower() not in _BOOLEANS:
        raise _invalid(name, "must be true or false")
    return _BOOLEANS[text.lower()]


def query_text(name: str, default: str | None = None, maximum: int = 255) -> str | None:
    """Read text from the query; absent or empty is `default`.

    Raises:
        InvalidError: longer than `maximum`, or no store could hold it.
    """
    text = request.args.get(name, "")
    if len(text) > maximum:
        raise _invalid(name, f"must have at most {maximum} characters")
    try:
        ensure_storable(text)
    except ValueError as error:
        raise _invalid(name, str(error)) from None
    return text or default


def _integer(text: str) -> int | None:
    number = int(text) if _INTEGER.fullmatch(text) else None
    return None if number is None or not is_int64(number) else number


def _invalid(name: str, reason: str) -> InvalidError:
    return InvalidError("Validation failed", {name: reason})
