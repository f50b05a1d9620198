"""What callers send, and what they are shown."""

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cloud.envelope import local_date_time, zoned_date_time
from cloud.schema import Body, Int64, Money, NotBlank, Text
from payment.domain import (
    CustomerId,
    Intent,
    MovieId,
    Order,
    Purchase,
    Status,
    Transaction,
    UserId,
    read_movie_id,
    read_status,
    read_user_id,
)


def _currency(text: str) -> str:
    code = text.strip().lower()
    if len(code) != 3 or not code.isascii() or not code.isalpha():  # noqa: PLR2004 - ISO 4217
        raise ValueError("must be three letters")
    return code


def _user(text: str) -> str:
    if read_user_id(text) is None:
        raise ValueError("must be a user id")
    return text


_Movie = Annotated[NotBlank, Text(255), AfterValidator(read_movie_id)]


class _Purchase(Body):
    """What every order names."""

    movie_id: _Movie
    amount: Annotated[Money, Field(gt=0)]
    currency: Annotated[str, AfterValidator(_currency)] = "usd"

    def _order(self, user_id: int, key: str | None, *about: object) -> Order:
        """Build the order; the amount at two decimals."""
        return Order(
            movie_id=MovieId(self.movie_id),
            amount=self.amount.quantize(Decimal("0.01")),
            currency=self.currency,
            user_id=UserId(user_id),
            key=key,
            digest=self._digest(*about),
        )

    def _digest(self, *about: object) -> str:
        """Fingerprint of the body's meaning: spelling and order of fields do not count."""
        parts = (*about, self.movie_id, f"{self.amount:.2f}", self.currency)
        return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


class PaymentRequest(_Purchase):
    """Body of createPayment."""

    customer_id: Int64
    idempotency_key: Annotated[str, Text(255)] | None = None

    @property
    def customer(self) -> CustomerId:
        """The paying customer, as the caller claims."""
        return CustomerId(self.customer_id)

    def order(self, user_id: int, key: str | None) -> Order:
        """Return what the caller asks to buy."""
        return self._order(user_id, key, self.customer_id)


class ProcessRequest(_Purchase):
    """Body of clientProcess; the token says who pays."""

    payment_method_id: Annotated[NotBlank, Text(255)]

    def order(self, user_id: int, key: str | None) -> Order:
        """Return what the caller asks to buy."""
        return self._order(user_id, key, "process", self.payment_method_id)


class CheckoutRequest(_Purchase):
    """Body of clientCreatePayment; titles and pictures come from the catalogue, not from here."""

    user_id: Annotated[str, AfterValidator(_user)]

    def order(self) -> Order:
        """Return what somebody asks to buy for this user."""
        return self._order(int(self.user_id), None)


class LibraryRequest(Body):
    """Body of clientAddPurchase."""

    movie_id: _Movie
    is_downloaded: bool = False
    is_finished: bool = False


def dump_started(transaction: Transaction, intent: Intent) -> dict[str, Any]:
    """PaymentResponse of the contract."""
    return {
        "transactionId": transaction.id,
        "clientSecret": intent.client_secret,
        "ephemeralKey": intent.ephemeral_key,
        "customerId": intent.customer,
    }


def dump_checkout(transaction: Transaction, intent: Intent) -> dict[str, Any]:
    """Four texts; the transaction under its opaque name."""
    return {**dump_started(transaction, intent), "transactionId": transaction.public_id}


def dump_charged(transaction: Transaction) -> dict[str, Any]:
    """Tell what became of a charge."""
    return {"transactionId": str(transaction.id), "status": _status(transaction.status)}


def dump_transaction(transaction: Transaction) -> dict[str, Any]:
    """Transaction of the contract; all keys always, instants local."""
    instants = {
        "createdAt": transaction.created_at,
        "paidAt": transaction.paid_at,
        "failedAt": transaction.failed_at,
        "canceledAt": transaction.canceled_at,
        "refundedAt": transaction.refunded_at,
    }
    return {
        "id": transaction.id,
        "customerId": transaction.customer_id,
        "movieId": transaction.movie_id,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "status": _status(transaction.status),
        "stripePaymentIntentId": transaction.stripe_payment_intent_id,
        "stripeCustomerId": transaction.stripe_customer_id,
        "chargeId": transaction.charge_id,
        "errorMessage": transaction.error_message,
        **{name: moment and local_date_time(moment) for name, moment in instants.items()},
    }


def dump_client_transaction(transaction: Transaction, user_id: int) -> dict[str, Any]:
    """ClientTransaction of the contract; ids as text, instants with their Z."""
    title = transaction.title
    return {
        "id": str(transaction.id),
        "userId": str(user_id),
        "movieId": transaction.movie_id,
        "movieTitle": title and title.name,
        "movieImageUrl": title and title.image_url,
        "movieSlug": title and title.slug,
        "amount": transaction.amount,
        "currency": transaction.currency or "usd",
        "status": _status(transaction.status) or Status.PENDING,
        "createdAt": _zoned(transaction.created_at),
        "paidAt": _zoned(transaction.paid_at),
        "failedAt": _zoned(transaction.failed_at),
        "canceledAt": _zoned(transaction.canceled_at),
        "stripePaymentIntentId": transaction.stripe_payment_intent_id,
        "chargeId": transaction.charge_id,
        "errorMessage": transaction.error_message,
    }


def dump_poll(transaction: Transaction) -> dict[str, Any]:
    """Six fields and no more: whoever asks is not known."""
    return {
        "id": transaction.public_id,
        "status": _status(transaction.status),
        "paidAt": _zoned(transaction.paid_at),
        "failedAt": _zoned(transaction.failed_at),
        "canceledAt": _zoned(transaction.canceled_at),
        "errorMessage": transaction.error_message,
    }


def dump_purchase(purchase: Purchase) -> dict[str, Any]:
    """ClientPurchase of the contract; a title that nobody could describe is named by its id."""
    title = purchase.title
    dumped: dict[str, Any] = {
        "id": purchase.movie_id,
        "movieId": purchase.movie_id,
        "title": title.name if title else purchase.movie_id,
        "imageUrl": title.image_url if title else "",
        "rating": title and title.rating,
        "price": title and title.price,
        "isDownloaded": purchase.is_downloaded,
        "isFinished": purchase.is_finished,
        "transactionId": purchase.transaction_id and str(purchase.transaction_id),
    }
    if purchase.since is not None:
        dumped["purchasedAt"] = zoned_date_time(purchase.since)
    return dumped


def _zoned(moment: datetime | None) -> str | None:
    return None if moment is None else zoned_date_time(moment)


def _status(stored: str | None) -> str | None:
    """Spell a stored status; what only a neighbour knows is shown as it is."""
    return read_status(stored) or (stored and stored.lower())
