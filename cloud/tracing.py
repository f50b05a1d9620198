"""Trace context: W3C out, W3C and B3 in; spans to Zipkin."""

from contextvars import ContextVar

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
