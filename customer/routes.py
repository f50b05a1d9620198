"""HTTP in, one use case, HTTP out."""

from datetime import datetime
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from cloud.errors import InvalidError
from cloud.web import (
    authenticated,
    caller,
    created,
    current,
    json_body,
    ok,
    principal,
    query_bool,
    query_int,
    roles,
)
from customer import service
from customer.deps import Deps
from customer.domain import Customer
from customer.schema import CustomerRequest, dump, dump_reduced

bp = Blueprint("customers", __name__, url_prefix="/api/customers")

_PAGE = 100
_LAST_PAGE = 2**31 - 1


@bp.post("")
@authenticated
def create_customer() -> ResponseReturnValue:
    """Answer 201 with the new record."""
    deps, body = current(Deps), CustomerRequest.parse(json_body())
    now = deps.now()
    made = service.create(
        body.details(),
        body.firebase_uid,
        caller=principal(),
        customers=deps.customers,
        now=now,
    )
    return created(_dump(made, now), "Customer created")


@bp.get("")
@authenticated
def list_customers() -> ResponseReturnValue:
    """Answer a plain list: all records for an ADMIN, the caller's own for others."""
    deps = current(Deps)
    now = deps.now()
    found, total = service.listing(
        caller=principal(),
        page=query_int("page", 0, 0, _LAST_PAGE),
        size=query_int("size", _PAGE, 1, _PAGE),
        customers=deps.customers,
        now=now,
    )
    return ok([_dump(one, now) for one in found], headers={"X-Total-Count": str(total)})


@bp.get("/<int:id>")
def get_customer(id: int) -> ResponseReturnValue:  # noqa: A002 - the contract's name
    """Answer the record; to a caller without a token only that it exists."""
    deps, asking = current(Deps), caller(strict=True)
    now = deps.now()
    found = service.get(id, caller=asking, customers=deps.customers, now=now)
    return ok(_dump(found, now) if asking else dump_reduced(found, now=now))


@bp.get("/email/<email>")
@authenticated
def get_customer_by_email(email: str) -> ResponseReturnValue:
    """Answer the record with exactly this e-mail."""
    deps = current(Deps)
    now = deps.now()
    found = service.get_by_email(email, caller=principal(), customers=deps.customers, now=now)
    return ok(_dump(found, now))


@bp.put("/<int:id>")
@authenticated
def update_customer(id: int) -> ResponseReturnValue:  # noqa: A002 - the contract's name
    """Answer the record with its fields replaced; `firebaseUid` is ignored."""
    deps, body = current(Deps), CustomerRequest.parse(json_body())
    now = deps.now()
    changed = service.replace(
        id, body.details(), caller=principal(), customers=deps.customers, now=now
    )
    return ok(_dump(changed, now), "Customer updated")


@bp.patch("/<int:id>/subscription")
@roles(service.ADMIN)
def set_subscription(id: int) -> ResponseReturnValue:  # noqa: A002 - the contract's name
    """Answer the record with its flag set; 400 without a flag."""
    deps, subscribed = current(Deps), query_bool("isSubscribed")
    if subscribed is None:
        raise InvalidError("Validation failed", {"isSubscribed": "is required"})
    now = deps.now()
    changed = service.set_subscription(
        id,
        subscribed=subscribed,
        caller=principal(),
        memberships=deps.memberships,
        now=now,
    )
    return ok(_dump(changed, now), "Subscription updated")


def _dump(customer: Customer, now: datetime) -> dict[str, Any]:
    return dump(customer, admin=principal().has_role(service.ADMIN), now=now)
