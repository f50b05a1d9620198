"""Use cases of payment, and what they ask of others."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from cloud.security import Principal
from payment.domain import (
    CustomerId,
    ForeignCustomerError,
    Intent,
    MovieId,
    NoProviderError,
    Order,
    Title,
    Transaction,
    TransactionId,
    UnknownCustomerError,
    UnknownTransactionError,
    UserId,
    Verdict,
    ensure_price,
)


class Movies(Protocol):
    """The catalogue; answered by payment.clients.MovieClient."""

    def get(self, movie_id: MovieId) -> Title:
        """Raise UnknownMovieError when there is no such title."""


class Customers(Protocol):
    """Customer records; answered by payment.clients.CustomerClient."""

    def ensure_owned(self, customer_id: CustomerId, caller: Principal) -> None:
        """Raise ForeignCustomerError or UnknownCustomerError unless the record is the caller's."""


class Provider(Protocol):
    """Who collects the money; answered by payment.store.Sandbox."""

    def start(self, transaction: Transaction, *, now: datetime) -> Intent:
        """Create the intent of a transaction, or return the one it has."""


class Transactions(Protocol):
    """The durable record; answered by payment.store.SqlTransactions."""

    def open(self, order: Order, *, reuse_since: datetime, now: datetime) -> Transaction: ...
    def attach(self, transaction_id: TransactionId, intent: Intent) -> None: ...
    def settle(self, verdict: Verdict, *, now: datetime) -> bool: ...
    def find(self, transaction_id: TransactionId) -> Transaction | None: ...
    def of_customer(
        self, customer_id: CustomerId, *, limit: int, offset: int
    ) -> Sequence[Transaction]: ...
    def of_user(
        self, user_id: UserId | None, *, limit: int, offset: int
    ) -> Sequence[Transaction]: ...
    def knows(self, customer_id: CustomerId, user_id: UserId) -> bool: ...
    def bought(self, customer_id: CustomerId, movie_id: MovieId) -> bool: ...


def create(
    order: Order,
    caller: Principal,
    *,
    movies: Movies,
    customers: Customers,
    transactions: Transactions,
    provider: Provider | None,
    currency: str,
    reuse_window: timedelta,
    now: Callable[[], datetime],
) -> tuple[Transaction, Intent]:
    """Start a payment; remote calls come first, no database transaction spans them.

    Raises:
        NoProviderError: nobody is configured to collect the money.
        PriceError: not sold singly, or not at this amount.
        AlreadyBoughtError: a succeeded transaction of this customer and title exists.
    """
    if provider is None:
        raise NoProviderError("no payment provider is configured")
    title = movies.get(order.movie_id)
    customers.ensure_owned(order.customer_id, caller)
    ensure_price(title, order, currency)
    moment = now()
    transaction = transactions.open(order, reuse_since=moment - reuse_window, now=moment)
    intent = provider.start(transaction, now=moment)
    transactions.attach(transaction.id, intent)
    return transaction, intent


def settle(verdict: Verdict, *, transactions: Transactions, now: datetime) -> bool:
    """Apply a provider's verdict; False when it changed nothing (repeated, late, or not ours)."""
    return transactions.settle(verdict, now=now)


def get(
    transaction_id: TransactionId,
    caller: Principal,
    *,
    transactions: Transactions,
    customers: Customers,
) -> Transaction:
    """Return one transaction to its owner or an ADMIN; UnknownTransactionError otherwise."""
    found = transactions.find(transaction_id)
    if found is None:
        raise UnknownTransactionError("transaction not found")
    if found.user_id != caller.user_id:
        _ensure_reader(found.customer_id, caller, transactions=transactions, customers=customers)
    return found


def of_customer(
    customer_id: CustomerId,
    caller: Principal,
    *,
    page: int,
    size: int,
    transactions: Transactions,
    customers: Customers,
) -> Sequence[Transaction]:
    """List a customer's transactions, newest first, to its owner or an ADMIN."""
    _ensure_reader(customer_id, caller, transactions=transactions, customers=customers)
    return transactions.of_customer(customer_id, limit=size, offset=page * size)


def own(
    caller: Principal, *, page: int, size: int, transactions: Transactions
) -> Sequence[Transaction]:
    """List the caller's transactions, newest first; everybody's for an ADMIN."""
    user = None if caller.has_role("ADMIN") else UserId(caller.user_id)
    return transactions.of_user(user, limit=size, offset=page * size)


def bought(
    customer_id: CustomerId,
    movie_id: MovieId,
    caller: Principal,
    *,
    transactions: Transactions,
    customers: Customers,
) -> bool:
    """Tell whether the customer owns the title; only its owner or an ADMIN may ask."""
    _ensure_reader(customer_id, caller, transactions=transactions, customers=customers)
    return transactions.bought(customer_id, movie_id)


def _ensure_reader(
    customer_id: CustomerId, caller: Principal, *, transactions: Transactions, customers: Customers
) -> None:
    # A customer whose transaction this user paid is his: no call needed, so that reading
    # works while the customer service is away.
    if caller.has_role("ADMIN") or transactions.knows(customer_id, UserId(caller.user_id)):
        return
    try:
        customers.ensure_owned(customer_id, caller)
    except (ForeignCustomerError, UnknownCustomerError) as error:
        # One answer for both: existence is not disclosed to a reader.
        raise UnknownTransactionError("no such transactions") from error
