"""What every house has beside its workers: a process that prepares it, one that keeps its lease.

The registrar asks the house over the real socket, so what Eureka is told is what a caller would
find. Preparing is a process of its own since it ends: what migrations take of memory, they give
back.
"""

import fcntl
import importlib
import importlib.util
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import structlog

from cloud import schedule
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.config.management import base_path, name_of, own_address, own_port
from cloud.errors import CloudError, ConfigurationError, UnavailableError
from cloud.eureka import folder, health
from cloud.eureka.link import Link, LinkError
from cloud.eureka.registrar import Registrar, back_off, check, connect, fetcher
from cloud.eureka.registration import Registration
from cloud.eureka.servers import ServerSettings, fetch_interval
from cloud.peers import peers
from cloud.server.companions import PREPARE, REGISTRAR
from cloud.server.orders import Orders, Work
from cloud.watch import follow

log = structlog.get_logger()

Prepare = Callable[[Environment], None]

# Spring's mapping from health to the registry (EurekaHealthCheckHandler): never OUT_OF_SERVICE,
# which is an operator's word.
_TOLD = {"UP": "UP", "DOWN": "DOWN", "OUT_OF_SERVICE": "DOWN"}
_PROBES = "management.endpoint.health.probes.enabled"
_ENFORCE = "eureka.client.should-enforce-registration-at-init"
_EAGER_S = 0.2
_PROBE_TIMEOUT = timedelta(seconds=3)
_SURE_AFTER = 2
_SILENT_AFTER = 3


def companions_of(
    house: str, environment: Environment, port: int
) -> tuple[dict[str, Work], Mapping[str, Work]]:
    """List a house's companions and chores: prepare, registrar, what `<house>/worker.py` declares.

    A companion of the house's own is a process; chores are threads of the registrar's process, as
    each further process costs its memory.
    """
    found = importlib.util.find_spec(f"{house}.worker")
    worker: Any = importlib.import_module(f"{house}.worker") if found else None
    prepare: Prepare | None = getattr(worker, "prepare", None)
    own: Mapping[str, Work] = getattr(worker, "COMPANIONS", {})
    environment.require(lambda fresh: check(fresh, utc_now()))
    _enforce(environment.properties, port)
    works: dict[str, Work] = {
        PREPARE: partial(_prepare, prepare=prepare),
        REGISTRAR: partial(_keep_lease, port=port),
        **own,
    }
    return works, getattr(worker, "CHORES", {})


def _reachable(address: str) -> str:
    """Return where a socket bound to `address` can be reached from this machine."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - the wildcard addresses
    return loopback.get(address) or (f"[{address}]" if ":" in address else address)


def _enforce(properties: Properties, port: int) -> None:
    """Where that is wanted, register before anything else is started; no Eureka, no start."""
    prepared = folder.run_folder(properties) / folder.PREPARED
    # An instance that serves, of which this arbiter is the successor, is registered.
    if not properties.boolean(_ENFORCE, default=False) or prepared.exists():
        return
    registration = _registration(properties, port)
    server = connect(properties, registration.ip)
    try:
        Registrar(server, registration, utc_now).announce("STARTING")
    except CloudError as error:
        raise properties.wrong(_ENFORCE, f"is set, and {error}") from None
    finally:
        server.close()


def _registration(properties: Properties, port: int) -> Registration:
    url = ServerSettings.of(properties).urls[0]
    return Registration.of(properties, port=port, eureka_url=url, now=utc_now())


def _keep_lease(environment: Environment, orders: Orders, *, port: int) -> None:
    run = folder.run_folder(environment.properties)
    with _only_one(run / "registrar.lock", orders):
        threading.Thread(target=follow, args=(environment, orders), daemon=True).start()
        _Watch(environment, orders, port=port, run=run).run()


def _own_tls(properties: Properties) -> ssl.SSLContext | None:
    """Build what the house is asked by, when its port speaks TLS."""
    if not properties.subset("server.ssl"):
        return None
    from cloud import tls  # noqa: PLC0415 - most instances need nothing of it

    return tls.to_oneself(properties)


def _link_to_house(properties: Properties, port: int) -> Link | None:
    """Build what asks for the health of a house at `port`; None where it does not tell by HTTP."""
    own = own_port(properties)
    if (own is not None and own < 0) or not properties.boolean(_PROBES, default=True):
        return None
    address = properties.text("server.address", "0.0.0.0")  # noqa: S104 - a default
    if own is not None:
        address, port = own_address(properties) or address, own
    tls = _own_tls(properties)
    url = f"{'http' if tls is None else 'https'}://{_reachable(address)}:{port}"
    return Link(url, _PROBE_TIMEOUT, _PROBE_TIMEOUT, tls)


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
    """Three duties in one loop: readiness, renewal, registry. Each says when it is due again.

    Operators and refreshes come in between, from another thread; one turn at a time, so that what
    Eureka hears stays in order.
    """

    def __init__(self, environment: Environment, orders: Orders, *, port: int, run: Path) -> None:
        properties = environment.properties
        self._registration = _registration(properties, port)
        self._port = port
        self._server = connect(properties, self._registration.ip)
        self._registrar = Registrar(self._server, self._registration, utc_now)
        self._fetcher = fetcher(self._server, properties, utc_now)
        self._orders = orders
        self._peers = peers(environment)
        self._house = _link_to_house(properties, port)
        called = name_of(properties, "health")
        self._readiness = f"{base_path(properties)}/{called}/readiness"
        self._run = run
        self._turn = threading.Lock()
        self._written: bytes | None = None
        self._failures = 0
        self._fetch_failures = 0
        self._seen: tuple[str | None, int] = (None, 0)
        self._announced: str | None = None
        self._begun = False
        self._waited_for = ""
        self._read(properties)
        self._due: dict[Callable[[], float], float] = dict.fromkeys(self._duties(properties), 0.0)
        self._note_duties()
        health.forget(run)
        environment.subscribe(self._refreshed)
        if self._renew in self._due:
            self._peers.on(health.TOPIC, self._operated)

    def _read(self, properties: Properties) -> None:
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

    def _note_duties(self) -> None:
        intervals = {
            self._fetch: self._interval,
            self._watch_readiness: self._calm,
            self._renew: self._registration.renewal.total_seconds(),
        }
        for duty in self._due:
            schedule.repeats(duty, timedelta(seconds=intervals[duty]))

    def run(self) -> None:
        """Work until told to end, then leave in the manner asked for."""
        with closing(self._server):
            self._serve()

    def _serve(self) -> None:
        while not self._orders.wait(self._until_due()):
            for duty, due in list(self._due.items()):
                if time.monotonic() >= due and not self._orders.is_set():
                    with self._turn:
                        self._due[duty] = time.monotonic() + duty()
        if self._orders.manner == "hand over":
            return
        if self._orders.manner == "drain":
            # Readiness, which asks for this marker, refuses from here on. In a hurry it stays:
            # the next life of this instance may have made it already.
            (self._run / folder.PREPARED).unlink(missing_ok=True)
        if self._farewell:
            with self._turn:
                self._registrar.leave(self._wait_for_callers)

    def _until_due(self) -> float | None:
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _wait_for_callers(self) -> None:
        """Let callers learn that we are DOWN, unless there is a hurry or comes one."""
        limit = time.monotonic() + self._drain
        while self._orders.manner == "drain" and time.monotonic() < limit:
            time.sleep(0.05)  # noqa: TID251 - no event tells of a change of `manner`

    def _operated(self, order: str | None) -> Mapping[str, str]:
        """Do what an operator orders, if anything, and tell how we stand."""
        with self._turn:
            if order == health.CANCEL_OVERRIDE:
                self._registrar.cancel_order()
            elif order is not None:
                self._registrar.order(order)
            standing = self._registrar.standing()
            if order is not None:
                log.warning("status_ordered", status=order, listed=standing["status"])
                health.note(self._run, standing["status"])
            return standing

    def _refreshed(self, properties: Properties, changed: frozenset[str]) -> None:
        """Take over changed settings; what cannot be used leaves all as it is."""
        if not any(key.startswith(("eureka.", "nozie.server.")) for key in changed):
            return
        if not properties.boolean("eureka.client.refresh.enable", default=True):
            return
        servers, fresh = ServerSettings.of(properties), _registration(properties, self._port)
        own = self._registration
        if (fresh.app, fresh.instance_id) != (own.app, own.instance_id):
            raise ConfigurationError("eureka.instance: app and id of a running instance stay")
        # Callers take an instance with another `startup` for a new life.
        kept = {"startup": own.metadata["startup"]}
        fresh = replace(fresh, metadata={**fresh.metadata, **kept})
        with self._turn:
            self._read(properties)
            self._server.configure(servers)
            if fresh != own:
                self._registration = fresh
                self._speak(partial(self._registrar.change, fresh))
            self._note_duties()

    def _watch_readiness(self) -> float:
        """Tell Eureka what the house says of itself, once it has said so twice."""
        if self._announced is None and not (self._run / folder.PREPARED).exists():
            self._begin()
            return _EAGER_S
        status = self._probe()
        before, times = self._seen
        times = times + 1 if status == before else 1
        self._seen = (status, times)
        if self._announced is None:
            # Not UP before the house can serve: a caller could only be disappointed.
            return self._first_announcement(status)
        told = status or "DOWN"
        enough = _SURE_AFTER if status else _SILENT_AFTER
        if told == self._announced or not self._propagate:
            return self._calm
        if times >= enough:
            self._announce(told)
        return min(1.0, self._calm)

    def _begin(self) -> None:
        """Show operators that an instance starts; what still serves is never told to start."""
        if not self._begun:
            self._begun = True
            self._speak(partial(self._registrar.announce, "STARTING"))

    def _first_announcement(self, status: str | None) -> float:
        if status != "UP":
            return _EAGER_S if self._seen[1] < 50 else 1.0  # noqa: PLR2004 - ten seconds
        self._announce("UP")
        return self._calm

    def _announce(self, status: str) -> None:
        self._announced = status
        log.info("readiness_changed", status=status)
        told = self._registration.initial_status if status == "UP" else status
        self._speak(partial(self._registrar.announce, told))

    def _probe(self) -> str | None:
        """Ask the house; None when it does not answer."""
        try:
            found = self._asked_workers() if self._house is None else self._asked(self._house)
            status = str(found["status"])
        except (LinkError, ValueError, KeyError, TypeError):
            return None
        if status != "UP":
            self._name_what_is_missing(found)
        return _TOLD.get(status, "UNKNOWN")

    def _asked(self, house: Link) -> Mapping[str, Any]:
        try:
            answer = house.ask("GET", self._readiness, {"Connection": "close"}, None)
            return dict(answer.json())
        finally:
            # Closed after each answer: kept, it would be cut when the worker behind is replaced.
            house.close()

    def _asked_workers(self) -> Mapping[str, Any]:
        """Ask all workers, which would take requests in turn; what suits us best is told."""
        replies = self._peers.ask(health.READINESS, limit_s=_PROBE_TIMEOUT.total_seconds())
        told = [reply.value for reply in replies if reply.value]
        return next((one for one in told if one["status"] == "UP"), told[0] if told else {})

    def _name_what_is_missing(self, found: Mapping[str, Any]) -> None:
        parts: Mapping[str, Any] = found.get("components") or {}
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
            self._fetch_failures += 1
            return back_off(self._fetch_failures, self._interval)
        self._fetch_failures = 0
        listed = self._fetcher.registry.listed(own)
        known = self._registrar.observe(listed)
        if self._renew in self._due and (away or not known):
            # The server is back, or lost its memory between two fetches: tell it that we live.
            self._due[self._renew] = 0.0
        self._write()
        health.note(self._run, listed.status if listed else "UNKNOWN")
        return self._interval

    def _write(self) -> None:
        """Put the registry where the workers look, whole or not at all."""
        content = orjson.dumps([one.dump() for one in self._fetcher.offered()])
        if content == self._written:
            return
        fresh = self._run / f"{folder.REGISTRY}.fresh"
        fresh.write_bytes(content)
        fresh.replace(self._run / folder.REGISTRY)
        self._written = content
