"""Transactions and their one-way life, prices, plans and purchases: plain Python."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NewType

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
    """The catalogue has no such title, or the price list no such plan."""


class UnknownCustomerError(NotFoundError):
    """The customer service has no such record."""


class UnknownTransactionError(NotFoundError):
    """No such transaction, or none of the caller's."""


class UnknownPurchaseError(NotFoundError):
    """The title is not in this library."""


class ForeignCustomerError(DeniedError):
    """The customer record belongs to somebody else."""


class NotBoughtError(DeniedError):
    """The title is neither free nor paid."""


class PriceError(InvalidError):
    """The title is not for sale, or not at this amount."""


class ForgedEventError(InvalidError):
    """A provider's event that we do not believe, or that contradicts our record."""


class AlreadyBoughtError(ConflictError):
    """The customer owns the title."""


class OverError(ConflictError):
    """The payment was given up; another one needs another key."""


class NotRefundableError(ConflictError):
    """Only what was paid can be given back, and only once."""


class KeyInFlightError(ConflictError):
    """The first request with this idempotency key has not been answered yet."""


class KeyReusedError(UnprocessableError):
    """The idempotency key was used with another body."""


class NoProviderError(NotConfiguredError):
    """No payment provider is configured."""


class Status(StrEnum):
    """Life of a transaction: pending, then exactly one of the others.

    `failed` may still become `succeeded` (a second card); nothing else leaves a final status.
    A refund is no status: the money did come, and `refunded_at` tells when it went back.
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


def read_status(stored: str | None) -> Status | None:
    """Read a stored status in any case; COMPLETED of old seed data counts as succeeded."""
    lower = (stored or "").lower()
    if lower == "completed":
        return Status.SUCCEEDED
    return Status(lower) if lower in set(Status) else None


def read_user_id(text: str) -> UserId | None:
    """Read a user's id from digits; None for what no account can have."""
    if not _USER.fullmatch(text) or not 0 < int(text) < 2**63:
        return None
    return UserId(int(text))


class Outcome(StrEnum):
    """What became of a provider's verdict."""

    CHANGED = "changed"
    NOTHING_NEW = "nothing_new"
    UNKNOWN = "unknown"
    CONTRADICTION = "contradiction"


_PLAN: Final = "plan:"
_USER: Final = re.compile("[0-9]{1,19}")
_TITLE: Final = re.compile("[0-9a-fA-F]{24}")


def read_movie_id(text: str) -> MovieId:
    """Spell an id as the catalogue does, whose hex digits are in lower case.

    What is no id of the catalogue stays as it is: a plan's, or what a JVM service has recorded.
    """
    return MovieId(text.lower() if _TITLE.fullmatch(text) else text)


def may_be_title(movie_id: MovieId) -> bool:
    """Tell whether the catalogue can have a title of this id: 24 hex digits."""
    return _TITLE.fullmatch(movie_id) is not None


@dataclass(frozen=True, slots=True)
class Title:
    """What the catalogue says about a movie, or the price list about a plan.

    Attributes:
        price: in the shop's currency, two decimals.
        access: FREE, PREMIUM or RENTAL; PLAN for a plan.
        plan_days: how long the plan lasts, None for a movie.
    """

    id: MovieId
    price: Decimal
    access: str
    name: str
    image_url: str = ""
    slug: str | None = None
    rating: float | None = None
    plan_days: int | None = None

    @classmethod
    def of_plan(cls, name: str, price: Decimal, days: int) -> "Title":
        """Describe a membership for so many days as something that can be bought."""
        return cls(MovieId(_PLAN + name), price, "PLAN", name, plan_days=days)


def plan_name(movie_id: MovieId) -> str | None:
    """Return the plan that `plan:<name>` names, None for a movie."""
    return movie_id.removeprefix(_PLAN) if movie_id.startswith(_PLAN) else None


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asks to buy.

    Attributes:
        amount: what the caller believes the price to be; the catalogue decides.
        currency: ISO 4217, lower case.
        key: the caller's idempotency key, None without one.
        digest: fingerprint of the request that the key belongs to.
    """

    movie_id: MovieId
    amount: Decimal
    currency: str
    user_id: UserId
    key: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """A row of `transactions`; instants are aware, in UTC.

    Attributes:
        public_id: opaque name of a checkout without a token, None for all others.
        title: what the catalogue said when it was bought; empty for rows of a JVM service.
    """

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
    refunded_at: datetime | None
    user_id: UserId | None
    public_id: str | None
    plan_days: int | None
    title: Title | None

    @property
    def provider_key(self) -> str:
        """Name the transaction to a provider, for its own idempotency keys.

        The id alone would not do: after a database was made anew it names another payment, while
        the provider remembers keys for a day or longer.
        """
        moment = self.created_at.timestamp() if self.created_at else 0
        return f"nozie-{self.id}-{int(moment * 1_000_000):x}"


@dataclass(frozen=True, slots=True)
class Intent:
    """A provider's promise to collect an amount.

    Attributes:
        id: the provider's id of the intent.
        client_secret: lets the buyer's device confirm it.
        ephemeral_key: lets the buyer's device manage its saved cards; empty without a device.
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
        intent_id: None when the provider never had one.
        reason: why it failed, None otherwise.
    """

    transaction_id: TransactionId
    intent_id: str | None
    status: Status
    amount: Decimal
    currency: str
    charge_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A provider's event, its signature checked.

    Attributes:
        verdict: None for events that decide nothing about a transaction of ours.
    """

    id: str
    type: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The first answer to an idempotency key, to be given again."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Purchase:
    """A title in somebody's library.

    Attributes:
        title: None when only a JVM service has recorded the purchase.
        since: when it was paid or added.
        transaction_id: None for a free title.
    """

    movie_id: MovieId
    title: Title | None
    since: datetime | None
    transaction_id: TransactionId | None
    is_downloaded: bool = False
    is_finished: bool = False
    is_hidden: bool = False


def ensure_price(title: Title, order: Order, currency: str) -> None:
    """Raise PriceError unless the title is sold singly, at this amount, in this currency."""
    if title.access not in {"RENTAL", "PLAN"}:
        raise PriceError("this title is not sold singly", {"movieId": "is not sold singly"})
    if order.currency != currency:
        raise PriceError("currency is not accepted", {"currency": f"must be {currency}"})
    if order.amount != title.price:
        raise PriceError("amount differs from the price", {"amount": "differs from the price"})


# https://docs.stripe.com/currencies#zero-decimal
_WHOLE: Final = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv"}
    | {"xaf", "xof", "xpf"}
)


def minor_units(amount: Decimal, currency: str) -> int:
    """Write an amount in the currency's smallest unit."""
    return int(amount if currency in _WHOLE else amount.scaleb(2))


def amount_of(minor: int, currency: str) -> Decimal:
    """Read an amount from the currency's smallest unit; two decimals."""
    return Decimal(minor) if currency in _WHOLE else Decimal(minor).scaleb(-2)
