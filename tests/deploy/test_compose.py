"""compose.yaml beside what it must agree with: the local runner, the files it mounts, itself."""

import re
import stat
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from deploy.local import compose, servers, services
from deploy.local.services import SERVICES
from deploy.local.site import CHECKOUT, PORTS, Site, setting_of

FILE = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
OURS = {house: FILE[name] for house, name in SERVICES.items()}
# What a process needs to know and a container does not: its image, or its network, settles it.
BY_IMAGE = {
    *("NOZIE_CONFIG_SNAPSHOT_FOLDER", "NOZIE_SERVER_RUN_DIR", "PYTHONNODEBUGRANGES"),
    *("PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONUNBUFFERED"),
}
BY_NETWORK = {
    *("EUREKA_INSTANCE_IP_ADDRESS", "PYTHONPYCACHEPREFIX", "SERVER_ADDRESS"),
    *("SPRING_DATA_REDIS_PORT", "SPRING_RABBITMQ_PORT"),
}
PAGES = {"api-gateway", "discovery-server", "rabbitmq"}
OPS_PAGES = {"zipkin", "prometheus", "grafana", "elasticsearch", "kibana", "admin-server"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    secrets = tmp_path_factory.mktemp("compose")
    return Site("main", secrets, PORTS, {})


@pytest.mark.parametrize("house", SERVICES)
def test_a_service_is_told_the_same_as_a_process_and_as_a_container(house, site):
    told = set(OURS[house]["environment"])
    image = (CHECKOUT / "deploy" / "Dockerfile").read_text()
    assert set(services.environment(site, house)) - BY_NETWORK - BY_IMAGE <= told
    assert [name for name in BY_IMAGE if f"{name}=" not in image] == []


@pytest.mark.parametrize("house", ["movie", "notification"])
def test_documents_are_acknowledged_alike(house, site):
    contained = urlsplit(OURS[house]["environment"]["SPRING_DATA_MONGODB_URI"])
    local = urlsplit(servers.mongo_uri(site, f"{house}db"))
    assert contained.path == local.path
    assert parse_qs(contained.query) == parse_qs(local.query)


def test_nothing_is_published_but_the_gateway_and_pages_and_those_on_loopback():
    published = {name: told["ports"] for name, told in FILE.items() if "ports" in told}
    assert set(published) == PAGES | OPS_PAGES
    for port in (port for ports in published.values() for port in ports):
        settings = [f"${{{setting_of(name)}:-{PORTS[name]}}}" for name in PORTS]
        assert re.sub(r":\d+$", "", port) in {f"127.0.0.1:{setting}" for setting in settings}


def test_operators_servers_are_a_profile_of_their_own():
    profiled = {name for name, told in FILE.items() if told.get("profiles") == ["ops"]}
    assert profiled == OPS_PAGES | {"logstash"}
    waited_for = {needed for told in OURS.values() for needed in told["depends_on"]}
    assert not waited_for & profiled


def test_whatever_is_waited_for_until_it_is_healthy_says_when_it_is():
    own_check = {SERVICES[house] for house in SERVICES}  # the Dockerfile's HEALTHCHECK
    for name, told in FILE.items():
        needs = told.get("depends_on", {})
        for needed, how in needs.items() if isinstance(needs, dict) else ():
            assert how["condition"] == "service_healthy", name
            assert "healthcheck" in FILE[needed] or needed in own_check, name


@pytest.mark.parametrize("house", SERVICES)
def test_a_service_can_change_nothing_in_its_container(house):
    told = OURS[house]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert not [mount for mount in told["volumes"] if mount.startswith((".", "/"))]


def test_every_mounted_file_of_the_checkout_is_there():
    mounts = [mount for told in FILE.values() for mount in told.get("volumes", ())]
    ours = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert ours
    assert [path for path in ours if not (CHECKOUT / path).exists()] == []


def test_the_databases_are_made_by_a_process_of_its_own():
    """PostgreSQL's image would read a file that is not executable into its own start script."""
    script = CHECKOUT / "deploy" / "postgres" / "databases.sh"
    assert script.stat().st_mode & stat.S_IXOTH


@pytest.mark.parametrize("house", SERVICES)
def test_lines_of_a_service_are_where_logstash_reads_and_do_not_fill_the_disk(house):
    told = OURS[house]["logging"]
    assert told["driver"] == "json-file"
    assert {"max-size", "max-file"} <= set(told["options"])


def test_a_service_is_not_killed_while_it_says_farewell():
    shared = yaml.safe_load((CHECKOUT / "deploy" / "config" / "application.yml").read_text())
    told = shared["nozie"]["server"]
    chores, calls = 10, 10
    farewell = seconds(told["deregister-wait"]) + seconds(told["graceful-timeout"])
    longest = farewell + chores + calls
    assert all(seconds(service["stop_grace_period"]) > longest for service in OURS.values())


def seconds(text):
    return int(text.removesuffix("s"))


ROWS = {
    "healthy": ({"Service": "redis", "State": "running", "Health": "healthy"}, "ready"),
    "without a check": ({"Service": "redis", "State": "running", "Health": ""}, "ready"),
    "not yet": ({"Service": "redis", "State": "running", "Health": "starting"}, "starting"),
    "sick": ({"Service": "redis", "State": "running", "Health": "unhealthy"}, "unhealthy"),
    "ended": ({"Service": "redis", "State": "exited", "Health": ""}, "exited"),
    "never made": ({}, "stopped"),
}


@pytest.mark.parametrize(("row", "state"), ROWS.values(), ids=ROWS)
def test_state_of_a_container(row, state):
    assert compose._state(row) == state  # noqa: SLF001 - no engine where tests run
    assert (compose._told({"redis": state}) == 0) is (state == "ready")  # noqa: SLF001
