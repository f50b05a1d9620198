"""A database that goes away and comes back."""

import pytest

from cloud.config import Environment
from cloud.testing import bearer, properties
from customer.app import create_app
from tests.contract.client import checked
from tests.wire import Wire

pytestmark = pytest.mark.estate


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_database_that_is_away_is_a_503_until_it_is_back(database, engine, fault):
    address, name = database["spring.datasource.url"].removeprefix("jdbc:postgresql://").split("/")
    with Wire(address) as wire:
        values = {
            **database,
            "spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{wire.port}/{name}",
            "nozie.datasource.connect-timeout": "300ms",
            "nozie.datasource.statement-timeout": "300ms",
        }
        client = checked(
            create_app(Environment(properties("customer-service", values))), "customer"
        )
        made = client.post("/api/customers", json={"email": "ann@example.org"}, headers=bearer(7))
        path = f"/api/customers/{made.get_json()['data']['id']}"
        getattr(wire, fault)()
        away = client.get(path, headers=bearer(7))
        assert (away.status_code, away.get_json()["success"]) == (503, False)
        assert client.get("/actuator/health/readiness").status_code == 503
        assert client.get("/actuator/health/liveness").status_code == 200
        wire.mend()
        assert client.get(path, headers=bearer(7)).status_code == 200
