"""Who reads a live stream, and what is written to it."""

import http.client
import json
from typing import Any

from notification.domain import CustomerId, Draft, UserId


class Reader:
    """A browser's EventSource."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._connection.request("GET", "/api/notifications/stream", headers=headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.headers = self._answer.headers

    def next(self) -> dict[str, Any] | None:
        """Read one event; None at the end of the stream."""
        event: dict[str, Any] = {}
        while line := self._answer.readline():
            text = line.decode().rstrip("\n")
            if not text and "data" in event:
                return {**event, "data": json.loads(event["data"])}
            if text.startswith(":"):
                continue
            name, _, value = text.partition(": ")
            if name:
                event[name] = value
        return None

    def beat(self) -> None:
        """Read up to the next comment."""
        while not self._answer.readline().startswith(b":"):
            pass

    def read(self) -> bytes:
        return self._answer.read()

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def draft(title: str, user: int | None = 7, customer: int | None = None) -> Draft:
    return Draft(
        type="purchase",
        title=title,
        description="d",
        user_id=None if user is None else UserId(user),
        customer_id=None if customer is None else CustomerId(customer),
        dedup_key=title,
    )
