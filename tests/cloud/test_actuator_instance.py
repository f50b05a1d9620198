"""What an operator sees of an instance, and does to it, whichever of its processes he meets."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cloud.peers import Peers
from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
LOGGER = "nozie.fresh"


class Instance:
    """A house of two workers, a registrar and a companion under gunicorn."""

    def __init__(self, run: Path) -> None:
        self.base = f"http://127.0.0.1:{(port := free_port())}"
        values = {
            "spring.application.name": "watched",
            "server.port": port,
            "nozie.server.run-dir": str(run),
            "management.endpoints.web.exposure.include": "*",
            f"logging.level.{LOGGER}": "ERROR",
        }
        self.output = run.with_suffix(".log").open("wb")
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            (
                str(Path(sys.executable).with_name("gunicorn")),
                *("-c", "python:cloud.server", "tests.cloud.fresh_house.wsgi:app"),
            ),
            cwd=ROOT,
            env={**os.environ, "SPRING_APPLICATION_JSON": json.dumps(values)},  # noqa: TID251
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        eventually(self.serves)
        # As one more process of the instance, the test can ask each of the others.
        self.peers = Peers(run)
        self.peers.begin("test")

    def serves(self) -> bool:
        assert self.process.poll() is None, Path(self.output.name).read_text()
        try:
            return self.get("/settings", timeout=1).ok and len(self.workers()) == 2
        except requests.RequestException:
            return False

    def get(self, path: str, timeout: float = 20) -> requests.Response:
        # Each over a connection of its own, so that all workers get their turn.
        return requests.get(f"{self.base}{path}", timeout=timeout, headers={"Connection": "close"})

    def actuator(self, path: str) -> Any:
        answer = self.get(f"/actuator{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, name: str, level: str | None) -> int:
        body = {"configuredLevel": level}
        return requests.post(
            f"{self.base}/actuator/loggers/{name}", json=body, timeout=20
        ).status_code

    def workers(self) -> set[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        titles = {pid: title(pid) for pid in map(int, path.read_text().split())}
        return {pid for pid, text in titles.items() if text.startswith("gunicorn: worker ")}

    def levels(self) -> dict[str, str | None]:
        """Ask every process for the level of one logger."""
        return {
            reply.process: reply.value["loggers"].get(LOGGER, {}).get("effectiveLevel")
            for reply in self.peers.ask("loggers", {}, limit_s=10)
            if reply.error is None
        }

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.output.close()


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    served = Instance(tmp_path_factory.mktemp("watched") / "run")
    yield served
    served.end()


def test_a_level_that_is_set_once_holds_everywhere_until_it_is_reset(instance):
    """In both workers, the registrar, the companion, and a worker that is born later."""
    # A process that prepares the instance is there for a moment.
    everybody = {"registrar", "greeter", "worker-1", "worker-2"}
    eventually(lambda: instance.levels() == dict.fromkeys(everybody, "ERROR"))
    assert instance.put(LOGGER, "DEBUG") == 204
    # At once, but for a process that the machine has kept waiting.
    eventually(lambda: instance.levels() == dict.fromkeys(everybody, "DEBUG"))

    killed = min(instance.workers())
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(instance.workers() - {killed}) == 2)
    # It asks the others before it serves.
    eventually(lambda: instance.levels().get("worker-3") == "DEBUG")
    levels = instance.levels()
    assert len(levels) == len(everybody)
    assert set(levels.values()) == {"DEBUG"}

    assert instance.put(LOGGER, None) == 204
    eventually(lambda: instance.levels() == dict.fromkeys(levels, "ERROR"))
    told = instance.actuator(f"/loggers/{LOGGER}")
    assert told == {"configuredLevel": "ERROR", "effectiveLevel": "ERROR"}


def test_a_worker_that_is_born_after_a_reset_has_what_configuration_says(instance):
    assert instance.put(LOGGER, "TRACE") == instance.put(LOGGER, None) == 204
    count, killed = len(instance.levels()), max(instance.workers())
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(instance.workers() - {killed}) == 2)
    eventually(lambda: len(instance.levels()) == count)
    eventually(lambda: set(instance.levels().values()) == {"ERROR"})


def test_a_process_that_hangs_gets_the_level_when_it_is_back(instance):
    stopped = min(instance.workers())
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert instance.put(LOGGER, "INFO") == 204
    finally:
        os.kill(stopped, signal.SIGCONT)
    eventually(lambda: set(instance.levels().values()) == {"INFO"})
    instance.put(LOGGER, None)


def test_exchanges_of_both_workers_are_in_one_list(instance):
    served: dict[str, int] = {}
    for number in range(200):
        path = f"/settings?n={number}"
        served[f"{instance.base}{path}"] = instance.get(path).json()["pid"]
        if number > 5 and len(set(served.values())) == 2:
            break
    assert set(served.values()) == instance.workers()
    told = instance.actuator("/httpexchanges")["exchanges"]
    listed = [one["request"]["uri"] for one in told if "n=" in one["request"]["uri"]]
    assert listed == list(reversed(served))
    times = [one["timestamp"] for one in told]
    assert times == sorted(times, reverse=True)


def test_a_dump_has_the_threads_of_all_processes(instance):
    told = instance.actuator("/threaddump")["threads"]
    names = {thread["threadName"].split("/")[0] for thread in told}
    assert {"registrar", "greeter"} < names
    assert sum(name.startswith("worker-") for name in names) == 2
    main = {thread["threadId"] for thread in told if thread["threadName"].endswith("/MainThread")}
    assert instance.workers() < main
    assert len({thread["threadId"] for thread in told}) == len(told)


def test_every_worker_tells_the_same_of_settings_and_loggers(instance):
    answers = [instance.actuator("/loggers")["loggers"].keys() for _ in range(6)]
    assert all(answer >= {"ROOT", LOGGER, "gunicorn.error"} for answer in answers)
    ports = {
        json.dumps(instance.actuator("/env/server.port")["property"], sort_keys=True)
        for _ in range(6)
    }
    assert ports == {'{"source": "SPRING_APPLICATION_JSON", "value": "******"}'}
