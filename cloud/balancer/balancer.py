"""The balancer: which instance gets the next call.

Instances that are UP take turns, past those that just failed. A registry learns of a death late;
the one who was refused a connection knows it at once.
"""

import importlib
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import ModuleType
from typing import Any, Protocol, Self

import structlog

from cloud.balancer import versions
from cloud.balancer.arrangement import Ring, Tiers, arrange
from cloud.balancer.health import HealthChecks
from cloud.balancer.settings import (
    API_VERSION,
    HEALTH_CHECK,
    LEAST_IN_FLIGHT,
    PREFIX,
    RANDOM,
    SAME,
    STICKY,
    LoadBalancing,
    check,
)
from cloud.config import Environment, Properties
from cloud.errors import UnavailableError
from cloud.eureka import Instance

log = structlog.get_logger()

_FAILURES = 3
_EJECTION_S = 10.0
_LONGEST_EJECTION_S = 60.0
_PROBE_S = 2.0
_MANY = 1000
_NOBODY: Tiers = ((),)

Header = Callable[[str], str | None]
"""A request's header by its name in lower case; `:path` is its target (RFC 9113, 8.3.1)."""


class View(Protocol):
    """What the balancer asks of the registry; `cloud.eureka.RegistryView` answers it."""

    def instances(self, service_id: str) -> tuple[Instance, ...]: ...


@dataclass(slots=True)
class _Trouble:
    """What an instance has on its account since its last success."""

    failures: int = 0
    ejections: int = 0
    until: float = 0.0


class _Service:
    """One service as the balancer knows it; remade when its settings change.

    Attributes:
        last: id of the instance that was chosen last, whose turn it was.
    """

    def __init__(self, service_id: str, settings: LoadBalancing, view: View) -> None:
        self.settings = settings
        # Processes that start together must not all begin with the same instance.
        self.turns = count(random.randrange(1000))  # noqa: S311
        self.cookie = re.compile(rf"(?:^|;\s*){re.escape(settings.cookie)}=\"?([^;\"\s]*)")
        self.last = ""
        self._listed: Sequence[Instance] | None = None
        self._groups: Mapping[str, Tiers] = {}
        self._checks: HealthChecks | None = None
        self.statistics: ModuleType | None = None
        if settings.statistics:
            # Its meters cost memory in every process that knows of them.
            self.statistics = importlib.import_module("cloud.balancer.statistics")
        if settings.strategy == HEALTH_CHECK:
            self._checks = HealthChecks(
                settings.health, lambda: view.instances(service_id), self._forget
            )

    def tiers(self, instances: tuple[Instance, ...], header: Header | None) -> Tiers:
        """Return who may be chosen for a request, as rings of falling preference."""
        if instances is not self._listed:
            self._groups = arrange(self._well(instances), self.settings)
            self._listed = instances
        groups = self._groups
        if self.settings.strategy == API_VERSION:
            wanted = versions.asked(self.settings.versions, header)
            others = groups[""] if self.settings.versions.fallback else _NOBODY
            return groups.get(wanted, others) if wanted else others
        if len(groups) == 1:
            return groups[""]
        asked = (header(self.settings.hint_header) if header else None) or self.settings.hint
        return groups.get(asked) or groups[""]

    def _well(self, instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
        if self._checks is None:
            return instances
        # All sick: rather a check that errs than a service without instances.
        return tuple(one for one in instances if one not in self._checks.sick) or instances

    def _forget(self) -> None:
        self._listed = None

    def stop(self) -> None:
        if self._checks is not None:
            self._checks.stop()


class Balancer:
    """Chooses instances. From threads and event loops alike: nothing here waits.

    How instances take turns is said by `spring.cloud.loadbalancer.*`, for each service
    (docs/adr/0025-load-balancing.md).

    An ejection is passive: three failures in a row, or one refused connection, keep an instance
    out for ten seconds, longer each time. Then one call goes to it as a probe. When all are
    out, all are in: no service is left without its last instance.

    Args:
        view: the registry.
        environment: says how instances take turns; round robin without one.
        now: monotonic seconds.
    """

    def __init__(
        self,
        view: View,
        environment: Environment | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._now = now
        self._properties = environment.properties if environment else Properties.of({})
        self._services: dict[str, _Service] = {}
        # Keyed by life, not by id: an instance that was restarted begins with a clean record.
        self._troubles: dict[tuple[str, str], _Trouble] = {}
        self._in_flight: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        if environment is not None:
            environment.require(check)
            environment.subscribe(self._refreshed)

    def choose(
        self,
        service_id: str,
        exclude: Collection[Instance] = (),
        header: Header | None = None,
    ) -> Instance:
        """Return the instance whose turn it is.

        Args:
            service_id: its name in the registry.
            exclude: instances that this call has tried already.
            header: asks the request for its hint or its cookie, where these matter.

        Raises:
            UnavailableError: there is none (left).
        """
        instances = self._view.instances(service_id)
        service = self._services.get(service_id) or self._service(service_id)
        strategy = service.settings.strategy
        if strategy in (STICKY, SAME):
            kept = self._kept(service, instances, header)
            if kept is not None and kept not in exclude and self._accepts(kept):
                return kept
        tiers = service.tiers(instances, header)
        turn = next(service.turns) if len(instances) > 1 else 0
        if strategy == RANDOM:
            turn = random.randrange(len(instances) or 1)  # noqa: S311
        walk = self._least_busy if strategy == LEAST_IN_FLIGHT else self._first
        for ring in tiers:
            found = walk(ring, turn, exclude)
            if found is not None:
                service.last = found.instance_id
                return found
        # All are out: rather one that failed a moment ago than none.
        everybody = tiers[-1]
        for step in range(len(everybody)):
            instance = everybody[(turn + step) % len(everybody)]
            if instance not in exclude:
                return instance
        if service.statistics and not exclude:
            service.statistics.discarded(service_id)
        raise UnavailableError(f"{service_id} has no instance")

    def _service(self, service_id: str) -> _Service:
        with self._lock:
            if service_id not in self._services:
                settings = LoadBalancing.of(self._properties, service_id)
                self._services[service_id] = _Service(service_id, settings, self._view)
            return self._services[service_id]

    def _kept(
        self, service: _Service, instances: Sequence[Instance], header: Header | None
    ) -> Instance | None:
        """Find the instance that was chosen last, or the one that the request's cookie names."""
        named: str | None = service.last
        if service.settings.strategy == STICKY:
            found = service.cookie.search((header and header("cookie")) or "")
            named = found and found[1]
        return next((one for one in instances if one.instance_id == named), None)

    def _first(self, ring: Ring, turn: int, exclude: Collection[Instance]) -> Instance | None:
        size = len(ring)
        for step in range(size):
            instance = ring[(turn + step) % size]
            if instance not in exclude and self._accepts(instance):
                return instance
        return None

    def _least_busy(self, ring: Ring, turn: int, exclude: Collection[Instance]) -> Instance | None:
        best, fewest, size = None, float("inf"), len(ring)
        for step in range(size):
            instance = ring[(turn + step) % size]
            busy = self._in_flight.get(_life(instance), 0)
            if busy < fewest and instance not in exclude and self._accepts(instance):
                best, fewest = instance, busy
        return best

    def _accepts(self, instance: Instance) -> bool:
        trouble = self._troubles.get(_life(instance)) if self._troubles else None
        if trouble is None or not trouble.ejections:
            return True
        now = self._now()
        if now < trouble.until:
            return False
        # One call goes ahead; the others wait for its verdict.
        trouble.until = now + _PROBE_S
        return True

    def calling(self, service_id: str, instance: Instance, method: str, uri: str = "") -> "Calling":
        """Return what surrounds one call to an instance, and counts it where that is asked for.

        Args:
            service_id: its name in the registry.
            instance: the chosen one.
            method: the request's.
            uri: the request's path as a template, never as it is: it would be a label.
        """
        service = self._services.get(service_id)
        counted = None
        if service is not None and service.statistics:
            counted = service.statistics.Counted(service_id, instance, method, uri)
        busy = service is not None and service.settings.strategy == LEAST_IN_FLIGHT
        return Calling(counted, (lambda more: self._busy(instance, more)) if busy else None)

    def _busy(self, instance: Instance, more: int) -> None:
        life = _life(instance)
        with self._lock:
            left = self._in_flight.pop(life, 0) + more
            if left:
                self._in_flight[life] = left

    def cookie(self, service_id: str, instance: Instance) -> str | None:
        """Return the cookie by which an instance is to learn its own id, where that is set."""
        service = self._services.get(service_id)
        if service is None or not service.settings.add_cookie:
            return None
        return f"{service.settings.cookie}={instance.instance_id}"

    def succeeded(self, instance: Instance) -> None:
        """Note an answer."""
        if self._troubles:
            trouble = self._troubles.pop(_life(instance), None)
            if trouble is not None and trouble.ejections:
                log.info("instance_readmitted", instance=instance.instance_id)

    def failed(self, instance: Instance, *, refused: bool = False) -> None:
        """Note a call without a usable answer.

        Args:
            instance: the one that was called.
            refused: not even a connection could be made.
        """
        if len(self._troubles) > _MANY:
            self._forget()
        trouble = self._troubles.setdefault(_life(instance), _Trouble())
        trouble.failures += 1
        if not refused and trouble.failures < _FAILURES and not trouble.ejections:
            return
        now = self._now()
        if trouble.ejections and now < trouble.until - _PROBE_S:
            return  # a straggler, sent before the ejection
        trouble.ejections += 1
        span = min(_EJECTION_S * trouble.ejections, _LONGEST_EJECTION_S)
        trouble.until = now + span
        log.warning("instance_ejected", instance=instance.instance_id, for_s=span)

    def doubt(self, instance: Instance) -> None:
        """Leave out an instance that keeps callers waiting, if there is another one."""
        if any(len(self._view.instances(vip)) > 1 for vip in instance.vips):
            self.failed(instance, refused=True)

    def _forget(self) -> None:
        """Drop the records of instances that are long gone."""
        now = self._now()
        for key, trouble in list(self._troubles.items()):
            if now > trouble.until + _LONGEST_EJECTION_S:
                self._troubles.pop(key, None)

    def _refreshed(self, properties: Properties, changed: frozenset[str]) -> None:
        """Take over changed settings."""
        if not any(key.startswith((PREFIX, "eureka.instance.metadata-map")) for key in changed):
            return
        with self._lock:
            self._properties, before, self._services = properties, self._services, {}
        for service in before.values():
            service.stop()


class Calling:
    """One call to one instance, from its start to its end.

    Attributes:
        status: of the answer; left at 0, the call has failed.
    """

    __slots__ = ("_busy", "_counted", "status")

    def __init__(self, counted: Any, busy: Callable[[int], None] | None) -> None:
        self._counted = counted
        self._busy = busy
        self.status = 0

    def __enter__(self) -> Self:
        if self._busy:
            self._busy(1)
        if self._counted:
            self._counted.begin()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._busy:
            self._busy(-1)
        if self._counted:
            self._counted.end(self.status, error)


def _life(instance: Instance) -> tuple[str, str]:
    return instance.instance_id, instance.metadata.get("startup", "")
