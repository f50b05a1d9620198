"""Shapes of bodies and events of the customer service."""

from dataclasses import fields
from typing import Annotated, Any

from cloud.schema import Body, Int64, RequiredEmail, Text
from customer.domain import Customer, Details

_Line = Annotated[str, Text(255)]


class CustomerRequest(Body):
    """Body of create and replace."""

    email: Annotated[RequiredEmail, Text(255)]
    firebase_uid: _Line | None = None
    full_name: _Line | None = None
    phone_number: _Line | None = None
    avatar_url: _Line | None = None
    date_of_birth: _Line | None = None
    gender: _Line | None = None

    def details(self) -> Details:
        """Return what is written into the record."""
        return Details(**{field.name: getattr(self, field.name) for field in fields(Details)})


class UserCreated(Body):
    """The event `user.created` of identity."""

    user_id: Int64
    email: Annotated[str, Text(255)] | None = None


def dump(customer: Customer, *, admin: bool) -> dict[str, Any]:
    """Write a record; the Stripe id is an ADMIN's business only."""
    details = customer.details
    return {
        "id": customer.id,
        "firebaseUid": customer.firebase_uid,
        "email": details.email,
        "fullName": details.full_name,
        "phoneNumber": details.phone_number,
        "avatarUrl": details.avatar_url,
        "dateOfBirth": details.date_of_birth,
        "gender": details.gender,
        "isSubscribed": customer.is_subscribed,
        "stripeCustomerId": customer.stripe_customer_id if admin else None,
        "createdAt": customer.created_at,
        "updatedAt": customer.updated_at,
    }


def dump_reduced(customer: Customer) -> dict[str, Any]:
    """Write that a record exists, for a JVM payment-service, which asks without a token."""
    return {**dict.fromkeys(dump(customer, admin=False)), "id": customer.id}
