"""Health: real checks, run side by side, each with a limit of time, their results kept a moment."""

import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from cloud import eureka
from cloud.actuator.meters import served
from cloud.config import Environment
from cloud.config import health as config_server
from cloud.errors import CloudError
from cloud.eureka import folder

log = structlog.get_logger()

# Returns details, raises when down, answers within seconds.
Check = Callable[[], Mapping[str, Any]]
Component = dict[str, Any]

# The worst status of the parts is that of the whole (Spring's management.endpoint.health.status).
_ORDER = ("DOWN", "OUT_OF_SERVICE", "UP", "UNKNOWN")
_LIMIT = timedelta(seconds=2)
_KEEP = timedelta(seconds=1)
_DISK_THRESHOLD_BYTES = 10 * 2**20
_UP: Component = {"status": "UP"}


class Health:
    """What Spring calls the health endpoint: components, and groups of them for probes."""

    def __init__(
        self,
        environment: Environment,
        checks: Mapping[str, Check],
        essential: Collection[str],
        limit: timedelta = _LIMIT,
    ) -> None:
        if unknown := set(essential) - set(checks):
            raise ValueError(f"essential, but not checked: {sorted(unknown)}")
        self._environment = environment
        self._probes = {
            name: _Probe(name, check, limit.total_seconds()) for name, check in checks.items()
        }
        self._essential = tuple(name for name in checks if name in essential)
        self._instant: Mapping[str, Callable[[], Component | None]] = {
            "configServer": lambda: config_server.component(environment.properties),
            "diskSpace": self._disk_space,
            "discoveryComposite": self._discovery,
            "livenessState": _UP.copy,
            "ping": _UP.copy,
            "readinessState": self._readiness_state,
            "refreshScope": _UP.copy,
        }
        self._groups = {
            # A store that is away is no reason to be restarted.
            "liveness": ("livenessState",),
            "readiness": ("readinessState", *self._essential),
        }

    def of(self, name: str | None) -> Component | None:
        """Return the whole, a group, or a component by path; None when there is none."""
        if name is None:
            return {**self._all(sorted({*self._probes, *self._instant})), "groups": [*self._groups]}
        if name in self._groups:
            return self._all(self._groups[name])
        top, *path = name.split("/")
        found: Component | None = self._all([top])["components"].get(top)
        for part in path:
            found = found and found.get("components", {}).get(part)
        return found

    def _all(self, names: Collection[str]) -> Component:
        # All begin before the first is waited for.
        for name in names:
            if name in self._probes:
                self._probes[name].begin()
        found = {name: component for name in names if (component := self._one(name))}
        worst = min((c["status"] for c in found.values()), key=_ORDER.index, default="UNKNOWN")
        return {"status": worst, "components": found}

    def _one(self, name: str) -> Component | None:
        if name in self._probes:
            return self._probes[name].result()
        return self._instant[name]() if name in self._instant else None

    def _readiness_state(self) -> Component:
        """Refuse traffic until the instance's `prepare` is through; alone there is none."""
        marker = folder.run_folder(self._environment.properties) / folder.PREPARED
        ready = not served() or marker.exists()
        return {"status": "UP" if ready else "OUT_OF_SERVICE"}

    def _discovery(self) -> Component:
        client: Component = {"status": "UNKNOWN"}
        if served():
            services = eureka.view(self._environment).services()
            client = {"status": "UP", "details": {"services": services}}
        return {"status": client["status"], "components": {"discoveryClient": client}}

    def _disk_space(self) -> Component:
        path = Path.cwd()
        usage = shutil.disk_usage(path)
        details = {
            "total": usage.total,
            "free": usage.free,
            "threshold": _DISK_THRESHOLD_BYTES,
            "path": str(path),
            "exists": True,
        }
        enough = usage.free >= _DISK_THRESHOLD_BYTES
        return {"status": "UP" if enough else "DOWN", "details": details}


class _Probe:
    """One check. It never runs twice at a time: a hanging store costs one thread in all."""

    def __init__(self, name: str, check: Check, limit_s: float) -> None:
        self._name = name
        self._check = check
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._over: threading.Event | None = None
        self._begun = float("-inf")
        self._component = _UP

    def begin(self) -> None:
        """Start the check, unless it runs or its last result is fresh."""
        with self._lock:
            running = self._over is not None and not self._over.is_set()
            if running or monotonic() - self._begun < _KEEP.total_seconds():
                return
            self._over, self._begun = threading.Event(), monotonic()
            threading.Thread(target=self._run, args=(self._over,), daemon=True).start()

    def result(self) -> Component:
        """Wait for the check until its limit, counted from its start."""
        over = self._over
        if over and over.wait(max(0.0, self._begun + self._limit_s - monotonic())):
            return self._component
        return _down(f"no answer within {self._limit_s:g} s")

    def _run(self, over: threading.Event) -> None:
        was = self._component["status"]
        try:
            self._component = {"status": "UP", "details": dict(self._check())}
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is DOWN
            # The text of a driver's error may hold an address with a password.
            told = str(error) if isinstance(error, CloudError) else type(error).__name__
            self._component = _down(told)
            if was == "UP":
                log.warning("check_failed", component=self._name, reason=told)
        finally:
            over.set()


def _down(reason: str) -> Component:
    return {"status": "DOWN", "details": {"error": reason}}
