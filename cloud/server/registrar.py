"""What every house has beside its workers: a process that prepares it, one that keeps its lease.

The registrar asks the house over the real socket, so what Eureka is told is what a caller would
find. Preparing is a process of its own since it ends: what migrations take of memory, they give
back.
"""

import fcntl
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import requests
import structlog

from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.errors import CloudError, UnavailableError
from cloud.eureka import folder
from cloud.eureka.registrar import Registrar, back_off, fetch_interval, fetcher
from cloud.eureka.registration import Registration
from cloud.eureka.rest import EurekaServer, ServerSettings
from cloud.server.companions import PREPARE, REGISTRAR, Orders, Work

log = structlog.get_logger()

Prepare = Callable[[Environment], None]

# Spring's mapping from health to the registry (EurekaHealthCheckHandler): never OUT_OF_SERVICE,
# which is an operator's word.
_TOLD = {"UP": "UP", "DOWN": "DOWN", "OUT_OF_SERVICE": "DOWN"}
_EAGER_S = 0.2
_PROBE_TIMEOUT_S = 3.0
_SURE_AFTER = 2
_SILENT_AFTER = 3


def companions_of(house: str, environment: Environment, port: int) -> dict[str, Work]:
    """List a house's companions: prepare, registrar, and what `<house>/worker.py` declares."""
    found = importlib.util.find_spec(f"{house}.worker")
    worker: Any = importlib.import_module(f"{house}.worker") if found else None
    prepare: Prepare | None = getattr(worker, "prepare", None)
    own: Mapping[str, Work] = getattr(worker, "COMPANIONS", {})
    address = environment.properties.text("server.address", "0.0.0.0")  # noqa: S104 - a default
    base = f"http://{_reachable(address)}:{port}"
    return {
        PREPARE: partial(_prepare, prepare=prepare),
        REGISTRAR: partial(_keep_lease, base=base, port=port),
        **own,
    }


def _reachable(address: str) -> str:
    """Return where a socket bound to `address` can be reached from this machine."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - the wildcard addresses
    return loopback.get(address) or (f"[{address}]" if ":" in address else address)


def _keep_lease(environment: Environment, orders: Orders, *, base: str, port: int) -> None:
    run = folder.run_folder(environment.properties)
    with _only_one(run / "registrar.lock", orders):
        _Watch(environment.properties, orders, base=base, port=port, run=run).run()


@contextmanager
def _only_one(path: Path, orders: Orders) -> Iterator[None]:
    """Wait for a predecessor of this instance to end: two voices could contradict each other."""
    with path.open("w") as lock:
        while not orders.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                orders.wait(_EAGER_S)
        yield


def _prepare(environment: Environment, orders: Orders, *, prepare: Prepare | None) -> None:
    """Run the house's migrations and seeds until they succeed; say once what it waits for."""
    failures, said = 0, ""
    while not orders.is_set():
        try:
            if prepare is not None:
                prepare(environment)
        except Exception as error:
            failures += 1
            if str(error) != said:
                said = str(error)
                expected = isinstance(error, CloudError | OSError)
                log.warning("waiting_for", what=said, exc_info=not expected)
            orders.wait(back_off(failures, 5.0))
        else:
            (folder.run_folder(environment.properties) / folder.PREPARED).touch(mode=0o600)
            log.info("prepared", attempts=failures + 1)
            return


class _Watch:
    """Three duties in one loop: readiness, renewal, registry. Each says when it is due again."""

    def __init__(
        self, properties: Properties, orders: Orders, *, base: str, port: int, run: Path
    ) -> None:
        settings = ServerSettings.of(properties)
        registration = Registration.of(
            properties, port=port, eureka_url=settings.urls[0], now=utc_now()
        )
        server = EurekaServer(settings, registration.ip)
        self._registrar = Registrar(server, registration, utc_now)
        self._registration = registration
        self._server = server
        self._fetcher = fetcher(server, properties, utc_now)
        self._orders = orders
        self._readiness = f"{base}/actuator/health/readiness"
        self._http = requests.Session()
        self._http.trust_env = False
        # A kept connection would be cut whenever the worker behind it is replaced.
        self._http.headers["Connection"] = "close"
        self._run = run
        self._written: bytes | None = None
        self._failures = 0
        self._seen: tuple[str | None, int] = (None, 0)
        self._announced: str | None = None
        self._waited_for = ""
        self._interval = fetch_interval(properties).total_seconds()
        self._calm = properties.duration(
            "nozie.server.health-interval", timedelta(seconds=5), unit="s"
        ).total_seconds()
        self._propagate = properties.boolean("eureka.client.healthcheck.enabled", default=True)
        self._drain = properties.duration(
            "nozie.server.deregister-wait", timedelta(seconds=5), unit="s"
        ).total_seconds()
        self._farewell = properties.boolean(
            "eureka.client.should-unregister-on-shutdown", default=True
        )
        self._due: dict[Callable[[], float], float] = dict.fromkeys(self._duties(properties), 0.0)

    def _duties(self, properties: Properties) -> list[Callable[[], float]]:
        enabled = properties.boolean("eureka.client.enabled", default=True)
        if not enabled:
            return []
        duties: list[Callable[[], float]] = []
        if properties.boolean("eureka.client.fetch-registry", default=True):
            duties.append(self._fetch)
        if properties.boolean("eureka.client.register-with-eureka", default=True):
            duties += [self._watch_readiness, self._renew]
        return duties

    def run(self) -> None:
        """Work until told to end, then leave in the manner asked for."""
        while not self._orders.wait(self._until_due()):
            for duty, due in self._due.items():
                if time.monotonic() >= due and not self._orders.is_set():
                    self._due[duty] = time.monotonic() + duty()
        if self._orders.manner == "hand over":
            return
        if self._orders.manner == "drain":
            # Readiness, which asks for this marker, refuses from here on. In a hurry it stays:
            # the next life of this instance may have made it already.
            (self._run / folder.PREPARED).unlink(missing_ok=True)
        if self._farewell:
            self._registrar.leave(self._wait_for_callers)

    def _until_due(self) -> float | None:
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _wait_for_callers(self) -> None:
        """Let callers learn that we are DOWN, unless there is a hurry or comes one."""
        limit = time.monotonic() + self._drain
        while self._orders.manner == "drain" and time.monotonic() < limit:
            time.sleep(0.05)  # noqa: TID251 - this process has nothing else to do

    def _watch_readiness(self) -> float:
        """Tell Eureka what the house says of itself, once it has said so twice."""
        if self._announced is None and not (self._run / folder.PREPARED).exists():
            return _EAGER_S
        status = self._probe()
        before, times = self._seen
        times = times + 1 if status == before else 1
        self._seen = (status, times)
        if self._announced is None:
            # Not registered before the house can serve: a caller could only be disappointed.
            return self._first_announcement(status)
        told = status or "DOWN"
        enough = _SURE_AFTER if status else _SILENT_AFTER
        if told == self._announced or not self._propagate:
            return self._calm
        if times >= enough:
            self._announce(told)
        return min(1.0, self._calm)

    def _first_announcement(self, status: str | None) -> float:
        if status != "UP":
            return _EAGER_S if self._seen[1] < 50 else 1.0  # noqa: PLR2004 - ten seconds
        self._announce("UP")
        return self._calm

    def _announce(self, status: str) -> None:
        self._announced = status
        log.info("readiness_changed", status=status)
        self._speak(partial(self._registrar.announce, status))

    def _probe(self) -> str | None:
        """Ask the house; None when it does not answer."""
        try:
            answer = self._http.get(self._readiness, timeout=_PROBE_TIMEOUT_S)
            health = answer.json()
            status = str(health["status"])
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return None
        if status != "UP":
            self._name_what_is_missing(health)
        return _TOLD.get(status, "UNKNOWN")

    def _name_what_is_missing(self, health: Mapping[str, Any]) -> None:
        parts: Mapping[str, Any] = health.get("components") or {}
        late = ",".join(sorted(name for name, part in parts.items() if part.get("status") != "UP"))
        if late and late != self._waited_for:
            self._waited_for = late
            log.warning("waiting_for", what=late)

    def _renew(self) -> float:
        interval = self._registration.renewal.total_seconds()
        spoken = self._speak(self._registrar.renew)
        return interval if spoken else back_off(self._failures, interval)

    def _speak(self, word: Callable[[], None]) -> bool:
        """Say one thing to Eureka; what could not be said is said again by the next renewal."""
        try:
            word()
        except UnavailableError:
            self._failures += 1
            self._due[self._renew] = time.monotonic() + back_off(self._failures, 10.0)
            return False
        except CloudError as error:
            self._failures += 1
            log.exception("registration_refused", error=str(error))
            return False
        self._failures = 0
        return True

    def _fetch(self) -> float:
        away = self._server.reached is False
        own = (self._registration.app, self._registration.instance_id)
        try:
            self._fetcher.fetch(own if self._registrar.registered else None)
        except CloudError:
            return back_off(2, self._interval)
        known = self._registrar.observe(self._fetcher.registry.listed(own))
        if self._renew in self._due and (away or not known):
            # The server is back, or lost its memory between two fetches: tell it that we live.
            self._due[self._renew] = 0.0
        self._write()
        return self._interval

    def _write(self) -> None:
        """Put the registry where the workers look, whole or not at all."""
        known = self._fetcher.registry.instances(utc_now())
        content = orjson.dumps([one.dump() for one in known if one.status == "UP"])
        if content == self._written:
            return
        fresh = self._run / f"{folder.REGISTRY}.fresh"
        fresh.write_bytes(content)
        fresh.replace(self._run / folder.REGISTRY)
        self._written = content
