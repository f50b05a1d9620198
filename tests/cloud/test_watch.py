"""Following the Config Server: a poll that was asked for, and a server that comes back."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from cloud.config import Environment, load
from cloud.config.snapshot import TAKEN
from cloud.watch import follow
from tests.cloud.config_server import Reply, Server, answer
from tests.waiting import eventually


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    started.reply = said("old")
    yield started
    started.close()


def said(value: str) -> Reply:
    return lambda _path, _headers: (200, answer(("a", {"k": value})))


Live = Callable[..., Environment]


@pytest.fixture
def live(server: Server, tmp_path: Path) -> Iterator[Live]:
    """An instance that follows the server, in a thread as the registrar does."""
    stop, threads = threading.Event(), []

    def start(text: str = "") -> Environment:
        head = (
            f"spring.config.import: 'configserver:{server.url}'\n"
            f"nozie.config.snapshot: {{key: k, wait: 0, folder: '{tmp_path}/state'}}\n"
            f"nozie.server.run-dir: '{tmp_path}'\n"
        )
        (tmp_path / "application.yml").write_text(head + text)
        made = Environment(load(tmp_path, {}), lambda held: load(tmp_path, {}, held=held))
        thread = threading.Thread(target=follow, args=(made, stop, 0.05))
        thread.start()
        threads.append(thread)
        return made

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_a_server_that_comes_back_ends_the_time_of_the_snapshot(live: Live, server: Server):
    live()
    server.reply = lambda _path, _headers: (503, b"")
    held = live()
    assert (held.properties.get("k"), held.properties.get(TAKEN) is None) == ("old", False)
    heard: list[frozenset[str]] = []
    held.subscribe(lambda _fresh, keys: heard.append(keys))
    asked = len(server.asked)
    eventually(lambda: len(server.asked) > asked + 2)
    server.reply = said("new")
    eventually(lambda: held.properties.get("k") == "new")
    assert heard == [{"k", TAKEN}]
    assert held.properties.get(TAKEN) is None


def test_who_has_its_configuration_asks_no_more(live: Live, server: Server):
    """The second instance looks, and so measures the time that the first one has had."""
    live()
    quiet = len(server.asked)
    live("spring.cloud.config.watch: {enabled: true, delay: 1}")
    eventually(lambda: len(server.asked) > quiet + 1)
    assert len(server.asked) == quiet + 2


def test_a_watched_server_is_heard_and_a_bad_word_is_told_once(live: Live, server: Server):
    watched = live("spring.cloud.config.watch: {enabled: true, delay: 100ms}")
    server.reply = said("new")
    eventually(lambda: watched.properties.get("k") == "new")
    with structlog.testing.capture_logs() as lines:
        server.reply = said("${k}")
        asked = len(server.asked)
        eventually(lambda: len(server.asked) > asked + 2)
    assert watched.properties.get("k") == "new"
    told = [line["reason"] for line in lines if line["event"] == "refresh_failed"]
    assert len(told) == 1
    assert "k refers to itself" in told[0]
