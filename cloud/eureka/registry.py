"""The registry as fetched: full, then by deltas that a hash proves right."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from cloud.clock import Clock
from cloud.errors import NotFoundError, UpstreamError
from cloud.eureka.instance import Instance
from cloud.eureka.rest import EurekaServer

log = structlog.get_logger()

Key = tuple[str, str]  # app, instance id


class Registry:
    """What a server listed, and what it has only forgotten.

    A server that starts empty lists its instances one by one, as they come back. Those it no longer
    lists were not necessarily stopped: when `replace` is told to hold them, they stay for a while.
    """

    def __init__(self, hold: timedelta) -> None:
        self._hold = hold
        self._status: dict[Key, str] = {}
        self._instances: dict[Key, Instance] = {}
        self._held: dict[Key, tuple[Instance, datetime]] = {}

    def replace(
        self, document: Mapping[str, Any], now: datetime, *, hold: bool, own: Key | None
    ) -> None:
        """Take over a full registry.

        Args:
            document: what the server lists.
            now: when it did.
            hold: the server was away, and may have lost its memory.
            own: app and id of an instance known to be registered. Not listed, it proves the same.
        """
        before = self._instances
        self._status, self._instances = {}, {}
        for key, record in _records(document):
            self._put(key, record)
        if hold or (own in before and own not in self._status):
            gone = {key: one for key, one in before.items() if key not in self._status}
            self._held.update({key: (one, now + self._hold) for key, one in gone.items()})

    def apply(self, document: Mapping[str, Any]) -> bool:
        """Apply a delta; False when the result is not what the server has."""
        for key, record in _records(document):
            if record.get("actionType") == "DELETED":
                self._status.pop(key, None)
                self._instances.pop(key, None)
                self._held.pop(key, None)
            else:
                self._put(key, record)
        return self.hashcode() == document.get("apps__hashcode")

    def _put(self, key: Key, record: Mapping[str, Any]) -> None:
        # Counted in the hash even when nobody could call it.
        self._status[key] = str(record.get("status"))
        self._held.pop(key, None)
        try:
            self._instances[key] = Instance.parse(record)
        except (KeyError, TypeError, ValueError) as error:
            self._instances.pop(key, None)
            log.debug("instance_unusable", instance=key[1], error=str(error))

    def hashcode(self) -> str:
        """Return `STATUS_<count>_` for each status, by name (Applications.java)."""
        counts = sorted(Counter(self._status.values()).items())
        return "".join(f"{status}_{count}_" for status, count in counts)

    def listed(self, key: Key) -> Instance | None:
        """Return an instance that the server lists now."""
        return self._instances.get(key)

    def instances(self, now: datetime) -> list[Instance]:
        """Return all that is known, held ones included, in a stable order."""
        self._held = {key: kept for key, kept in self._held.items() if kept[1] > now}
        known = {key: instance for key, (instance, _) in self._held.items()} | self._instances
        return [known[key] for key in sorted(known)]


def _records(document: Mapping[str, Any]) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """Walk the instances; one alone is written without its list."""
    for application in _listed(document.get("application")):
        for record in _listed(application.get("instance")):
            app = str(record.get("app") or application.get("name")).upper()
            yield (app, str(record.get("instanceId"))), record


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


class Fetcher:
    """Keeps a `Registry` up to date from a server.

    Args:
        server: asked by `fetch`, nowhere else.
        registry: what is kept.
        now: the time.
        deltas: ask for changes first (`eureka.client.disable-delta`).
        only_up: callers see no others (`eureka.client.filter-only-up-instances`).
    """

    def __init__(
        self,
        server: EurekaServer,
        registry: Registry,
        now: Clock,
        *,
        deltas: bool = True,
        only_up: bool = True,
    ) -> None:
        self._server = server
        self._now = now
        self._deltas = deltas
        self._only_up = only_up
        self._complete = False
        self._doubts = server.doubts
        self.registry = registry

    def fetch(self, own: Key | None = None) -> None:
        """Fetch once: a delta where one is offered and proves right, else everything.

        Raises:
            UnavailableError, UpstreamError: the registry stays as it is.
        """
        # A server that was away may be another one by now, without our past. It may have answered
        # a renewal since.
        doubts = self._server.doubts
        doubted = doubts != self._doubts
        if self._complete and self._deltas and not doubted and self._fetch_delta():
            return
        self._complete = False
        document = self._server.applications()
        self.registry.replace(document, self._now(), hold=doubted, own=own)
        self._complete, self._doubts = True, doubts

    def offered(self) -> list[Instance]:
        """Return the instances for callers: those that are UP, or all where that is wanted."""
        known = self.registry.instances(self._now())
        return [one for one in known if one.status == "UP" or not self._only_up]

    def _fetch_delta(self) -> bool:
        try:
            changes = self._server.delta()
        except (UpstreamError, NotFoundError):
            return False
        return self.registry.apply(changes)
