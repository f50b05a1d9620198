"""Customer records and memberships: values and rules."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cloud.errors import DeniedError, InvalidError, NotFoundError


class UnknownCustomerError(NotFoundError):
    """No such record, or none that the caller may know of."""

    def __init__(self) -> None:
        super().__init__("Customer not found")


class TakenError(InvalidError):
    """Another record has the value of a unique field."""

    def __init__(self, field: str) -> None:
        super().__init__("Validation failed", {field: "is already in use"})


class RecordExistsError(InvalidError):
    """The user has a record already."""

    def __init__(self) -> None:
        super().__init__("There is already a customer record for this account")


class ForeignAddressError(InvalidError):
    """Only an ADMIN may set an e-mail that is not the account's."""

    def __init__(self) -> None:
        super().__init__("Validation failed", {"email": "must be the e-mail of your account"})


class NotYoursError(DeniedError):
    """Somebody asks for a record in another one's name."""

    def __init__(self) -> None:
        super().__init__("A record can be created for your own e-mail only")


class UnknownPlanError(InvalidError):
    """A plan was paid for of which nobody says how long it lasts."""

    def __init__(self, plan: str) -> None:
        super().__init__(f"nozie.plans.{plan}.length is not set")


class UndecidedPaymentError(Exception):
    """Whether the money came cannot be told yet."""


@dataclass(frozen=True, slots=True)
class Details:
    """What its owner may write into a record."""

    email: str
    full_name: str | None = None
    phone_number: str | None = None
    avatar_url: str | None = None
    date_of_birth: str | None = None
    gender: str | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """The time that one payment bought."""

    starts_at: datetime
    ends_at: datetime

    def left(self, now: datetime) -> timedelta:
        """Return how much of it has not passed yet."""
        return max(timedelta(), self.ends_at - max(self.starts_at, now))


@dataclass(frozen=True, slots=True)
class Membership:
    """Whether a customer is subscribed, and until when.

    Attributes:
        flag: as stored; None in a record of a JVM service counts as not subscribed.
        ends_at: None with a set flag is a membership without an end: an ADMIN began it, here or
            through a JVM service, and payments neither lengthen nor shorten it.
    """

    flag: bool | None
    ends_at: datetime | None

    def is_active(self, now: datetime) -> bool:
        """Tell by the clock: an end that has come counts before anybody has cleared the flag."""
        return bool(self.flag) and (self.ends_at is None or self.ends_at > now)

    @property
    def is_endless(self) -> bool:
        return bool(self.flag) and self.ends_at is None

    def extended(self, length: timedelta, now: datetime) -> tuple["Membership", Period]:
        """Add `length` after the present end, or from now on when that has passed."""
        if self.is_endless:
            return self, Period(now, now)
        start = max(now, self.ends_at or now)
        return Membership(flag=True, ends_at=start + length), Period(start, start + length)

    def shortened(self, by: timedelta, now: datetime) -> "Membership":
        """Bring the end nearer; one that has come ends the membership."""
        if self.ends_at is None:
            return self
        ends_at = self.ends_at - by
        return Membership(self.flag, ends_at) if ends_at > now else NO_MEMBERSHIP


ENDLESS: Final = Membership(flag=True, ends_at=None)
NO_MEMBERSHIP: Final = Membership(flag=False, ends_at=None)


@dataclass(frozen=True, slots=True)
class PlanPayment:
    """A payment for a plan.

    Attributes:
        length: what was sold; None from a publisher that does not say.
    """

    transaction_id: int
    customer_id: int | None
    user_id: int | None
    plan: str
    length: timedelta | None


@dataclass(frozen=True, slots=True)
class Customer:
    """One record.

    Attributes:
        user_id: the identity user it is linked to; None for a record that a JVM service made
            and whose user has not come yet.
        created_at: UTC without offset, as the column; updated_at too.
    """

    id: int
    user_id: int | None
    details: Details
    firebase_uid: str | None
    membership: Membership
    stripe_customer_id: str | None
    created_at: datetime | None
    updated_at: datetime | None


def same_address(one: str, other: str | None) -> bool:
    """Tell whether two e-mail addresses are one, ignoring case."""
    return other is not None and one.casefold() == other.casefold()


_PLAN: Final = "plan:"


def plan_name(movie_id: str | None) -> str | None:
    """Return the plan that `plan:<name>` names, None for a title."""
    return movie_id.removeprefix(_PLAN) if movie_id and movie_id.startswith(_PLAN) else None
