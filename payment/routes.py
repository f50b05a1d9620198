"""HTTP in, one use case, HTTP out."""

from flask import Blueprint, Response, request

from cloud import web
from cloud.errors import InvalidError
from payment import service
from payment.deps import Deps
from payment.domain import CustomerId, MovieId, TransactionId
from payment.schema import PaymentRequest, dump_started, dump_transaction
from payment.store import KeptAnswer

bp = Blueprint("payments", __name__, url_prefix="/api/payments")

_KEY_LENGTH = 255


@bp.post("/create")
@web.authenticated
def create() -> Response:
    """Answer 201 with what the buyer's device needs; replay it for a repeated key."""
    deps, caller = web.current(Deps), web.principal()
    body = PaymentRequest.parse(web.json_body())
    key = _key(body)
    if key is None:
        return _create(deps, body, None)
    kept = deps.keys.claim(caller.user_id, key, body.digest(), now=deps.now())
    if kept is not None:
        replay = Response(kept.body, kept.status, content_type="application/json")
        replay.headers["Idempotent-Replayed"] = "true"
        return replay
    try:
        answer = _create(deps, body, key)
        deps.keys.keep(caller.user_id, key, KeptAnswer(answer.status_code, answer.get_data()))
    except Exception:
        deps.keys.release(caller.user_id, key)
        raise
    return answer


def _create(deps: Deps, body: PaymentRequest, key: str | None) -> Response:
    caller = web.principal()
    transaction, intent = service.create(
        body.order(caller.user_id, key),
        caller,
        movies=deps.movies,
        customers=deps.customers,
        transactions=deps.transactions,
        provider=deps.provider,
        currency=deps.settings.currency,
        reuse_window=deps.settings.reuse_window,
        now=deps.now,
    )
    return web.created(dump_started(transaction, intent))


def _key(body: PaymentRequest) -> str | None:
    key = request.headers.get("Idempotency-Key", body.idempotency_key)
    if key is None:
        return None
    if not key.strip() or len(key) > _KEY_LENGTH or not key.isprintable():
        raise InvalidError(
            "Idempotency-Key is not usable",
            {"idempotencyKey": f"must be 1 to {_KEY_LENGTH} printable characters"},
        )
    return key


@bp.get("")
@web.authenticated
def own() -> Response:
    """Answer the caller's transactions, newest first; an ADMIN sees everybody's."""
    deps = web.current(Deps)
    found = service.own(
        web.principal(),
        page=web.query_int("page", 0, minimum=0),
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
        page=web.query_int("page", 0, minimum=0),
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
            MovieId(web.query_text(_required("movieId")) or ""),
            web.principal(),
            transactions=deps.transactions,
            customers=deps.customers,
        )
    )


def _required(name: str) -> str:
    if not request.args.get(name):
        raise InvalidError("Validation failed", {name: "is required"})
    return name
