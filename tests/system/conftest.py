"""The whole platform, on the test estate."""

from collections.abc import Iterator

import pytest

from deploy.journey import Customer
from deploy.local import Estate
from tests.contract.client import CheckedSession


@pytest.fixture
def platform(estate: Estate) -> Estate:
    """Everything runs; what an earlier test took away is back."""
    estate.up()
    return estate


@pytest.fixture
def customer(platform: Estate) -> Iterator[Customer]:
    """A person who has not signed up yet."""
    gateway = platform.url("gateway")
    found = Customer(gateway, print, CheckedSession(gateway))
    yield found
    found.leave()


@pytest.fixture
def buyer(customer: Customer) -> Customer:
    """A person who has signed in, found a rental, and listens for pushes."""
    for step in (
        customer.sign_up,
        customer.sign_in,
        customer.browse,
        customer.read,
        customer.find_record,
        customer.listen,
    ):
        step()
    return customer
