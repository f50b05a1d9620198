"""Retry: asks again when the answer is bad; for requests without a body only."""

import asyncio
from datetime import timedelta

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, span_of, status_of
from gateway.predicates import bind

_SERIES = {
    "INFORMATIONAL": 1,
    "SUCCESSFUL": 2,
    "REDIRECTION": 3,
    "CLIENT_ERROR": 4,
    "SERVER_ERROR": 5,
}
_BACKOFF = ("backoff.firstBackoff", "backoff.maxBackoff", "backoff.factor")
_FIELDS = ("retries", "statuses", "methods", *_BACKOFF)
_FAILURES = (UpstreamError, UnavailableError, DeadlineError)


def retry(definition: Definition, tools: Tools) -> Filter:
    """Build the filter; Spring's defaults: 3 retries, of GET, after a 5xx or a failed call.

    All retries of the worker share one budget: when everything fails they must not add up.
    """
    args = dict(definition.args)
    args |= {f"backoff.{name}": value for name, value in (args.get("backoff") or {}).items()}
    retries, statuses, methods, first, last, factor = bind(args, *_FIELDS, required=0)
    most = int(retries or 3)
    codes = {status_of(name) for name in (statuses or "").split(",") if name.strip()}
    series = {
        _SERIES[name.strip()] for name in str(args.get("series") or "SERVER_ERROR").split(",")
    }
    allowed = {name.strip() for name in (methods or "GET").split(",")}
    pause = span_of(first) if first else timedelta()
    longest = span_of(last) if last else timedelta.max
    growth = int(factor or 2)

    def bad(reply: Reply) -> bool:
        return reply.status in codes or reply.status // 100 in series

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if exchange.method not in allowed or exchange.body is not None:
            return await proceed(exchange)
        for attempt in range(most):
            try:
                reply = await proceed(exchange)
            except _FAILURES:
                if not tools.retries():
                    raise
            else:
                if not bad(reply) or not tools.retries():
                    return reply
                reply.discard()
            if pause:
                await asyncio.sleep(min(pause * growth**attempt, longest).total_seconds())
        return await proceed(exchange)

    return apply
