"""A request and its answer as filters see them: values and rules, no sockets."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha1
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

import orjson
from prometheus_client import Counter

from cloud.config import Properties
from cloud.errors import ConfigurationError, InvalidError, UnavailableError
from cloud.security import Principal

Headers = list[tuple[bytes, bytes]]

# It goes before all other filters of its route, as in Spring, whatever their order in YAML.
LOCAL_CACHE = "LocalResponseCache"
CACHE_REQUESTS = Counter(
    "gateway_cache_requests", "Requests that a cache looked at", ("routeId", "result")
)
JSON = (b"Content-Type", b"application/json")
REASONS = {status.value: status.phrase for status in HTTPStatus}
NO_VARIABLES: Mapping[str, str] = {}

# RFC 9110 section 7.6.1, and what Spring Cloud Gateway adds to it.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-application-context",
    }
)

_PLAIN_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[\w\-.~!$&'()*+,=:@]+)*/?", re.ASCII)
_ENCODED_PATH = re.compile(
    r"(?:/(?!\.{1,2}(?:/|$))(?:[\w\-.~!$&'()*+,=:@]|%[0-9A-Fa-f]{2})+)*/?", re.ASCII
)
_VARIABLE = re.compile(r"\{([\w-]+)\}")
_REFERENCE = re.compile(r"\\(?P<escaped>.)|\$\{(?P<name>\w+)\}|\$(?P<number>\d)")
_LINE_BREAKS = re.compile(r"[\r\n\0]")
_NEVER_ENCODED = re.compile(rb"[/\\.;%\x00-\x1f\x7f]")


class Source(Protocol):
    """Where the bytes of a stream come from: one end of a connection."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abandon(self) -> None: ...


class Sink(Protocol):
    """Where they go."""

    def send(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def abort(self, error: Exception) -> None: ...


class TooLargeError(InvalidError):
    """A body passed its limit; 413."""


class TooSlowError(InvalidError):
    """A body did not arrive in time; 408."""


class NoInstanceError(UnavailableError):
    """Nobody offers the service; 503, or 404 where the estate wants it so.

    Attributes:
        status: 404 or 503.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BusyError(UnavailableError):
    """Too many requests of the route or instance wait already; 503, come back later."""


class Stream:
    """Bytes on their way from one connection to another, never held whole.

    Until a sink is attached at most `HIGH` bytes (and one read) wait here; then the source is
    paused. With a sink they pass straight through, and the sink pauses the source when it is full.
    There is one sink in a stream's life: what has passed is nowhere any more.

    Attributes:
        length: Content-Length, None when the end is not known beforehand.
        wanted: told once that somebody wants the bytes (`100 Continue`).
    """

    HIGH = 64 * 1024
    __slots__ = (
        "_chunks",
        "_held",
        "_sink",
        "_source",
        "_whole",
        "ended",
        "failure",
        "length",
        "limit",
        "passed",
        "wanted",
    )

    def __init__(self, source: Source, length: int | None = None, limit: int | None = None) -> None:
        self._source = source
        self._sink: Sink | None = None
        self._chunks: list[bytes] = []
        self._held = 0
        self.length = length
        self.limit = limit
        self.passed = 0
        self.ended = False
        self.failure: Exception | None = None
        self.wanted: Callable[[], None] | None = None
        self._whole: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        if self.ended:
            return
        self.passed += len(data)
        if self.limit is not None and self.passed > self.limit:
            self.fail(TooLargeError("Request body is too large"))
        elif self._sink is not None:
            self._sink.send(data)
        else:
            self._chunks.append(data)
            self._held += len(data)
            if self._held > self.HIGH:
                self._source.pause_reading()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._tell()
            if self._sink is not None:
                self._sink.finish()

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self.ended, self.failure = True, error
            self._tell()
            if self._sink is not None:
                self._sink.abort(error)

    async def gathered(self) -> None:
        """Wait until all of it is here; for one of at most `HIGH` bytes by its own word.

        Raises:
            Exception: it broke off, is too large, or too slow.
        """
        if not self.ended:
            self._want()
            self._whole = asyncio.get_running_loop().create_future()
            await self._whole
        if self.failure is not None:
            raise self.failure

    def _tell(self) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(None)

    def _want(self) -> None:
        wanted, self.wanted = self.wanted, None
        if wanted is not None:
            wanted()

    @property
    def spent(self) -> bool:
        """Whether it flows, or has flowed, into a sink: nobody else can have it."""
        return self._sink is not None

    def taken(self) -> bytes | None:
        """Return all of it when all of it is here already, else None; it can be asked for again."""
        if not self.ended or self.failure is not None or self._sink is not None:
            return None
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def attach(self, sink: Sink) -> None:
        """Let everything held, and all that follows, flow into `sink`.

        A second sink is told of an UnavailableError; the first one keeps the stream.
        """
        if self._sink is not None:
            sink.abort(UnavailableError("Body cannot be sent a second time"))
            return
        self._sink = sink
        self._want()
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            sink.send(chunk)
        if self.failure is not None:
            sink.abort(self.failure)
        elif self.ended:
            sink.finish()
        elif self._held > self.HIGH:
            self._source.resume_reading()

    def pause(self) -> None:
        if not self.ended:
            self._source.pause_reading()

    def resume(self) -> None:
        if not self.ended:
            self._source.resume_reading()

    def cancel(self) -> None:
        """Nobody wants the rest."""
        if not self.ended:
            self.ended = True
            self._source.abandon()


@dataclass(slots=True)
class Exchange:
    """One request.

    Attributes:
        path: decoded and unambiguous; what predicates and rules see.
        raw_path: as it goes to the upstream, percent-encoding untouched.
        query: raw, without the question mark; None when the target has none.
        headers: end-to-end headers, names in lower case, nothing forged left in them.
        peer: address at the other end of the connection.
        port: of ours, that the connection came to.
        client: address of the caller behind trusted proxies.
        authorization, origin: these headers, taken out once because every request asks for them.
        keep_alive: the client may send another request on this connection.
        expects: the client waits for `100 Continue` before it sends the body.
        variables: what predicates took out of path and host.
        preserve_host: the Host for the upstream, when it is not the upstream's own.
        forwards: how often a `forward:` has sent it on.
        came: the raw path that its route was found by, before any filter.
        failure: why it was sent to a fallback.
        tunnel: what the client sends once the protocol is no longer HTTP (WebSocket).
    """

    method: str
    path: str
    raw_path: str
    query: str | None = None
    headers: Headers = field(default_factory=list)
    body: Stream | None = None
    peer: str = ""
    port: int = 0
    client: str = ""
    host: str = ""
    scheme: str = "http"
    correlation_id: str = ""
    sampled: bool = False
    compat: bool = False
    authorization: bytes | None = None
    origin: bytes | None = None
    version: str = "1.1"
    keep_alive: bool = True
    expects: bool = False
    principal: Principal | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    draws: dict[str, float] = field(default_factory=dict)
    route: str = ""
    preserve_host: bytes | None = None
    forwards: int = 0
    came: str = ""
    failure: Exception | None = None
    tunnel: Stream | None = None

    def header(self, name: bytes) -> bytes | None:
        """First value of a header; `name` in lower case."""
        for known, value in self.headers:
            if known == name:
                return value
        return None


@dataclass(slots=True)
class Reply:
    """One answer; `body` is bytes, or a stream that the edge pumps to the client.

    Attributes:
        length: Content-Length of a body that is not sent (HEAD, 304).
    """

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | Stream = b""
    length: int | None = None

    def discard(self) -> None:
        """Let go of the answer's body unread."""
        if isinstance(self.body, Stream):
            self.body.cancel()


Handler = Callable[[Exchange], Awaitable[Reply]]
Filter = Callable[[Exchange, Handler], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Definition:
    """A predicate or filter as YAML names it: `Name=a,b`, or `name` with `args`."""

    name: str
    args: Mapping[str, Any]


class Script:
    """A Lua script of Redis, known there by its digest."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


RunScript = Callable[[Script, Sequence[bytes | str], Sequence[bytes | str | int]], Awaitable[Any]]


class Breaker(Protocol):
    """What a filter asks of a circuit breaker."""

    cautious: bool

    @property
    def time_limit_s(self) -> float | None: ...

    def acquire(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What filters may lean on, beside the exchange.

    Attributes:
        breaker: the circuit breaker of that name.
        forward: the answer of a local path: the gateway's own, or another route's.
        script: runs a script in Redis; raises UnavailableError while Redis is away.
        option: one of Spring's options below its prefix, None when it is not set.
        retries: takes one retry out of the budget; False when it is spent.
        share: workers among which is divided what an instance may hold.
    """

    breaker: Callable[[str], Breaker]
    forward: Callable[[Exchange, str], Awaitable[Reply]]
    script: RunScript
    option: Callable[[str], str | None] = lambda _: None
    retries: Callable[[], bool] = lambda: True
    share: int = 1


def message(status: int, text: str, /, *extra: tuple[bytes, bytes], **more: object) -> Reply:
    """Build an answer of the gateway itself: success and message only."""
    body = orjson.dumps({"success": status < HTTPStatus.BAD_REQUEST, "message": text, **more})
    return Reply(status, [JSON, *extra], body)


def expand(template: str, variables: Mapping[str, str], *, path: bool = False) -> str:
    """Fill `{name}` in; a path's values are percent-encoded, and no line break leaves here."""

    def value(found: re.Match[str]) -> str:
        text = variables.get(found[1], "")
        return quote(text, safe="/:@!$&'()*+,;=~-._") if path else _LINE_BREAKS.sub("", text)

    return _VARIABLE.sub(value, template) if "{" in template else template


def java_regex(text: str) -> re.Pattern[str]:
    """Compile a Java regular expression; most are Python's, named groups are spelled otherwise.

    Raises:
        re.error: not an expression, or one that only Java knows.
    """
    return re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", text))


def java_replacement(text: str, wanted: re.Pattern[str]) -> Callable[[re.Match[str]], str]:
    r"""Build what replaces a match: `${name}` and `$1` are groups, a backslash escapes.

    YAML spells `$` as `$\\`, lest Spring takes it for a placeholder.

    Raises:
        ValueError: a group that the expression does not have.
    """
    parts: list[str | int] = []
    at, text = 0, text.replace("$\\", "$")
    for found in _REFERENCE.finditer(text):
        parts.append(text[at : found.start()] + (found["escaped"] or ""))
        group = found["name"] or found["number"]
        if group:
            number = wanted.groupindex.get(group, int(group) if group.isdigit() else -1)
            if not 0 <= number <= wanted.groups:
                raise ValueError(f"{wanted.pattern} has no group {group}")
            parts.append(number)
        at = found.end()
    parts.append(text[at:])
    return lambda match: "".join(
        part if isinstance(part, str) else match[part] or "" for part in parts
    )


def cache_control(headers: Headers) -> Mapping[str, str]:
    """Read the directives of Cache-Control (RFC 9111 section 5.2), an empty value where none is."""
    lines = (value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control")
    pairs = (word.strip().partition("=") for line in lines for word in line.lower().split(","))
    return {name: value.strip('" ') for name, _, value in pairs if name}


def status_of(text: str) -> int:
    """Read a status: `401` or `UNAUTHORIZED`.

    Raises:
        ValueError: it is none.
    """
    name = text.strip()
    if name.isdigit() and 100 <= int(name) <= 599:  # noqa: PLR2004 - what HTTP has
        return int(name)
    if name.upper() not in HTTPStatus.__members__:
        raise ValueError(f"{name} is no status")
    return HTTPStatus[name.upper()].value


def span_of(text: str) -> timedelta:
    """Read a span as Spring spells it, in a filter's argument; a bare number is milliseconds.

    Raises:
        ValueError: it is none.
    """
    try:
        return Properties.of({"it": text}).duration("it")
    except ConfigurationError:
        raise ValueError(f"{text} is no span of time") from None


def size_of(text: str) -> int:
    """Read a data size as Spring spells it, in a filter's argument.

    Raises:
        ValueError: it is none.
    """
    try:
        return Properties.of({"it": text}).data_size("it")
    except ConfigurationError:
        raise ValueError(f"{text} is no size of data") from None


def canonical(target: bytes) -> tuple[str, str, str | None]:
    """Split a request target into decoded path, raw path and raw query.

    Raises:
        InvalidError: the path could be read in two ways by two programs: a semicolon, backslash,
            empty or dot segment, one of these (or a percent sign or control) encoded, no UTF-8.
    """
    raw, mark, query = target.decode("ascii").partition("?")
    return decoded(raw), raw, query if mark else None


def decoded(raw: str) -> str:
    """Decode a path once.

    Raises:
        InvalidError: see `canonical`.
    """
    if _PLAIN_PATH.fullmatch(raw) and raw:
        return raw
    if not raw.startswith("/") or not _ENCODED_PATH.fullmatch(raw):
        raise InvalidError("Path is ambiguous or malformed")
    if any(_NEVER_ENCODED.match(bytes.fromhex(part[:2])) for part in raw.split("%")[1:]):
        raise InvalidError("Path is ambiguous or malformed")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidError("Path is not UTF-8") from None
    if any("\x80" <= letter <= "\x9f" for letter in path):
        raise InvalidError("Path is ambiguous or malformed")
    return path
