"""Each service gives its place to a JVM one of the same id, and customers pass through as before.

Not part of `make test`, since it takes minutes: `make swap`.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import redis

from deploy.journey import Customer
from deploy.local import Estate
from deploy.local.services import SERVICES
from tests.estate import programs
from tests.waiting import eventually

pytestmark = [pytest.mark.swap, pytest.mark.estate, pytest.mark.timeout(300)]

HELD_BACK = "does not apply"


class WithoutUserCreated(Customer):
    """Nobody tells customer-service of the sign-up: a person's application makes the record."""

    def find_record(self) -> str:
        mail = f"{self._name}@example.org"
        record = {"email": mail, "fullName": "A Traveller"}
        self._ask("POST", "/api/customers", HTTPStatus.CREATED, json=record)
        return super().find_record()


class WithIdentity(WithoutUserCreated):
    """The stand-in checks no tokens and revokes none, so that the old one stays good."""

    def try_old_token(self) -> str:
        return HELD_BACK


class WithMovie(Customer):
    """It shows every address to everybody."""

    def find_closed(self) -> str:
        return self._address_of(self.rental)


class WithNotification(Customer):
    """It stores what it hears, and has no stream: people look again."""

    def listen(self) -> str:
        return HELD_BACK

    def await_push(self) -> str:
        wanted = f"movie:{self.rental['id']}"

        def look() -> list[dict[str, Any]]:
            found = self._ask("GET", f"/api/notifications/{self._customer}")
            return [notice for notice in found if notice["deepLink"] == wanted]

        (notice,) = self._until(look, bool, f"no notification about {wanted}")
        self._notification = notice["id"]
        return str(notice["title"])


JOURNEYS: dict[str, type[Customer]] = {
    "identity": WithIdentity,
    "movie": WithMovie,
    "customer": WithoutUserCreated,
    "payment": Customer,
    "notification": WithNotification,
}


@pytest.fixture
def replaced(platform: Estate, request: pytest.FixtureRequest) -> Iterator[str]:
    """A house whose place a JVM stand-in has taken, port included."""
    house = request.param
    site = platform.site
    platform.stop(house)
    program = programs.neighbour(site, site.ports[house], SERVICES[house])
    try:
        with programs.beside(site, program):
            forget_metadata(platform)
            # The gateway knows all six again.
            eventually(lambda: platform.states()["gateway"], "ready")
            yield house
    finally:
        platform.ensure(house)


@pytest.fixture
def stock_gateway(platform: Estate) -> Iterator[str]:
    platform.stop("gateway")
    try:
        with programs.beside(platform.site, programs.stock_gateway(platform.site)):
            yield platform.url("gateway")
    finally:
        platform.ensure("gateway")


def forget_metadata(estate: Estate) -> None:
    """Let no answer of the service before pass for one of its successor."""
    with redis.Redis.from_url(f"redis://{estate.address('redis')}/0") as store:
        for key in store.scan_iter("nozie:gateway:cache:*"):
            store.delete(key)


@pytest.mark.parametrize("replaced", JOURNEYS, indirect=True)
def test_a_customer_passes_through_a_jvm_service(platform, replaced):
    report = JOURNEYS[replaced](platform.url("gateway"), print).walk()
    assert report.reason == ""
    assert len(report.steps) == 18


def test_a_customer_passes_through_a_stock_spring_cloud_gateway(stock_gateway):
    """It looks at no token: our services do, so that all steps hold."""
    report = Customer(stock_gateway, print).walk()
    assert report.reason == ""
    assert len(report.steps) == 18
