"""Retry: asks again when the answer is bad; for requests without a body only."""

import asyncio
from datetime import timedelta

from cloud.errors import CloudError, DeadlineError, UnavailableError, UpstreamError
from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, span_of, status_of
from gateway.predicates import bind

_SERIES = {
    "INFORMATIONAL": 1,
    "SUCCESSFUL": 2,
    "REDIRECTION": 3,
    "CLIENT_ERROR": 4,
    "SERVER_ERROR": 5,
}
_FIELDS = ("retries", "statuses", "methods", "backoff.firstBackoff", "backoff.maxBackoff")
_FAILURES = (UpstreamError, UnavailableError, DeadlineError)


def retry(definition: Definition, _: Tools) -> Filter:
    """Build the filter; Spring's defaults: 3 retries, of GET, after a 5xx or a failed call."""
    args = dict(definition.args)
    args |= {f"backoff.{name}": value for name, value in (args.get("backoff") or {}).items()}
    retries, statuses, methods, first, last = bind(args, *_FIELDS, required=0)
    most = int(retries or 3)
    codes = {status_of(name) for name in (statuses or "").split(",") if name.strip()}
    series = {
        _SERIES[name.strip()] for name in str(args.get("series") or "SERVER_ERROR").split(",")
    }
    allowed = {name.strip() for name in (methods or "GET").split(",")}
    pause = span_of(first) if first else timedelta()
    longest = span_of(last) if last else timedelta(seconds=5)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if exchange.method not in allowed or exchange.body is not None:
            return await proceed(exchange)
        for attempt in range(most):
            reply = await _tried(exchange, proceed)
            if reply is not None and not (reply.status in codes or reply.status // 100 in series):
                return reply
            if reply is not None:
                reply.discard()
            if pause:
                await asyncio.sleep(min(pause * 2**attempt, longest).total_seconds())
        return await proceed(exchange)

    return apply


async def _tried(exchange: Exchange, proceed: Handler) -> Reply | None:
    try:
        return await proceed(exchange)
    except CloudError as error:
        if isinstance(error, _FAILURES):
            return None
        raise
