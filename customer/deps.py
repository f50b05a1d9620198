"""What the routes of customer lean on."""

from dataclasses import dataclass

from cloud.clock import Clock
from customer.service import Customers, Memberships


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.create_app`, or by a test."""

    customers: Customers
    memberships: Memberships
    now: Clock
