"""Use cases of payment, and what they ask of others."""

from payment.service.checkout import Shop, charge, checkout, create
from payment.service.library import add, hide, owned, purchases
from payment.service.ports import (
    Customers,
    Keys,
    Library,
    Limits,
    Movies,
    Plans,
    Provider,
    Transactions,
)
from payment.service.reading import (
    bought,
    get,
    of_customer,
    of_title,
    own,
    poll,
)
from payment.service.settling import receive, reconcile, refund, repeat_refunds

__all__ = [
    "Customers",
    "Keys",
    "Library",
    "Limits",
    "Movies",
    "Plans",
    "Provider",
    "Shop",
    "Transactions",
    "add",
    "bought",
    "charge",
    "checkout",
    "create",
    "get",
    "hide",
    "of_customer",
    "of_title",
    "own",
    "owned",
    "poll",
    "purchases",
    "receive",
    "reconcile",
    "refund",
    "repeat_refunds",
]
