"""The whole platform, on the test estate."""

import pytest

from deploy.journey import Customer
from deploy.local import Estate


@pytest.fixture
def platform(estate: Estate) -> Estate:
    """Everything runs; what an earlier test took away is back."""
    estate.up()
    return estate


@pytest.fixture
def customer(platform: Estate) -> Customer:
    """A person who has not signed up yet."""
    return Customer(platform.url("gateway"), print)


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
