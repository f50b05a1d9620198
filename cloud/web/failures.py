"""The one table that knows HTTP: an error becomes the status of its nearest kind, exactly once.

A caller sees the text of our own errors, which are written for him, or a fixed one. What an
unknown error says goes to the log, where the trace id of the answer leads to it.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TypeVar

import structlog
from flask import Flask, Response, g
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect
from werkzeug.wrappers import Response as AnyResponse

from cloud import errors
from cloud.web.answers import failed

log = structlog.get_logger()
T = TypeVar("T")

_STATUS: Mapping[type[Exception], int] = {
    errors.InvalidError: 400,
    errors.UnauthenticatedError: 401,
    errors.DeclinedError: 402,
    errors.DeniedError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.UnprocessableError: 422,
    errors.ThrottledError: 429,
    errors.NotConfiguredError: 501,
    errors.UpstreamError: 502,
    errors.UnavailableError: 503,
    errors.DeadlineError: 504,
    # A body that breaks off or is framed badly is found out where it is read, inside the view.
    ParseException: 400,
    NoMoreData: 400,
}
_TEXTS = {
    400: "Request cannot be accepted",
    401: "Authentication is required",
    402: "Payment was declined",
    403: "Access is denied",
    404: "Resource not found",
    405: "Method is not supported here",
    409: "State conflict",
    413: "Request body is too large",
    415: "Content type is not supported",
    422: "Request does not match an earlier one",
    429: "Too many requests",
    500: "Internal server error",
    501: "Not configured",
    502: "Upstream answered something unusable",
    503: "Service is temporarily unavailable",
    504: "No answer in time",
}
_SERVER_FAULT = 500


def install(app: Flask, translations: Mapping[type[Exception], type[errors.CloudError]]) -> None:
    """Answer every error of `app`; `translations` says what foreign errors mean."""

    def handle(error: Exception) -> AnyResponse:
        g.failure = type(error).__name__
        if isinstance(error, RequestRedirect):
            return error.get_response()
        meaning = _nearest(error, translations)
        return _answer(meaning() if meaning else error, error)

    app.register_error_handler(Exception, handle)


def _nearest(error: Exception, table: Mapping[type[Exception], T]) -> T | None:
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def _answer(error: Exception, cause: Exception) -> Response:
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        status = error.code or _SERVER_FAULT
        headers = {k: v for k, v in error.get_headers() if k in ("Allow", "Retry-After")}
    else:
        status = _nearest(error, _STATUS) or _SERVER_FAULT
    if status == _SERVER_FAULT:
        log.error("request_failed", exc_info=cause)
    elif status > _SERVER_FAULT:
        log.warning("request_not_served", status=status, reason=_reason(cause))
    ours = isinstance(error, errors.CloudError) and status != _SERVER_FAULT
    message = str(error) if ours and str(error) else _text(status)
    if isinstance(error, errors.ThrottledError):
        headers["Retry-After"] = str(max(1, round(error.retry_after.total_seconds())))
    if isinstance(error, errors.UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    fields = error.fields if isinstance(error, errors.InvalidError) else {}
    return failed(status, message, fields or None, headers)


def _text(status: int) -> str:
    return _TEXTS.get(status) or HTTPStatus(status).phrase


def _reason(error: BaseException) -> str:
    """What led to it, innermost last; kinds and texts only."""
    cause = error.__cause__ or error.__context__
    told = f"{type(error).__name__}: {error}"
    return f"{told} <- {_reason(cause)}" if cause else told
