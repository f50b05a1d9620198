"""Shapes of bodies and events of the customer service."""

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from cloud.schema import Body, Int64, RequiredEmail, Text, parse_json
from customer.domain import Customer, Details, PlanPayment, plan_name

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


class PaymentEvent(Body):
    """`payment.succeeded` and `payment.refunded`; a JVM publisher knows no user and no days."""

    transaction_id: Int64
    customer_id: Int64 | None = None
    user_id: Int64 | None = None
    movie_id: Annotated[str, Text(255)] | None = None
    plan_days: Annotated[int, Field(ge=1, le=36500)] | None = None


def parse_plan_payment(body: bytes) -> PlanPayment | None:
    """Read a payment event; None when a title was bought, which is none of our business.

    Raises:
        InvalidError: it is not the event, or names no transaction.
    """
    event = PaymentEvent.parse(parse_json(body))
    plan = plan_name(event.movie_id)
    if plan is None:
        return None
    return PlanPayment(
        transaction_id=event.transaction_id,
        customer_id=event.customer_id,
        user_id=event.user_id,
        plan=plan,
        length=None if event.plan_days is None else timedelta(days=event.plan_days),
    )


def dump(customer: Customer, *, admin: bool, now: datetime) -> dict[str, Any]:
    """Write a record as of `now`; the Stripe id is an ADMIN's business only."""
    details, membership = customer.details, customer.membership
    return {
        "id": customer.id,
        # Ours: by it a neighbour knows whose record it is, whatever e-mail the record holds.
        "userId": customer.user_id,
        "firebaseUid": customer.firebase_uid,
        "email": details.email,
        "fullName": details.full_name,
        "phoneNumber": details.phone_number,
        "avatarUrl": details.avatar_url,
        "dateOfBirth": details.date_of_birth,
        "gender": details.gender,
        "isSubscribed": None if membership.flag is None else membership.is_active(now),
        "stripeCustomerId": customer.stripe_customer_id if admin else None,
        "createdAt": customer.created_at,
        "updatedAt": customer.updated_at,
    }


def dump_reduced(customer: Customer, *, now: datetime) -> dict[str, Any]:
    """Write that a record exists, for a JVM payment-service, which asks without a token."""
    return {**dict.fromkeys(dump(customer, admin=False, now=now)), "id": customer.id}
