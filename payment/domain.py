"""Transactions and their one-way life, prices and purchases: plain Python."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

from cloud.errors import (
    ConflictError,
    DeniedError,
    InvalidError,
    NotConfiguredError,
    NotFoundError,
    UnprocessableError,
)

CustomerId = NewType("CustomerId", int)
MovieId = NewType("MovieId", str)
TransactionId = NewType("TransactionId", int)
UserId = NewType("UserId", int)


class UnknownMovieError(NotFoundError):
    """The catalogue has no such title."""


class UnknownCustomerError(NotFoundError):
    """The customer service has no such record."""


class UnknownTransactionError(NotFoundError):
    """No such transaction, or none of the caller's."""


class ForeignCustomerError(DeniedError):
    """The customer record belongs to somebody else."""


class PriceError(InvalidError):
    """The title is not for sale, or not at this amount."""


class AlreadyBoughtError(ConflictError):
    """The customer owns the title."""


class KeyInFlightError(ConflictError):
    """The first request with this idempotency key has not been answered yet."""


class KeyReusedError(UnprocessableError):
    """The idempotency key was used with another body."""


class NoProviderError(NotConfiguredError):
    """No payment provider is configured."""


class Status(StrEnum):
    """Life of a transaction: pending, then exactly one of the others.

    `failed` may still become `succeeded` (a second card); nothing else leaves a final status.
    """

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    def may_become(self, later: "Status") -> bool:
        """Tell whether a provider's verdict may move the transaction to `later`."""
        return later in _NEXT[self]


_NEXT = {
    Status.PENDING: {Status.SUCCEEDED, Status.FAILED, Status.CANCELED},
    Status.FAILED: {Status.SUCCEEDED},
    Status.SUCCEEDED: set[Status](),
    Status.CANCELED: set[Status](),
}


@dataclass(frozen=True, slots=True)
class Title:
    """What the catalogue says about a movie.

    Attributes:
        price: in the shop's currency, two decimals.
        access: FREE, PREMIUM or RENTAL.
    """

    id: MovieId
    price: Decimal
    access: str


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asks to buy.

    Attributes:
        amount: what the caller believes the price to be; the catalogue decides.
        currency: ISO 4217, lower case.
        key: the caller's idempotency key, None without one.
    """

    customer_id: CustomerId
    movie_id: MovieId
    amount: Decimal
    currency: str
    user_id: UserId
    key: str | None


@dataclass(frozen=True, slots=True)
class Transaction:
    """A row of `transactions`; instants are aware, in UTC."""

    id: TransactionId
    customer_id: CustomerId
    movie_id: MovieId
    amount: Decimal
    currency: str | None
    status: str | None
    stripe_payment_intent_id: str | None
    stripe_customer_id: str | None
    charge_id: str | None
    error_message: str | None
    created_at: datetime | None
    paid_at: datetime | None
    failed_at: datetime | None
    canceled_at: datetime | None
    user_id: UserId | None


@dataclass(frozen=True, slots=True)
class Intent:
    """A provider's promise to collect an amount.

    Attributes:
        id: the provider's id of the intent.
        client_secret: lets the buyer's device confirm it.
        ephemeral_key: lets the buyer's device manage its saved cards.
        customer: the provider's id of the buyer.
    """

    id: str
    client_secret: str
    ephemeral_key: str
    customer: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a provider decided about an intent.

    Attributes:
        reason: why it failed, None otherwise.
    """

    transaction_id: TransactionId
    intent_id: str
    status: Status
    amount: Decimal
    currency: str
    charge_id: str | None = None
    reason: str | None = None


def ensure_price(title: Title, order: Order, currency: str) -> None:
    """Raise PriceError unless the title is sold singly, at this amount, in this currency."""
    if title.access != "RENTAL":
        raise PriceError("this title is not sold singly", {"movieId": "is not sold singly"})
    if order.currency != currency:
        raise PriceError("currency is not accepted", {"currency": f"must be {currency}"})
    if order.amount != title.price:
        raise PriceError("amount differs from the price", {"amount": "differs from the price"})
