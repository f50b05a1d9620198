"""The runner of the local estate, on a small estate of its own."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from deploy.local import Estate, EstateError, probes
from deploy.local.site import CHECKOUT, PORTS, TEST_SHIFT, Site, setting_of
from deploy.local.supervisor import Supervisor, survivors
from tests.waiting import eventually

pytestmark = pytest.mark.estate


@pytest.fixture
def small(monkeypatch):
    """An estate on ports that neither `make up` nor the test estate uses."""
    monkeypatch.setenv("NOZIE_TEST_PORT_SHIFT", str(TEST_SHIFT + 500))
    estate = Estate("small")
    yield estate
    estate.clean()


def test_no_port_of_the_test_estate_is_one_of_the_main_estate_or_ephemeral():
    shifted = {number + TEST_SHIFT for number in PORTS.values()}
    assert not shifted & set(PORTS.values())
    assert max(shifted) < 32768


def test_what_is_started_runs_and_is_left_alone_and_leaves_nothing_behind(small):
    small.ensure("redis", "epmd")
    pids = set(survivors(small.site))
    small.ensure("redis", "epmd")
    assert set(survivors(small.site)) == pids
    assert small.states()["redis"] == "ready"

    small.down()
    assert list(survivors(small.site)) == []
    assert not probes.holds(lambda: probes.redis_pings(small.site.ports["redis"]))


def test_down_finds_processes_whose_supervisor_was_killed(small):
    small.ensure("redis", "epmd")
    os.kill(int(small.site.path("supervisor.pid").read_text()), signal.SIGKILL)
    assert probes.redis_pings(small.site.ports["redis"])
    small.down()
    assert list(survivors(small.site)) == []


def test_a_killed_program_comes_back_a_stopped_one_stays_away(small):
    small.ensure("redis")
    supervisor = Supervisor(small.site)
    first = supervisor.pid("redis")
    small.signal("redis", "KILL")
    # Only what has run for a second is taken for started.
    eventually(lambda: supervisor.states()["redis"], "RUNNING")
    eventually(lambda: supervisor.pid("redis") not in (0, first))
    eventually(lambda: supervisor.states()["redis"], "RUNNING")
    small.signal("redis", "TERM")
    eventually(lambda: small.states()["redis"], "exited")


def test_a_taken_port_is_refused_with_its_number_and_its_setting(small):
    number = small.site.ports["redis"]
    with socket.create_server(("127.0.0.1", number)), pytest.raises(EstateError) as refused:
        small.ensure("redis")
    assert f"port {number}, wanted by redis, is taken" in str(refused.value)
    assert small.states()["redis"] == "stopped"


@pytest.mark.parametrize(
    ("environment", "port", "number"),
    [
        pytest.param({}, "redis", 6379, id="as published"),
        pytest.param({"NOZIE_PORT_SHIFT": "100"}, "rabbit-api", 15772, id="all shifted"),
        pytest.param(
            {"NOZIE_PORT_SHIFT": "100", "NOZIE_RABBIT_API_PORT": "15000"},
            "rabbit-api",
            15000,
            id="one named",
        ),
    ],
)
def test_where_a_server_listens(environment, port, number, monkeypatch):
    for name in ("NOZIE_PORT_SHIFT", *map(setting_of, PORTS)):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Site.of().ports[port] == number


def test_a_port_that_is_no_number_is_told_in_one_line():
    environment = {"NOZIE_REDIS_PORT": "six", "NOZIE_RUNTIME": "local"}
    done = subprocess.run(
        (sys.executable, "-m", "deploy.local", "status"),
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "status: NOZIE_REDIS_PORT is not a number"
