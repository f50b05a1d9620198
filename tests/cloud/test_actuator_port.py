"""Management endpoints on a port of their own, or nowhere: real instances, a real Eureka."""

import pytest
import requests

from cloud.config import Properties, management
from cloud.errors import ConfigurationError
from cloud.testing import properties
from tests.cloud.eureka import listed, registration, settings, status
from tests.ports import free_port
from tests.waiting import eventually

PORT = "management.server.port"


@pytest.mark.estate
def test_one_listener_of_the_instance_is_all_operators_see_and_callers_do_not(house, eureka_url):
    port = free_port()
    served = house(
        management__server__port=port,
        management__server__base_path="/inner/",
        management__endpoint__health__probes__add_additional_paths=True,
        management__endpoint__health__group__mine__include="ping",
        management__endpoint__health__group__mine__additional_path="management:/minez",
    )
    # The registrar has asked there.
    eventually(lambda: status(eureka_url, served.name), "UP")
    found = listed(eureka_url, served.name)
    assert found is not None
    base = f"http://{found['hostName']}:{port}/inner/actuator"
    assert (found["healthCheckUrl"], found["statusPageUrl"]) == (f"{base}/health", f"{base}/info")
    assert found["homePageUrl"] == f"http://{found['hostName']}:{served.port}/"
    told = {key: found["metadata"][f"management.{key}"] for key in ("port", "context-path")}
    assert told == {"port": str(port), "context-path": "/inner/actuator"}

    def at(number: int, path: str, **headers: str) -> int:
        url = f"http://127.0.0.1:{number}{path}"
        return requests.get(url, headers=headers, timeout=20).status_code

    inside = ("/inner/actuator", "/inner/actuator/health/liveness", "/inner/minez")
    outside = ("/settings", "/livez", "/readyz")
    assert [at(port, path) for path in inside] == [200] * 3
    assert [at(served.port, path) for path in outside] == [200] * 3
    assert [at(port, path) for path in (*outside, "/", "/actuator", "/minez")] == [404] * 6
    assert [at(served.port, path) for path in (*inside, "/actuator/health", "/minez")] == [404] * 5
    # A header says nothing of where a request came in.
    assert at(served.port, "/inner/actuator/info", Host=f"127.0.0.1:{port}") == 404
    dump = requests.get(f"http://127.0.0.1:{port}/inner/actuator/threaddump", timeout=20).json()
    processes = {thread["threadName"].split("/")[0] for thread in dump["threads"]}
    assert {"registrar", "worker-1", "worker-2"} <= processes


@pytest.mark.estate
def test_switched_off_nothing_answers_and_the_registrar_still_knows(house, eureka_url):
    served = house(
        management__server__port=-1, management__endpoint__health__group__off__include="ping"
    )
    eventually(lambda: status(eureka_url, served.name), "UP")
    found = listed(eureka_url, served.name)
    assert found is not None
    assert not {"management.port", "management.context-path"} & found["metadata"].keys()
    assert not any(found.get(link) for link in ("healthCheckUrl", "statusPageUrl"))
    paths = ("/actuator", "/actuator/health", "/actuator/health/readiness", "/actuator/info")
    assert [served.get(path).status_code for path in paths] == [404] * 4
    assert served.get("/settings").status_code == 200

    def told_without_the_marker():
        # Whoever has just ended to prepare may not have been noticed yet, and is started again.
        (served.run / "prepared").unlink(missing_ok=True)
        return status(eureka_url, served.name)

    eventually(told_without_the_marker, "DOWN")


@pytest.mark.estate
def test_without_probes_the_registrar_asks_the_workers(house, eureka_url):
    served = house(management__endpoint__health__probes__enabled=False)
    eventually(lambda: status(eureka_url, served.name), "UP")
    assert served.get("/actuator/health/readiness").status_code == 404


@pytest.mark.parametrize(
    ("more", "told"),
    [
        pytest.param(
            {"management.server.address": "10.1.1.1"},
            {"port": "9090", "address": "10.1.1.1", "context-path": "/actuator"},
            id="an address of its own",
        ),
        pytest.param(
            {"management.server.address": "::"},
            {"port": "9090", "context-path": "/actuator"},
            id="any address",
        ),
        pytest.param({PORT: "8085"}, {"port": "8085", "context-path": "/actuator"}, id="the same"),
    ],
)
def test_where_it_is_told_to_be(app, more, told):
    given = {PORT: "9090", "server.port": "8085", **more}
    if given[PORT] == "8085":
        given.pop("management.server.address", None)
    found = registration(settings(app, "http://localhost:1/eureka/", **given))
    lead = "management."
    assert {k.removeprefix(lead): v for k, v in found.metadata.items() if lead in k} == told
    host = told.get("address", found.ip)
    assert found.health_check_url == f"http://{host}:{told['port']}/actuator/health"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({PORT: "0"}, "management.server.port must be a fixed port, or -1"),
        ({PORT: "99999"}, "management.server.port is above 65535"),
        ({"management.server.address": "10.1.1.1"}, "management.server.port of its own"),
        ({PORT: "9090", "management.server.ssl.key-store": "x.p12"}, "ssl.key-store has no effect"),
        (
            {
                PORT: "9090",
                "management.server.ssl.enabled": "false",
                "server.ssl.key-store": "x.p12",
            },
            "ssl.enabled has no effect",
        ),
    ],
)
def test_what_has_no_effect_is_refused(given, text):
    with pytest.raises(ConfigurationError, match=text):
        management.ensure_own_port_usable(properties("sample", given))


def test_a_port_that_nobody_listens_on_is_refused():
    given = properties("sample", {PORT: "9090"})
    management.ensure_own_port_is_open(given, [8080, 9090])
    with pytest.raises(ConfigurationError, match="is not among the ports"):
        management.ensure_own_port_is_open(given, [8080])
    management.ensure_own_port_is_open(properties("sample", {PORT: "-1"}), [8080])


def test_tls_that_is_off_everywhere_needs_no_word():
    given = {PORT: "9090", "management.server.ssl.enabled": "false"}
    management.ensure_own_port_usable(Properties.of(given))
