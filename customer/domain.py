"""Customer records: values and rules."""

from dataclasses import dataclass
from datetime import datetime

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
    is_subscribed: bool | None
    stripe_customer_id: str | None
    created_at: datetime | None
    updated_at: datetime | None


def same_address(one: str, other: str | None) -> bool:
    """Tell whether two e-mail addresses are one, ignoring case."""
    return other is not None and one.casefold() == other.casefold()
