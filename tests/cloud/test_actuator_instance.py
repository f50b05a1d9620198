"""What an operator sees of an instance, and does to it, whichever of its processes he meets."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloud.peers import Peers
from tests.cloud.house import FreshHouse
from tests.waiting import eventually

LOGGER = "nozie.fresh"


class Instance(FreshHouse):
    """Two workers, a registrar and a companion; the test is one more process, and asks them."""

    def __init__(self, run: Path) -> None:
        everything = {"management.endpoints.web.exposure.include": "*"}
        super().__init__(run, {**everything, f"logging.level.{LOGGER}": "ERROR"})
        eventually(lambda: self.answers("/settings") and len(self.workers()) == 2)
        self.peers = Peers(run)
        self.peers.begin("test")

    def actuator(self, path: str) -> Any:
        answer = self.get(f"/actuator{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, name: str, level: str | None) -> int:
        return self.post(f"/loggers/{name}", {"configuredLevel": level}).status_code

    def workers(self) -> set[int]:
        return self.pids("worker")

    def levels(self) -> dict[str, str | None]:
        """Ask every process for the level of one logger."""
        return {
            reply.process: reply.value["loggers"].get(LOGGER, {}).get("effectiveLevel")
            for reply in self.peers.ask("loggers", {}, limit_s=10)
            if reply.error is None
        }


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with closing(Instance(tmp_path_factory.mktemp("watched") / "run")) as served:
        yield served


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
