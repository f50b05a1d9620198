"""Customer on a real PostgreSQL."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cloud.config import Environment
from cloud.stores import postgres
from cloud.testing import properties
from customer.app import create_app
from customer.store import SqlCustomers
from tests.contract.client import CheckedClient, checked


@pytest.fixture
def template(prepared) -> str:
    return str(prepared("customer", migrated))


def migrated(own: dict[str, str]) -> None:
    engine = postgres.engine(properties("customer-service", own))
    postgres.migrate(engine, "customer")
    engine.dispose()


@pytest.fixture
def environment(database) -> Environment:
    return Environment(properties("customer-service", database))


@pytest.fixture
def engine(environment) -> Iterator[sa.Engine]:
    """A database as `prepare` leaves it."""
    engine = postgres.engine(environment.properties)
    yield engine
    engine.dispose()


@pytest.fixture
def records(engine) -> SqlCustomers:
    return SqlCustomers(engine)


@pytest.fixture
def client(environment, engine) -> CheckedClient:
    """A client that holds every answer against customer/openapi.yaml."""
    return checked(create_app(environment), "customer")
