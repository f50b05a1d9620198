"""A JVM neighbour calls our services, and is called by them."""

import pytest
import requests

from bench import drill, rolling
from cloud.client import ServiceClient
from cloud.config import Environment
from cloud.testing import properties
from deploy.local import jvm
from tests.estate import programs
from tests.estate.conftest import signed
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.estate, pytest.mark.timeout(300)]

RATE = 50.0


def test_it_calls_ours_through_its_own_load_balancer(platform, neighbour):
    token = signed(platform)
    answer = neighbour.get("/call/customer-service", token, path="/api/customers")
    assert (answer.status_code, answer.json()["data"]) == (200, [])
    assert answer.json()["success"] is True
    refused = neighbour.get("/call/customer-service", path="/api/customers")
    assert (refused.status_code, refused.json()["success"]) == (401, False)


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("identity-service", "/api/auth/validate"),
        ("movie-service", "/api/movies?size=1"),
        ("payment-service", "/api/payments"),
        ("notification-service", "/api/notifications"),
        ("api-gateway", "/api/genres"),
    ],
)
def test_every_service_answers_it_by_id(platform, neighbour, service, path):
    answer = neighbour.get(f"/call/{service}", signed(platform), path=path)
    assert (answer.status_code, answer.json()["success"]) == (200, True), answer.text


def test_ours_call_it_by_id(platform, neighbour):
    settings = {
        "eureka.client.service-url.defaultZone": jvm.eureka_url(platform.site),
        "eureka.client.registry-fetch-interval-seconds": "1",
    }
    client = ServiceClient("neighbour", Environment(properties("caller", settings)))
    answer = client.get("/property/{key}", values={"key": "proof.here"})
    assert (answer.status, answer.json()["text"]) == (200, "application.yml")


def test_the_gateway_routes_to_it_by_id(platform, neighbour):
    port = free_port()
    settings = {
        "nozie.gateway.compat-port": free_port(),
        "management.endpoint.gateway.access": "unrestricted",
    }
    route = {"uri": "lb://neighbour", "predicates": ["Path=/jvm/**"], "filters": ["StripPrefix=1"]}
    with (
        programs.beside(platform.site, programs.another(platform.site, "gateway", port, settings)),
        requests.Session() as session,
    ):
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {signed(platform, 'ADMIN')}"
        url = f"http://127.0.0.1:{port}"
        made = session.post(f"{url}/actuator/gateway/routes/jvm", json=route, timeout=10)
        assert made.status_code == 201, made.text

        def told() -> str:
            answer = session.get(f"{url}/jvm/property/proof.here", timeout=10)
            return str(answer.json()["text"]) if answer.status_code == 200 else answer.text

        eventually(told, "application.yml")


def test_a_rolling_restart_is_noticed_by_nobody(platform, neighbour, capsys):
    """Two instances, replaced in turn, behind our gateway and behind Spring's load balancer."""
    try:
        found = rolling.roll(platform, neighbour.address, RATE, print)
    finally:
        platform.ensure("customer")
    with capsys.disabled():
        print("", found)  # noqa: T201
    for way, statuses in found.items():
        assert set(statuses) == {200}, way
        assert statuses[200] > RATE * 5, way


def test_eureka_is_killed_and_comes_back_empty(platform, neighbour):
    """Shortly; `python -m bench.drill eureka --minutes 10` is the same at length."""
    found = drill.eureka(platform, neighbour.address, 10, RATE)
    assert found.failed() == 0, found
    assert found.back_s is not None
    assert found.back_s < drill.BACK_S
