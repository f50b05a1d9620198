"""The client of a real Spring Cloud Config Server (`/{name}/{profiles}/{label}`).

Keys, defaults and rules are those of Spring's own client ("Spring Cloud Config Client" of its
reference), but for shorter time-outs, and for 401 and 403, which no second attempt heals.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter, sleep  # noqa: TID251 - the default of an argument
from typing import Any
from urllib.parse import quote

import requests
import structlog

from cloud.config.discovery import AwayError, Server
from cloud.config.imports import CONFIG, Import, imports
from cloud.config.properties import Properties
from cloud.config.sources import PropertySource, PropertyValue, text_of
from cloud.errors import CloudError, ConfigurationError, UnavailableError

log = structlog.get_logger()

CLIENT = "configClient"
OVERRIDES = "configserver:overrides"

_SOURCE = "configserver:"
_PLACE = re.compile(r"\d+:\d+")
_OK, _NOT_FOUND = 200, 404
_REFUSED = (401, 403)


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
    if local.boolean(f"{CONFIG}.enabled", default=True):
        for entry in imports(local):
            asked = replace(entry, required=True, pauses=()) if again else entry
            found = [
                *_fetch(asked, pause, UnavailableError if again else ConfigurationError),
                *found,
            ]
    return found


def _fetch(
    entry: Import, pause: Callable[[float], None], failure: type[CloudError]
) -> list[PropertySource]:
    """Try until the pauses are used up; say once that there is something to wait for."""
    started = perf_counter()
    for number, wait in enumerate((*entry.pauses, None), 1):
        try:
            answer = _ask_all(entry)
            break
        except AwayError as error:
            if wait is None:
                return _gave_up(entry, error, number, failure)
            if number == 1:
                log.warning(
                    "waiting_for",
                    dependency="config-server",
                    config_server=entry.place,
                    reason=str(error),
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
    entry: Import, error: AwayError, attempts: int, failure: type[CloudError]
) -> list[PropertySource]:
    if entry.required:
        raise failure(
            f"{entry.application}: no configuration from {entry.place}"
            f" after {attempts} attempt(s): {error}"
        )
    log.warning("config_server_away", config_server=entry.place, reason=str(error))
    return []


def _ask_all(entry: Import) -> dict[str, Any]:
    """Ask label by label.

    Raises:
        AwayError: no server has an answer now.
        ConfigurationError: one refuses us.
    """
    servers = entry.servers()
    for label in entry.labels:
        if found := _ask(entry, servers, label):
            return found
    raise AwayError(f"{entry.place} knows no such name, profile or label", _NOT_FOUND)


def _ask(entry: Import, servers: Sequence[Server], label: str) -> dict[str, Any] | None:
    """Ask one server after the other; None when the last one does not know the label."""
    parts = [entry.name, entry.profiles, *([label] if label else [])]
    path = "/".join(quote(part.replace("/", "(_)"), safe="(),") for part in parts)
    last = AwayError("no address is configured")
    for server in servers:
        try:
            return _parsed(server.get(path, entry.headers, entry.timeouts, entry.adapter))
        except AwayError as error:
            last = error
            if entry.only_silence and error.status:
                break
    if last.status in _REFUSED:
        raise ConfigurationError(f"{entry.application}: {last}")
    if last.status == _NOT_FOUND:
        return None
    raise last


def _parsed(reply: requests.Response) -> dict[str, Any]:
    status, place = reply.status_code, reply.url.partition("?")[0]
    if status in _REFUSED:
        raise AwayError(f"{place} refuses our credentials ({status})", status)
    if status != _OK:
        raise AwayError(f"{place} answered {status}", status)
    try:
        # Numbers as text: a float would cost `1.10` its zero.
        answer = json.loads(reply.content, parse_float=str, parse_int=str)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("propertySources"), list):
        raise AwayError(f"{place} did not answer as a Config Server does", status)
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
