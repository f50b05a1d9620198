"""Answers that stay open: Server-Sent Events (WHATWG HTML, section 9.2), and how they end."""

import threading
from collections.abc import Iterable
from typing import Final

from flask import Response

# Set when the worker was told to end (`cloud.server`): an open stream must not hold up the drain.
stopping: Final = threading.Event()


def event_stream(chunks: Iterable[bytes]) -> Response:
    """Answer with `chunks` as they come; each is one or more whole SSE fields with a blank line."""
    headers = {"X-Accel-Buffering": "no"}  # nginx and its like pass each chunk on at once
    return Response(chunks, headers=headers, mimetype="text/event-stream")


def sse(event: str, data: bytes, event_id: str) -> bytes:
    """Spell one event; `data` is one line."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event.encode(), event_id.encode(), data)


def comment(text: str) -> bytes:
    """Spell a line that a client ignores: it keeps the connection alive, and tells when it died."""
    return b": %b\n\n" % text.encode()
