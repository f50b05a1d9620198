"""Refreshes of a house under gunicorn, its configuration from a real Config Server."""

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError
from cloud.refresh import MANAGER, Scope, refresher
from tests.waiting import eventually
from tests.wire import Wire


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

    workers = set(house.by_worker("/settings", "greeting"))
    os.kill(min(workers), signal.SIGKILL)
    eventually(lambda: not workers <= set(house.by_worker("/settings", "greeting")))
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
    # Of a breaker that no process has made so far.
    key = "resilience4j.circuitbreaker.instances.nobodys.sliding-window-size"
    house.write({"fresh.greeting": "two", "fresh.limit": 5, key: "many"})
    answer = house.post("/refresh")
    said = answer.json()["message"]
    assert answer.status_code == 500
    assert said.startswith(f"{house.name}: {key} is not a whole number (from ")
    assert f"{house.name}.yml" in said
    assert house.everywhere("greeting", "one")
    assert house.everywhere("limit", 5)


@pytest.mark.estate
def test_a_pool_is_remade_and_who_holds_the_old_one_finishes(start, database):
    house = start(**database)
    old = house.get("/database").json()["database"]
    other = f"{old}_b"
    administer(database, f"CREATE DATABASE {other}")
    slow: list[dict[str, Any]] = []
    held = threading.Thread(target=lambda: slow.append(house.get("/database?s=2").json()))
    held.start()
    url = database["spring.datasource.url"].removesuffix(old) + other
    house.write({**database, "spring.datasource.url": url})
    try:
        assert house.post("/refresh").json() == ["fresh.greeting", "spring.datasource.url"]
        seen: dict[int, str] = {}

        def all_moved() -> bool:
            told = house.get("/database").json()
            seen[told["pid"]] = told["database"]
            return len(seen) == 2

        eventually(all_moved)
        assert set(seen.values()) == {other}
        held.join()
        assert [told["database"] for told in slow] == [old]
    finally:
        house.close()
        administer(database, f"DROP DATABASE {other} WITH (FORCE)")


def administer(database: Mapping[str, str], statement: str) -> None:
    url = database["spring.datasource.url"].removeprefix("jdbc:").rpartition("/")[0]
    user, password = (database[f"spring.datasource.{key}"] for key in ("username", "password"))
    with closing(psycopg2.connect(f"{url}/postgres", user=user, password=password)) as admin:
        admin.autocommit = True
        admin.cursor().execute(statement)


@pytest.mark.estate
def test_a_config_server_that_is_away_changes_nothing(served, start):
    """`optional:` is for a start: what the server has said once is not forgotten."""
    with Wire(urlsplit(served[1]).netloc) as door:
        house = start(f"http://127.0.0.1:{door.port}", fresh__limit=7)
        door.cut()
        answer = house.post("/refresh")
        assert (answer.status_code, answer.json()["status"]) == (503, 503)
        assert house.everywhere("limit", 7)
        door.mend()
        house.write({"fresh.greeting": "one", "fresh.limit": 8})
        assert house.post("/refresh").json() == ["fresh.limit"]


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
