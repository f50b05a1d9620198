"""The registry as a worker sees it: who offers a service right now.

One process of the instance talks to Eureka and writes `registry.json`; every other one reads that
file. When Eureka is away the file stays as it was, and so does the view.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import orjson
import structlog

from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError
from cloud.eureka.instance import Instance

log = structlog.get_logger()

_LOOK_EVERY_S = 0.5
_SIMPLE = "spring.cloud.discovery.client.simple.instances"

_Services = Mapping[str, tuple[Instance, ...]]


class RegistryView:
    """Instances by service id, from a file that another process keeps fresh.

    The file's time stamp is looked at on use, at most twice a second: nothing runs between
    requests, and nothing has to be started after a fork. Readers never wait for each other; the
    whole view is replaced by one assignment.
    """

    def __init__(self, path: Path | None, environment: Environment) -> None:
        self._path = path
        self._services: _Services = {}
        self._fixed = _fixed_list(environment.properties)
        self._written = tuple(environment.properties.tree(_SIMPLE))
        self._stamp: tuple[int, int] | None = None
        self._looked = float("-inf")
        environment.subscribe(self._refreshed)

    def instances(self, service_id: str) -> tuple[Instance, ...]:
        """Return the instances that may be called, in a stable order; empty when there is none.

        A list below `spring.cloud.discovery.client.simple.instances` takes precedence.
        """
        if time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self.poll()
        name = service_id.lower()
        return self._fixed.get(name) or self._services.get(name, ())

    def services(self) -> tuple[str, ...]:
        """Return the ids of all known services."""
        self.instances("")
        return tuple(sorted({*self._fixed, *self._services}))

    def names(self) -> tuple[str, ...]:
        """Return the names of all known services as Spring spells them.

        That is in upper case what Eureka lists, and a fixed list as it is written.
        """
        self.instances("")
        apps = {one.app for those in self._services.values() for one in those}
        return tuple(sorted({*self._written, *(a for a in apps if a.lower() not in self._fixed)}))

    def poll(self) -> bool:
        """Look for a newer registry at once; True when there was one. Never waits for a network."""
        self._looked = time.monotonic()
        if self._path is None:
            return False
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._stamp:
                return False
            self._services = _by_service(map(Instance.load, orjson.loads(self._path.read_bytes())))
            self._stamp = stamp
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("registry_unreadable", path=str(self._path), error=str(error))
            return False
        return True

    def replace(self, instances: Iterable[Instance]) -> None:
        """Take over a registry that was fetched in this very process."""
        self._services = _by_service(instances)

    def _refreshed(self, properties: Properties, changed: frozenset[str]) -> None:
        if any(key.startswith(_SIMPLE) for key in changed):
            self._fixed = _fixed_list(properties)
            self._written = tuple(properties.tree(_SIMPLE))


def _by_service(instances: Iterable[Instance]) -> _Services:
    services: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        for name in instance.vips:
            services[name].append(instance)
    return {
        name: tuple(sorted(those, key=lambda instance: instance.instance_id))
        for name, those in services.items()
    }


def _fixed_list(properties: Properties) -> _Services:
    """Read `<service>[0].uri` and `<service>[0].metadata.*`, Spring's SimpleDiscoveryClient."""
    services: dict[str, tuple[Instance, ...]] = {}
    tree: Mapping[str, list[dict[str, Any]]] = properties.tree(_SIMPLE)
    for name, entries in tree.items():
        for entry in entries:
            parts = urlsplit(entry.get("uri", ""))
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ConfigurationError(f"{_SIMPLE}.{name}: uri is not an http(s) address")
        services[name.lower()] = tuple(
            Instance.fixed(name, entry["uri"], entry.get("metadata", {})) for entry in entries
        )
    return services


_lock = threading.Lock()
_views: WeakKeyDictionary[Environment, RegistryView] = WeakKeyDictionary()
_shared: list[Path] = []


def share(path: Path) -> None:
    """Tell this process, and all that fork from it, that `path` holds the registry."""
    _shared[:] = [path]


def view(environment: Environment) -> RegistryView:
    """Return the registry view of this environment, always the same one.

    Under `cloud.server` it reads the instance's file. Elsewhere (a script, a test, a worker run
    alone) it fetches from Eureka in a thread of its own.
    """
    with _lock:
        found = _views.get(environment)
        if found is None:
            found = RegistryView(_shared[0] if _shared else None, environment)
            _views[environment] = found
            if not _shared:
                from cloud.eureka.registrar import fetch_into  # noqa: PLC0415 - heavy, rarely used

                fetch_into(found.replace, environment.properties)
        return found
