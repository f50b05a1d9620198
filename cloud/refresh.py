"""Refresh: what the configuration now says, taken over by every process of an instance, or by none.

One process loads everything anew. All are shown it, and may refuse; only then all put it in force.
A process that is forked later asks the others for what it has missed (docs/adr/0015).
"""

import fcntl
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from cloud.config import Environment, Properties, PropertySource, PropertyValue
from cloud.errors import ConfigurationError, UnavailableError
from cloud.eureka import folder
from cloud.peers import Reply, peers, values

log = structlog.get_logger()

T = TypeVar("T")

MANAGER: Final = "manager"
"""The source of what an operator has set while it runs; Spring Cloud's name for it."""

TURN: Final = "refresh.turn"
"""In the run folder: how many refreshes the instance has seen."""

_TOPIC: Final = "refresh"
_ONE_AT_A_TIME: Final = "refresh.lock"
_SPREADING: Final = "refresh.spread"
_LIMIT_S: Final = 10.0
_LONGEST_TURN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.05


class Refresher:
    """One process's part in the refreshes of its instance. Any thread may use it."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._run = folder.run_folder(environment.properties)
        self._peers = peers(environment)
        self._turn = self._turns()
        self._within = threading.RLock()
        self._peers.on(_TOPIC, self._hear)

    def refresh(self) -> list[str]:
        """Load everything anew and put it in force in all processes; gives the changed keys.

        What an operator has set stays above it.

        Raises:
            UnavailableError: the Config Server, or a process of the instance, does not answer.
            ConfigurationError: what was found cannot be used. Nothing has changed either way.
        """
        with self._alone(_ONE_AT_A_TIME):
            return self._spread(_above(self._environment.reload(), self.managed()))

    def manage(self, changes: Mapping[str, str | None]) -> list[str]:
        """Set properties above all others, until the instance ends; None takes one back.

        Raises: as `refresh`.
        """
        with self._alone(_ONE_AT_A_TIME):
            managed = {**self.managed(), **changes}
            kept = {key: value for key, value in managed.items() if value is not None}
            return self._spread(_above(self._environment.properties, kept))

    def managed(self) -> Mapping[str, str]:
        """Give what an operator has set."""
        for source in self._environment.properties.sources:
            if source.name == MANAGER:
                return {key: held.value for key, held in source.values.items()}
        return {}

    def catch_up(self) -> None:
        """Take over what this process has missed; to be called once the others can ask it."""
        # Most are born before the first refresh, and need not speak to anybody.
        if self._turns() == self._turn:
            return
        with self._alone(_SPREADING):
            told = values(self._peers.ask(_TOPIC, {"step": "newest"}, limit_s=_LIMIT_S)).values()
            newest = max(told, key=lambda one: one["turn"])
            if newest["turn"] > self._turn:
                self._put(newest)

    def begin(self) -> None:
        """Forget how many refreshes an earlier life of this instance has seen."""
        (self._run / TURN).unlink(missing_ok=True)
        self._turn = 0

    def _spread(self, fresh: Properties) -> list[str]:
        what = {"properties": fresh.dump()}
        with self._alone(_SPREADING):
            self._peers_agree(self._peers.ask(_TOPIC, {"step": "try", **what}, limit_s=_LIMIT_S))
            turn = self._turns() + 1
            if self._run.is_dir():
                (self._run / TURN).write_text(str(turn))
            put = {"step": "put", "turn": turn, **what}
            replies = self._peers.ask(_TOPIC, put, limit_s=_LIMIT_S)
        changed = sorted({key for keys in values(replies).values() for key in keys})
        late = [reply.process for reply in replies if reply.error is not None]
        if late:
            # They have the message in hand, or are replaced by one that asks for it.
            log.warning("refresh_late", processes=late)
        log.info("refreshed", keys=changed, processes=len(replies))
        return changed

    @staticmethod
    def _peers_agree(replies: list[Reply]) -> None:
        for reply in replies:
            if reply.error is not None:
                raise UnavailableError(f"{reply.process} does not answer; nothing has changed")
            if reply.value is not None:
                raise ConfigurationError(reply.value)

    def _hear(self, what: Any) -> Any:
        if what["step"] == "newest":
            return {"turn": self._turn, "properties": self._environment.properties.dump()}
        if what["step"] == "put":
            return self._put(what)
        try:
            self._environment.ensure(Properties.load(what["properties"]))
        except ConfigurationError as error:
            return str(error)
        return None

    def _put(self, what: Mapping[str, Any]) -> list[str]:
        self._turn = what["turn"]
        return sorted(self._environment.replace(Properties.load(what["properties"])))

    def _turns(self) -> int:
        try:
            return int((self._run / TURN).read_text())
        except (OSError, ValueError):
            return 0

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold a lock of the instance."""
        if not self._run.is_dir():
            # A script has nobody to agree with but its own threads.
            with self._within:
                yield
            return
        deadline = time.monotonic() + _LONGEST_TURN_S
        with (self._run / name).open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise UnavailableError("another refresh is under way") from None
                    threading.Event().wait(_LOOK_EVERY_S)
            yield


@dataclass(frozen=True, slots=True)
class _Part:
    made_from: Hashable
    made: Any
    retire: Callable[[Any], object] | None
    after_s: float


class Scope:
    """What a process has built from settings, kept for as long as these stay the same.

    A pool whose settings change is made anew; the old one is retired once those who still hold it
    had time to finish. Spring Cloud's refresh scope, but without a break for who is not concerned.

    Attributes:
        failed: why the newest properties could not be built from, though they passed the checks;
            what was built from older ones is still in use.
    """

    def __init__(self) -> None:
        self.failed: str | None = None
        self._lock = threading.RLock()
        self._held: dict[str, _Part] = {}

    def get(
        self,
        name: str,
        made_from: Hashable,
        make: Callable[[], T],
        retire: Callable[[T], object] | None = None,
        *,
        after_s: float = 30.0,
    ) -> T:
        """Return the one of that name, made anew when it was made from something else.

        Args:
            name: one of this kind in the process.
            made_from: settings; equal ones mean that what is there will do.
            make: opens nothing that the first use could open.
            retire: closes the old one, `after_s` seconds after it was replaced.
            after_s: longer than any request.
        """
        with self._lock:
            found = self._held.get(name)
            if found is not None and found.made_from == made_from:
                return found.made  # type: ignore[no-any-return]
            made = make()
            self._held[name] = _Part(made_from, made, retire, after_s)
        if found is not None:
            log.info("remade", what=name)
            if found.retire is not None:
                later = threading.Timer(found.after_s, found.retire, (found.made,))
                later.daemon = True
                later.start()
        return made


_refreshers: "weakref.WeakKeyDictionary[Environment, Refresher]" = weakref.WeakKeyDictionary()
_scopes: "weakref.WeakKeyDictionary[Environment, Scope]" = weakref.WeakKeyDictionary()


def refresher(environment: Environment) -> Refresher:
    """Give the process's one part in refreshes; made before the fork, all processes have it."""
    found = _refreshers.get(environment)
    if found is None:
        found = _refreshers.setdefault(environment, Refresher(environment))
    return found


def scope(environment: Environment) -> Scope:
    """Give the process's one refresh scope for an instance."""
    return _scopes.setdefault(environment, Scope())


def component(environment: Environment) -> dict[str, Any]:
    """Give the health component `refreshScope`: DOWN when this process failed to build anew."""
    failed = scope(environment).failed
    return {"status": "DOWN", "details": {"error": failed}} if failed else {"status": "UP"}


def settings_below(properties: Properties, *prefixes: str) -> Hashable:
    """Return all that stands at or below the prefixes, to be compared with what stood there."""
    return tuple(
        (prefix, properties.get(prefix), *sorted(properties.subset(prefix).items()))
        for prefix in prefixes
    )


def _above(properties: Properties, managed: Mapping[str, str]) -> Properties:
    others = [source for source in properties.sources if source.name != MANAGER]
    own = {key: PropertyValue(value, MANAGER) for key, value in managed.items()}
    first = [PropertySource(MANAGER, own)] if own else []
    return Properties(properties.application, properties.profiles, [*first, *others])
