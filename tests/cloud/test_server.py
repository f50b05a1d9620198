"""A house under gunicorn, with its companions, before a real Eureka."""

import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from cloud.server.settings import house_of
from tests.cloud.eureka import listed, status
from tests.cloud.house import House, spelled
from tests.waiting import eventually
from tests.wire import Wire

pytestmark = pytest.mark.estate


@pytest.fixture
def house(begin, app, eureka_url) -> Callable[..., House]:
    """Start the sample house, again and again in one run folder."""

    def start(url: str = eureka_url, **settings: Any) -> House:
        own = {"spring.application.name": app, "eureka.client.service-url.defaultZone": url}
        house: House = begin(House, own | spelled(settings), run="run")
        return house

    return start


def up(house: House, url: str) -> bool:
    assert house.process.poll() is None, house.log.read_text()
    return status(url, house.name) == "UP"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("gunicorn -c python:cloud.server identity.wsgi:app", "identity"),
        (
            "gunicorn -c python:cloud.server --bind :80 tests.cloud.sample_house.wsgi",
            "tests.cloud.sample_house",
        ),
        ("pytest tests/cloud/test_server.py", None),
    ],
)
def test_house_of_a_command_line(line, name):
    assert house_of(line.split()) == name


def test_four_workers_are_one_registration_and_one_heartbeat_stream(house, eureka_url, door):
    served = house(f"http://127.0.0.1:{door.port}/eureka/", nozie__server__workers=4)
    eventually(lambda: up(served, eureka_url))
    eventually(lambda: len(served.pids("worker")) == 4)
    path = f"/eureka/apps/{served.name.upper()}"
    first = len(door.requests)
    eventually(lambda: sum(line.startswith(f"PUT {path}") for line in door.requests[first:]) >= 4)
    # UP, and STARTING before it when that took a moment.
    assert sum(line.startswith(f"POST {path}") for line in door.requests) in {1, 2}
    fetches = [line for line in door.requests if line.startswith("GET /eureka/apps/delta")]
    beats = [line for line in door.requests if line.startswith(f"PUT {path}")]
    # One fetch and one renewal a second: one process speaks, not four.
    assert abs(len(fetches) - len(beats)) <= 3


def test_every_worker_sees_the_registry(house, eureka_url):
    served = house(nozie__server__workers=3)
    eventually(lambda: up(served, eureka_url))
    seen: set[int] = set()

    def all_know() -> bool:
        if served.get(f"/instances/{served.name}").json():
            seen.add(served.get("/who").json()["pid"])
        return len(seen) == 3

    eventually(all_know)


def test_a_killed_companion_is_replaced_and_the_lease_stays(house, eureka_url, door):
    served = house(f"http://127.0.0.1:{door.port}/eureka/")
    eventually(lambda: up(served, eureka_url))
    (before,) = served.pids("ticker")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: len(served.pids("ticker") - {before}) == 1)
    beats = len(door.requests)
    eventually(lambda: any(line.startswith("PUT") for line in door.requests[beats:]))
    assert up(served, eureka_url)
    assert not any(line.startswith("DELETE") for line in door.requests)
    assert not any("status=DOWN" in line for line in door.requests)


LEASE = "eureka__instance__lease_expiration_duration_in_seconds"


def pauses_s(door: Wire, app: str) -> list[float]:
    """Return how long Eureka waited each time for the next word of a lease."""
    path = f"/eureka/apps/{app.upper()}"
    words = zip(door.requests, door.times, strict=False)
    times = [at for line, at in words if line.startswith((f"PUT {path}", f"POST {path}"))]
    return [after - before for before, after in pairwise(times)]


def test_each_of_four_workers_and_the_registrar_die_within_one_lease(house, eureka_url, door):
    settings = {"nozie__server__workers": 4, LEASE: 6}
    served = house(f"http://127.0.0.1:{door.port}/eureka/", **settings)
    eventually(lambda: up(served, eureka_url))
    eventually(lambda: len(served.pids("worker")) == 4)
    began = listed(eureka_url, served.name)
    seen = set()
    for name, many in (("worker", 4), ("registrar", 1)):
        for pid in served.pids(name):
            beats = len(door.requests)
            os.kill(pid, signal.SIGKILL)

            def replaced(
                name: str = name, many: int = many, pid: int = pid, beats: int = beats
            ) -> bool:
                seen.add(status(eureka_url, served.name))
                renewed = any(line.startswith("PUT") for line in door.requests[beats:])
                return renewed and len(served.pids(name) - {pid}) == many

            eventually(replaced)
    assert seen == {"UP"}
    assert max(pauses_s(door, served.name)) < 6
    assert not any(line.startswith("DELETE") for line in door.requests)
    # A lease that had ended would count from anew.
    after = listed(eureka_url, served.name)
    assert began is not None
    assert after is not None
    ups = [found["leaseInfo"]["serviceUpTimestamp"] for found in (began, after)]
    assert ups[0] == ups[1]


def test_an_arbiter_dies_within_one_lease_of_its_successor(house, eureka_url, door):
    """Its children end the lease and themselves; a supervisor starts the next one at once."""
    url = f"http://127.0.0.1:{door.port}/eureka/"
    first = house(url, nozie__server__workers=4, **{LEASE: 30})
    eventually(lambda: up(first, eureka_url))
    eventually(lambda: len(first.pids("worker")) == 4)
    children = first.children()
    first.end(signal.SIGKILL)
    second = house(url, nozie__server__workers=4, server__port=first.port, **{LEASE: 30})
    eventually(lambda: not [pid for pid in children if alive(pid)])
    eventually(lambda: up(second, eureka_url) and len(second.pids("worker")) == 4)
    assert max(pauses_s(door, first.name)) < 30
    said = [line.split()[0] for line in door.requests if first.name.upper() in line]
    assert "POST" in said[said.index("DELETE") :], "one life ends before the next begins"
    assert said.count("DELETE") == 1


def test_term_takes_it_out_of_eureka_while_it_still_serves(house, eureka_url, door):
    served = house(f"http://127.0.0.1:{door.port}/eureka/", nozie__server__deregister_wait="2s")
    eventually(lambda: up(served, eureka_url))
    tally = served.run / "tally"
    # A chore that fails begins anew, as does one that ends unasked; nobody else notices.
    eventually(lambda: tally.read_text() == "started\n" * 3)
    assert [line["nozie.companion"] for line in served.said("companion_died")] == ["tally"] * 2
    children = served.children()
    served.process.send_signal(signal.SIGTERM)
    eventually(lambda: status(eureka_url, served.name) == "DOWN")
    assert served.get("/who").status_code == 200
    assert served.get("/actuator/health/readiness").status_code == 503
    eventually(lambda: status(eureka_url, served.name) is None, within_s=5)
    assert served.process.wait(20) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert (served.run / "ticker").read_text() == "started\nstopped\n"
    assert tally.read_text() == "started\n" * 3 + "stopped\n"
    assert status(eureka_url, served.name) is None
    own = [line for line in door.requests if served.name.upper() in line]
    assert own[-1].startswith("DELETE")


def test_a_request_under_way_is_answered_before_the_end(house, eureka_url):
    served = house()
    eventually(lambda: up(served, eureka_url))
    answers: list[requests.Response] = []
    slow = threading.Thread(target=lambda: answers.append(served.get("/slow?seconds=3")))
    slow.start()
    eventually(lambda: served.get("/who").ok)
    assert served.end() == 0
    slow.join()
    assert [answer.status_code for answer in answers] == [200]


def test_a_killed_arbiter_takes_all_with_it_and_the_lease_is_cancelled(house, eureka_url):
    served = house()
    eventually(lambda: up(served, eureka_url))
    children = served.children()
    served.end(signal.SIGKILL)
    eventually(lambda: not [pid for pid in children if alive(pid)])
    assert status(eureka_url, served.name) is None


def alive(pid: int) -> bool:
    """Tell whether a process still does something; one nobody reaps in a container does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_starting_until_it_is_prepared_and_it_says_once_what_it_waits_for(
    house, eureka_url, tmp_path
):
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "not-yet").touch()
    served = house()
    eventually(lambda: served.log.exists() and served.said("waiting_for"))
    eventually(lambda: served.get("/actuator/health/readiness").status_code == 503)
    eventually(lambda: status(eureka_url, served.name) == "STARTING")
    (tmp_path / "run" / "not-yet").unlink()
    eventually(lambda: up(served, eureka_url))
    waited = [line["nozie.what"] for line in served.said("waiting_for")]
    assert waited == ["the sample database is not reachable"]


def test_health_is_told_and_told_again_when_it_is_back(house, eureka_url):
    served = house()
    eventually(lambda: up(served, eureka_url))
    (served.run / "sick").touch()
    eventually(lambda: status(eureka_url, served.name) == "DOWN")
    (served.run / "sick").unlink()
    eventually(lambda: up(served, eureka_url))


def test_an_eureka_that_is_late_then_away_then_empty(house, eureka_url, door):
    door.cut()
    served = house(f"http://127.0.0.1:{door.port}/eureka/")
    eventually(lambda: served.log.exists() and served.said("waiting_for"))
    assert served.get("/who").ok
    door.mend()
    eventually(lambda: up(served, eureka_url))
    eventually(lambda: served.get(f"/instances/{served.name}").json())
    door.cut()
    eventually(lambda: len(served.said("waiting_for")) == 2)
    (instance,) = served.get(f"/instances/{served.name}").json()
    requests.delete(f"{eureka_url}apps/{served.name.upper()}/{instance}", timeout=5)
    assert served.get(f"/instances/{served.name}").json() == [instance]
    door.mend()
    eventually(lambda: up(served, eureka_url))
    assert served.get(f"/instances/{served.name}").json() == [instance]
    assert len(served.said("waiting_for")) == 2
    assert len(served.said("eureka_found")) == 2


def test_reload_replaces_the_workers_and_leaves_the_lease_alone(house, eureka_url, door):
    served = house(f"http://127.0.0.1:{door.port}/eureka/")
    eventually(lambda: up(served, eureka_url))
    workers, registrars = served.pids("worker"), served.pids("registrar")
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(served.pids("worker")) == 2 and not served.pids("worker") & workers)
    assert served.pids("registrar") == registrars
    assert not any(line.startswith("DELETE") for line in door.requests)
    assert served.get("/who").json()["pid"] not in workers


def test_a_successor_takes_over_the_lease(house, eureka_url, door):
    """USR2 and TERM: gunicorn's upgrade in place. The lease is never cancelled."""
    served = house(f"http://127.0.0.1:{door.port}/eureka/")
    eventually(lambda: up(served, eureka_url))
    old = served.pids("worker")
    served.process.send_signal(signal.SIGUSR2)
    eventually(lambda: served.get("/who").json()["ppid"] != served.process.pid)
    served.end()
    arbiter = served.get("/who").json()["ppid"]
    try:
        assert arbiter != served.process.pid
        eventually(lambda: served.told().count("UP") == 2)
        # The successor was never told to start: the instance had not ceased to serve.
        assert served.told().count("STARTING") <= 1
        assert served.get("/who").json()["pid"] not in old
        assert status(eureka_url, served.name) == "UP"
        assert not any(line.startswith("DELETE") for line in door.requests)
    finally:
        os.kill(arbiter, signal.SIGTERM)
        eventually(lambda: not alive(arbiter))
    assert status(eureka_url, served.name) is None


def test_a_crashing_start_of_the_run_folder_is_one_line(house, tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    served = house()
    assert served.process.wait(20) == 1
    assert "nozie.server.run-dir" in served.log.read_text()
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        pytest.param({"SCRIPT_NAME": "/api"}, 400, id="a path rewritten by header"),
        pytest.param({"X-Forwarded-Proto": "https"}, 200, id="a scheme nobody trusts"),
        pytest.param({"X_User_Id": "1"}, 400, id="an underscore"),
        pytest.param({"X-Long": "x" * 20_000}, 431, id="a header too long"),
    ],
)
def test_headers_that_nobody_may_send(house, headers, code):
    served = house(eureka__client__enabled=False)
    eventually(lambda: served.answers("/who"))
    assert served.get("/who", headers=headers).status_code == code


def test_door_is_transparent(eureka_url, door):
    """The tests above count through it: it must not change what it passes on."""
    path = urlsplit(eureka_url).path
    direct = requests.get(f"{eureka_url}apps", timeout=5).status_code
    through = requests.get(f"http://127.0.0.1:{door.port}{path}apps", timeout=5).status_code
    assert (direct, through) == (200, 200)
    assert door.requests == ["GET /eureka/apps"]
