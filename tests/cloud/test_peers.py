"""Processes of one instance, real ones, over real sockets."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud.peers import FOLDER, Peers, values


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Run something in a child of this process, which lives until the test ends."""
    children: list[int] = []

    def forked(work: Callable[[], None]) -> int:
        ready, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            work()
            os.write(done, b"!")
            signal.pause()
        children.append(pid)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        os.close(done)
        return pid

    yield forked
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    # Longer than a socket's address may be.
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    return folder


@pytest.fixture
def peers(run: Path) -> Peers:
    return Peers(run)


def test_every_process_answers_for_itself(peers, fork):
    peers.on("who", lambda what: {"pid": os.getpid(), "said": what})
    pids = [fork(lambda n=number: peers.begin(f"worker-{n}")) for number in (1, 2)]
    peers.begin("registrar")
    replies = peers.ask("who", ["x", 1])
    assert [(reply.process, reply.error) for reply in replies] == [
        ("registrar", None),
        ("worker-1", None),
        ("worker-2", None),
    ]
    assert values(replies) == {pid: {"pid": pid, "said": ["x", 1]} for pid in (os.getpid(), *pids)}


def test_who_knows_nothing_of_a_topic_is_not_among_the_answers(peers, fork):
    fork(lambda: (peers.on("levels", lambda _: "here"), peers.begin("worker-1")))
    peers.begin("worker-2")
    assert [(reply.process, reply.value) for reply in peers.ask("levels")] == [("worker-1", "here")]


def test_one_that_fails_says_why_and_the_others_answer(peers, fork):
    def refuse(_what: object) -> None:
        raise ValueError("no such level")

    fork(lambda: (peers.on("levels", refuse), peers.begin("worker-1")))
    peers.on("levels", lambda _: "ok")
    peers.begin("worker-2")
    replies = peers.ask("levels")
    assert [(r.process, r.value, r.error) for r in replies] == [
        ("worker-1", None, "no such level"),
        ("worker-2", "ok", None),
    ]


def test_a_process_that_was_killed_is_forgotten(peers, run, fork):
    peers.on("who", lambda _: os.getpid())
    pid = fork(lambda: peers.begin("worker-1"))
    peers.begin("worker-2")
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert [reply.value for reply in peers.ask("who")] == [os.getpid()]
    assert [path.name for path in (run / FOLDER).iterdir()] == [f"worker-2.{os.getpid()}"]


def test_a_process_that_hangs_costs_its_own_answer_alone(peers, fork):
    peers.on("who", lambda _: os.getpid())
    pid = fork(lambda: peers.begin("worker-1"))
    peers.begin("worker-2")
    os.kill(pid, signal.SIGSTOP)
    first, second = peers.ask("who", limit_s=2)
    assert (first.process, first.value) == ("worker-1", None)
    assert first.error
    assert second.value == os.getpid()
    os.kill(pid, signal.SIGCONT)


def test_many_ask_at_once(peers, fork):
    peers.on("double", lambda number: number * 2)
    fork(lambda: peers.begin("worker-1"))
    peers.begin("worker-2")
    found: dict[int, list[object]] = {}

    def ask(number: int) -> None:
        found[number] = [reply.value for reply in peers.ask("double", number, limit_s=10)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number * 2] * 2 for number in range(20)}


def test_alone_it_answers_itself_without_a_socket(peers, run):
    peers.on("who", lambda what: what)
    assert [reply.value for reply in peers.ask("who", "me")] == ["me"]
    assert not (run / FOLDER).exists()
