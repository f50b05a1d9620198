"""Health: real checks, run side by side, each with a limit of time, their results kept a moment."""

import re
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog

from cloud import eureka, refresh
from cloud.actuator import breakers
from cloud.actuator.process import served
from cloud.config import Environment, Properties
from cloud.config import health as config_server
from cloud.errors import CloudError, ConfigurationError
from cloud.eureka import folder
from cloud.eureka import health as eureka_health
from cloud.peers import peers

log = structlog.get_logger()

# Returns details, raises when down, answers within seconds.
Check = Callable[[], Mapping[str, Any]]
Component = dict[str, Any]

_LIMIT = timedelta(seconds=2)
_KEEP = timedelta(seconds=1)
_DISK_THRESHOLD_BYTES = 10 * 2**20
_UP: Component = {"status": "UP"}

_OWN: Final = "management.endpoint.health"
# The worst status of the parts is that of the whole.
_ORDER: Final = ("DOWN", "OUT_OF_SERVICE", "UP", "UNKNOWN")
_PROBES: Final = {"liveness": "server:/livez", "readiness": "server:/readyz"}
_SEGMENT: Final = re.compile(r"/[\w.~-]+")
_UNHEALTHY: Final = {"DOWN": 503, "OUT_OF_SERVICE": 503}


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the components, for one who asks; the whole is a group as well.

    Attributes:
        members: component names.
        order: statuses, the worst first.
        codes: HTTP statuses; 200 for what is not among them.
        path: where the group answers beside the actuator: `server:/readyz`, or `management:/…` on
            the endpoints' own port.
        owners: whose `show-…` keys count, as in `management.endpoint.<owner>`, the first first.
    """

    members: Sequence[str]
    order: Sequence[str]
    codes: Mapping[str, int]
    path: str | None
    owners: Sequence[str]


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
            name: _Probe(name, check, limit.total_seconds())
            for name, check in checks.items()
            if environment.properties.boolean(f"management.health.{name}.enabled", default=True)
        }
        needed = (name for name in self._probes if name in essential)
        self._deciding = ("readinessState", *needed)
        self._instant: Mapping[str, Callable[[], Component | None]] = {
            "circuitBreakers": lambda: breakers.component(environment),
            "configServer": lambda: config_server.component(environment.properties),
            "diskSpace": self._disk_space,
            "discoveryComposite": self._discovery,
            "livenessState": _UP.copy,
            "ping": _UP.copy,
            "readinessState": self._readiness_state,
            "refreshScope": lambda: refresh.component(environment),
        }
        self.groups(environment.properties)
        environment.require(self.groups)
        self._peers = peers(environment)
        self._peers.on(eureka_health.READINESS, lambda _: self._of_worker())

    def groups(self, properties: Properties) -> dict[str, Group]:
        """Read `management.endpoint.health.group`, beside liveness and readiness.

        Raises:
            ConfigurationError: a member that does not exist, unless
                `management.endpoint.health.validate-group-membership` is false.
        """
        probes = properties.boolean(f"{_OWN}.probes.enabled", default=True)
        # A store that is away is no reason to be restarted.
        known = {"liveness": ("livenessState",), "readiness": self._deciding}
        given = properties.tree(f"{_OWN}.group")
        names = {**(known if probes else {}), **given}
        return {name: self._group(properties, name, known.get(name, ())) for name in sorted(names)}

    def _group(self, properties: Properties, name: str, default: Sequence[str]) -> Group:
        own, parts = f"{_OWN}.group.{name}", {*self._probes, *self._instant}
        included = properties.listing(f"{own}.include", default or ("*",))
        excluded = properties.listing(f"{own}.exclude")
        strict = properties.boolean(f"{_OWN}.validate-group-membership", default=True)
        if strict and (unknown := {*included, *excluded} - parts - {"*"}):
            raise ConfigurationError(
                f"{properties.application}: {own} has members that do not exist:"
                f" {', '.join(sorted(unknown))}"
            )
        some = sorted(parts) if "*" in included else [one for one in included if one in parts]
        left = [one for one in some if one not in excluded and "*" not in excluded]
        return Group(
            left,
            *_statuses(properties, own),
            _path(properties, name),
            (f"health.group.{name}", "health"),
        )

    def of(self, name: str | None) -> tuple[Component, Group] | None:
        """Return the whole, a group, or a component by path; None when there is none."""
        properties = self._environment.properties
        groups = self.groups(properties)
        whole = Group(
            sorted({*self._probes, *self._instant}), *_statuses(properties, _OWN), None, ("health",)
        )
        if name is None:
            return {**self._all(whole), "groups": [*groups]}, whole
        top, *path = name.split("/")
        group = whole
        if top in groups and not (path and path[0] not in groups[top].members):
            group = groups[top]
            if not path:
                return self._all(group), group
            top, *path = path
        found: Component | None = self._all(replace(group, members=[top]))["components"].get(top)
        for part in path:
            found = found and found.get("components", {}).get(part)
        return (found, group) if found else None

    def _of_worker(self) -> Component | None:
        """Tell the registrar what it cannot ask over HTTP; only workers serve, and may be asked."""
        if not self._peers.process.startswith("worker"):
            return None
        found = self.of("readiness")
        whole = Group(self._deciding, *_statuses(self._environment.properties, _OWN), None, ())
        return found[0] if found else self._all(whole)

    def _all(self, group: Group) -> Component:
        # All begin before the first is waited for.
        for name in group.members:
            if name in self._probes:
                self._probes[name].begin()
        found = {name: component for name in group.members if (component := self._one(name))}
        ranked = [one["status"] for one in found.values() if one["status"] in group.order]
        worst = min(ranked, key=group.order.index, default="UNKNOWN")
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
        remote = eureka_health.component(self._environment) if served() else None
        parts = {"discoveryClient": client, **({"eureka": remote} if remote else {})}
        # An order from outside is ours to follow; that Eureka is away is not ours to heal.
        told = remote if remote and remote["status"] in {"DOWN", "OUT_OF_SERVICE"} else client
        return {"status": told["status"], "components": parts}

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


def _statuses(properties: Properties, own: str) -> tuple[Sequence[str], Mapping[str, int]]:
    """Read order and HTTP codes of statuses: a group's own, else those of all, else Spring's."""
    places = dict.fromkeys((own, _OWN))
    orders = (properties.listing(f"{place}.status.order") for place in places)
    codes = (properties.subset(f"{place}.status.http-mapping") for place in places)
    order = next((found for found in orders if found), _ORDER)
    mapping = next((found for found in codes if found), _UNHEALTHY)
    return [_status(one) for one in order], {_status(k): int(v) for k, v in mapping.items()}


def _status(text: str) -> str:
    """Spell a status as it is told: `out-of-service` is OUT_OF_SERVICE."""
    return text.strip().upper().replace("-", "_")


def _path(properties: Properties, name: str) -> str | None:
    """Read where a group answers beside the actuator, if it does.

    Raises:
        ConfigurationError: an additional path that is not `server:/<segment>`.
    """
    key = f"{_OWN}.group.{name}.additional-path"
    probes = properties.boolean(f"{_OWN}.probes.add-additional-paths", default=False)
    given = properties.get(key) or (_PROBES.get(name) if probes else None)
    if given is None:
        return None
    where, _, path = given.partition(":")
    if where not in {"server", "management"} or not _SEGMENT.fullmatch(path):
        raise ConfigurationError(f"{properties.application}: {key} is not server:/<segment>")
    return given


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
