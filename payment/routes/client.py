"""Paths that only the app calls: the library, its transactions, and checkout without a token."""

from flask import Blueprint, Response

from cloud import web
from cloud.errors import InvalidError
from cloud.web.answers import failed
from payment import service
from payment.deps import Deps
from payment.domain import (
    MovieId,
    Order,
    Status,
    UnknownTransactionError,
    UserId,
    read_movie_id,
    read_status,
    read_user_id,
)
from payment.routes.once import idempotency_key, once
from payment.schema import (
    CheckoutRequest,
    LibraryRequest,
    ProcessRequest,
    dump_charged,
    dump_checkout,
    dump_client_transaction,
    dump_poll,
    dump_purchase,
)

bp = Blueprint("client", __name__)

_LIBRARY = "/purchases/users/<int:user_id>/purchases"
_TRANSACTIONS = "/purchases/users/<int:user_id>/transactions"


@bp.get(_LIBRARY)
def purchases(user_id: int) -> Response:
    """Answer a library, newest first, without hidden titles."""
    web.owner_or_admin(user_id)
    deps = web.current(Deps)
    found = service.purchases(
        UserId(user_id), library=deps.library, movies=deps.shop.movies, now=deps.now
    )
    return web.ok([dump_purchase(each) for each in found])


@bp.post(_LIBRARY)
def add_purchase(user_id: int) -> Response:
    """Answer 201 with the title, free or paid, that is now listed."""
    web.owner(user_id)
    deps, body = web.current(Deps), LibraryRequest.parse(web.json_body())
    added = service.add(
        UserId(user_id),
        MovieId(body.movie_id),
        is_downloaded=body.is_downloaded,
        is_finished=body.is_finished,
        library=deps.library,
        movies=deps.shop.movies,
        now=deps.now,
    )
    return web.created(dump_purchase(added))


@bp.get(f"{_LIBRARY}/<movie_id>")
def purchase(user_id: int, movie_id: str) -> Response:
    """Answer one title of the library, without the envelope."""
    web.owner_or_admin(user_id)
    deps = web.current(Deps)
    found = service.owned(
        UserId(user_id),
        read_movie_id(movie_id),
        library=deps.library,
        movies=deps.shop.movies,
        now=deps.now,
    )
    return web.plain(dump_purchase(found))


@bp.delete(f"{_LIBRARY}/<movie_id>")
def remove_purchase(user_id: int, movie_id: str) -> Response:
    """Hide a title from the list; what was bought stays bought."""
    web.owner_or_admin(user_id)
    deps = web.current(Deps)
    service.hide(UserId(user_id), read_movie_id(movie_id), library=deps.library, now=deps.now())
    return web.ok()


@bp.get(_TRANSACTIONS)
def transactions(user_id: int) -> Response:
    """Answer a user's transactions, of one title if the query names it."""
    web.owner_or_admin(user_id)
    deps, movie_id = web.current(Deps), web.query_text("movieId")
    found = service.of_title(
        UserId(user_id),
        None if movie_id is None else read_movie_id(movie_id),
        transactions=deps.transactions,
    )
    return web.ok([dump_client_transaction(each, user_id) for each in found])


@bp.post(_TRANSACTIONS)
def record_transaction(user_id: int) -> Response:
    """Answer 202 and do nothing: the app writes no payment states."""
    web.owner(user_id)
    if not isinstance(web.json_body(), dict):
        raise InvalidError("Request body must be a JSON object")
    return web.ok(message="Ignored", status=202)


@bp.post("/payments/process")
@web.authenticated
def process() -> Response:
    """Answer 200 when charged or undecided, 402 with the provider's reason when declined."""
    body = ProcessRequest.parse(web.json_body())
    order = body.order(web.principal().user_id, idempotency_key())
    return once(order, lambda: _process(order, body.payment_method_id))


def _process(order: Order, method: str) -> Response:
    deps = web.current(Deps)
    charged = service.charge(
        order,
        method,
        web.principal(),
        shop=deps.shop,
        customers=deps.customers,
        transactions=deps.transactions,
        provider=deps.provider,
        reuse_window=deps.settings.reuse_window,
        now=deps.now,
    )
    if read_status(charged.status) in {Status.FAILED, Status.CANCELED}:
        return failed(402, charged.error_message or "Payment was declined")
    return web.ok(dump_charged(charged))


@bp.post("/create-payment")
def create_payment() -> Response:
    """Answer the four texts of a checkout; whoever asks is not known."""
    deps, body = web.current(Deps), CheckoutRequest.parse(web.json_body())
    order = body.order()
    allowed = {
        f"address:{web.client_ip()}": deps.settings.checkouts_per_address,
        f"user:{order.user_id}": deps.settings.checkouts_per_user,
    }
    deps.limits.count(allowed, now=deps.now())
    transaction, intent = service.checkout(
        order,
        shop=deps.shop,
        customers=deps.customers,
        transactions=deps.transactions,
        provider=deps.provider,
        now=deps.now,
    )
    return web.plain(dump_checkout(transaction, intent))


@bp.get("/transaction/<user_id>/<transaction_id>")
def transaction(user_id: str, transaction_id: str) -> Response:
    """Answer six fields of a checkout, to whoever knows its opaque name and its user."""
    user = read_user_id(user_id)
    if user is None:
        raise UnknownTransactionError("transaction not found")
    found = service.poll(transaction_id, user, transactions=web.current(Deps).transactions)
    return web.plain(dump_poll(found))
