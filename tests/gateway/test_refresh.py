"""Routes that change while requests pass: a real Config Server, two workers, no failed request."""

import itertools
import json
import os
import re
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.estate import Estate
from tests.gateway.conftest import Gateway, bearer, settings
from tests.waiting import eventually

SIMPLE = "spring.cloud.discovery.client.simple.instances"
PREFIX = "spring.cloud.gateway.server.webflux"
AUTH = bearer(7, "USER")
NUMBER = re.compile(rb"x-number: (\d+)", re.IGNORECASE)


class Changing:
    """A gateway whose routes a Config Server holds."""

    def __init__(self, folder: Path, config_url: str, run: Path, store, live: str) -> None:
        self.name = f"g{uuid.uuid4().hex[:10]}"
        self._file, self._live = folder / f"{self.name}.yml", live
        self.configure(self.leads_to("one"))
        self.gateway = Gateway(
            {
                **settings(store),
                "spring.application.name": self.name,
                "spring.config.import": f"configserver:{config_url}",
                "nozie.server.run-dir": str(run),
                "server.address": "127.0.0.1",
                "management.endpoints.web.exposure.include": "*",
            },
            "-c",
            "python:cloud.server",
            tree={},
        )

    def leads_to(self, where: str, *, way: str = "/changing/**") -> dict[str, Any]:
        filters = [f"PrefixPath=/{where}"]
        return {"id": "r", "uri": self._live, "predicates": [f"Path={way}"], "filters": filters}

    def configure(self, *routes: object, **more: object) -> None:
        listed: object = routes[0] if len(routes) == 1 and routes[0] == "nonsense" else list(routes)
        draft = self._file.with_suffix(".draft")
        draft.write_text(yaml.safe_dump({f"{PREFIX}.routes": listed, **more}))
        draft.replace(self._file)

    def refresh(self) -> tuple[int, Any]:
        answer = self.gateway.ask("/actuator/refresh", "POST")
        return answer.status, json.loads(answer.body)

    def close(self) -> None:
        self.gateway.stop()
        self._file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def changing(server, store, upstream, tmp_path_factory) -> Iterator[Changing]:
    url = f"http://{server('NOZIE_TEST_CONFIG', 'rabbit', 'eureka', 'config')}"
    folder = Estate("test").site.path("config")
    folder.mkdir(parents=True, exist_ok=True)
    run = tmp_path_factory.mktemp("refresh") / "run"
    found = Changing(folder, url, run, store, f"http://127.0.0.1:{upstream.port}")
    yield found
    found.close()


def await_answers(statuses: Counter[int], wanted: int) -> None:
    eventually(lambda: sum(statuses.values()) >= wanted)


def test_routes_change_in_all_workers_under_load_without_a_failed_request(changing, upstream):
    statuses: Counter[int] = Counter()
    stop, numbers = threading.Event(), itertools.count()

    def load() -> None:
        while not stop.is_set():
            number = str(next(numbers))
            answer = changing.gateway.ask("/changing/x", Authorization=AUTH, X_Number=number)
            statuses[answer.status] += 1

    def seen() -> dict[int, bytes]:
        """The heads that arrived, by the order in which their requests began."""
        found = ((NUMBER.search(head), head) for head in upstream.heads)
        return {int(number[1]): head for number, head in found if number}

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(8):
            changing.configure(changing.leads_to(f"turn{turn}"))
            status, keys = changing.refresh()
            assert status == 200
            assert any(PREFIX in key for key in keys)
            # Once refresh has answered, no worker knows the old route.
            answered = next(numbers)
            await_answers(statuses, sum(statuses.values()) + 12)
            late = [head for number, head in seen().items() if number > answered]
            assert late
            assert all(head.startswith(b"GET /turn%d/" % turn) for head in late)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}, statuses


def test_a_bad_route_is_left_out_and_a_list_that_is_none_changes_nothing(changing):
    door = changing.gateway
    bad = {"id": "bad", "uri": "http://x", "predicates": ["Path=/**"], "filters": ["NoSuch"]}
    changing.configure(bad, changing.leads_to("kept"))
    assert changing.refresh()[0] == 200
    assert {door.ask("/changing/x", Authorization=AUTH).status for _ in range(8)} == {200}
    assert any("route_refused" in line and "NoSuch" in line for line in door.lines)

    changing.configure("nonsense")
    status, told = changing.refresh()
    assert (status, "is no list of routes" in told["message"]) == (500, True)
    assert {door.ask("/changing/x", Authorization=AUTH).status for _ in range(8)} == {200}

    changing.configure(changing.leads_to("kept"), **{"nozie.gateway.max-head-size": "huge"})
    status, told = changing.refresh()
    assert (status, "max-head-size" in told["message"]) == (500, True)
    assert {door.ask("/changing/x", Authorization=AUTH).status for _ in range(8)} == {200}


def test_connections_to_upstreams_follow_the_configuration(changing):
    """A pool of another size, another time-out: for the next request, without a restart."""
    door = changing.gateway
    changing.configure(
        changing.leads_to("slow", way="/**"), **{f"{PREFIX}.httpclient.response-timeout": "300ms"}
    )
    assert changing.refresh()[0] == 200
    began = time.monotonic()
    assert door.ask("/changing/stall", Authorization=AUTH).status == 504
    assert time.monotonic() - began < 5  # far from the 10 s that held before


def test_a_worker_that_is_forked_later_has_the_newest_routes(changing, upstream):
    door = changing.gateway
    changing.configure(changing.leads_to("newest"))
    assert changing.refresh()[0] == 200
    before = set(door.workers())
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: len(set(door.workers()) - before) == 2)

    def newest() -> bool:
        upstream.heads.clear()
        asked = {door.ask("/changing/x", Authorization=AUTH).status for _ in range(12)}
        return asked == {200} and all(head.startswith(b"GET /newest/") for head in upstream.heads)

    eventually(newest)
