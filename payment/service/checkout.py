"""Starting payments: remote calls come first, no database transaction spans them."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cloud.security import Principal
from payment.domain import (
    AlreadyBoughtError,
    CustomerId,
    Intent,
    NoProviderError,
    Order,
    OverError,
    PriceError,
    Status,
    Title,
    Transaction,
    UnknownMovieError,
    UnknownTransactionError,
    ensure_price,
    plan_name,
    read_status,
)
from payment.service.ports import Customers, Movies, Plans, Provider, Transactions
from payment.service.settling import settle


@dataclass(frozen=True, slots=True)
class Shop:
    """What is sold, and at what price: single titles of the catalogue, and plans.

    Attributes:
        currency: of all prices; ISO 4217, lower case.
    """

    movies: Movies
    plans: Plans
    currency: str

    def title_of(self, order: Order) -> Title:
        """Return what is ordered.

        Raises:
            UnknownMovieError: there is no such title or plan.
            PriceError: it is not sold singly, or not at this amount.
        """
        name = plan_name(order.movie_id)
        title = self.movies.get(order.movie_id) if name is None else self.plans.get(name)
        if title is None:
            raise UnknownMovieError("no such plan")
        ensure_price(title, order, self.currency)
        return title


def create(
    order: Order,
    customer_id: CustomerId,
    caller: Principal,
    *,
    shop: Shop,
    customers: Customers,
    transactions: Transactions,
    provider: Provider | None,
    reuse_window: timedelta,
    now: Callable[[], datetime],
) -> tuple[Transaction, Intent]:
    """Start a payment that the caller's device will confirm.

    Raises:
        NoProviderError: nobody is configured to collect the money.
        PriceError: not sold singly, or not at this amount.
        AlreadyBoughtError: the customer has paid for this title.
        OverError: the payment of this idempotency key has been given up.
    """
    collector = _ensure(provider)
    title = shop.title_of(order)
    customers.ensure_owned(customer_id, caller)
    moment = now()
    transaction = transactions.open(
        order, customer_id, title, reuse_since=moment - reuse_window, now=moment
    )
    if read_status(transaction.status) is Status.CANCELED:
        raise OverError("this payment was canceled; use another Idempotency-Key")
    buyer = transactions.buyer(customer_id, order.user_id)
    intent = collector.start(transaction, buyer, on_device=True, now=moment)
    transactions.attach(transaction.id, intent)
    return transaction, intent


def charge(
    order: Order,
    method: str,
    caller: Principal,
    *,
    shop: Shop,
    customers: Customers,
    transactions: Transactions,
    provider: Provider | None,
    reuse_window: timedelta,
    now: Callable[[], datetime],
) -> Transaction:
    """Charge a payment method for the caller; return the transaction as it stands then.

    Raises:
        NoProviderError: nobody is configured to collect the money.
        PriceError: not sold singly, or not at this amount.
        AlreadyBoughtError: the caller has paid for this title.
        UnavailableError: the provider did not answer. The payment stays pending; the same request
            again, or reconciliation, finds out what became of it.
    """
    collector = _ensure(provider)
    title = shop.title_of(order)
    customer_id = customers.of_caller(caller)
    moment = now()
    transaction = transactions.open(
        order, customer_id, title, reuse_since=moment - reuse_window, now=moment
    )
    if read_status(transaction.status) is not Status.PENDING:
        return transaction  # decided by an earlier request that died before it answered
    buyer = transactions.buyer(customer_id, order.user_id)
    intent = collector.start(transaction, buyer, on_device=False, now=moment)
    transactions.attach(transaction.id, intent)
    attached = transactions.find(transaction.id) or transaction
    verdict = collector.charge(attached, method, now=now())
    if verdict is not None:
        settle(verdict, transactions=transactions, now=now())
    found = transactions.find(transaction.id)
    if found is None:
        raise UnknownTransactionError("transaction not found")
    return found


def checkout(
    order: Order,
    *,
    shop: Shop,
    customers: Customers,
    transactions: Transactions,
    provider: Provider | None,
    now: Callable[[], datetime],
) -> tuple[Transaction, Intent]:
    """Start a payment for a user whom the caller only claims to be.

    Nothing of the user's is handed out: the provider gets a new customer for this payment alone,
    no earlier payment is offered again, and the transaction is known by an opaque name.

    Raises:
        NoProviderError: nobody is configured to collect the money.
        PriceError: not sold singly, not at this amount, or not to this user any more.
    """
    collector = _ensure(provider)
    title = shop.title_of(order)
    customer_id = customers.of_user(order.user_id)
    moment = now()
    try:
        transaction = transactions.open(
            order,
            customer_id,
            title,
            reuse_since=moment,
            now=moment,
            public_id=secrets.token_urlsafe(24),
        )
    except AlreadyBoughtError as error:
        raise PriceError("this title cannot be bought", {"movieId": "cannot be bought"}) from error
    intent = collector.start(transaction, None, on_device=True, now=moment)
    transactions.attach(transaction.id, intent)
    return transaction, intent


def _ensure(provider: Provider | None) -> Provider:
    if provider is None:
        raise NoProviderError("no payment provider is configured")
    return provider
