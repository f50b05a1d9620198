"""The client of a real Spring Cloud Config Server (`/{name}/{profiles}/{label}`).

Keys, defaults and rules are those of Spring's own client ("Spring Cloud Config Client" of its
reference), but for shorter time-outs, and for 401 and 403, which no second attempt heals.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from time import perf_counter, sleep  # noqa: TID251 - the default of an argument
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import requests
import structlog

from cloud.config.properties import Properties
from cloud.config.sources import PropertySource, PropertyValue, from_mapping, text_of
from cloud.errors import CloudError, ConfigurationError, UnavailableError

log = structlog.get_logger()

CLIENT = "configClient"
OVERRIDES = "configserver:overrides"

_SOURCE = "configserver:"
_CONFIG = "spring.cloud.config"
_V2 = "application/vnd.spring-cloud.config-server.v2+json"
_CONNECT, _READ = timedelta(seconds=5), timedelta(seconds=10)
_PLACE = re.compile(r"\d+:\d+")
_OK, _NOT_FOUND = 200, 404
_REFUSED = (401, 403)


class _AwayError(Exception):
    """No answer that can be used; another address or another attempt may have one."""

    def __init__(self, reason: str, *, timeout: bool = False) -> None:
        super().__init__(reason)
        self.timeout = timeout


@dataclass(frozen=True, slots=True)
class Server:
    """One address; user-info is kept apart from it, so that no log and no error shows it."""

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Import:
    """One `configserver:` entry, with what `spring.cloud.config` adds to it.

    Attributes:
        labels: tried in this order; an empty one asks for the server's default.
        required: the process must not start without an answer.
        pauses: seconds to wait between attempts; none without fail-fast, as in Spring.
        only_timeouts: the next address is for a connect time-out only, not for other failures.
        timeouts: for connecting and for reading, in seconds.
    """

    application: str
    servers: tuple[Server, ...]
    name: str
    profiles: str
    labels: tuple[str, ...]
    required: bool
    pauses: tuple[float, ...]
    only_timeouts: bool
    headers: Mapping[str, str] = field(repr=False)
    timeouts: tuple[float, float]

    def urls(self) -> list[str]:
        """Return the addresses, fit for a log."""
        return [server.url for server in self.servers]


def is_part_of(properties: Properties) -> bool:
    """Tell whether any of the properties came from a Config Server."""
    return any(source.name.startswith(_SOURCE) for source in properties.sources)


def fetch_all(
    local: Properties, *, again: bool = False, pause: Callable[[float], None] = sleep
) -> Sequence[PropertySource]:
    """Fetch what every `configserver:` entry of `spring.config.import` names.

    Args:
        local: the properties that are known without the server.
        again: the server has answered before: one attempt, and every entry is needed.
        pause: waits so many seconds between attempts.

    Returns:
        Sources, highest precedence first; the last entry's before those of earlier ones.

    Raises:
        ConfigurationError: an entry that is not `optional:`, or is to fail fast, had no answer
            after its last attempt; or the server could not decrypt a value.
        UnavailableError: no answer this time (`again`).
    """
    found: list[PropertySource] = []
    if local.boolean(f"{_CONFIG}.enabled", default=True):
        for entry in imports(local):
            asked = replace(entry, required=True, pauses=()) if again else entry
            found = [
                *_fetch(asked, pause, UnavailableError if again else ConfigurationError),
                *found,
            ]
    return found


def imports(local: Properties) -> Iterator[Import]:
    """Read the entries; a further URL behind a comma belongs to the entry before it.

    Raises:
        ConfigurationError: an entry of another kind that is not `optional:`.
    """
    entries: list[str] = []
    for item in local.listing("spring.config.import"):
        if item.startswith(("http://", "https://")) and entries:
            entries[-1] += f",{item}"
        else:
            entries.append(item)
    for entry in entries:
        kind, _, rest = entry.removeprefix("optional:").partition(":")
        optional = entry.startswith("optional:")
        if kind == "configserver":
            yield _import_of(rest, local, optional=optional)
        elif not optional:
            raise _refusal(local, f"spring.config.import of kind {kind!r} is not supported")


def _import_of(rest: str, local: Properties, *, optional: bool) -> Import:
    urls = [url for url in rest.split(",") if url]
    query = {
        name: value for url in reversed(urls) for name, value in parse_qsl(urlsplit(url).query)
    }
    # What the query says beats what the properties say.
    asked = {
        f"{_CONFIG}.{'' if name == 'fail-fast' else 'retry.'}{name}": value
        for name, value in query.items()
    }
    source = from_mapping("spring.config.import", asked)
    given = Properties(local.application, local.profiles, [source, *local.sources])
    bare = [url.partition("?")[0] for url in urls if not url.startswith("?")]
    return Import(
        application=local.application,
        servers=_servers(bare or given.listing(f"{_CONFIG}.uri", ["http://localhost:8888"]), given),
        name=given.text(f"{_CONFIG}.name", local.application),
        profiles=given.text(f"{_CONFIG}.profile", ",".join(local.profiles)),
        labels=given.listing(f"{_CONFIG}.label") or ("",),
        required=not optional or given.boolean(f"{_CONFIG}.fail-fast", default=False),
        pauses=_pauses(given) if given.boolean(f"{_CONFIG}.fail-fast", default=False) else (),
        only_timeouts=_only_timeouts(given),
        headers=_headers(given),
        timeouts=(
            given.duration(f"{_CONFIG}.request-connect-timeout", _CONNECT).total_seconds(),
            given.duration(f"{_CONFIG}.request-read-timeout", _READ).total_seconds(),
        ),
    )


def _servers(urls: Sequence[str], given: Properties) -> tuple[Server, ...]:
    password = given.get(f"{_CONFIG}.password")
    user = given.text(f"{_CONFIG}.username", "user") if password else None
    try:
        servers = [_server(url) for url in urls]
    except ValueError:
        raise _refusal(given, "the Config Server's address is no http URL") from None
    return tuple(
        replace(server, user=user, password=password) if user else server for server in servers
    )


def _server(url: str) -> Server:
    parts = urlsplit(url.strip())
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    bare = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return Server(bare, unquote(parts.username or "") or None, unquote(parts.password or ""))


def _headers(given: Properties) -> dict[str, str]:
    headers = given.subset(f"{_CONFIG}.headers")
    if given.get(f"{_CONFIG}.password") and "authorization" in map(str.lower, headers):
        raise _refusal(given, f"both {_CONFIG}.password and an authorization header are set")
    return {"Accept": given.text(f"{_CONFIG}.media-type", _V2), **headers}


def _pauses(given: Properties) -> tuple[float, ...]:
    """Return the waits between attempts, in seconds: growing, up to a longest one."""
    attempts = given.integer(f"{_CONFIG}.retry.max-attempts", 6, minimum=1)
    first = given.duration(f"{_CONFIG}.retry.initial-interval", timedelta(seconds=1))
    longest = given.duration(f"{_CONFIG}.retry.max-interval", timedelta(seconds=2))
    growth = given.number(f"{_CONFIG}.retry.multiplier", 1.1, minimum=1)
    pauses, wait = [], first.total_seconds()
    for _ in range(attempts - 1):
        wait = min(wait, longest.total_seconds())
        pauses.append(wait)
        wait *= growth
    return tuple(pauses)


def _only_timeouts(given: Properties) -> bool:
    name = given.text(f"{_CONFIG}.multiple-uri-strategy", "always").replace("_", "").lower()
    if name not in ("always", "connectiontimeoutonly"):
        raise _refusal(given, f"{_CONFIG}.multiple-uri-strategy is no strategy that we know")
    return name != "always"


def _fetch(
    entry: Import, pause: Callable[[float], None], failure: type[CloudError]
) -> list[PropertySource]:
    """Try until the pauses are used up; say once that there is something to wait for."""
    started = perf_counter()
    for number, wait in enumerate((*entry.pauses, None), 1):
        try:
            answer = _ask_all(entry)
            break
        except _AwayError as error:
            if wait is None:
                return _gave_up(entry, error, number, failure)
            if number == 1:
                log.warning(
                    "waiting_for", dependency="config-server", urls=entry.urls(), reason=str(error)
                )
            pause(wait)
    log.info(
        "configuration_fetched",
        sources=len(answer.get("propertySources") or ()),
        label=answer.get("label"),
        version=answer.get("version"),
        attempts=number,
        took_ms=round((perf_counter() - started) * 1000),
    )
    return _sources(answer, entry)


def _gave_up(
    entry: Import, error: _AwayError, attempts: int, failure: type[CloudError]
) -> list[PropertySource]:
    if entry.required:
        raise failure(
            f"{entry.application}: no configuration from {', '.join(entry.urls())}"
            f" after {attempts} attempt(s): {error}"
        )
    log.warning("config_server_away", urls=entry.urls(), reason=str(error))
    return []


def _ask_all(entry: Import) -> dict[str, Any]:
    """Ask one server after the other, label by label.

    Raises:
        _AwayError: none of them has an answer now.
        ConfigurationError: one refuses us.
    """
    last: _AwayError | None = None
    for server in entry.servers:
        try:
            return _ask(entry, server)
        except _AwayError as error:
            last = error
            if entry.only_timeouts and not error.timeout:
                break
    raise last or _AwayError("no address is configured")


def _ask(entry: Import, server: Server) -> dict[str, Any]:
    for label in entry.labels:
        reply = _get(entry, server, label)
        if reply.status_code == _OK:
            return _parsed(reply)
        if reply.status_code in _REFUSED:
            raise ConfigurationError(
                f"{entry.application}: {server.url} refuses our credentials ({reply.status_code})"
            )
        # A redirect would carry our credentials to somebody else.
        if reply.status_code != _NOT_FOUND:
            raise _AwayError(f"{server.url} answered {reply.status_code}")
    raise _AwayError(f"{server.url} knows no such name, profile or label")


def _get(entry: Import, server: Server, label: str) -> requests.Response:
    parts = [entry.name, entry.profiles, *([label] if label else [])]
    path = "/".join(quote(part.replace("/", "(_)"), safe="(),") for part in parts)
    with requests.Session() as session:
        session.trust_env = False
        headers = dict(entry.headers)
        if server.user:
            login = f"{server.user}:{server.password or ''}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        try:
            return session.get(
                f"{server.url}/{path}",
                headers=headers,
                timeout=entry.timeouts,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            timeout = isinstance(error, requests.ConnectTimeout)
            raise _AwayError(f"{server.url}: {_reason(error)}", timeout=timeout) from None


def _reason(error: BaseException) -> str:
    """Name the innermost cause: "Connection refused" rather than a pool's whole story."""
    seen: BaseException = error
    for inner in (*error.args, getattr(error.args[0] if error.args else None, "reason", None)):
        if isinstance(inner, BaseException):
            seen = inner
    while seen.__cause__ or seen.__context__:
        seen = seen.__cause__ or seen.__context__ or seen
    return getattr(seen, "strerror", None) or type(seen).__name__


def _parsed(reply: requests.Response) -> dict[str, Any]:
    try:
        # Numbers as text: a float would cost `1.10` its zero.
        answer = json.loads(reply.content, parse_float=str, parse_int=str)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("propertySources"), list):
        raise _AwayError(f"{reply.url} did not answer as a Config Server does")
    return answer


def _sources(answer: Mapping[str, Any], entry: Import) -> list[PropertySource]:
    """Name the sources as Spring does, what the server made up about itself first."""
    known = {
        f"config.client.{name}": PropertyValue(str(answer[name]), CLIENT)
        for name in ("state", "version")
        if answer.get(name)
    }
    found = [PropertySource(CLIENT, known)] if known else []
    for source in answer["propertySources"]:
        name = str(source["name"])
        named = name if name.startswith(_SOURCE) else f"{_SOURCE}{name}"
        values = {key: _value(item, named) for key, item in source["source"].items()}
        for key, held in values.items():
            if key.startswith("invalid.") and held.value == "<n/a>":
                key = key.removeprefix("invalid.")  # noqa: PLW2901 - the name it had
                raise ConfigurationError(
                    f"{entry.application}: {key} cannot be decrypted by the Config Server"
                    f" (from {held.origin})"
                )
        found.append(PropertySource(named, values))
    return sorted(found, key=lambda source: source.name != OVERRIDES)


def _value(item: Any, source: str) -> PropertyValue:
    """Read a value of either media type; the newer one brings its origin, or its place at least."""
    if not isinstance(item, dict) or "value" not in item:
        return PropertyValue(text_of(item), source)
    origin = str(item.get("origin") or "")
    if not origin or _PLACE.fullmatch(origin):
        origin = f"{source}:{origin}".rstrip(":")
    return PropertyValue(text_of(item["value"]), origin)


def _refusal(given: Properties, fault: str) -> ConfigurationError:
    return ConfigurationError(f"{given.application}: {fault}")
