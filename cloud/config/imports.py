"""The `configserver:` entries of `spring.config.import`, with what `spring.cloud.config` adds."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from urllib.parse import parse_qsl

from requests.adapters import HTTPAdapter

from cloud import tls
from cloud.config import discovery
from cloud.config.discovery import Server
from cloud.config.oauth2 import Authorize, authorization
from cloud.config.properties import Properties
from cloud.config.sources import from_mapping

CONFIG: Final = "spring.cloud.config"

_V2: Final = "application/vnd.spring-cloud.config-server.v2+json"
_CONNECT, _READ = timedelta(seconds=5), timedelta(seconds=10)
_RETRY: Final = ("max-attempts", "max-interval", "multiplier", "initial-interval")


@dataclass(frozen=True, slots=True)
class Import:
    """One `configserver:` entry.

    Attributes:
        place: what it is called in a log: its addresses, without user-info.
        servers: finds the addresses, anew for each attempt when they come from Eureka.
        labels: tried in this order; an empty one asks for the server's default.
        authorize: gives a header with a token, anew for each attempt; none without OAuth2.
        required: the process must not start without an answer.
        pauses: seconds to wait between attempts; none without fail-fast, as in Spring.
        only_silence: the next address is for a server that says nothing, not for an error it says.
        timeouts: for connecting and for reading, in seconds.
    """

    application: str
    place: str
    servers: Callable[[], Sequence[Server]] = field(repr=False)
    name: str
    profiles: str
    labels: tuple[str, ...]
    required: bool
    pauses: tuple[float, ...]
    only_silence: bool
    headers: Mapping[str, str] = field(repr=False)
    authorize: Authorize = field(repr=False)
    timeouts: tuple[float, float]
    adapter: HTTPAdapter | None


def imports(local: Properties) -> Iterator[Import]:
    """Read the entries; a further URL behind a comma belongs to the entry before it.

    Raises:
        ConfigurationError: a setting cannot be used, or an entry of another kind is not
            `optional:`.
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
            raise local.wrong("spring.config.import", "has an entry that is no configserver:")


def _import_of(rest: str, local: Properties, *, optional: bool) -> Import:
    urls = [url for url in rest.split(",") if url]
    # What the query of the first URL says beats what the properties say.
    query = dict(parse_qsl(urls[0].partition("?")[2])) if urls else {}
    asked = {f"{CONFIG}.retry.{name}": query[name] for name in _RETRY if name in query}
    if "fail-fast" in query:
        asked[f"{CONFIG}.fail-fast"] = query["fail-fast"]
    source = from_mapping("spring.config.import", asked)
    given = Properties(local.application, local.profiles, [source, *local.sources])
    bare = [url.partition("?")[0] for url in urls if not url.startswith("?")]
    fail_fast = given.boolean(f"{CONFIG}.fail-fast", default=False)
    place, servers = _servers(bare, given)
    timeouts = (
        given.duration(f"{CONFIG}.request-connect-timeout", _CONNECT).total_seconds(),
        given.duration(f"{CONFIG}.request-read-timeout", _READ).total_seconds(),
    )
    adapter = tls.adapter(given, f"{CONFIG}.tls")
    return Import(
        application=local.application,
        place=place,
        servers=servers,
        name=given.text(f"{CONFIG}.name", local.application),
        profiles=given.text(f"{CONFIG}.profile", ",".join(local.profiles)),
        labels=_labels(given),
        required=not optional or fail_fast,
        pauses=_pauses(given) if fail_fast else (),
        only_silence=_only_silence(given),
        headers=_headers(given),
        authorize=authorization(given, timeouts, adapter),
        timeouts=timeouts,
        adapter=adapter,
    )


def _servers(bare: Sequence[str], given: Properties) -> tuple[str, Callable[[], Sequence[Server]]]:
    if given.boolean(f"{CONFIG}.discovery.enabled", default=False):
        service = given.text(f"{CONFIG}.discovery.service-id", "configserver")
        login = _login(given)
        lookup = discovery.lookup(given, service)
        # What the server says of itself comes first here, as in ConfigServerInstanceMonitor.
        return f"{service} of Eureka", lambda: [
            found if found.user else _with(login, found) for found in lookup()
        ]
    key = "spring.config.import" if bare else f"{CONFIG}.uri"
    urls = bare or given.listing(key, ["http://localhost:8888"])
    try:
        servers = [_with(_login(given), Server.of(url)) for url in urls]
    except ValueError:
        raise given.wrong(key, "has an address that is no http URL") from None
    return ", ".join(server.url for server in servers), lambda: servers


def _login(given: Properties) -> tuple[str, str] | None:
    password = given.get(f"{CONFIG}.password")
    return (given.text(f"{CONFIG}.username", "user"), password) if password else None


def _with(login: tuple[str, str] | None, server: Server) -> Server:
    return replace(server, user=login[0], password=login[1]) if login else server


def _labels(given: Properties) -> tuple[str, ...]:
    labels = given.listing(f"{CONFIG}.label")
    # A server from 4.2 on takes them all at once, and merges what it finds.
    if given.boolean(f"{CONFIG}.send-all-labels", default=False):
        labels = (",".join(labels),)
    return labels or ("",)


def _headers(given: Properties) -> dict[str, str]:
    headers = given.subset(f"{CONFIG}.headers")
    if given.get(f"{CONFIG}.password") and "authorization" in map(str.lower, headers):
        raise given.wrong(f"{CONFIG}.password", "and an authorization header are both set")
    if token := given.get(f"{CONFIG}.token"):
        headers["X-Config-Token"] = token
    accepted = {
        "Accept": given.text(f"{CONFIG}.media-type", _V2),
        "Accept-Charset": given.text(f"{CONFIG}.charset", "UTF-8"),
    }
    return {**accepted, **headers}


def _pauses(given: Properties) -> tuple[float, ...]:
    """Return the waits between attempts, in seconds: growing, up to a longest one."""
    attempts = given.integer(f"{CONFIG}.retry.max-attempts", 6, minimum=1)
    first = given.duration(f"{CONFIG}.retry.initial-interval", timedelta(seconds=1))
    longest = given.duration(f"{CONFIG}.retry.max-interval", timedelta(seconds=2))
    growth = given.number(f"{CONFIG}.retry.multiplier", 1.1, minimum=1)
    scattered = given.boolean(f"{CONFIG}.retry.use-random-policy", default=False)
    pauses, wait = [], first.total_seconds()
    for _ in range(attempts - 1):
        wait = min(wait, longest.total_seconds())
        # Up to the next one's length, as ExponentialRandomBackOffPolicy of Spring Retry has it.
        scatter = random.uniform(1, growth) if scattered else 1  # noqa: S311 - no secret
        pauses.append(wait * scatter)
        wait *= growth
    return tuple(pauses)


def _only_silence(given: Properties) -> bool:
    key = f"{CONFIG}.multiple-uri-strategy"
    name = given.text(key, "always").replace("_", "").replace("-", "").lower()
    if name not in ("always", "connectiontimeoutonly"):
        raise given.wrong(key, "is neither ALWAYS nor CONNECTION_TIMEOUT_ONLY")
    return name != "always"
