"""Health checks: a registry learns of a sick instance late, or never; this asks the instances."""

import http.client
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from cloud.balancer.settings import HealthCheck
from cloud.eureka import Instance

log = structlog.get_logger()

_LIMIT_S = 3.0
_AT_A_TIME = 8
_LOOK_EVERY_S = 1.0


class HealthChecks:
    """Asks the instances of one service from a thread of its own, until stopped.

    Attributes:
        sick: those that did not answer 200 when asked last; who was not asked yet is not sick.
    """

    def __init__(
        self,
        settings: HealthCheck,
        listed: Callable[[], Sequence[Instance]],
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._listed = listed
        self._changed = changed
        self._stopped = threading.Event()
        self.sick: frozenset[Instance] = frozenset()
        threading.Thread(target=self._run, name="health-check", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        self._stopped.wait(self._settings.initial_delay.total_seconds())
        interval = self._settings.interval.total_seconds()
        before: Sequence[Instance] = ()
        while not self._stopped.is_set():
            instances = self._listed()
            if self._settings.repeat or instances != before:
                try:
                    self._ask(instances)
                except RuntimeError:
                    return  # the process ends: no thread can be started any more
            before = instances
            self._stopped.wait(interval if self._settings.repeat else _LOOK_EVERY_S)

    def _ask(self, instances: Sequence[Instance]) -> None:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            well = list(pool.map(self._is_well, instances))
        sick = frozenset(one for one, good in zip(instances, well, strict=True) if not good)
        if sick != self.sick:
            log.info("health_checked", sick=sorted(one.instance_id for one in sick))
            self.sick = sick
            self._changed()

    def _is_well(self, instance: Instance) -> bool:
        kind = http.client.HTTPSConnection if instance.secure else http.client.HTTPConnection
        port = self._settings.port or instance.port
        connection = kind(instance.host, port, timeout=_LIMIT_S)
        try:
            connection.request("GET", self._settings.path, headers={"Connection": "close"})
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
