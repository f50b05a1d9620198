"""CircuitBreaker: spares an upstream that fails, and its callers the wait."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus

import structlog
from pybreaker import CircuitBreakerError

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from gateway.exchange import (
    BusyError,
    Definition,
    Exchange,
    Filter,
    Handler,
    NoInstanceError,
    Reply,
    Tools,
    expand,
    message,
    status_of,
)
from gateway.predicates import bind, gather

log = structlog.get_logger(__name__)

# An upstream that answers so is as good as away; other 5xx are its answers.
_AWAY = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


def circuit_breaker(definition: Definition, tools: Tools) -> Filter:
    """Build the filter.

    `name` finds `resilience4j.circuitbreaker.instances.<name>`, `fallbackUri` is a local path
    (`forward:/…`, for every method), `statusCodes` are answers to replace by the fallback;
    with `resumeWithoutError` a failure without a fallback is an empty 200. An answer has to begin
    within `resilience4j.timelimiter.instances.<name>.timeout-duration`, when that is set.

    Raises:
        ValueError: `fallbackUri` leads elsewhere.
    """
    name = str(bind(definition.args, "name")[0])
    codes, fallback = _codes(definition), _fallback(definition, tools)
    breaker = tools.breaker(name)
    breaker.cautious = True  # who is refused has an answer at once; who probes may wait in vain
    limit_s = breaker.time_limit_s

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        try:
            permit = breaker.acquire()
        except CircuitBreakerError as error:
            return await fallback(exchange, error)
        try:
            reply = await (_within(limit_s, proceed, exchange) if limit_s else proceed(exchange))
        except BusyError:
            permit.released()  # it was us who did not call
            raise
        except (UnavailableError, UpstreamError, DeadlineError) as error:
            permit.failed(error)
            log.warning("upstream_failed", route=exchange.route, breaker=name, reason=str(error))
            return await fallback(exchange, error)
        except BaseException:
            permit.released()
            raise
        away = reply.status in _AWAY or reply.status in codes
        permit.failed() if away else permit.succeeded()
        if reply.status in codes:
            reply.discard()
            return await fallback(exchange, UpstreamError(f"answered {reply.status}"))
        return reply

    return apply


async def _within(limit_s: float, proceed: Handler, exchange: Exchange) -> Reply:
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await proceed(exchange)
    except TimeoutError as error:
        if limit.expired():
            raise DeadlineError(f"No answer within {limit_s:g} s") from error
        raise


def _fallback(
    definition: Definition, tools: Tools
) -> Callable[[Exchange, Exception], Awaitable[Reply]]:
    uri = bind(definition.args, "name", "fallbackUri", required=1)[1]
    if uri and not uri.startswith("forward:/"):
        raise ValueError(f"fallbackUri {uri} is not forward:/…")
    resumes = str(definition.args.get("resumeWithoutError", "false")).lower() == "true"

    async def answer(exchange: Exchange, cause: Exception) -> Reply:
        if uri:
            path = expand(uri.removeprefix("forward:"), exchange.variables, path=True)
            return await tools.forward(replace(exchange, failure=cause), path)
        if resumes:
            return Reply(200)
        if isinstance(cause, NoInstanceError):
            return message(cause.status, str(cause), status=cause.status)
        if isinstance(cause, DeadlineError):
            return message(504, "No answer in time", status=504)
        return message(503, "Service is temporarily unavailable", status=503)

    return answer


def _codes(definition: Definition) -> frozenset[int]:
    given = definition.args.get("statusCodes")
    if not given:
        return frozenset()
    return frozenset(status_of(code) for code in gather(definition.args, "statusCodes"))
