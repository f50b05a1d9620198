"""What operators open: Spring Boot Admin, which finds all through Eureka alone, and Eureka."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from deploy.local import Estate, probes
from deploy.local.services import SERVICES
from deploy.local.site import HOST
from tests.estate import programs
from tests.estate.conftest import signed
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.estate, pytest.mark.timeout(300)]

APPS = sorted(service.upper() for service in SERVICES.values())
ENDPOINTS = {
    *("health", "info", "metrics", "prometheus", "env", "configprops"),
    *("loggers", "mappings", "threaddump", "httpexchanges"),
}
HOUSE = "customer"
LOGGER = "cloud.web.observed"


class Admin:
    """Spring Boot Admin as its pages see it, and its pages."""

    def __init__(self, estate: Estate, page: Page) -> None:
        self._url = estate.url("admin")
        self.page = page
        self.refused: list[str] = []
        page.on("response", self._note)

    def _note(self, response: Any) -> None:
        if response.status >= 400 and "/actuator/" in response.url:
            self.refused.append(f"{response.status} {response.url.partition('/actuator/')[2]}")

    def _get(self, path: str) -> Any:
        return probes.fetch(f"{self._url}{path}", headers={"Accept": "application/json"}).json()

    def statuses(self) -> dict[str, str]:
        return {one["name"]: one["status"] for one in self._get("/applications")}

    def instance(self, house: str) -> dict[str, Any]:
        name = SERVICES[house].upper()
        found: dict[str, Any] = next(
            one for one in self._get("/instances") if one["registration"]["name"] == name
        )
        return found

    def managed_at(self, port: int) -> dict[str, Any]:
        """Find the instance whose endpoints are at a port, {} when there is none."""
        lead = f":{port}/actuator"
        known = self._get("/instances")
        return next((one for one in known if lead in one["registration"]["managementUrl"]), {})

    def open(self, house: str, name: str, *shown: str, of: str = "") -> None:
        """Open a page about an instance, and wait until it shows what it should, and no error.

        `of` is its id; without one the first of the house is meant.
        """
        self.refused.clear()
        self.page.goto(f"{self._url}/instances/{of or self.instance(house)['id']}/{name}")
        for text in shown:
            # In a narrow window a column may have no width, and a choice is seen when opened.
            expect(self.page.get_by_text(text).first).to_be_attached()
        self.page.wait_for_load_state("load")
        expect(self.page.get_by_text("failed")).to_have_count(0)


@pytest.fixture(scope="module")
def admin(platform: Estate, browser: Browser) -> Iterator[Admin]:
    platform.ensure("admin")
    page = browser.new_page()
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    found = Admin(platform, page)

    def complete() -> bool:
        six = dict.fromkeys(APPS, "UP")
        return found.statuses().items() >= six.items() and all(
            {one["id"] for one in found.instance(house)["endpoints"]} >= ENDPOINTS
            for house in SERVICES
        )

    try:
        eventually(complete, within_s=90)
        yield found
    finally:
        page.close()
        platform.stop("admin")


def test_all_six_are_found_through_eureka_alone(admin, platform):
    admin.page.goto(platform.url("admin", "/applications"))
    for name in APPS:
        expect(admin.page.get_by_text(name, exact=True).first).to_be_visible()
    expect(admin.page.get_by_text("all up")).to_be_visible()


@pytest.mark.parametrize("house", SERVICES)
def test_details_show_health_version_and_process(admin, house):
    admin.open(house, "details", "Health", "Uptime", "0.1.0")
    assert not admin.refused


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("metrics", ("process.uptime", "http.server.requests"), id="metrics"),
        pytest.param("env", ("systemEnvironment", "customer-service.yml"), id="environment"),
        pytest.param("configprops", ("eureka.client",), id="configuration properties"),
        pytest.param("mappings", ("/api/customers/email/{email}",), id="mappings"),
        pytest.param("threaddump", ("worker-1/MainThread", "registrar/MainThread"), id="threads"),
    ],
)
def test_a_page_shows_what_it_is_for(admin, name, shown):
    admin.open(HOUSE, name, *shown)
    assert not admin.refused


def test_exchanges_of_every_worker_are_shown_and_no_token_with_them(admin, platform):
    url = platform.url(HOUSE, "/api/customers/email/of-the-browser")
    token = signed(platform)
    for _ in range(8):
        probes.fetch(url, headers={"Authorization": f"Bearer {token}"})
    admin.open(HOUSE, "httpexchanges", "/api/customers/email/of-the-browser")
    assert token not in admin.page.content()


def test_a_level_is_changed_in_all_workers_and_reset(admin, platform):
    def levels() -> set[str | None]:
        """What different connections, and so workers, say."""
        url = platform.url(HOUSE, f"/actuator/loggers/{LOGGER}")
        return {probes.fetch(url).json().get("configuredLevel") for _ in range(10)}

    before = levels()
    admin.open(HOUSE, "loggers", "ROOT")
    admin.page.get_by_placeholder("Filter").fill(LOGGER)
    admin.page.get_by_role("button", name="ERROR").first.click()
    eventually(levels, {"ERROR"})
    admin.page.get_by_role("button", name="Reset").first.click()
    eventually(levels, before)
    expect(admin.page.get_by_text("failed")).to_have_count(0)


def test_endpoints_at_a_port_of_their_own_are_found_there(admin, platform, tmp_path):
    """Also those that only some instances have: the log in a file, tasks."""
    port, managed = free_port(), free_port()
    more = {"management.server.port": managed, "logging.file.name": tmp_path / "customer.log"}
    program = replace(
        programs.another(platform.site, HOUSE, port, more),
        ready=lambda: probes.answers(f"http://{HOST}:{managed}/actuator/health"),
    )
    with programs.beside(platform.site, program):

        def is_shown() -> bool:
            found = admin.managed_at(managed)
            ids = {one["id"] for one in found.get("endpoints", ())}
            whole = ids >= ENDPOINTS | {"logfile", "scheduledtasks"}
            return whole and found["statusInfo"]["status"] == "UP"

        eventually(is_shown, within_s=60)
        own = admin.managed_at(managed)["id"]
        admin.open(HOUSE, "details", "Health", "Uptime", of=own)
        admin.open(HOUSE, "scheduledtasks", "cloud.server.registrar._Watch._renew", of=own)
        admin.open(HOUSE, "logfile", "readiness_changed", of=own)
        assert not admin.refused


def test_eurekas_page_lists_the_six(admin, platform):
    admin.page.goto(platform.url("eureka", "/"))
    for name in APPS:
        expect(admin.page.get_by_text(name, exact=True)).to_be_visible()
    expect(admin.page.get_by_text("EMERGENCY")).to_have_count(0)
