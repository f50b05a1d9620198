"""Retry: asks again when the answer is bad; for requests without a body only."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, span_of, status_of
from gateway.predicates import bind, gather

_SERIES = {
    "INFORMATIONAL": 1,
    "SUCCESSFUL": 2,
    "REDIRECTION": 3,
    "CLIENT_ERROR": 4,
    "SERVER_ERROR": 5,
}
_FIELDS = (
    "retries",
    "statuses",
    "methods",
    "backoff.firstBackoff",
    "backoff.maxBackoff",
    "backoff.factor",
    # Whether the last pause grows or the first: both come to the same.
    "backoff.basedOnPreviousValue",
    "jitter.randomFactor",
    "timeout",
)
# What Java's exceptions are called here. `TimeoutException` is Spring's own.
_BROKEN, _REFUSED, _LATE = (UpstreamError,), (UnavailableError,), (DeadlineError,)
_FAILURES = _BROKEN + _REFUSED + _LATE
_EXCEPTIONS: Mapping[str, Sequence[type[Exception]]] = {
    **dict.fromkeys(("Exception", "RuntimeException", "Throwable"), _FAILURES),
    **dict.fromkeys(("IOException", "SocketException"), _BROKEN + _REFUSED),
    **dict.fromkeys(("EOFException", "PrematureCloseException"), _BROKEN),
    **dict.fromkeys(("TimeoutException", "ReadTimeoutException", "SocketTimeoutException"), _LATE),
    **dict.fromkeys(
        (
            "ConnectException",
            "ConnectTimeoutException",
            "NoRouteToHostException",
            "NotFoundException",
            "UnknownHostException",
        ),
        _REFUSED,
    ),
}


@dataclass(frozen=True, slots=True)
class _Pauses:
    """How long to wait before asking again, and until when to ask at all; seconds."""

    first_s: float
    longest_s: float
    growth: float
    jitter: float
    enough_s: float

    @classmethod
    def of(cls, first: str, last: str, factor: str, jitter: str, within: str) -> "_Pauses":
        def seconds(text: str, default: float) -> float:
            return span_of(text).total_seconds() if text else default

        spread = float(jitter or 0)
        if not 0 <= spread <= 1:
            raise ValueError(f"jitter.randomFactor {jitter} is not between 0 and 1")
        growth = float(factor or 2)
        return cls(seconds(first, 0), seconds(last, inf), growth, spread, seconds(within, inf))

    async def wait(self, attempt: int) -> None:
        if self.first_s:
            spread = 1 + self.jitter * random.uniform(-1, 1)  # noqa: S311 - lest all come at once
            await asyncio.sleep(
                min(self.first_s * self.growth ** min(attempt, 60), self.longest_s) * spread
            )


def retry(definition: Definition, tools: Tools) -> Filter:
    """Build the filter; Spring's defaults: 3 retries, of GET, after a 5xx or a failed call.

    All retries of the worker share one budget: when everything fails they must not add up. Of
    `exceptions` a class of which there is nothing here adds nothing.

    Raises:
        ValueError: an argument that is no number, span, status or series.
    """
    args = _flat(definition.args)
    retries, statuses, methods, first, last, factor, _, jitter, within = (
        value or "" for value in bind(args, *_FIELDS, required=0)
    )
    most, pauses = int(retries or 3), _Pauses.of(first, last, factor, jitter, within)
    codes = {status_of(name) for name in statuses.split(",") if name.strip()}
    series = _series(_listed(args, "series", "SERVER_ERROR"))
    failures = _failures(_listed(args, "exceptions", "IOException,TimeoutException"))
    allowed = {name.strip() for name in (methods or "GET").split(",")}

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if exchange.method not in allowed or exchange.body is not None:
            return await proceed(exchange)
        until_s = time.monotonic() + pauses.enough_s
        for attempt in range(most):
            try:
                reply = await proceed(exchange)
            except failures:
                if time.monotonic() > until_s or not tools.retries():
                    raise
            else:
                good = reply.status not in codes and reply.status // 100 not in series
                if good or time.monotonic() > until_s or not tools.retries():
                    return reply
                reply.discard()
            await pauses.wait(attempt)
        return await proceed(exchange)

    return apply


def _flat(args: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = [(group, args.get(group) or {}) for group in ("backoff", "jitter")]
    return {
        **args,
        **{f"{group}.{name}": value for group, held in nested for name, value in held.items()},
    }


def _listed(args: Mapping[str, Any], name: str, default: str) -> list[str]:
    """Read a list, as YAML's or by commas; it may be empty on purpose."""
    return gather(
        {name: "" if (given := args.get(name, default)) is None else given}, name, least=0
    )


def _failures(names: Sequence[str]) -> tuple[type[Exception], ...]:
    return tuple({e for name in names for e in _EXCEPTIONS.get(name.rpartition(".")[2], ())})


def _series(names: Sequence[str]) -> set[int]:
    try:
        return {_SERIES[name] for name in names}
    except KeyError as unknown:
        raise ValueError(f"series {unknown} is none of {', '.join(_SERIES)}") from None
