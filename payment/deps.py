"""What the routes of payment lean on."""

from dataclasses import dataclass

from cloud.clock import Clock
from payment.service import Customers, Keys, Library, Limits, Provider, Shop, Transactions
from payment.settings import Settings


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.create_app`, or by a test."""

    settings: Settings
    transactions: Transactions
    keys: Keys
    library: Library
    limits: Limits
    shop: Shop
    customers: Customers
    provider: Provider | None
    now: Clock
