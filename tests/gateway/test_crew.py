"""Connections are shared out evenly between the workers of a real gateway."""

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.edge.crew import Crew
from tests.gateway.conftest import Gateway
from tests.waiting import eventually

READY = b"GET /actuator/health/liveness HTTP/1.1\r\nHost: x\r\n\r\n"
ONCE = READY.replace(b"x\r\n", b"x\r\nConnection: close\r\n")


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Connections that stay open until the test is over."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def gateway(held) -> Iterator[Gateway]:
    made = Gateway({}, workers=2)
    all_accept(made, held)
    yield made
    made.stop()


def all_accept(gateway: Gateway, held: ExitStack) -> None:
    """Open connections until each worker has one."""

    def each_has_one() -> bool:
        connect(gateway, held, 1)
        return len(gateway.workers()) == 2 and shares(gateway)[0] > 0

    eventually(each_has_one)


def shares(gateway: Gateway) -> list[int]:
    """Count the established connections of each worker, fewest first."""
    there = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "01" and int(local.partition(":")[2], 16) == gateway.port:
            there.add(f"socket:[{inode}]")
    found: Counter[int] = Counter(dict.fromkeys(gateway.workers(), 0))
    for pid in found:
        for number in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found[pid] += os.readlink(number) in there  # noqa: PTH115 - no file at the end
            except OSError:
                continue
    return sorted(found.values())


def connect(gateway: Gateway, held: ExitStack, count: int) -> None:
    """Open connections at once, and have each answered, so that each was accepted."""
    lines = [held.enter_context(gateway.open()) for _ in range(count)]
    for line in lines:
        line.sendall(READY)
    for line in lines:
        assert line.recv(4096).startswith(b"HTTP/1.1 200")


def test_each_worker_gets_its_share(gateway, held):
    connect(gateway, held, 32)
    fewest, most = shares(gateway)
    assert fewest * 3 >= most


def test_a_worker_that_was_replaced_catches_up(gateway, held):
    connect(gateway, held, 20)
    old = gateway.workers()[0]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: old not in gateway.workers())
    all_accept(gateway, held)
    fewest, most = shares(gateway)
    connect(gateway, held, most - fewest)
    fewest, most = shares(gateway)
    assert fewest * 3 >= most


def test_a_worker_that_hangs_holds_up_no_connection(gateway, held):
    hanging = gateway.workers()[0]
    before = sum(shares(gateway))
    os.kill(hanging, signal.SIGSTOP)
    try:
        connect(gateway, held, 20)
    finally:
        os.kill(hanging, signal.SIGCONT)
    assert sum(shares(gateway)) == before + 20


def test_who_ends_waits_only_for_a_younger_one_that_does_not_serve_yet():
    crew = Crew()
    crew.expect(1)
    crew.join(1)
    assert not crew.awaits_younger(1), "nobody takes over: the whole instance ends"
    crew.expect(2)
    crew.expect(3)
    assert crew.awaits_younger(1)
    crew.join(2)
    assert not crew.awaits_younger(1)
    assert crew.awaits_younger(2)


def test_a_reload_leaves_nobody_waiting_for_those_who_take_over():
    """A Redis that says nothing makes them slow to start; then they are held up for good."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        redis = {"host": "127.0.0.1", "port": mute.getsockname()[1]}
        gateway = Gateway({f"spring.data.redis.{key}": redis[key] for key in redis}, workers=1)
        try:
            (old,) = gateway.workers()
            gateway.process.send_signal(signal.SIGHUP)
            (young,) = eventually(lambda: set(gateway.workers()) - {old})
            os.kill(young, signal.SIGSTOP)
            try:
                assert b" 200 " in gateway.say(ONCE)
                assert old in gateway.workers()
            finally:
                os.kill(young, signal.SIGCONT)
            eventually(lambda: gateway.workers() == [young])
            assert b" 200 " in gateway.say(ONCE)
        finally:
            gateway.stop()
