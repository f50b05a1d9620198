"""The bus between one of ours and a JVM neighbour, in both directions."""

from collections.abc import Iterator

import pytest
import requests

from deploy.local import probes
from tests.estate import programs
from tests.estate.conftest import Neighbour
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.estate, pytest.mark.timeout(300)]

KEY = "proof.told"
REFRESH, ENVIRONMENT = "RefreshRemoteApplicationEvent", "EnvironmentChangeRemoteApplicationEvent"
WORKERS = 2


@pytest.fixture(scope="module")
def member(platform, neighbour) -> Iterator[str]:
    """The actuator of an instance of customer-service that is a member of the bus."""
    port = free_port()
    settings = {"management.endpoint.env.show-values": "always"}
    program = programs.another(platform.site, "customer", port, settings)
    with programs.beside(platform.site, program):
        yield f"http://127.0.0.1:{port}/actuator"


def tell(actuator: str, path: str, value: str = "") -> None:
    body = {"name": KEY, "value": value} if value else None
    answer = requests.post(f"{actuator}/{path}", json=body, timeout=20)
    assert answer.status_code == 204, answer.text


def heard(neighbour: Neighbour, kind: str, about: str = "") -> list[str]:
    """Who of ours has said that."""
    return [
        event["origin"]
        for event in neighbour.get("/heard").json()
        if event["type"] == kind
        and event["about"] == about
        and event["origin"].startswith("customer-service:")
    ]


def test_a_value_that_the_neighbour_tells_is_held_by_every_worker(neighbour, member):
    tell(f"http://{neighbour.address}/actuator", "busenv/customer-service", "by the JVM")

    def held() -> bool:
        """Each connection may meet another worker."""
        answers = [probes.fetch(f"{member}/env/{KEY}") for _ in range(6 * WORKERS)]
        return all(
            answer.ok and answer.json()["property"]["value"] == "by the JVM" for answer in answers
        )

    eventually(held)
    eventually(lambda: heard(neighbour, "AckRemoteApplicationEvent", ENVIRONMENT))


def test_a_value_that_ours_tells_is_held_by_the_neighbour(neighbour, member):
    tell(member, "busenv/neighbour", "by Python")
    told = f"/property/{KEY}"
    eventually(lambda: neighbour.get(told).json().get("text"), "by Python")


def test_a_refresh_of_either_is_acknowledged_by_the_other(neighbour, member):
    tell(f"http://{neighbour.address}/actuator", "busrefresh")
    eventually(lambda: heard(neighbour, "AckRemoteApplicationEvent", REFRESH))
    tell(member, "busrefresh")
    eventually(lambda: heard(neighbour, REFRESH))
