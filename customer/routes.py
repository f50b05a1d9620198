"""HTTP in, one use case, HTTP out."""

from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from cloud.web import (
    authenticated,
    caller,
    created,
    current,
    json_body,
    ok,
    principal,
    query_int,
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
    made = service.create(
        body.details(),
        body.firebase_uid,
        caller=principal(),
        customers=deps.customers,
        now=deps.now(),
    )
    return created(_dump(made), "Customer created")


@bp.get("")
@authenticated
def list_customers() -> ResponseReturnValue:
    """Answer a plain list: all records for an ADMIN, the caller's own for others."""
    found, total = service.listing(
        caller=principal(),
        page=query_int("page", 0, 0, _LAST_PAGE),
        size=query_int("size", _PAGE, 1, _PAGE),
        customers=current(Deps).customers,
    )
    return ok([_dump(one) for one in found], headers={"X-Total-Count": str(total)})


@bp.get("/<int:id>")
def get_customer(id: int) -> ResponseReturnValue:  # noqa: A002 - the contract's name
    """Answer the record; to a caller without a token only that it exists."""
    asking = caller(strict=True)
    found = service.get(id, caller=asking, customers=current(Deps).customers)
    return ok(_dump(found) if asking else dump_reduced(found))


@bp.get("/email/<email>")
@authenticated
def get_customer_by_email(email: str) -> ResponseReturnValue:
    """Answer the record with exactly this e-mail."""
    customers = current(Deps).customers
    return ok(_dump(service.get_by_email(email, caller=principal(), customers=customers)))


@bp.put("/<int:id>")
@authenticated
def update_customer(id: int) -> ResponseReturnValue:  # noqa: A002 - the contract's name
    """Answer the record with its fields replaced; `firebaseUid` is ignored."""
    deps, body = current(Deps), CustomerRequest.parse(json_body())
    changed = service.replace(
        id, body.details(), caller=principal(), customers=deps.customers, now=deps.now()
    )
    return ok(_dump(changed), "Customer updated")


def _dump(customer: Customer) -> dict[str, Any]:
    return dump(customer, admin=principal().has_role(service.ADMIN))
