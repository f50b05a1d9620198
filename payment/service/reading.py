"""Reading payments: by their owner or an ADMIN; to others they do not exist."""

from collections.abc import Sequence

from cloud.security import Principal
from payment.domain import (
    CustomerId,
    ForeignCustomerError,
    MovieId,
    Transaction,
    TransactionId,
    UnknownCustomerError,
    UnknownTransactionError,
    UserId,
)
from payment.service.ports import Customers, Transactions

_MOST = 100


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


def of_title(
    user_id: UserId, movie_id: MovieId | None, *, transactions: Transactions
) -> Sequence[Transaction]:
    """List a user's transactions, of one title if it is named, newest first."""
    return transactions.of_user(user_id, limit=_MOST, offset=0, movie_id=movie_id)


def poll(public_id: str, user_id: UserId, *, transactions: Transactions) -> Transaction:
    """Return a checkout by its opaque name; it must be this user's."""
    found = transactions.find_public(public_id, user_id)
    if found is None:
        raise UnknownTransactionError("transaction not found")
    return found


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
