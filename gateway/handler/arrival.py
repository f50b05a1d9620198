"""What a client sent becomes an Exchange; ambiguous is refused, forged is removed."""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network
from os import urandom

import structlog

from cloud.errors import InvalidError
from cloud.security import PRIVATE_NETWORKS, Networks, address_of, client_address, is_within
from gateway.exchange import HOP_BY_HOP, Exchange, Headers, canonical

log = structlog.get_logger(__name__)

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
MAX_HEADERS = 100

# Only we may speak of who calls, from where, and in which trace.
_FORGED = (b"x-user-", b"x-forwarded-", b"x-b3-")
_TAKEN = HOP_BY_HOP | {
    b"b3",
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"traceparent",
    b"tracestate",
    b"x-correlation-id",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
}
# `Connection: authorization` must not strip what decides about access.
_NEVER_HOP = frozenset({b"authorization", b"cookie", b"content-type", b"origin"})
_ONCE = frozenset({b"authorization", b"content-type", b"host", b"origin"})
_KEEP, _TAKE, _DROP, _ONE = 1, 2, 4, 8
_kinds: dict[bytes, int] = {}
_MOST_KINDS, _LONGEST_KIND = 1000, 64
_MOST_HOPS = 4096
_PRIVATE = tuple(map(ip_network, PRIVATE_NETWORKS))
_warned: list[str] = []
# As long as a name can be (RFC 1035 section 2.3.4), since it is remembered.
_HOST = re.compile(rb"[A-Za-z0-9.\-]{1,255}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")


Hop = tuple[tuple[bytes, bytes], ...]


_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\w\-.~!$&'()*+,=:@%/?]*) HTTP/1\.1\r\n"
)
_NOT_ALLOWED = 405
_LONGEST_LINE, _LONGEST_BLOCK, _MOST_BLOCKS = 256, 4096, 1000


class RefusedError(InvalidError):
    """No request of ours; answered once, then the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def headers(self) -> Headers:
        """What the answer says beside its text (RFC 9110 section 15.5.6)."""
        return [(b"Allow", b", ".join(sorted(METHODS)))] if self.status == _NOT_ALLOWED else []


def arrive(
    method: bytes,
    target: bytes,
    version: str,
    headers: Headers,
    *,
    peer: str,
    trusted: Networks,
    pattern: re.Pattern[str] | None = None,
    scheme: str = "http",
    unsaid: frozenset[bytes] = frozenset(),
    appends: bool = True,
) -> Exchange:
    """Build the exchange; names in `headers` are in lower case.

    `scheme` is what the connection itself speaks. `pattern` tells addresses of trusted proxies,
    too, as Spring's `trusted-proxies` does. `unsaid` and `appends` are switches of the estate's.

    Raises:
        RefusedError: malformed, ambiguous or forged beyond repair.
    """
    if method not in METHODS:
        raise RefusedError(405, "Method is not supported")
    if len(headers) > MAX_HEADERS:
        raise RefusedError(431, "Too many header fields")
    taken, kept = _sorted(headers)
    host = _host(taken, version)
    _ensure_framing(taken.get(b"transfer-encoding"), version)
    try:
        path, raw_path, query = canonical(target)
    except InvalidError as error:
        raise RefusedError(400, str(error)) from None
    exchange = Exchange(method.decode(), path, raw_path, query, kept, peer=peer, client=peer)
    exchange.host, exchange.version, exchange.scheme = host, version, scheme
    for name, value in kept:
        if name == b"authorization":
            exchange.authorization = value
        elif name == b"origin":
            exchange.origin = value
    connection = taken.get(b"connection")
    if connection is not None:
        exchange.headers = _without_hops(kept, connection)
    exchange.expects = _expects(taken.get(b"expect"), version)
    if pattern is not None:
        trusted = _also_trusted(peer, taken.get(b"x-forwarded-for", b""), trusted, pattern)
    _say_where_from(exchange, taken, trusted, appends=appends)
    if unsaid:
        exchange.headers = [held for held in exchange.headers if held[0] not in unsaid]
    return exchange


class Familiar:
    """Heads that came before: byte for byte the same fields mean the same, and are not read again.

    A client on a kept connection repeats its fields with each request. What llhttp and `arrive`
    made of them is remembered, for the same peer and the same settings; the request line is read
    anew. Only requests without a body, and with nothing that is about the connection, are kept.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], tuple[object, Meaning]] = {}

    def find(self, data: bytes, peer: str, settings: object) -> Exchange | None:
        """Return the exchange when `data` is one whole request, and its fields are known."""
        if len(data) > _LONGEST_LINE + _LONGEST_BLOCK:
            return None
        at = data.find(b"\r\n") + 2
        found = self._known.get((peer, data[at:]))
        if found is None or found[0] is not settings or at > _LONGEST_LINE:
            return None
        try:
            line = _request_line(data[:at])
        except InvalidError:
            return None
        if line is None:
            return None
        headers, client, host, scheme, authorization, origin = found[1]
        exchange = Exchange(*line, headers.copy(), peer=peer, client=client)
        exchange.host, exchange.scheme = host, scheme
        exchange.authorization, exchange.origin = authorization, origin
        return exchange

    def keep(self, data: bytes, peer: str, settings: object, meaning: "Meaning") -> None:
        """Remember what `data`, where a request began that has no body, turned out to mean."""
        at = data.find(b"\r\n") + 2
        block = data[at:]
        whole = data.find(b"\r\n\r\n") + 4 == len(data)
        if not whole or len(block) > _LONGEST_BLOCK or not _LINE.fullmatch(data, 0, at):
            return
        if len(self._known) >= _MOST_BLOCKS:
            self._known.clear()
        self._known[peer, block] = settings, meaning


Meaning = tuple[Headers, str, str, str, bytes | None, bytes | None]
"""An exchange's headers, client, host, scheme, authorization and origin, as they arrived."""


def meaning(exchange: Exchange) -> Meaning:
    """Take from an exchange what its header fields said."""
    return (
        exchange.headers.copy(),
        exchange.client,
        exchange.host,
        exchange.scheme,
        exchange.authorization,
        exchange.origin,
    )


@lru_cache(2048)
def _request_line(line: bytes) -> tuple[str, str, str, str | None] | None:
    found = _LINE.fullmatch(line)
    return (found[1].decode(), *canonical(found[2])) if found else None


def _sorted(headers: Headers) -> tuple[dict[bytes, bytes], Headers]:
    """Split into what concerns this hop (or is forged) and what goes on to the upstream."""
    taken: dict[bytes, bytes] = {}
    kept: Headers = []
    once: set[bytes] = set()
    for held in headers:
        name, value = held
        kind = _kinds.get(name) or _kind_of(name)
        if kind & _ONE:
            if name in once:
                raise RefusedError(400, "Header field is repeated")
            once.add(name)
        if kind & _KEEP:
            kept.append(held)
        elif kind & _TAKE:
            taken[name] = b"%b, %b" % (taken[name], value) if name in taken else value
    return taken, kept


def _kind_of(name: bytes) -> int:
    """Decide what becomes of a header; the usual names are decided once."""
    if name not in _TAKEN and b"_" in name:
        # WSGI and CGI cannot tell `X_User_Id` from `X-User-Id`.
        raise RefusedError(400, "Header field name holds an underscore")
    kind = _TAKE if name in _TAKEN else _DROP if name.startswith(_FORGED) else _KEEP
    if name in _ONCE:
        kind |= _ONE
    if len(_kinds) < _MOST_KINDS and len(name) < _LONGEST_KIND:
        _kinds[name] = kind
    return kind


def _host(taken: dict[bytes, bytes], version: str) -> str:
    host = taken.get(b"host")
    if host is None:
        if version == "1.0":
            return ""
        raise RefusedError(400, "Host header is missing")
    if not _HOST.fullmatch(host):
        raise RefusedError(400, "Host header is malformed")
    return host.decode("ascii").lower()


def _ensure_framing(coding: bytes | None, version: str) -> None:
    """Take `chunked` alone (RFC 9112 section 6.1); llhttp is content when it comes last."""
    if coding is None:
        return
    if version == "1.0":
        raise RefusedError(400, "Transfer-Encoding is no part of HTTP/1.0")
    if coding.strip().lower() != b"chunked":
        raise RefusedError(501, "Transfer-Encoding is not supported")


def _expects(expect: bytes | None, version: str) -> bool:
    if expect is not None and expect.lower() != b"100-continue":
        raise RefusedError(417, "Expectation cannot be met")
    return expect is not None and version != "1.0"


def _without_hops(kept: Headers, connection: bytes) -> Headers:
    named = {name.strip().lower() for name in connection.split(b",")} - _NEVER_HOP
    return [held for held in kept if held[0] not in named]


def _also_trusted(peer: str, given: bytes, trusted: Networks, pattern: re.Pattern[str]) -> Networks:
    """Add the hops whose address matches; who is behind them is found as behind any proxy.

    What is no address is none of them, also where the expression takes it.
    """
    hops = map(address_of, (peer, *given.decode("latin-1").split(",")))
    found = [hop for hop in hops if hop is not None and pattern.fullmatch(str(hop))]
    return (*trusted, *map(ip_network, found))


def _say_where_from(
    exchange: Exchange, taken: dict[bytes, bytes], trusted: Networks, *, appends: bool
) -> None:
    """Write fresh forwarding headers; a trusted proxy's are continued, a stranger's forgotten."""
    peer = exchange.peer
    if not (trusted and is_within(peer, trusted)):
        if not (_warned or trusted) and b"x-forwarded-for" in taken:
            _warn_of_unknown(peer)
        exchange.headers += _strangers(peer, exchange.host, exchange.scheme)
        return
    given = taken.get(b"x-forwarded-for", b"").decode("latin-1")
    exchange.client = client_address(peer, given or None, trusted)
    exchange.scheme = _one_of(taken.get(b"x-forwarded-proto"), r"https?") or exchange.scheme
    exchange.headers += _forwarding(
        exchange.client,
        f"{given}, {peer}" if given and appends else peer,
        _one_of(taken.get(b"x-forwarded-host"), _HOST.pattern.decode()) or exchange.host,
        _one_of(taken.get(b"x-forwarded-port"), r"\d{1,5}") or _port(exchange.host),
        exchange.scheme,
    )


def _warn_of_unknown(peer: str) -> None:
    """Tell once that a load balancer may stand before us unknown: all callers seem to be it."""
    if is_within(peer, _PRIVATE):
        _warned.append(peer)
        log.warning(
            "forwarded_for_ignored",
            setting="nozie.gateway.trusted-proxies",
            peer=peer,
            reason="nobody is trusted: this address is taken for every caller's",
        )


@lru_cache(_MOST_HOPS)
def _strangers(peer: str, host: str, scheme: str) -> Hop:
    """What is said of a client that nobody vouches for: the same with each of its requests."""
    return _forwarding(peer, peer, host, _port(host), scheme)


def _forwarding(client: str, chain: str, host: str, port: str, proto: str) -> Hop:
    port = port or ("443" if proto == "https" else "80")
    node = f'"[{client}]"' if ":" in client else client
    return (
        (b"x-forwarded-for", chain.encode("latin-1")),
        (b"x-forwarded-host", host.encode()),
        (b"x-forwarded-port", port.encode()),
        (b"x-forwarded-proto", proto.encode()),
        (b"forwarded", f'for={node};host="{host}";proto={proto}'.encode()),
    )


def _port(host: str) -> str:
    return host.rsplit(":", 1)[1] if re.search(r":\d+$", host) else ""


def _one_of(value: bytes | None, pattern: str) -> str | None:
    text = (value or b"").decode("latin-1").strip().lower()
    return text if re.fullmatch(pattern, text) else None


def new_correlation_id(random: Callable[[int], bytes] = urandom) -> str:
    """Make a random UUID (version 4); its 32 hex digits are the trace id."""
    digits = random(16).hex()
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-"
        f"{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:]}"
    )
