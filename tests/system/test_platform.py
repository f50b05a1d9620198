"""The platform's main job, and what an operator may count on while parts of it are away."""

import json
import re
from html import unescape
from typing import Any
from uuid import uuid4

import pytest

from deploy.local import probes
from deploy.local.services import SERVICES
from tests.contract.client import CheckedSession
from tests.contract.openapi import document
from tests.waiting import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

APPS = sorted(service.upper() for service in SERVICES.values())
MEBIBYTE = 1024 * 1024


def registered(estate) -> dict[str, list[str]]:
    return probes.registered(estate.url("eureka"))


def browse(estate, customer):
    """Answer of a catalogue call through the gateway that no cache can give."""
    headers = {"Authorization": f"Bearer {customer.token}"}
    fresh = f"/api/movies?size=1&probe={uuid4()}"
    return probes.fetch(estate.url("gateway", fresh), headers=headers)


def about(customer, movie) -> list[dict[str, object]]:
    """Notifications of a customer that lead to a title."""
    found = customer.notifications()
    return [notice for notice in found if notice["deepLink"] == f"movie:{movie['id']}"]


def test_a_customer_passes_through_the_gateway(customer):
    report = customer.walk()
    assert report.reason == ""
    assert len(report.steps) == 18
    assert re.fullmatch(r"[0-9a-f]{32}", report.payment_trace)


def test_what_the_gateway_answers_itself_is_what_its_document_says(platform):
    gateway = platform.url("gateway")
    with CheckedSession(gateway, ["gateway"]) as session:
        seen = {
            operation.template: session.request("GET", operation.template).status_code
            for operation in document("gateway").operations
        }
    away = {path: 503 for path in seen if path.startswith("/fallback/")}
    assert len(away) == 5
    pages = {"/actuator/health": 200, "/actuator/info": 200, "/actuator/prometheus": 200}
    assert seen == away | pages | {"/docs": 200, "/ops": 303}


def test_eurekas_page_lists_the_six_services_once_with_working_links(platform):
    page = unescape(probes.fetch(platform.url("eureka", "/")).text)
    rows = dict(re.findall(r"<b>([A-Z-]+-(?:SERVICE|GATEWAY))</b>(.*?)</tr>", page, re.DOTALL))
    assert sorted(rows) == APPS
    for name, row in rows.items():
        assert re.search(r"<b>UP</b>\s*\(1\)", row), name
        (link,) = re.findall(r'href="([^"]+)"', row)
        assert probes.answers(link), link


def test_a_service_that_is_asked_to_end_leaves_and_comes_back_unnoticed_by_the_gateway(
    platform, customer
):
    """Its lease is gone within 5 s, the gateway falls back, and finds it again within 10 s."""
    customer.sign_up()
    customer.sign_in()
    assert browse(platform, customer).status_code == 200

    platform.signal("movie", "TERM")
    eventually(lambda: "MOVIE-SERVICE" not in registered(platform), within_s=5)
    seen: set[int] = set()
    answers: list[Any] = []

    def falls_back() -> bool:
        """Each connection may meet another worker, with a view of the registry of its own."""
        answers[:] = [browse(platform, customer) for _ in range(10)]
        seen.update(answer.status_code for answer in answers)
        return all(answer.status_code == 503 for answer in answers)

    eventually(falls_back, within_s=10)
    assert answers[-1].headers["Content-Type"] == "application/json"
    assert answers[-1].json()["success"] is False
    assert answers[-1].json()["status"] == 503
    # An error page, or a made-up success, was never among the answers.
    assert seen <= {200, 503}

    eventually(lambda: platform.states()["movie"], "exited")
    platform.start("movie")

    def serves_again() -> bool:
        """Each connection may meet another worker, with a breaker of its own."""
        return all(browse(platform, customer).status_code == 200 for _ in range(10))

    eventually(serves_again, within_s=10)


def test_a_payment_does_not_wait_for_the_broker_and_its_push_arrives_once(platform, buyer):
    platform.stop("rabbit")
    buyer.pay()
    buyer.await_success()
    first = buyer.rental
    assert about(buyer, first) == []

    platform.ensure("rabbit")
    buyer.await_push()

    # A second purchase comes after whatever else the broker's return may bring.
    buyer.choose_another()
    buyer.read()
    buyer.pay()
    buyer.await_success()
    buyer.await_push()
    assert len(about(buyer, first)) == 1


def test_services_that_start_first_wait_say_so_once_and_serve_when_all_is_there(platform):
    platform.stop(*platform.core)
    ends = {house: platform.log(house).stat().st_size for house in SERVICES}
    platform.start(*SERVICES)

    def waiting(house: str) -> list[str]:
        """Dependencies that this start of a service has named."""
        text = platform.log(house).read_bytes()[ends[house] :].decode()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        names = ("nozie.dependency", "nozie.neighbour", "nozie.what")
        said = [line for line in lines if line["message"] == "waiting_for"]
        return [next(line[name] for name in names if name in line) for line in said]

    eventually(lambda: all(waiting(house) for house in SERVICES))
    ready = [platform.url(house, "/actuator/health/readiness") for house in SERVICES]
    assert not probes.holds(lambda: any(probes.answers(url) for url in ready))

    platform.up()
    for house in SERVICES:
        said = waiting(house)
        assert "config-server" in said
        assert len(said) == len(set(said)), house


def test_six_services_fit_into_700_mebibytes(platform, customer, capsys):
    """Two workers each, companions included, after a journey; proportional set size."""
    assert customer.walk().reason == ""
    sizes = {house: platform.memory(house) / MEBIBYTE for house in SERVICES}
    lines = [f"{house:<14}{size:7.1f} MiB" for house, size in sizes.items()]
    with capsys.disabled():
        print("", *lines, f"{'all six':<14}{sum(sizes.values()):7.1f} MiB", sep="\n")  # noqa: T201
    assert sum(sizes.values()) < 700
