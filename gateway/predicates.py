"""When a route applies: Spring Cloud Gateway's predicates by their names and arguments."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from cloud.clock import Clock, utc_now
from gateway.exchange import NO_VARIABLES, Definition, Exchange, java_regex

# What it took out of the request, or None when it does not hold.
Predicate = Callable[[Exchange], Mapping[str, str] | None]


class Pattern:
    """Spring's path pattern: `?`, `*`, `**`, `{name}`, `{name:regex}` and `{*rest}`.

    `separator` is "." for host patterns, where `**` may also lead.
    """

    __slots__ = ("_exact", "_names", "_prefix", "_regex", "text")

    def __init__(self, text: str, *, trailing_slash: bool = True, separator: str = "/") -> None:
        self.text = text
        self._names: list[str] = []
        self._exact = self._prefix = None
        if separator == "/" and not re.search(r"[?*{]", text.removesuffix("/**")):
            if text.endswith("/**"):
                self._prefix = text.removesuffix("**")
            else:
                self._exact = {text, f"{text}/"} if trailing_slash else {text}
        self._regex = self._compile(text, separator, trailing_slash=trailing_slash)

    def match(self, value: str) -> Mapping[str, str] | None:
        if self._exact is not None:
            return NO_VARIABLES if value in self._exact else None
        if self._prefix is not None:
            held = value.startswith(self._prefix) or value == self._prefix[:-1]
            return NO_VARIABLES if held else None
        found = self._regex.fullmatch(value)
        return (
            None if found is None else dict(zip(self._names, found.groups(default=""), strict=True))
        )

    def _compile(self, text: str, separator: str, *, trailing_slash: bool) -> re.Pattern[str]:
        token = re.compile(
            r"(?P<rest>/\{\*(?P<rest_name>\w+)\}$)|(?P<deep>/\*\*$)|(?P<lead>^\*\*\.)|(?P<many>\*\*)"
            r"|(?P<star>\*)|(?P<one>\?)|\{(?P<name>[\w-]+)(?::(?P<regex>(?:[^{}]|\{[^{}]*\})+))?\}"
        )
        segment = rf"[^{re.escape(separator)}]"
        parts, at = [], 0
        for found in token.finditer(text):
            parts.append(re.escape(text[at : found.start()]))
            parts.append(self._piece(found, segment))
            at = found.end()
        tail = (
            "/?" if trailing_slash and separator == "/" and not text.endswith(("/", "**")) else ""
        )
        return re.compile("".join(parts) + re.escape(text[at:]) + tail, re.DOTALL)

    def _piece(self, found: re.Match[str], segment: str) -> str:
        kind = found.lastgroup
        if found["rest"]:
            self._names.append(found["rest_name"])
            return "(/.*)?"
        if found["name"]:
            self._names.append(found["name"])
            # A group inside the operator's own expression must not shift ours.
            inner = re.sub(r"\((?!\?)", "(?:", found["regex"]) if found["regex"] else f"{segment}+"
            return f"({inner})"
        plain = {
            "deep": "(?:/.*)?",
            "lead": r"(?:.*\.)?",
            "many": ".*",
            "star": f"{segment}*",
            "one": segment,
        }
        return plain[str(kind)]


def build(definition: Definition, clock: Clock = utc_now) -> Predicate:
    """Build the predicate that a definition names.

    Raises:
        ValueError: no such predicate, or arguments that it cannot take.
    """
    factory = _FACTORIES.get(definition.name)
    if factory is None:
        raise ValueError(f"there is no predicate {definition.name}")
    return factory(definition.args, clock)


def bind(args: Mapping[str, Any], *fields: str, required: int | None = None) -> list[str | None]:
    """Spread shortcut arguments (`_0`, `_1` …) or named ones over `fields`, in Spring's order.

    Raises:
        ValueError: one of the first `required` (by default: all) is missing.
    """
    values = [_text(args.get(name, args.get(f"_{at}"))) for at, name in enumerate(fields)]
    for name, value in zip(
        fields[: len(fields) if required is None else required], values, strict=False
    ):
        if value is None:
            raise ValueError(f"argument {name} is missing")
    return values


def gather(args: Mapping[str, Any], field: str) -> list[str]:
    """All shortcut arguments as one list, or the list that the long form names."""
    given = args.get(field)
    if given is None:
        given = [value for name, value in args.items() if name.startswith("_")]
    items = given if isinstance(given, list) else str(given).split(",")
    found = [str(item).strip() for item in items if str(item).strip()]
    if not found:
        raise ValueError(f"argument {field} is missing")
    return found


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _when(held: object) -> Mapping[str, str] | None:
    return NO_VARIABLES if held else None


def _path(args: Mapping[str, Any], _: Clock) -> Predicate:
    patterns = gather(args, "patterns" if "pattern" not in args else "pattern")
    slash = str(args.get("matchTrailingSlash", "true"))
    if patterns[-1] in {"true", "false"}:
        slash = patterns.pop()
    matchers = [
        Pattern(p if p.startswith("/") else f"/{p}", trailing_slash=slash == "true")
        for p in patterns
    ]
    if len(matchers) == 1:
        only = matchers[0].match
        return lambda exchange: only(exchange.path)
    return lambda exchange: _first(matchers, exchange.path)


def _first(matchers: Sequence[Pattern], value: str) -> Mapping[str, str] | None:
    for matcher in matchers:
        found = matcher.match(value)
        if found is not None:
            return found
    return None


def _method(args: Mapping[str, Any], _: Clock) -> Predicate:
    methods = {method.upper() for method in gather(args, "methods")}
    return lambda exchange: _when(exchange.method in methods)


def _host(args: Mapping[str, Any], _: Clock) -> Predicate:
    matchers = [Pattern(p, separator=".") for p in gather(args, "patterns")]

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        named = _first(matchers, exchange.host)
        return named if named is not None else _first(matchers, exchange.host.rsplit(":", 1)[0])

    return held


def _header(args: Mapping[str, Any], _: Clock) -> Predicate:
    header, regexp = bind(args, "header", "regexp", required=1)
    name, wanted = str(header).lower().encode(), regexp and java_regex(regexp)

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        values = [v.decode("latin-1") for n, v in exchange.headers if n == name]
        return _when(any(wanted.fullmatch(v) for v in values) if wanted else values)

    return held


def _query(args: Mapping[str, Any], _: Clock) -> Predicate:
    param, regexp = bind(args, "param", "regexp", required=1)
    wanted = regexp and java_regex(regexp)

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        pairs = parse_qsl(exchange.query or "", keep_blank_values=True)
        values = [v for n, v in pairs if n == param]
        return _when(any(wanted.fullmatch(v) for v in values) if wanted else values)

    return held


def _cookie(args: Mapping[str, Any], _: Clock) -> Predicate:
    name, regexp = bind(args, "name", "regexp")
    wanted = java_regex(str(regexp))

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        lines = (v.decode("latin-1") for n, v in exchange.headers if n == b"cookie")
        pairs = (pair.strip().partition("=") for line in lines for pair in line.split(";"))
        return _when(
            any(key == name and wanted.fullmatch(value.strip('"')) for key, _, value in pairs)
        )

    return held


def _address(field: str) -> Callable[[Mapping[str, Any], Clock], Predicate]:
    def factory(args: Mapping[str, Any], _: Clock) -> Predicate:
        networks = [ip_network(source, strict=False) for source in gather(args, "sources")]

        def held(exchange: Exchange) -> Mapping[str, str] | None:
            address = ip_address(getattr(exchange, field))
            return _when(any(address in network for network in networks))

        return held

    return factory


def _after(args: Mapping[str, Any], clock: Clock) -> Predicate:
    start = _instant(bind(args, "datetime")[0])
    return lambda _: _when(clock() > start)


def _before(args: Mapping[str, Any], clock: Clock) -> Predicate:
    end = _instant(bind(args, "datetime")[0])
    return lambda _: _when(clock() < end)


def _between(args: Mapping[str, Any], clock: Clock) -> Predicate:
    first, last = map(_instant, bind(args, "datetime1", "datetime2"))
    if first >= last:
        raise ValueError("datetime1 must lie before datetime2")
    return lambda _: _when(first < clock() < last)


def _instant(text: str | None) -> datetime:
    """Java's zoned date-time (`2017-01-20T17:42:47.789-07:00[America/Denver]`) or epoch ms."""
    spelled = str(text)
    if spelled.lstrip("-").isdigit():
        return datetime.fromtimestamp(int(spelled) / 1000, UTC)
    moment, _, zone = spelled.rstrip("]").partition("[")
    parsed = datetime.fromisoformat(moment)
    if parsed.tzinfo is None:
        if not zone:
            raise ValueError(f"{spelled} has no zone")
        parsed = parsed.replace(tzinfo=ZoneInfo(zone))
    return parsed


_FACTORIES: Mapping[str, Callable[[Mapping[str, Any], Clock], Predicate]] = {
    "After": _after,
    "Before": _before,
    "Between": _between,
    "Cookie": _cookie,
    "Header": _header,
    "Host": _host,
    "Method": _method,
    "Path": _path,
    "Query": _query,
    "RemoteAddr": _address("peer"),
    "XForwardedRemoteAddr": _address("client"),
}
NAMES = frozenset({*_FACTORIES, "Weight"})
