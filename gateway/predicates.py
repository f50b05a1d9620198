"""When a route applies: Spring Cloud Gateway's predicates by their names and arguments."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from cloud.balancer.versions import ApiVersions, asked, parse
from cloud.clock import Clock, utc_now
from cloud.config import Properties
from gateway.exchange import NO_VARIABLES, Definition, Exchange, java_regex

# What it took out of the request, or None when it does not hold.
Predicate = Callable[[Exchange], Mapping[str, str] | None]

_VERSIONS = ("spring.webflux.apiversion", "spring.mvc.apiversion")
_SLASH = "matchTrailingSlash"
_PORT = re.compile(r":\d+$")


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


def _unset(_: str) -> None:
    return None


def build(
    definition: Definition, clock: Clock = utc_now, option: Callable[[str], str | None] = _unset
) -> Predicate:
    """Build the predicate that a definition names; `option` reads one of Spring's options.

    Raises:
        ValueError: no such predicate, or arguments that it cannot take.
    """
    if definition.name == "Host":
        return _host(definition.args, option)
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


def gather(args: Mapping[str, Any], field: str, least: int = 1) -> list[str]:
    """All arguments as one list, whatever their names: so Spring gathers them.

    The long form may name the list, and others beside it.

    Raises:
        ValueError: they are fewer than `least`.
    """
    given = [args[field]] if field in args else args.values()
    lists = (one if isinstance(one, list) else str(one).split(",") for one in given)
    found = [str(item).strip() for one in lists for item in one if str(item).strip()]
    if len(found) < least:
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
    patterns = gather({k: v for k, v in args.items() if k != _SLASH}, "patterns")
    slash = str(args.get(_SLASH, "true"))
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


def _host(args: Mapping[str, Any], option: Callable[[str], str | None]) -> Predicate:
    matchers = [Pattern(p, separator=".") for p in gather(args, "patterns")]
    if (option("predicate.host.include-port") or "true").lower() != "false":
        return lambda exchange: _first(matchers, exchange.host)
    return lambda exchange: _first(matchers, _PORT.sub("", exchange.host))


def version(args: Mapping[str, Any], properties: Properties) -> Predicate:
    """Build Version: `1.3`, or `1.1+` for that and all later ones.

    Which version a request asks for, Spring Boot's `spring.webflux.apiversion.*` says (or
    `spring.mvc.…`); versions are numbers, as SemanticApiVersionParser reads them.

    Raises:
        ValueError: no version, or nothing says where a request names its own.
    """
    text = str(bind(args, "version")[0])
    wanted, later = parse(text.removesuffix("+")), text.endswith("+")
    if not wanted:
        raise ValueError(f"{text} is no version")
    place = _place(properties)

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        def header(name: str) -> str | None:
            if name == ":path":
                return f"{exchange.raw_path}?{exchange.query or ''}"
            found = exchange.header(name.encode())
            return found.decode("latin-1") if found is not None else None

        told = asked(place, header)
        if not told or not later:
            return _when(told == wanted)
        return _when(_numbers(told) >= _numbers(wanted))

    return held


def _place(properties: Properties) -> ApiVersions:
    base = next((one for one in _VERSIONS if properties.tree(f"{one}.use", lenient=True)), "")
    if not base:
        raise ValueError(f"Version needs one of {_VERSIONS[0]}.use.*")
    segment = properties.get(f"{base}.use.path-segment")
    types = properties.tree(f"{base}.use.media-type-parameter", lenient=True)
    return ApiVersions(
        header=properties.text(f"{base}.use.header", "").lower(),
        parameter=properties.text(f"{base}.use.query-parameter", ""),
        segment=int(segment) if segment else None,
        media_types={str(name).lower(): str(parameter) for name, parameter in types.items()},
        default=properties.text(f"{base}.default", ""),
        fallback=False,
    )


def _numbers(version: str) -> list[int]:
    return list(map(int, version.split(".")))


# What ends at this hop is no longer among the headers.
_APART: Mapping[bytes, Callable[[Exchange], list[str]]] = {
    b"host": lambda exchange: [exchange.host] if exchange.host else [],
    b"connection": lambda exchange: ["Upgrade"] if exchange.tunnel else [],
    b"upgrade": lambda exchange: ["websocket"] if exchange.tunnel else [],
}


def _header(args: Mapping[str, Any], _: Clock) -> Predicate:
    header, regexp = bind(args, "header", "regexp", required=1)
    name, wanted = str(header).lower().encode(), regexp and java_regex(regexp)
    apart = _APART.get(name)

    def held(exchange: Exchange) -> Mapping[str, str] | None:
        values = [v.decode("latin-1") for n, v in exchange.headers if n == name]
        if apart is not None:
            values = apart(exchange)
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
    "Method": _method,
    "Path": _path,
    "Query": _query,
    "RemoteAddr": _address("peer"),
    "XForwardedRemoteAddr": _address("client"),
}
NAMES = frozenset({*_FACTORIES, "Host", "Version", "Weight"})
