"""Bad requests, made from a house's document: what an attacker or a bug would send."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from hypothesis import strategies as st

from cloud.testing import bearer
from tests.contract.openapi import Document, Operation

Sent = dict[str, Any]  # keyword arguments of Flask's test client

_HUGE: Final = "9" * 40
_TEXTS: Final = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "-1",
    "0",
    "1",
    "1.5",
    "1e999",
    "NaN",
    "true",
    "null",
    str(2**31),
    str(2**63),
    _HUGE,
    "\u0663",
    "\uff11",
    "..",
    "../../etc/passwd",
    "' OR 1=1 --",
    "$ne",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "%00",
    "a;b",
    "<script>alert(1)</script>",
    "\u202e",
    "\U0001f4a5" * 300,
    "x" * 300,
    "x" * 9000,
)
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    10**400,
    1.5,
    1e308,
    -1e-320,
    [],
    {},
    ["x"],
    [None],
    {"$ne": None},
    {"a": {"b": ["c"]}},
    *_TEXTS,
)
_BODIES: Final = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"NaN",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"a": 1, "a": 2}',
    b'{"a": 1e999}',
    b'{"a": "\\ud800"}',
    b"{} trailing",
    b"[" * 50_000,
    b'{"a":' * 5_000,
    "{}".encode("utf-16"),
)
_TYPES: Final = (
    None,
    "",
    "text/plain",
    "application/xml",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/json; charset=utf-16",
    "application/json;;;=",
    "application/problem+json",
    "*/*",
    "x" * 300,
)
_LET_IN: Final[tuple[Callable[[], Mapping[str, str]], ...]] = (
    lambda: bearer(7),
    lambda: bearer(1, "ADMIN"),
    lambda: bearer(8, "MODERATOR", "VIP"),
)
_CALLERS: Final[tuple[Callable[[], Mapping[str, str]], ...]] = (
    dict,
    lambda: bearer(7, exp=1),
    lambda: bearer(7, type="REFRESH"),
    lambda: bearer(2**63, "ADMIN"),
    lambda: {"Authorization": "Bearer"},
    lambda: {"Authorization": "Bearer a.b.c"},
    lambda: {"Authorization": "Bearer " + "x" * 9000},
    lambda: {"Authorization": "Basic YWRtaW46YWRtaW4="},
    lambda: {"Authorization": "\xff\xfe"},
)
# Tried in turn until one fits a schema.
_PLAUSIBLE: Final[tuple[Any, ...]] = (
    "ann@example.org",
    "Valid-1-text",
    "2001-02-03",
    "2026-01-30T16:48:39",
    "https://example.org/x",
    "f" * 24,
    "usd",
    "right-Horse-7",
    "+84123456789",
    "1",
    "x",
    1,
    0,
    1.5,
    True,
    None,
    [],
    {},
)


@st.composite
def bad_requests(
    draw: st.DrawFn, document: Document, operation: Operation, samples: Mapping[str, Any]
) -> Sent:
    """Build a request that is wrong in one or more places, and right in the others."""
    # Mostly somebody who is let in: behind the door there is more to break.
    caller = draw(st.sampled_from((*_LET_IN * 8, *_CALLERS)))
    sent: Sent = {"method": operation.method, "headers": dict(caller())}
    path, query = operation.template, []
    for parameter in operation.parameters:
        name, place = parameter["name"], parameter["in"]
        known = samples.get(name, ("1", "7"))
        value = draw(st.sampled_from((*known, *known, *known, *_TEXTS)))
        if place == "path":
            path = path.replace(f"{{{name}}}", _quoted(value))
        elif place == "query" and draw(st.booleans()):
            query.append(f"{name}={_quoted(value)}")
        elif place == "header" and draw(st.booleans()) and value.isprintable() and value.isascii():
            sent["headers"][name] = value
    sent |= {"path": path, "query_string": "&".join(query)}
    if "requestBody" in operation.node:
        sent |= draw(_bodies(document, operation))
    return sent


@st.composite
def _bodies(draw: st.DrawFn, document: Document, operation: Operation) -> Sent:
    kind = draw(st.sampled_from(("shaped", "shaped", "shaped", "shaped", "raw", "typed")))
    if kind == "raw":
        return {"data": draw(st.sampled_from(_BODIES)), "content_type": "application/json"}
    body = plausible(document, operation)
    if kind == "typed":
        return {"data": json.dumps(body), "content_type": draw(st.sampled_from(_TYPES))}
    if isinstance(body, dict):
        body = dict(body)
        for name in draw(st.lists(st.sampled_from(sorted(body) or ["x"]), max_size=3)):
            if draw(st.integers(0, 4)):
                body[name] = draw(st.sampled_from(_VALUES))
            else:
                body.pop(name, None)
    else:
        body = draw(st.sampled_from(_VALUES))
    # The standard library writes half a surrogate pair as an escape, as a careless client would.
    return {"data": json.dumps(body), "content_type": "application/json"}


def plausible(document: Document, operation: Operation) -> Any:
    """Build a body that fits the operation's schema, with every property that it names."""
    pointer = f"{operation.pointer}/requestBody"
    node, pointer = document.resolve(operation.node["requestBody"], pointer)
    kind, content = next(iter(node["content"].items()))
    where = f"{pointer}/content/{kind.replace('/', '~1')}/schema"
    return _fitting(document, content.get("schema", {}), where)


def _fitting(document: Document, schema: Mapping[str, Any], pointer: str) -> Any:
    if "$ref" in schema:
        pointer = schema["$ref"]
        schema = document.at(pointer)
    if "enum" in schema or "const" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    for example in (*schema.get("examples", ()), *_PLAUSIBLE):
        if not isinstance(example, dict | list) and not document.faults(example, pointer):
            return example
    if "properties" in schema:
        return {
            name: _fitting(document, part, f"{pointer}/properties/{name}")
            for name, part in schema["properties"].items()
        }
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for number, part in enumerate(schema["allOf"]):
            merged |= _fitting(document, part, f"{pointer}/allOf/{number}") or {}
        return merged
    fitting = (one for one in _PLAUSIBLE if not document.faults(one, pointer))
    return next(fitting, None)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")
