"""How an instance comes by its properties: its own files, its environment, the Config Server."""

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path

import structlog

from cloud import logging
from cloud.config import remote, sources, unheeded
from cloud.config.placeholders import UnsetError
from cloud.config.properties import Properties
from cloud.config.sources import PropertySource
from cloud.errors import ConfigurationError

log = structlog.get_logger()

Subscriber = Callable[[Properties, frozenset[str]], None]
Check = Callable[[Properties], object]
Loader = Callable[[Properties], Properties]


class Environment:
    """The live holder of one instance: whoever keeps it sees what a refresh brings.

    Args:
        properties: what holds at first.
        anew: loads everything anew, given what holds; without it nothing ever changes.
    """

    def __init__(self, properties: Properties, anew: Loader | None = None) -> None:
        self._properties = properties
        self._anew = anew or (lambda held: held)
        self._subscribers: list[Subscriber] = []
        self._checks: list[Check] = []
        self._turn = threading.Lock()

    @property
    def properties(self) -> Properties:
        """The snapshot that holds now."""
        return self._properties

    def subscribe(self, callback: Subscriber) -> None:
        """Have `callback` called with the fresh properties and the changed keys."""
        self._subscribers.append(callback)

    def require(self, check: Check) -> None:
        """Have `check` look at properties before a refresh puts them in force; it may refuse them.

        Args:
            check: raises ConfigurationError; `Settings.of`, for instance.
        """
        self._checks.append(check)

    def ensure(self, fresh: Properties) -> None:
        """Let everybody look at `fresh` who has to live with it.

        Raises:
            ConfigurationError: somebody cannot.
        """
        for check in list(self._checks):
            check(fresh)

    def reload(self) -> Properties:
        """Load everything from where it first came, and give it without putting it in force.

        The process's environment is as it was; the house's files and the Config Server may say
        something new. One attempt, no retries.

        Raises:
            UnavailableError: the Config Server, which has spoken before, does not answer now. What
                it said then is to hold on.
            ConfigurationError: what was found cannot be used; the text is one line.
        """
        return self._anew(self._properties)

    def replace(self, fresh: Properties) -> frozenset[str]:
        """Put `fresh` in force and tell the subscribers; gives the changed keys.

        Keys of the process environment do not count (Spring Cloud's ContextRefresher). A
        subscriber that fails is logged; the others still hear of the change.
        """
        with self._turn:
            old, self._properties = self._properties, fresh
            keys = old.keys() | fresh.keys()
            changed = frozenset(key for key in keys if _safe(old, key) != _safe(fresh, key))
            if changed:
                for callback in list(self._subscribers):
                    self._tell(callback, fresh, changed)
        return changed

    @staticmethod
    def _tell(callback: Subscriber, fresh: Properties, changed: frozenset[str]) -> None:
        try:
            callback(fresh, changed)
        except Exception:
            log.exception(
                "refresh_subscriber_failed", subscriber=getattr(callback, "__qualname__", "?")
            )


def _safe(properties: Properties, key: str) -> str | None:
    try:
        return properties.get(key)
    except ConfigurationError as error:
        return str(error)


_live: dict[str, Environment] = {}
_starting = threading.Lock()


def environment(house: str) -> Environment:
    """Give the process's one Environment of a house, bootstrapped on first call.

    Waits for the Config Server as `spring.config.import` and `spring.cloud.config.*` say.

    Raises:
        ConfigurationError: the process must not start; the text is one line.
    """
    with _starting:
        if house not in _live:
            folder = Path(str(resources.files(house)))
            # The wait for a server that is late is told in the words of the local settings.
            found = load(folder, os.environ, local=_log_as)  # noqa: TID251 - the one reader
            _log_as(found)
            unheeded.tell(found)
            _live[house] = Environment(
                found,
                lambda held: load(folder, os.environ, held=held),  # noqa: TID251
            )
        return _live[house]


def _log_as(properties: Properties) -> None:
    logging.configure(properties, "start")


def load(
    folder: Path,
    variables: Mapping[str, str],
    local: Callable[[Properties], None] | None = None,
    held: Properties | None = None,
) -> Properties:
    """Read everything anew.

    Precedence, high to low (Spring Boot's order for an import inside `application.yml`):
    SPRING_APPLICATION_JSON, environment, the Config Server's overrides and profile sources,
    `application-<profile>.yml`, the Config Server's shared sources, `application.yml`.

    Args:
        folder: where the application's own files are.
        variables: the process environment.
        local: is given what is known before the Config Server is asked.
        held: what is in force when this is no start. What it has of a Config Server must be
            answered for again, at once.

    Raises:
        ConfigurationError: a file, or an answer, cannot be used, or there is none at a start.
        UnavailableError: no answer from a Config Server whose sources are held.
    """
    above = [sources.from_environment(variables)]
    if given := variables.get("SPRING_APPLICATION_JSON"):
        above.insert(0, sources.from_json("SPRING_APPLICATION_JSON", given))
    profiles = _profiles([*above, *sources.from_file(folder / "application.yml", ())])
    shared = sources.from_file(folder / "application.yml", profiles)
    own = [
        source
        for profile in reversed(profiles)
        for source in sources.from_file(folder / f"application-{profile}.yml", profiles)
    ]
    known = _properties([*above, *own, *shared], profiles)
    if local:
        local(known)
    answers = remote.fetch_all(known, held if held and remote.is_part_of(held) else None)
    fetched = [source for answer in answers for source in answer.sources]
    ranked = [source for source in fetched if _profile_specific(source, profiles)]
    general = [source for source in fetched if source not in ranked]
    properties = _properties([*above, *ranked, *own, *general, *shared], profiles)
    _prove(properties)
    for answer in answers:
        known_already = held is not None and all(one in held.sources for one in answer.sources)
        if answer.snapshot and not known_already:
            answer.snapshot.keep(answer.sources)
    return properties


def _prove(properties: Properties) -> None:
    """Refuse a value that is wrong whoever reads it: it would stop the instance at another time.

    Raises:
        ConfigurationError: a cipher that no key opens, a ring of placeholders, what is not offered.
    """
    unheeded.ensure_none(properties)
    for source in properties.sources:
        for key, found in source.values.items():
            if found.value.startswith("{cipher}"):
                # Empty when `encrypt.fail-on-error` is off.
                if not properties.get(key):
                    log.warning("cipher_not_opened", key=key, source=found.origin)
            elif "${" in found.value and source.name != sources.ENVIRONMENT:
                with suppress(UnsetError):
                    properties.get(key)


def _profiles(found: Sequence[PropertySource]) -> tuple[str, ...]:
    properties = _properties(found, ())
    active = properties.listing("spring.profiles.active")
    included = properties.listing("spring.profiles.include")
    default = properties.listing("spring.profiles.default", ("default",))
    return tuple(dict.fromkeys((*included, *(active or default))))


def _properties(found: Sequence[PropertySource], profiles: Sequence[str]) -> Properties:
    unnamed = Properties("application", profiles, found)
    application = unnamed.text("spring.application.name", "application")
    return Properties(application, profiles, found)


def _profile_specific(source: PropertySource, profiles: Sequence[str]) -> bool:
    # The rule of Spring's ConfigServerConfigDataLoader: by the source's name.
    return source.name in (remote.CLIENT, remote.OVERRIDES) or any(
        re.search(rf"[-,]{re.escape(profile)}\b", source.name)
        for profile in profiles
        if profile != "default"
    )
