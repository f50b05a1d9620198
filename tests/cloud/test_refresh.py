"""Refreshes of a house under gunicorn, its configuration from a real Config Server."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import requests
import yaml

from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError
from cloud.refresh import MANAGER, Scope, refresher
from deploy.local import Estate
from tests.cloud.door import Door
from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


class House:
    """An instance of the fresh house; `write` is its file in the Config Server's folder."""

    def __init__(
        self, folder: Path, config_url: str, run: Path, settings: Mapping[str, object]
    ) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.file = folder / f"{self.name}.yml"
        self.run, self.log = run, run.with_suffix(".log")
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.settings = settings
        self.write(settings)
        values = {
            "spring.application.name": self.name,
            "spring.config.import": f"optional:configserver:{config_url}",
            "server.port": self.port,
            "nozie.server.run-dir": str(run),
            "management.endpoints.web.exposure.include": "*",
        }
        self.output = self.log.open("wb")
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

    def write(self, settings: Mapping[str, object]) -> None:
        self.file.write_text(yaml.safe_dump(dict(settings)))

    def get(self, path: str) -> dict[str, Any]:
        # Each over a connection of its own, so that all workers get their turn.
        answer = requests.get(f"{self.base}{path}", timeout=20, headers={"Connection": "close"})
        answer.raise_for_status()
        return dict(answer.json())

    def post(self, path: str, body: object = None) -> requests.Response:
        return requests.post(f"{self.base}/actuator{path}", json=body, timeout=30)

    def by_worker(self, key: str, count: int = 2) -> dict[int, Any]:
        """Ask until `count` workers have said what they have; gives the newest word of each."""
        found: dict[int, Any] = {}

        def asked() -> bool:
            told = self.get("/settings")
            found[told["pid"]] = told[key]
            return len(found) >= count

        eventually(asked)
        return found

    def said(self, message: str) -> list[dict[str, Any]]:
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in map(json.loads, lines) if line["message"] == message]

    def everywhere(self, key: str, value: object, count: int = 2) -> bool:
        return set(self.by_worker(key, count).values()) == {value}

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.output.close()
            self.file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def served(server) -> tuple[Path, str]:
    """The folder of the real Config Server's own files, and its address."""
    url = f"http://{server('NOZIE_TEST_CONFIG', 'rabbit', 'eureka', 'config')}"
    folder = Estate("test").site.path("config")
    folder.mkdir(parents=True, exist_ok=True)
    return folder, url


@pytest.fixture
def start(served, tmp_path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def run(**settings: object) -> House:
        values = {key.replace("__", ".").replace("_", "-"): settings[key] for key in settings}
        house = House(served[0], served[1], tmp_path / "run", {"fresh.greeting": "one", **values})
        made.append(house)
        eventually(lambda: answers(house))
        return house

    yield run
    for one in made:
        one.end()


def answers(house: House) -> bool:
    assert house.process.poll() is None, house.log.read_text()
    try:
        return bool(house.get("/settings"))
    except requests.RequestException:
        return False


@pytest.mark.estate
def test_a_refresh_reaches_all_processes_and_later_ones(start):
    house = start()
    assert house.everywhere("greeting", "one")
    house.write({"fresh.greeting": "two", "logging.level.nozie.fresh": "DEBUG", "fresh.limit": 5})
    answer = house.post("/refresh")
    assert (answer.status_code, answer.json()) == (
        200,
        ["fresh.greeting", "fresh.limit", "logging.level.nozie.fresh"],
    )
    assert answer.headers["Content-Type"] == "application/vnd.spring-boot.actuator.v3+json"
    assert house.post("/refresh").json() == []
    assert house.everywhere("greeting", "two")
    assert house.everywhere("level", "DEBUG")
    eventually(lambda: (house.run / "greeter").read_text() == "one\ntwo\n")

    workers = set(house.by_worker("greeting"))
    os.kill(min(workers), signal.SIGKILL)
    eventually(lambda: not workers <= set(house.by_worker("greeting")))
    assert house.everywhere("greeting", "two")
    assert house.everywhere("limit", 5)

    house.write({"fresh.greeting": "three"})
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: house.everywhere("greeting", "three"))
    eventually(lambda: (house.run / "greeter").read_text() == "one\ntwo\nthree\n")


@pytest.mark.estate
def test_what_cannot_be_used_changes_nothing(start, served):
    house = start(fresh__limit=5)
    house.write({"fresh.greeting": "two", "fresh.limit": 0})
    answer = house.post("/refresh")
    assert answer.status_code == 500
    said = answer.json()["message"]
    assert said.startswith(f"{house.name}: fresh.limit is below 1 (from ")
    assert f"{house.name}.yml" in said
    assert house.everywhere("greeting", "one")
    assert house.everywhere("limit", 5)


@pytest.mark.estate
def test_a_pool_is_remade_and_who_holds_the_old_one_finishes(start, database):
    house = start(**database)
    old = house.get("/database")["database"]
    other = f"{old}_b"
    administer(database, f"CREATE DATABASE {other}")
    slow: list[dict[str, Any]] = []
    held = threading.Thread(target=lambda: slow.append(house.get("/database?s=2")))
    held.start()
    url = database["spring.datasource.url"].removesuffix(old) + other
    house.write({**database, "spring.datasource.url": url})
    try:
        assert house.post("/refresh").json() == ["fresh.greeting", "spring.datasource.url"]
        seen: dict[int, str] = {}

        def all_moved() -> bool:
            told = house.get("/database")
            seen[told["pid"]] = told["database"]
            return len(seen) == 2

        eventually(all_moved)
        assert set(seen.values()) == {other}
        held.join()
        assert [told["database"] for told in slow] == [old]
    finally:
        house.end()
        administer(database, f"DROP DATABASE {other} WITH (FORCE)")


def administer(database: Mapping[str, str], statement: str) -> None:
    url = database["spring.datasource.url"].removeprefix("jdbc:").rpartition("/")[0]
    user, password = (database[f"spring.datasource.{key}"] for key in ("username", "password"))
    with closing(psycopg2.connect(f"{url}/postgres", user=user, password=password)) as admin:
        admin.autocommit = True
        admin.cursor().execute(statement)


@pytest.mark.estate
def test_a_config_server_that_is_away_changes_nothing(served, tmp_path):
    """`optional:` is for a start: what the server has said once is not forgotten."""
    folder, url = served
    door = Door(urlsplit(url).netloc)
    house = House(folder, f"http://127.0.0.1:{door.port}", tmp_path / "run", {"fresh.limit": 7})
    try:
        eventually(lambda: answers(house))
        door.shut()
        answer = house.post("/refresh")
        assert (answer.status_code, answer.json()["status"]) == (503, 503)
        assert house.everywhere("limit", 7)
        door.open()
        house.write({"fresh.limit": 8})
        assert house.post("/refresh").json() == ["fresh.limit"]
    finally:
        house.end()
        door.close()


@pytest.fixture
def alone(tmp_path) -> Environment:
    return Environment(Properties.of({"nozie.server.run-dir": str(tmp_path), "a": "1", "b": "2"}))


def test_what_an_operator_sets_stands_above_all_and_outlives_a_refresh(alone):
    own = refresher(alone)
    assert own.manage({"a": "9"}) == ["a"]
    assert alone.properties.origin("a") == MANAGER
    assert own.refresh() == []
    assert (alone.properties.get("a"), own.managed()) == ("9", {"a": "9"})
    assert own.manage({"a": None}) == ["a"]
    assert alone.properties.get("a") == "1"


def test_a_check_refuses_before_anybody_is_told(alone):
    heard: list[frozenset[str]] = []
    alone.require(lambda fresh: fresh.integer("b"))
    alone.subscribe(lambda _fresh, changed: heard.append(changed))
    with pytest.raises(ConfigurationError, match="b is not a whole number"):
        refresher(alone).manage({"b": "x"})
    assert alone.properties.get("b") == "2"
    assert heard == []


def test_without_a_run_folder_a_process_agrees_with_itself(tmp_path):
    """A script has none; threads of it still refresh one after the other."""
    settings = {"nozie.server.run-dir": str(tmp_path / "none"), "a": "1"}
    environment = Environment(Properties.of(settings))
    own = refresher(environment)
    threads = [threading.Thread(target=own.manage, args=({f"b{n}": "2"},)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert own.managed() == {f"b{n}": "2" for n in range(4)}


def test_a_part_is_kept_until_what_it_was_made_from_changes():
    kept, retired = Scope(), threading.Event()
    first = kept.get("pool", (1,), object, lambda _: retired.set(), after_s=0)
    assert kept.get("pool", (1,), object) is first
    assert not retired.is_set()
    assert kept.get("pool", (2,), object) is not first
    assert retired.wait(5)
