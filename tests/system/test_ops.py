"""What an operator sees of a journey, in the real tools."""

import json
from urllib.parse import urlencode

import pytest

from deploy.local import probes
from deploy.local.services import SERVICES
from deploy.local.site import CHECKOUT
from tests.waiting import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

JOURNEY_OF_A_PAYMENT = {"api-gateway", "payment-service", "notification-service"}


@pytest.fixture(scope="module")
def watched(estate):
    """The platform with the operator's servers; they make room again afterwards."""
    estate.up(with_ops=True)
    yield estate
    estate.stop(*estate.ops)


@pytest.fixture(scope="module")
def trace(watched) -> str:
    """Trace id of a payment, as the gateway's answer told the customer."""
    from deploy.journey import Customer  # noqa: PLC0415

    report = Customer(watched.url("gateway"), print).walk()
    assert report.reason == ""
    return report.payment_trace


def get(estate, server: str, path: str):
    answer = probes.fetch(estate.url(server, path), headers={"Accept": "application/json"})
    answer.raise_for_status()
    return answer.json()


def test_one_trace_leads_from_the_gateway_over_the_broker_to_the_push(watched, trace):
    def services() -> set[str]:
        spans = get(watched, "zipkin", f"/api/v2/trace/{trace}")
        return {span["localEndpoint"]["serviceName"] for span in spans}

    eventually(lambda: services() & JOURNEY_OF_A_PAYMENT, JOURNEY_OF_A_PAYMENT, within_s=60)


def test_prometheus_finds_six_targets_through_eureka(watched):
    def targets() -> dict[str, str]:
        found = get(watched, "prometheus", "/api/v1/targets")["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in found}

    eventually(targets, dict.fromkeys(SERVICES.values(), "up"), within_s=60)


def test_every_panel_of_the_dashboard_is_a_question_that_prometheus_answers(watched, trace):
    board = json.loads((CHECKOUT / "deploy/grafana/dashboards/overview.json").read_text())
    questions = {
        target["expr"]: panel["title"] for panel in board["panels"] for target in panel["targets"]
    }

    def without_an_answer() -> set[str]:
        return {
            title
            for text, title in questions.items()
            if not get(watched, "prometheus", f"/api/v1/query?{urlencode({'query': text})}")[
                "data"
            ]["result"]
        }

    # A healthy estate has no errors to show.
    eventually(lambda: without_an_answer() - {"Errors (5xx) per second"}, set(), within_s=60)


def test_log_lines_of_the_payment_are_found_by_its_trace_id(watched, trace):
    def services() -> set[str]:
        query = f"/nozie-logs-*/_search?size=200&q=trace.id:{trace}"
        hits = get(watched, "elasticsearch", query)["hits"]["hits"]
        return {hit["_source"]["service.name"] for hit in hits}

    eventually(lambda: services() & JOURNEY_OF_A_PAYMENT, JOURNEY_OF_A_PAYMENT, within_s=60)


def test_spring_boot_admin_shows_six_applications_up(watched):
    def applications() -> dict[str, str]:
        found = get(watched, "admin", "/applications")
        return {entry["name"]: entry["status"] for entry in found}

    wanted = {service.upper(): "UP" for service in SERVICES.values()}.items()
    eventually(lambda: applications().items() & wanted, wanted, within_s=60)
