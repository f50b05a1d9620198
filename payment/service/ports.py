"""What the use cases ask of others."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from cloud.security import Principal
from payment.domain import (
    CustomerId,
    Intent,
    KeptAnswer,
    MovieId,
    Order,
    Outcome,
    Purchase,
    Title,
    Transaction,
    TransactionId,
    UserId,
    Verdict,
)

Plans = Mapping[str, Title]


class Movies(Protocol):
    """The catalogue; answered by payment.clients.MovieClient."""

    def get(self, movie_id: MovieId, *, deadline: datetime | None = None) -> Title:
        """Raise UnknownMovieError when there is no such title."""


class Customers(Protocol):
    """Customer records; answered by payment.clients.CustomerClient."""

    def ensure_owned(self, customer_id: CustomerId, caller: Principal) -> None:
        """Raise ForeignCustomerError or UnknownCustomerError unless the record is the caller's."""

    def of_caller(self, caller: Principal) -> CustomerId:
        """Find the caller's record, or create it."""

    def of_user(self, user_id: UserId) -> CustomerId:
        """Find a user's record; raise UnknownCustomerError when there is none."""


class Provider(Protocol):
    """Who collects the money; answered by payment.store.Sandbox and payment.clients.stripe.

    Every call may be repeated: what was done is found, not done twice. All raise UnavailableError
    when nobody answers, and it is then unknown whether it was done.
    """

    def start(
        self, transaction: Transaction, buyer: str | None, *, on_device: bool, now: datetime
    ) -> Intent:
        """Create the intent of a transaction, or return the one it has.

        Args:
            transaction: pending.
            buyer: the provider's id of the customer; None makes a new one.
            on_device: the buyer confirms it himself, and gets a key for his device.
            now: the current instant.
        """

    def charge(self, transaction: Transaction, method: str, *, now: datetime) -> Verdict | None:
        """Charge a payment method at once; None while the provider has not decided."""

    def look(self, transaction: Transaction, *, now: datetime) -> Verdict | None:
        """Ask what was decided; None while nothing is."""

    def cancel(self, transaction: Transaction, *, now: datetime) -> Verdict | None:
        """Give an undecided intent up; return what is decided then."""

    def refund(self, transaction: Transaction, *, now: datetime) -> str:
        """Give the money back and return the refund's id; raise NotRefundableError if refused."""


class Transactions(Protocol):
    """The durable record; answered by payment.store.SqlTransactions."""

    def open(
        self,
        order: Order,
        customer_id: CustomerId,
        title: Title,
        *,
        reuse_since: datetime,
        now: datetime,
        public_id: str | None = None,
    ) -> Transaction: ...
    def attach(self, transaction_id: TransactionId, intent: Intent) -> None: ...
    def settle(
        self, verdict: Verdict, *, now: datetime, event_id: str | None = None
    ) -> Outcome: ...
    def find(self, transaction_id: TransactionId) -> Transaction | None: ...
    def find_public(self, public_id: str, user_id: UserId) -> Transaction | None: ...
    def of_customer(
        self, customer_id: CustomerId, *, limit: int, offset: int
    ) -> Sequence[Transaction]: ...
    def of_user(
        self, user_id: UserId | None, *, limit: int, offset: int, movie_id: MovieId | None = None
    ) -> Sequence[Transaction]: ...
    def knows(self, customer_id: CustomerId, user_id: UserId) -> bool: ...
    def bought(self, customer_id: CustomerId, movie_id: MovieId) -> bool: ...
    def buyer(self, customer_id: CustomerId, user_id: UserId) -> str | None: ...
    def claim_pending(
        self, *, older_than: datetime, unseen_since: datetime, now: datetime
    ) -> Sequence[Transaction]: ...
    def request_refund(
        self, transaction_id: TransactionId, by: UserId, *, now: datetime
    ) -> Transaction: ...
    def claim_refunds(self, *, untried_since: datetime, now: datetime) -> Sequence[Transaction]: ...
    def refunded(
        self, transaction_id: TransactionId, refund_id: str, *, now: datetime
    ) -> Transaction: ...
    def refund_refused(self, transaction_id: TransactionId) -> None: ...


class Keys(Protocol):
    """Idempotency keys; answered by payment.store.SqlKeys."""

    def claim(self, user_id: int, key: str, digest: str, *, now: datetime) -> KeptAnswer | None: ...
    def keep(self, user_id: int, key: str, answer: KeptAnswer, *, claimed: datetime) -> None: ...
    def release(self, user_id: int, key: str, *, claimed: datetime) -> None: ...


class Library(Protocol):
    """Purchases and added titles; answered by payment.store.SqlLibrary."""

    def of_user(self, user_id: UserId) -> Sequence[Purchase]: ...
    def find(self, user_id: UserId, movie_id: MovieId) -> Purchase | None: ...
    def add(
        self,
        user_id: UserId,
        title: Title,
        *,
        is_free: bool,
        is_downloaded: bool,
        is_finished: bool,
        now: datetime,
    ) -> None: ...
    def hide(self, user_id: UserId, purchase: Purchase, *, now: datetime) -> None: ...


class Limits(Protocol):
    """How often strangers may start a payment; answered by payment.store.SqlLimits."""

    def count(self, allowed: Mapping[str, int], *, now: datetime) -> None:
        """Raise ThrottledError when a key has had its share."""
