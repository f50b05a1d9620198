"""The balancer: which instance gets the next call.

Round robin over the instances that are UP, past those that just failed. A registry learns of a
death late; the one who was refused a connection knows it at once.
"""

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import structlog

from cloud.errors import UnavailableError
from cloud.eureka import Instance

log = structlog.get_logger()

_FAILURES = 3
_EJECTION_S = 10.0
_LONGEST_EJECTION_S = 60.0
_PROBE_S = 2.0
_MANY = 1000


class View(Protocol):
    """What the balancer asks of the registry; `cloud.eureka.RegistryView` answers it."""

    def instances(self, service_id: str) -> tuple[Instance, ...]: ...


@dataclass(slots=True)
class _Trouble:
    """What an instance has on its account since its last success."""

    failures: int = 0
    ejections: int = 0
    until: float = 0.0


class Balancer:
    """Chooses instances. From threads and event loops alike: nothing here waits, or locks.

    An ejection is passive: three failures in a row, or one refused connection, keep an instance
    out for ten seconds, longer each time. Then one call goes to it as a probe. When all are
    out, all are in: no service is left without its last instance.

    Args:
        view: the registry.
        now: monotonic seconds.
    """

    def __init__(self, view: View, *, now: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._now = now
        self._turns: dict[str, count[int]] = {}
        # Keyed by life, not by id: an instance that was restarted begins with a clean record.
        self._troubles: dict[tuple[str, str], _Trouble] = {}

    def choose(self, service_id: str, exclude: Collection[Instance] = ()) -> Instance:
        """Return the instance whose turn it is.

        Args:
            service_id: its name in the registry.
            exclude: instances that this call has tried already.

        Raises:
            UnavailableError: there is none (left).
        """
        instances = self._view.instances(service_id)
        turn = next(self._turns.setdefault(service_id, count(random.randrange(1000))))  # noqa: S311
        last_resort: Instance | None = None
        for step in range(len(instances)):
            instance = instances[(turn + step) % len(instances)]
            if instance in exclude:
                continue
            if self._accepts(instance):
                return instance
            last_resort = last_resort or instance
        if last_resort is None:
            raise UnavailableError(f"{service_id} has no instance")
        return last_resort

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

    def _forget(self) -> None:
        """Drop the records of instances that are long gone."""
        now = self._now()
        for key, trouble in list(self._troubles.items()):
            if now > trouble.until + _LONGEST_EJECTION_S:
                self._troubles.pop(key, None)


def _life(instance: Instance) -> tuple[str, str]:
    return instance.instance_id, instance.metadata.get("startup", "")
