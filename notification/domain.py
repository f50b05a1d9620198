"""Notifications: what people are told, and what the estate's events mean for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NewType, Protocol

from cloud.errors import NotFoundError
from cloud.security import Principal

NotificationId = NewType("NotificationId", str)
UserId = NewType("UserId", int)
CustomerId = NewType("CustomerId", int)

GENERAL: Final = "general"
EMAIL: Final = "email"
PUSH: Final = "push"
CHANNELS: Final = (EMAIL, PUSH)
CLIENT_TYPES: Final = frozenset({"tips", "survey"})
_TITLE_LENGTH: Final = 255


class UnknownNotificationError(NotFoundError):
    """No such notification, or none of this caller's."""


class UnknownCustomerError(NotFoundError):
    """No such customer record, or none of this caller's."""


class UndecidedPaymentError(Exception):
    """The payment is not known to have succeeded yet; ask again later."""


class UnknownAddressError(Exception):
    """The address is not known yet; ask again later."""


class LostAddressError(Exception):
    """The address is none any more, and will never be again."""


class RefusedLetterError(Exception):
    """The letter itself cannot be delivered, however often it is tried."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A notification before it has an id.

    Attributes:
        user_id: identity's id; None when only the customer record is known.
        customer_id: customer-service's id; None for what concerns the account itself.
        dedup_key: two drafts of one key are one notification.
    """

    type: str | None
    title: str | None
    description: str | None
    user_id: UserId | None = None
    customer_id: CustomerId | None = None
    deep_link: str | None = None
    image_url: str | None = None
    metadata: Mapping[str, Any] | None = None
    dedup_key: str | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A stored notification; any text may be missing in what a JVM neighbour stored."""

    id: NotificationId
    user_id: UserId | None
    customer_id: CustomerId | None
    type: str | None
    title: str | None
    description: str | None
    deep_link: str | None
    image_url: str | None
    metadata: Mapping[str, Any] | None
    read: bool
    read_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Audience:
    """Whose notifications are meant: a user's, and those of his customer records.

    A notification that names a user is his alone, whatever customer it names beside.
    """

    user_id: UserId
    customers: frozenset[CustomerId] = field(default_factory=frozenset)

    def includes(self, notification: Notification) -> bool:
        if notification.user_id is not None:
            return notification.user_id == self.user_id
        return notification.customer_id in self.customers


class Listener(Protocol):
    """One open stream; answered by notification.routes.stream.Stream."""

    audience: Audience
    caller: Principal

    def push(self, payload: bytes) -> None: ...
    def offer(self, notification: Notification) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Preferences:
    """Which channels may carry what is not about the account itself; the list is always kept."""

    email: bool = True
    push: bool = True


@dataclass(frozen=True, slots=True)
class Device:
    """An app on a phone or in a browser, as Firebase knows it.

    Attributes:
        id: names the device where its token must not be shown.
    """

    id: str
    user_id: UserId
    token: str = field(repr=False)
    platform: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """What one channel is to bring to one person.

    Attributes:
        key: two letters of one key and channel are one letter.
        to: a mail address that the sender knows; else the person's own is looked up.
        params: what the template's blanks are filled with.
        written_at: a push that comes a day late is none.
    """

    key: str
    channel: str
    template: str
    user_id: UserId | None
    customer_id: CustomerId | None
    to: str | None = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)
    written_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentSucceeded:
    """What payment tells; everything but the transaction may be missing."""

    transaction_id: int
    customer_id: int | None
    movie_id: str | None
    amount: Decimal | None
    currency: str | None
    user_id: int | None


def purchase(paid: PaymentSucceeded) -> Draft:
    """Tell the buyer; once per transaction, whatever is delivered twice."""
    price = f" of {paid.amount} {(paid.currency or '').upper()}".rstrip() if paid.amount else ""
    details = {"movieId": paid.movie_id, "transactionId": paid.transaction_id}
    return Draft(
        type="purchase",
        title="Purchase complete",
        description=f"We received your payment{price}. Your film is ready to watch.",
        user_id=None if paid.user_id is None else UserId(paid.user_id),
        customer_id=None if paid.customer_id is None else CustomerId(paid.customer_id),
        deep_link=f"movie:{paid.movie_id}" if paid.movie_id else None,
        metadata={name: value for name, value in details.items() if value is not None},
        dedup_key=str(paid.transaction_id),
    )


def welcome(user_id: int, username: str) -> Draft:
    """Greet a new user, once."""
    return Draft(
        type=GENERAL,
        title=f"Welcome to Nozie, {username}"[:_TITLE_LENGTH],
        description="Your account is ready. Find something to watch.",
        user_id=UserId(user_id),
        dedup_key=f"user.created:{user_id}",
    )


def receipt(paid: PaymentSucceeded, now: datetime) -> list[Letter]:
    """Write what the buyer gets outside of his list: a receipt, and a word on his devices."""
    amount = None if paid.amount is None else f"{paid.amount} {(paid.currency or '').upper()}"
    return [
        Letter(
            key=str(paid.transaction_id),
            channel=channel,
            template="purchase-receipt",
            user_id=None if paid.user_id is None else UserId(paid.user_id),
            customer_id=None if paid.customer_id is None else CustomerId(paid.customer_id),
            to=None,
            params={
                "transactionId": paid.transaction_id,
                "movieId": paid.movie_id,
                "amount": amount and amount.strip(),
            },
            written_at=now,
        )
        for channel in CHANNELS
    ]


def greeting(user_id: int, username: str, email: str, now: datetime) -> Letter:
    """Write the mail that greets a new user."""
    return Letter(
        key=f"user.created:{user_id}",
        channel=EMAIL,
        template="welcome",
        user_id=UserId(user_id),
        customer_id=None,
        to=email,
        params={"username": username},
        written_at=now,
    )


# Texts of `notification.requested`, by template.
_NOTICES: Final = {
    "security-refresh-token-reuse": (
        "Sign in again",
        (
            "A sign-in of yours was used from two places, so we ended it."
            " If that was not you, change your password."
        ),
    ),
}


def notice(template: str, user_id: int, customer_id: int | None, dedup_key: str) -> Draft | None:
    """Word a requested notice for the list of the user; None when we know no such template."""
    words = _NOTICES.get(template)
    if words is None:
        return None
    return Draft(
        type="system",
        title=words[0],
        description=words[1],
        user_id=UserId(user_id),
        customer_id=None if customer_id is None else CustomerId(customer_id),
        dedup_key=f"notification.requested:{dedup_key}",
    )
