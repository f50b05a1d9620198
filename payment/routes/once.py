"""Idempotency-Key: the first answer again (Stripe's semantics)."""

from collections.abc import Callable
from typing import Final

from flask import Response, request

from cloud import web
from cloud.errors import InvalidError
from payment.deps import Deps
from payment.domain import KeptAnswer, Order

_LENGTH: Final = 255
_KEPT: Final = frozenset({200, 201, 402})


def idempotency_key(given: str | None = None) -> str | None:
    """Return the key of the header, else the one `given` in the body.

    Raises:
        InvalidError: blank, too long, or not printable.
    """
    key = request.headers.get("Idempotency-Key", given)
    if key is None:
        return None
    if not key.strip() or len(key) > _LENGTH or not key.isprintable():
        raise InvalidError(
            "Idempotency-Key is not usable",
            {"idempotencyKey": f"must be 1 to {_LENGTH} printable characters"},
        )
    return key


def once(order: Order, run: Callable[[], Response]) -> Response:
    """Answer by `run`, or as the first request with the order's key was answered.

    Raises:
        KeyReusedError: the key was used with another body.
        KeyInFlightError: the first request is not answered yet.
    """
    if order.key is None:
        return run()
    deps = web.current(Deps)
    claimed = deps.now()
    kept = deps.keys.claim(order.user_id, order.key, order.digest or "", now=claimed)
    if kept is not None:
        replay = Response(kept.body, kept.status, content_type="application/json")
        replay.headers["Idempotent-Replayed"] = "true"
        return replay
    try:
        answer = run()
        if answer.status_code in _KEPT:
            first = KeptAnswer(answer.status_code, answer.get_data())
            deps.keys.keep(order.user_id, order.key, first, claimed=claimed)
    except Exception:
        deps.keys.release(order.user_id, order.key, claimed=claimed)
        raise
    return answer
