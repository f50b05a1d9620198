"""Use cases of customer, and Protocols for what they ask of others."""

from customer.service.memberships import Memberships, Payments, give_back, pay, set_subscription
from customer.service.records import (
    ADMIN,
    Customers,
    create,
    get,
    get_by_email,
    listing,
    replace,
)

__all__ = [
    "ADMIN",
    "Customers",
    "Memberships",
    "Payments",
    "create",
    "get",
    "get_by_email",
    "give_back",
    "listing",
    "pay",
    "replace",
    "set_subscription",
]
