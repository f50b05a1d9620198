"""What a large registry costs: 1,000 instances of 50 applications at a real Eureka.

`python -m bench.registry` registers them, reads them as the registrar does, hands them to a view
as workers have it, and picks. Beside it runs an idle house of two workers, the ten lines of
docs/estate.md, with Spring's default intervals. It exits with 1 when a goal is missed.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import orjson

from bench import terminal
from bench.shop import SHIFT
from bench.terminal import say
from cloud.balancer import Balancer
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.errors import CloudError
from cloud.eureka.registrar import connect, fetcher
from cloud.eureka.registration import Registration
from cloud.eureka.registry import Fetcher
from cloud.eureka.rest import EurekaServer
from cloud.eureka.view import RegistryView
from deploy.local import Estate, EstateError
from deploy.local.site import CHECKOUT, HOST
from deploy.local.supervisor import family, memory, wait_until
from tests.ports import free_port

_APPLICATIONS: Final = 50
_INSTANCES: Final = 20
_ROUNDS: Final = 50
_CHANGED: Final = 20
_PICKS: Final = 100_000
_STRATEGIES: Final = ("default", "weighted", "zone-preference", "least-in-flight")
_TICKS_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024
_YML: Final = "spring: {application: {name: idle}}\nserver: {address: 127.0.0.1}\n"
_WSGI: Final = """
from flask import Flask
from cloud import actuator, web
from cloud.config import environment

own = environment("idle_house")
app = Flask("idle")
web.install(app, own)
app.get("/api/greeting")(lambda: web.ok("hello"))
actuator.install(app, own, checks={}, essential=())
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of the table; a figure without a goal is there to be read."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def reached(self) -> bool:
        return self.goal is None or self.value < self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"< {self.goal:g}"
        verdict = "" if self.goal is None else ("reached" if self.reached else "NOT REACHED")
        return f"| {self.name} | {self.value:.3g} {self.unit} | {goal} | {verdict} |"


def main() -> None:
    """Read the command line and measure."""
    parser = terminal.parser("bench.registry", __doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of watching the idle house")
    terminal.run(parser, lambda given: _run(given.seconds))


def _run(seconds: int) -> int:
    estate = Estate("registry", say, shift=SHIFT)
    try:
        estate.ensure("eureka")
        marks = _measure(f"http://{estate.address('eureka')}/eureka/", seconds)
    finally:
        estate.down()
    say(f"\n{terminal.machine()}, {utc_now():%Y-%m-%d %H:%M} UTC\n")
    say("\n".join(("| | measured | goal | |", "|---|---|---|---|", *map(str, marks))))
    return 0 if all(mark.reached for mark in marks) else 1


def _measure(url: str, seconds: int) -> list[Mark]:
    everybody = [
        _registration(f"service-{number // _INSTANCES}", number, url)
        for number in range(_APPLICATIONS * _INSTANCES)
    ]
    read = _properties("bench", url)
    with closing(connect(read, HOST)) as server:
        for registration in everybody:
            server.register(registration, "UP", 1)
        say(f"{len(everybody)} instances are registered")
        source = fetcher(server, read, utc_now)
        return [*_deltas(server, source, everybody), *_workers(source), *_idle(url, seconds)]


def _properties(name: str, url: str, **more: str) -> Properties:
    values = {"eureka.client.service-url.defaultZone": url, **more}
    return Properties.of({"spring.application.name": name, **values}, name)


def _registration(name: str, number: int, url: str) -> Registration:
    metadata = "eureka.instance.metadata-map"
    more = {
        "eureka.instance.ip-address": f"10.0.{number // 250}.{number % 250 + 1}",
        "eureka.instance.prefer-ip-address": "true",
        f"{metadata}.zone": f"zone-{number % 3}",
        f"{metadata}.weight": str(1 + number % 4),
        "spring.application.instance-id": str(number),
    }
    read = _properties(name, url, **more)
    return Registration.of(read, port=8080, eureka_url=url, now=utc_now())


def _deltas(server: EurekaServer, source: Fetcher, everybody: list[Registration]) -> Iterator[Mark]:
    """Let instances change, and apply what the server tells of it; its hash proves the result."""
    source.fetch()
    chance, took, sizes, dirty = random.Random(5), list[float](), list[int](), 1  # noqa: S311
    for _ in range(_ROUNDS):
        dirty += 1
        for registration in chance.sample(everybody, _CHANGED):
            server.register(registration, chance.choice(("UP", "DOWN")), dirty)
        delta = server.delta()
        began = time.perf_counter()
        proven = source.registry.apply(delta)
        took.append((time.perf_counter() - began) * 1000)
        sizes.append(sum(len(one["instance"]) for one in delta["application"]))
        if not proven:
            raise EstateError("after a delta the hash is not the server's")
    for registration in everybody:
        server.register(registration, "UP", dirty + 1)
    yield Mark(f"delta of up to {max(sizes)} instances applied and proven", median(took), "ms", 20)
    yield Mark("the slowest of them", max(took), "ms")
    source.fetch()
    began = time.perf_counter()
    orjson.dumps([one.dump() for one in source.offered()])
    yield Mark("registry written for the workers", (time.perf_counter() - began) * 1000, "ms")


def _workers(source: Fetcher) -> Iterator[Mark]:
    """Be a worker, in a process of its own: take the registry over, and choose."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "registry.json"
        path.write_bytes(orjson.dumps([one.dump() for one in source.offered()]))
        ours, theirs = get_context("fork").Pipe()
        process = get_context("fork").Process(target=_worker, args=(path, theirs))
        process.start()
        theirs.close()
        figures: Mapping[str, float] = ours.recv()
        process.join()
    yield Mark("registry taken over by a worker", figures["load"], "ms")
    yield Mark("resident growth of a worker", figures["memory"], "MiB", 30)
    for strategy in _STRATEGIES:
        yield Mark(f"pick, {strategy}", figures[strategy], "us", 5)


def _worker(path: Path, results: Connection) -> None:
    before = _resident()
    figures: dict[str, float] = {}
    for strategy in _STRATEGIES:
        keys = {"configurations": strategy, "zone": "zone-1"}
        values = {f"spring.cloud.loadbalancer.{key}": value for key, value in keys.items()}
        environment = Environment(Properties.of(values, "bench"))
        view = RegistryView(path, environment)
        figures.setdefault("load", _milliseconds(view.poll))
        balancer = Balancer(view, environment)
        names = [f"service-{number % _APPLICATIONS}" for number in range(_PICKS)]
        for name in names[:_APPLICATIONS]:
            balancer.choose(name)
        figures.setdefault("memory", (_resident() - before) / _MIB)
        took = _milliseconds(lambda: [balancer.choose(name) for name in names])  # noqa: B023
        figures[strategy] = took / _PICKS * 1000
    results.send(figures)


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _idle(url: str, seconds: int) -> Iterator[Mark]:
    with _house(url) as process:
        say(f"an idle house is watched for {seconds} s")
        wait_until(lambda: False, 5)  # what starting costs is over
        before, began = _cpu_s(process.pid), time.monotonic()
        wait_until(lambda: False, seconds)
        share = (_cpu_s(process.pid) - before) / (time.monotonic() - began)
        yield Mark("processor of an idle instance", share * 100, "% of a core", 0.5)
        yield Mark("its memory (PSS, all processes)", memory(family(process.pid)) / _MIB, "MiB")


@contextmanager
def _house(url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the house with Spring's defaults, and wait until Eureka lists it as UP."""
    with TemporaryDirectory() as folder:
        package = Path(folder) / "idle_house"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "application.yml").write_text(_YML)
        (package / "wsgi.py").write_text(_WSGI)
        values = {
            "server.port": free_port(),
            "nozie.server.run-dir": str(Path(folder) / "run"),
            "nozie.server.deregister-wait": "0s",
            "logging.level.root": "WARN",
            "eureka.client.service-url.defaultZone": url,
        }
        environment = {
            **os.environ,  # noqa: TID251 - handed on to a program
            "SPRING_APPLICATION_JSON": json.dumps(values),
            "PYTHONPATH": f"{folder}:{CHECKOUT}",
        }
        program = str(Path(sys.executable).with_name("gunicorn"))
        process = subprocess.Popen(  # noqa: S603 - our own command
            [program, "-c", "python:cloud.server", "idle_house.wsgi:app"], env=environment
        )
        try:
            with closing(connect(_properties("bench", url), HOST)) as server:
                if not wait_until(lambda: _is_up(server), 60):
                    raise EstateError("the idle house does not come up")
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _is_up(server: EurekaServer) -> bool:
    try:
        listed = server.applications()["application"]
    except CloudError:
        return False
    (idle,) = [one for one in listed if one["name"] == "IDLE"] or [None]
    return idle is not None and '"UP"' in json.dumps(idle)


def _cpu_s(pid: int) -> float:
    """Return the processor time of an instance, that of processes which are gone included."""
    ticks = 0
    for number in family(pid):
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # proc(5): utime, stime, cutime, cstime
    return ticks / _TICKS_S


if __name__ == "__main__":
    main()
