"""Use cases of customer records, and what they ask of a store.

A record belongs to the user it is linked to. One without a link belongs to the user whose account
has its e-mail, and is linked on first use. To others it does not exist; an ADMIN may do everything.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from cloud.security import Principal
from customer.domain import (
    Customer,
    Details,
    ForeignAddressError,
    NotYoursError,
    RecordExistsError,
    UnknownCustomerError,
    same_address,
)

ADMIN = "ADMIN"


class Customers(Protocol):  # answered by customer.store.SqlCustomers
    """What the use cases ask of the records."""

    def create(
        self, details: Details, firebase_uid: str | None, user_id: int | None, *, now: datetime
    ) -> Customer: ...
    def replace(self, customer_id: int, details: Details, *, now: datetime) -> Customer: ...
    def find(self, customer_id: int) -> Customer | None: ...
    def find_by_email(self, email: str) -> Customer | None: ...
    def claim(self, user_id: int, email: str | None, *, now: datetime) -> Customer | None: ...
    def page(self, *, offset: int, limit: int) -> tuple[list[Customer], int]: ...
    def welcome(self, user_id: int, email: str | None, *, now: datetime) -> str: ...


def create(
    details: Details,
    firebase_uid: str | None,
    *,
    caller: Principal,
    customers: Customers,
    now: datetime,
) -> Customer:
    """Create a record; it is linked to the caller when it has the e-mail of his account.

    Raises:
        NotYoursError: the e-mail is not the account's, and the caller no ADMIN.
        RecordExistsError: the account has a record.
        TakenError: another record has the e-mail or the Firebase id.
    """
    own = same_address(details.email, caller.email)
    if not own and not caller.has_role(ADMIN):
        raise NotYoursError
    if own and customers.claim(caller.user_id, caller.email, now=now):
        raise RecordExistsError
    return customers.create(details, firebase_uid, caller.user_id if own else None, now=now)


def listing(
    *, caller: Principal, page: int, size: int, customers: Customers, now: datetime
) -> tuple[list[Customer], int]:
    """Return a page of all records to an ADMIN, to others their own; and how many there are."""
    if caller.has_role(ADMIN):
        return customers.page(offset=page * size, limit=size)
    own = customers.claim(caller.user_id, caller.email, now=now)
    found = [own] if own else []
    return found[page * size :][:size], len(found)


def get(
    customer_id: int, *, caller: Principal | None, customers: Customers, now: datetime
) -> Customer:
    """Return a record to its owner, to an ADMIN, or to nobody known, who gets to see its id only.

    Raises:
        UnknownCustomerError: there is none, or not for this caller.
    """
    if caller is not None and not caller.has_role(ADMIN):
        return _own(caller, customers, now, lambda own: own.id == customer_id)
    return _known(customers.find(customer_id))


def get_by_email(email: str, *, caller: Principal, customers: Customers, now: datetime) -> Customer:
    """Return the record with exactly this e-mail.

    Raises:
        UnknownCustomerError: there is none, or not for this caller.
    """
    if caller.has_role(ADMIN):
        return _known(customers.find_by_email(email))
    return _own(caller, customers, now, lambda own: own.details.email == email)


def replace(
    customer_id: int,
    details: Details,
    *,
    caller: Principal,
    customers: Customers,
    now: datetime,
) -> Customer:
    """Overwrite a record's details.

    Raises:
        UnknownCustomerError: there is none, or not for this caller.
        ForeignAddressError: a new e-mail that is not the account's, and the caller no ADMIN.
        TakenError: another record has the e-mail.
    """
    before = get(customer_id, caller=caller, customers=customers, now=now)
    kept = details.email == before.details.email
    if not (kept or same_address(details.email, caller.email) or caller.has_role(ADMIN)):
        raise ForeignAddressError
    return customers.replace(customer_id, details, now=now)


def _own(
    caller: Principal, customers: Customers, now: datetime, wanted: Callable[[Customer], bool]
) -> Customer:
    own = customers.claim(caller.user_id, caller.email, now=now)
    return _known(own if own and wanted(own) else None)


def _known(found: Customer | None) -> Customer:
    if found is None:
        raise UnknownCustomerError
    return found
