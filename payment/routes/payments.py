"""Payments and transactions, as the JVM service has them, and refunds."""

from flask import Blueprint, Response, request

from cloud import web
from cloud.errors import InvalidError
from payment import service
from payment.deps import Deps
from payment.domain import CustomerId, Order, TransactionId, UserId, read_movie_id
from payment.routes.once import idempotency_key, once
from payment.schema import PaymentRequest, dump_started, dump_transaction

bp = Blueprint("payments", __name__, url_prefix="/api/payments")


@bp.post("/create")
@web.authenticated
def create() -> Response:
    """Answer 201 with what the buyer's device needs; replay it for a repeated key."""
    body = PaymentRequest.parse(web.json_body())
    order = body.order(web.principal().user_id, idempotency_key(body.idempotency_key))
    return once(order, lambda: _create(order, body.customer))


def _create(order: Order, customer_id: CustomerId) -> Response:
    deps = web.current(Deps)
    transaction, intent = service.create(
        order,
        customer_id,
        web.principal(),
        shop=deps.shop,
        customers=deps.customers,
        transactions=deps.transactions,
        provider=deps.provider,
        reuse_window=deps.settings.reuse_window,
        now=deps.now,
    )
    return web.created(dump_started(transaction, intent))


@bp.get("")
@web.authenticated
def own() -> Response:
    """Answer the caller's transactions, newest first; an ADMIN sees everybody's."""
    deps = web.current(Deps)
    found = service.own(
        web.principal(),
        page=web.query_int("page", 0, minimum=0, maximum=_LAST_PAGE),
        size=web.query_int("size", 20, minimum=1, maximum=100),
        transactions=deps.transactions,
    )
    return web.ok([dump_transaction(each) for each in found])


@bp.get("/transactions/<int:customer_id>")
@web.authenticated
def of_customer(customer_id: int) -> Response:
    """Answer a customer's transactions to its owner or an ADMIN, 404 to others."""
    deps = web.current(Deps)
    found = service.of_customer(
        CustomerId(customer_id),
        web.principal(),
        page=web.query_int("page", 0, minimum=0, maximum=_LAST_PAGE),
        size=web.query_int("size", 100, minimum=1, maximum=100),
        transactions=deps.transactions,
        customers=deps.customers,
    )
    return web.ok([dump_transaction(each) for each in found])


@bp.get("/transaction/<int:transaction_id>")
@web.authenticated
def one(transaction_id: int) -> Response:
    """Answer one transaction to its owner or an ADMIN, 404 to others."""
    deps = web.current(Deps)
    found = service.get(
        TransactionId(transaction_id),
        web.principal(),
        transactions=deps.transactions,
        customers=deps.customers,
    )
    return web.ok(dump_transaction(found))


@bp.get("/check-purchase")
@web.authenticated
def check_purchase() -> Response:
    """Answer a bare boolean in `data`: does the customer own the title?"""
    deps = web.current(Deps)
    return web.ok(
        service.bought(
            CustomerId(web.query_int(_required("customerId"), 0)),
            read_movie_id(web.query_text(_required("movieId")) or ""),
            web.principal(),
            transactions=deps.transactions,
            customers=deps.customers,
        )
    )


def _required(name: str) -> str:
    if not request.args.get(name):
        raise InvalidError("Validation failed", {name: "is required"})
    return name


@bp.post("/transaction/<int:transaction_id>/refund")
@web.roles("ADMIN")
def refund(transaction_id: int) -> Response:
    """Answer 200 when the money went back, 202 while the provider has not answered."""
    deps = web.current(Deps)
    found = service.refund(
        TransactionId(transaction_id),
        UserId(web.principal().user_id),
        transactions=deps.transactions,
        provider=deps.provider,
        now=deps.now,
    )
    if found.refunded_at is None:
        return web.ok(dump_transaction(found), "The refund is under way", 202)
    return web.ok(dump_transaction(found))


_LAST_PAGE = 2**31 - 1
