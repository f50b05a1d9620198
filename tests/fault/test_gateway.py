"""Faults under a steady load: what clients see while they last, and how soon all is well again.

The figures are the platform's promises; the load is modest, since the machine may be small.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

import pytest
import structlog

from tests.gateway.conftest import (
    ROOT,
    Answer,
    Gateway,
    OwnRedis,
    bearer,
    everything,
    settings,
)
from tests.ports import free_port
from tests.waiting import eventually

SIMPLE = "spring.cloud.discovery.client.simple.instances"
log = structlog.get_logger()
RATE = 40
INSTANCES = 3


class Service:
    """Instances of one service, each its own process."""

    def __init__(self, folder: Path, count: int = INSTANCES) -> None:
        self.ports = [free_port() for _ in range(count)]
        self._modes = [folder / f"mode-{port}" for port in self.ports]
        for mode in self._modes:
            mode.write_text("ok")
        self.processes = [self._start(at) for at in range(count)]

    def _start(self, at: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "tests.fault.instance"]
        return subprocess.Popen(  # noqa: S603
            [*words, str(self.ports[at]), str(self._modes[at])], cwd=ROOT
        )

    def behave(self, mode: str, *which: int) -> None:
        for at in which:
            draft = self._modes[at].with_suffix(".draft")
            draft.write_text(mode)
            draft.replace(self._modes[at])

    def kill(self, at: int) -> None:
        self.processes[at].kill()
        self.processes[at].wait()

    def start(self, at: int) -> None:
        self.processes[at] = self._start(at)

    def signal(self, number: int, *which: int) -> None:
        for at in which:
            self.processes[at].send_signal(number)

    def asked(self) -> int:
        """Count the requests that have come to any of them."""
        files = (mode.with_name(f"{mode.name}.seen") for mode in self._modes)
        return sum(file.stat().st_size for file in files if file.exists())

    def heal(self) -> None:
        self.behave("ok", *range(len(self.ports)))
        self.signal(signal.SIGCONT, *range(len(self.ports)))
        for at, process in enumerate(self.processes):
            if process.poll() is not None:
                self.start(at)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Load:
    """A steady stream of requests, each on a connection of its own."""

    def __init__(self, gateway: Gateway, path: str = "/notifications/x", rate: int = RATE) -> None:
        self.seen: list[tuple[float, int, float]] = []
        self._gateway, self._path, self._pause = gateway, path, 8 / rate
        self._auth = bearer(7, "USER")
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(8)]

    def _run(self) -> None:
        while not self._stop.wait(self._pause * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
            began = time.monotonic()
            try:
                status = self._gateway.ask(self._path, Authorization=self._auth).status
            except (OSError, IndexError):
                status = 0
            self.seen.append((began, status, time.monotonic() - began))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until(RATE)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        took = {f"p{share:.0%}"[:-1]: round(self.slowest(0, share), 3) for share in (0.5, 0.99, 1)}
        log.info("load_ended", path=self._path, seen=dict(self.since(0)), **took)

    def until(self, more: int) -> None:
        """Let so many more requests be answered."""
        wanted = len(self.seen) + more
        eventually(lambda: len(self.seen) >= wanted, within_s=60)

    def since(self, began: float) -> Counter[int]:
        return Counter(status for at, status, _ in self.seen if at >= began)

    def slowest(self, began: float, share: float = 0.99) -> float:
        took = sorted(took for at, _, took in self.seen if at >= began)
        return took[int(len(took) * share) - 1]

    def well(self) -> None:
        """The last second saw nothing but answers of the service."""
        began = time.monotonic()
        eventually(self._good_second, within_s=20)
        log.info("well_for_a_second", after_s=round(time.monotonic() - began, 1), path=self._path)

    def _good_second(self) -> bool:
        last = self.since(time.monotonic() - 1)
        return set(last) == {200} and last[200] >= RATE // 4


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    found = Service(tmp_path_factory.mktemp("service"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Iterator[Service]:
    found = Service(tmp_path_factory.mktemp("other"), 1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def door(service, other, store) -> Iterator[Gateway]:
    listed = {
        f"{SIMPLE}.notification-service[{at}].uri": f"http://127.0.0.1:{port}"
        for at, port in enumerate(service.ports)
    }
    running = Gateway(
        {
            **settings(store),
            **listed,
            f"{SIMPLE}.customer-service[0].uri": f"http://127.0.0.1:{other.ports[0]}",
            "nozie.gateway.timeouts.connect": "500ms",
            "nozie.gateway.timeouts.answer": "1s",
            "resilience4j.circuitbreaker.configs.default.waitDurationInOpenState": "1s",
        }
    )
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def healed(service, other, door) -> Iterator[None]:
    yield
    service.heal()
    other.heal()
    auth = bearer(7)
    eventually(
        lambda: (
            {door.ask("/notifications/x", Authorization=auth).status for _ in range(20)} == {200}
        )
    )


def test_an_instance_that_is_killed_costs_next_to_nothing(door, service):
    with Load(door) as load:
        began = time.monotonic()
        service.kill(0)
        load.until(4 * RATE)
        seen = load.since(began)
        assert sum(count for status, count in seen.items() if status != 200) <= 2, seen
        service.start(0)
        load.well()


@pytest.mark.parametrize("fault", ["stopped", "slow", "reset", "garbage", "error"])
def test_a_bad_instance_is_left_out(door, service, fault):
    """One of three misbehaves: no 500, and soon it gets no more than a probe now and then."""
    with Load(door) as load:
        began = time.monotonic()
        if fault == "stopped":
            service.signal(signal.SIGSTOP, 0)
        else:
            service.behave(fault, 0)
        load.until(4 * RATE)
        seen = load.since(began)
        assert set(seen) <= {200, 502, 503, 504}, seen
        if fault != "error":  # an answer of 503 is an answer: the breaker's matter, not ejection's
            settled = time.monotonic()
            load.until(2 * RATE)
            after = load.since(settled)
            assert after[200] >= 0.9 * after.total(), after
        service.heal()
        load.well()


def test_an_instance_that_hangs_is_left_out_long_before_its_callers_give_up(store, service):
    """The others are asked meanwhile; who waits already is answered when it goes on."""
    listed = {
        f"{SIMPLE}.notification-service[{at}].uri": f"http://127.0.0.1:{port}"
        for at, port in enumerate(service.ports)
    }
    running = Gateway({**settings(store), **listed, "nozie.gateway.timeouts.answer": "50s"})

    def ask(_: int) -> float:
        began = time.monotonic()
        assert running.ask("/notifications/x", Authorization=bearer(7, "USER")).status == 200
        return time.monotonic() - began

    pace = threading.Event()
    try:
        with ThreadPoolExecutor(10 * RATE) as callers:
            assert all(callers.map(ask, range(RATE)))
            service.signal(signal.SIGSTOP, 0)
            asked = []
            for number in range(8 * RATE):
                asked.append(callers.submit(ask, number))
                pace.wait(1 / RATE)
            service.heal()
            took = [each.result() for each in asked]
    finally:
        running.stop()
    # A third of all would be kept waiting.
    assert sum(seconds > 1 for seconds in took) < RATE, sorted(took)[-3 * RATE :]


@pytest.mark.parametrize("fault", ["stopped", "slow", "reset", "garbage"])
def test_when_all_instances_fail_answers_are_quick_and_other_routes_do_not_notice(
    door, service, fault
):
    everyone = range(INSTANCES)
    with Load(door) as load, Load(door, "/api/customers/x", 20) as beside:
        began = time.monotonic()
        if fault == "stopped":
            service.signal(signal.SIGSTOP, *everyone)
        else:
            service.behave(fault, *everyone)
        load.until(2 * RATE)
        settled = time.monotonic()
        load.until(2 * RATE)
        assert set(load.since(began)) <= {200, 502, 503, 504}
        assert max(took for at, _, took in load.seen if at >= began) < 6
        assert load.slowest(settled, 0.9) < 0.2, "the breaker spares callers the wait"
        assert set(beside.since(began)) == {200}
        service.heal()
        load.well()


def test_a_failing_service_is_not_stormed_with_retries(door, service):
    """Every request fails; the upstream sees at most half as many again."""
    before = service.asked()
    service.behave("error", *range(INSTANCES))
    with Load(door) as load:
        load.until(3 * RATE)
    assert set(load.since(0)) <= {503, 200}
    assert service.asked() - before <= 1.5 * len(load.seen)


def test_redis_may_go_and_come_back_empty(service, tmp_path):
    """Nobody notices, and a token that was seen to be revoked stays out."""
    own = OwnRedis(tmp_path)
    own.remember()
    running = Gateway(
        {
            "spring.data.redis.host": "127.0.0.1",
            "spring.data.redis.port": own.port,
            f"{SIMPLE}.notification-service[0].uri": f"http://127.0.0.1:{service.ports[0]}",
        },
        workers=1,  # each keeps what it has seen itself
    )
    revoked = bearer(8, jti="gone", sid="8")
    own.client.set("token:blacklist:gone", "1")

    def refused() -> bool:
        asked = (running.ask("/notifications/x", Authorization=revoked) for _ in range(12))
        return {answer.status for answer in asked} == {401}

    try:
        assert refused()
        with Load(running) as load:
            began = time.monotonic()
            own.kill()
            load.until(2 * RATE)
            assert refused()
            own.start()
            load.until(2 * RATE)
            assert refused()
            seen = load.since(began)
            assert seen[200] >= 0.99 * seen.total(), seen
            assert load.slowest(began) < 1
    finally:
        running.stop()
        own.kill()
        own.client.close()


def test_a_killed_worker_and_a_reload_cost_few_or_none(door):
    with Load(door) as load:
        began = time.monotonic()
        old = door.workers()
        door.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(old) & set(door.workers()) and len(door.workers()) == 2)
        load.until(RATE)
        assert set(load.since(began)) == {200}
        began = time.monotonic()
        victim = door.workers()[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in door.workers() and len(door.workers()) == 2)
        load.until(RATE)
        bad = load.since(began)
        assert bad.total() - bad[200] <= 10
        load.well()


class Kept(Load):
    """The same on kept connections, by clients that never ask twice."""

    def _run(self) -> None:
        client = HTTPConnection("127.0.0.1", self._gateway.port, timeout=15)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                client.request("GET", self._path, headers={"Authorization": self._auth})
                answer = client.getresponse()
                answer.read()
                status = answer.status
            except (OSError, HTTPException):
                client.close()
                status = 0
            self.seen.append((began, status, time.monotonic() - began))
        client.close()


@pytest.mark.parametrize("kind", [Load, Kept], ids=["new connections", "kept connections"])
def test_workers_that_are_replaced_by_and_by_cost_nothing(service, store, kind):
    """Each ends after some 40 connections (`nozie.server.max-requests`), and twice all at once."""
    running = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.notification-service[0].uri": address(service),
            "server.address": "127.0.0.1",
            "nozie.server.max-requests": 40,
        },
        *("-c", "python:cloud.server"),
    )
    seen: set[int] = set()

    def replaced(more: int) -> None:
        wanted = len(seen) + more

        def several() -> bool:
            seen.update(running.workers())
            return len(seen) >= wanted

        eventually(several, within_s=60)

    try:
        with kind(running, rate=4 * RATE) as load:
            replaced(2)
            for _ in range(2):
                running.process.send_signal(signal.SIGHUP)
                replaced(2)
                load.until(RATE)
        assert set(load.since(0)) == {200}, load.since(0)
        log.info("workers_replaced", count=len(seen) - 2, requests=len(load.seen))
    finally:
        running.stop()


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.ports[0]}"


def test_slow_clients_and_idle_connections_hold_nobody_up(door):
    held = [door.open() for _ in range(1000)]
    try:
        for client in held[:200]:
            client.sendall(b"GET /notifications/x HTTP/1.1\r\nHo")
        began = time.monotonic()
        with Load(door) as load:
            load.until(2 * RATE)
        assert set(load.since(began)) == {200}
        assert load.slowest(began, 0.95) < 2
    finally:
        for client in held:
            client.close()


# --- what is no HTTP at all

SEEDS = (
    b"GET /notifications/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /socket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /actuator/gateway/routes HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
)
WORDS = (b"\r\n", b"\0", b":", b" ", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n",
         b"%2e%2e", b"//", b";", b"\xff", b"HTTP/1.1", b"0\r\n\r\n", b"\n")  # fmt: skip


def mutated(draw: random.Random) -> bytes:
    data = bytearray(draw.choice(SEEDS))
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data))
        action = draw.randrange(4)
        if action == 0:
            data[at] = draw.randrange(256)
        elif action == 1:
            data[at:at] = draw.choice(WORDS)
        elif action == 2:
            del data[at : at + draw.randint(1, 8)]
        else:
            data[at:at] = data[: draw.randint(1, len(data))]
        data = data or bytearray(b"\0")
    return bytes(data)


def fuzz(gateway: Gateway, seconds: float, seed: int) -> tuple[int, int]:
    """Send mutated bytes for so long; every answer must be one, and none of them a 500.

    Returns:
        how many streams were sent, and how many answered.
    """
    draw, sent, answered = random.Random(seed), 0, 0  # noqa: S311 - a sequence that can be repeated
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutated(draw) if draw.random() < 0.9 else draw.randbytes(draw.randint(1, 400))
        with gateway.open() as client:
            try:
                client.sendall(data)
                client.shutdown(1)
                raw = everything(client)
            except (ConnectionResetError, BrokenPipeError):
                raw = b""
        sent += 1
        assert b"HTTP/1.1 500" not in raw, data
        if raw:
            assert Answer(raw).status in range(100, 600), data
            answered += 1
    return sent, answered


FUZZ_S = float(os.environ.get("NOZIE_FUZZ_SECONDS", "10"))  # noqa: TID251 - a run's own


@pytest.mark.timeout(FUZZ_S + 120)
def test_bytes_that_are_no_request_break_nothing(door):
    """`NOZIE_FUZZ_SECONDS=300 pytest tests/fault -k bytes` does it for longer."""
    before = door.workers()
    sent, answered = fuzz(door, FUZZ_S, seed=20260801)
    assert answered > 0.9 * sent > 10
    log.info("streams_sent", count=sent, answered=answered, seconds=FUZZ_S)
    assert door.workers() == before, "no worker died of it"
    assert not [line for line in door.lines if "request_failed" in line]
    assert door.ask("/notifications/x", Authorization=bearer(7)).status == 200
