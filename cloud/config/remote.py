"""The client of a real Spring Cloud Config Server (`/{name}/{profiles}/{label}`).

Keys, defaults and rules are those of Spring's own client ("Spring Cloud Config Client" of its
reference), but for shorter time-outs, and for 401 and 403, which no second attempt heals.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter, sleep  # noqa: TID251 - the default of an argument
from typing import Any
from urllib.parse import quote

import requests
import structlog

from cloud.config import snapshot
from cloud.config.discovery import AwayError, Server
from cloud.config.imports import CONFIG, Import, imports
from cloud.config.properties import Properties
from cloud.config.snapshot import Snapshot
from cloud.config.sources import PropertySource, PropertyValue, text_of
from cloud.errors import ConfigurationError, UnavailableError

log = structlog.get_logger()

CLIENT = "configClient"
OVERRIDES = "configserver:overrides"

SOURCE = "configserver:"
_PLACE = re.compile(r"\d+:\d+")
_OK, _NOT_FOUND = 200, 404
_REFUSED = (401, 403)


def is_part_of(properties: Properties) -> bool:
    """Tell whether any of the properties came from a Config Server."""
    return any(source.name.startswith(SOURCE) for source in properties.sources)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one import said, or what it once said.

    Attributes:
        sources: highest precedence first.
        snapshot: where they are to be kept once they have proved good; None when they need not be.
    """

    sources: Sequence[PropertySource]
    snapshot: Snapshot | None = None


def fetch_all(
    local: Properties, held: Properties | None = None, *, pause: Callable[[float], None] = sleep
) -> list[Answer]:
    """Fetch what every `configserver:` entry of `spring.config.import` names.

    Args:
        local: the properties that are known without the server.
        held: what the server said before: one attempt now, and every entry is needed.
        pause: waits so many seconds between attempts.

    Returns:
        One answer each, highest precedence first: the last entry's.

    Raises:
        ConfigurationError: an entry that is not `optional:`, or is to fail fast, had no answer
            after its last attempt, and there is no snapshot; or the server could not decrypt a
            value.
        UnavailableError: no answer this time, unlike before.
    """
    if not local.boolean(f"{CONFIG}.enabled", default=True):
        return []
    entries = list(imports(local))
    keep = bool(entries) and snapshot.enabled(local, say=held is None)
    found = []
    for entry in entries:
        kept = snapshot.of(local, entry) if keep else None
        found.append(_again(entry, kept, held) if held else _fetch(entry, kept, pause))
    return found[::-1]


def _again(entry: Import, kept: Snapshot | None, held: Properties) -> Answer:
    state = held.get("config.client.state")
    if state and held.boolean(f"{CONFIG}.send-state", default=True):
        entry = replace(entry, headers={**entry.headers, "X-Config-State": state})
    try:
        return Answer(_sources(_ask_all(entry), entry), kept)
    except AwayError as error:
        raise UnavailableError(_no_answer(entry, error, 1)) from None


def _fetch(entry: Import, kept: Snapshot | None, pause: Callable[[float], None]) -> Answer:
    """Try until the pauses are used up; say once that there is something to wait for."""
    started, old = perf_counter(), _Old(kept)
    for number, wait in enumerate((*entry.pauses, None), 1):
        try:
            answer = _ask_all(entry)
            break
        except AwayError as error:
            waited_s = perf_counter() - started
            # A server that knows nothing of us is not away.
            if error.status != _NOT_FOUND and old.will_do(wait, waited_s):
                return old.answer(entry, error)
            if wait is None:
                return _gave_up(entry, error, number, old.fault)
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
    return Answer(_sources(answer, entry), kept)


class _Old:
    """A snapshot that is opened when the first attempt has failed.

    Attributes:
        fault: why it cannot be used, nothing when it can, or when there is none.
    """

    def __init__(self, kept: Snapshot | None) -> None:
        self._kept = kept
        self._opened = False
        self._sources: list[PropertySource] | None = None
        self.fault = ""

    def will_do(self, wait_s: float | None, waited_s: float) -> bool:
        """Tell whether it is there, and time to use it: there is no further attempt in time."""
        if self._kept and not self._opened:
            self._opened = True
            try:
                self._sources = self._kept.find()
            except snapshot.UnusableError as error:
                self.fault = f"; {error}"
        if self._kept is None or self._sources is None:
            return False
        return wait_s is None or waited_s + wait_s > self._kept.wait_s

    def answer(self, entry: Import, error: AwayError) -> Answer:
        sources = self._sources or []
        log.warning(
            "config_snapshot_in_force",
            config_server=entry.place,
            taken=sources[0].values[snapshot.TAKEN].value,
            file=sources[0].values[snapshot.TAKEN].origin,
            reason=str(error),
        )
        return Answer(sources)


def _gave_up(entry: Import, error: AwayError, attempts: int, fault: str) -> Answer:
    if entry.required:
        raise ConfigurationError(_no_answer(entry, error, attempts) + fault)
    log.warning("config_server_away", config_server=entry.place, reason=f"{error}{fault}")
    return Answer([])


def _no_answer(entry: Import, error: AwayError, attempts: int) -> str:
    return (
        f"{entry.application}: no configuration from {entry.place}"
        f" after {attempts} attempt(s): {error}"
    )


def _ask_all(entry: Import) -> dict[str, Any]:
    """Ask label by label.

    Raises:
        AwayError: no server has an answer now.
        ConfigurationError: one refuses us.
    """
    servers, headers = entry.servers(), {**entry.headers, **entry.authorize()}
    for label in entry.labels:
        if found := _ask(entry, servers, headers, label):
            return found
    raise AwayError(f"{entry.place} knows no such name, profile or label", _NOT_FOUND)


def _ask(
    entry: Import, servers: Sequence[Server], headers: Mapping[str, str], label: str
) -> dict[str, Any] | None:
    """Ask one server after the other; None when the last one does not know the label."""
    parts = [entry.name, entry.profiles, *([label] if label else [])]
    path = "/".join(quote(part.replace("/", "(_)"), safe="(),") for part in parts)
    last = AwayError("no address is configured")
    for server in servers:
        try:
            reply = server.ask("GET", path, headers, entry.timeouts, entry.adapter)
            return _parsed(reply)
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
        named = name if name.startswith(SOURCE) else f"{SOURCE}{name}"
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
