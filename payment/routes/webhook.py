"""The provider's door: plain text, no token, the signature decides."""

from typing import Final

from flask import Blueprint, Response, request

from cloud import web
from payment import service
from payment.deps import Deps
from payment.domain import ForgedEventError
from payment.schema import parse_event

bp = Blueprint("webhook", __name__, url_prefix="/api/payments")

_TEXT: Final = "text/plain"


@bp.post("/webhook")
def webhook() -> Response:
    """Answer 200 to what we believe, whether it is new or not; 400, and no change, to the rest."""
    deps = web.current(Deps)
    signature = request.headers.get("Stripe-Signature")
    try:
        notice = parse_event(
            request.get_data(cache=False),
            signature,
            deps.settings.webhook_secret,
            now=deps.now(),
        )
        service.receive(notice, transactions=deps.transactions, now=deps.now())
    except ForgedEventError as error:
        return Response(f"Webhook refused: {error}", 400, content_type=_TEXT)
    return Response("Webhook received", 200, content_type=_TEXT)
