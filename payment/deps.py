"""What the routes of payment lean on."""

from dataclasses import dataclass

from cloud.clock import Clock
from payment.service import Customers, Movies, Provider, Transactions
from payment.settings import Settings
from payment.store import SqlKeys


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.connect`, or by a test."""

    settings: Settings
    transactions: Transactions
    keys: SqlKeys
    movies: Movies
    customers: Customers
    provider: Provider | None
    now: Clock
