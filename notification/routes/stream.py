"""One live stream: pushes as they come, the store for what a push may have missed."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from cloud.errors import UnavailableError
from cloud.security import Principal
from cloud.web.streams import OpenStream, sse
from notification.deps import Deps
from notification.domain import Audience, Notification, NotificationId
from notification.schema import dump_push
from notification.service.watching import OVERLAP

_EVENT: Final = "notification"
# Two consumers may store in another order than their clocks said: what a client comes back for,
# and what a new one hears of, begins this much earlier.
_OVERLAP: Final = timedelta(seconds=1)
_REMEMBERED: Final = 1000


class Stream:
    """The events of one client, each at least once over reconnections; its id tells doubles.

    Attributes:
        out: where its events go; ends with the caller's token.
    """

    def __init__(
        self, deps: Deps, caller: Principal, audience: Audience, *, last: str | None
    ) -> None:
        self.audience = audience
        self.caller = caller
        self._deps = deps
        self._last = last
        self._since = deps.now()
        self._lock = threading.Lock()
        # Insertion order is age. Most clients are sent nothing, and hold no memory for it.
        self._sent: dict[str, None] = {}
        # What is told while a returning client gets what it missed is looked for after that. The id
        # it got last says where it goes on: nothing may be sent before what is older.
        self._behind = self._told = False
        settings = deps.settings
        self.out = OpenStream(
            heartbeat=settings.stream_heartbeat.total_seconds(),
            until=time.monotonic() + (caller.expires_at - self._since).total_seconds(),
            limit=settings.stream_queue,
            closed=self._closed,
        )

    def opening(self) -> Iterator[bytes]:
        """Begin to listen; yield what comes first: manners, and what a returning client missed.

        Whoever takes no more of it ends the stream: its client comes back for the rest.
        """
        settings = self._deps.settings
        yield b"retry: %d\n\n" % round(settings.stream_retry / timedelta(milliseconds=1))
        moment = self._moment()
        self._since = (moment or self._since) - _OVERLAP
        self._behind = moment is not None
        # Joined first: what is stored from here on is either pushed or found.
        self._deps.watch.join(self)
        try:
            yield from self._missed(self._since)
        except UnavailableError:
            # Its client will find out by its own means, or come back: an end, not a gap.
            self.end()

    def _missed(self, moment: datetime) -> Iterator[bytes]:
        """Yield what is stored from `moment` on, until nothing more is told meanwhile."""
        while self._behind:
            began, self._told = self._deps.now(), False
            for found in self._deps.notifications.since(self.audience, moment):
                if chunk := self._chunk(found.id, dump_push(found)):
                    yield chunk
            moment = max(moment, began - OVERLAP)
            with self._lock:
                self._behind = self._told

    def push(self, payload: bytes) -> None:
        """Send what was announced, unless it is none of ours."""
        try:
            fields: Any = orjson.loads(payload)
            key = str(fields["id"])
            datetime.fromisoformat(fields["createdAt"]).astimezone(UTC)
        except (ValueError, KeyError, TypeError):
            return
        if "\n" not in key and b"\n" not in payload:
            self._send(key, payload)

    def offer(self, notification: Notification) -> None:
        """Send what was found in the store, unless it is older than the stream."""
        if notification.created_at >= self._since:
            self._send(notification.id, dump_push(notification))

    def end(self) -> None:
        self.out.end()

    def _closed(self) -> None:
        self._deps.hub.leave(self)
        self._deps.hub.release()

    def _moment(self) -> datetime | None:
        """Return when what the client got last was stored; None for a client that is new."""
        if self._last is None:
            return None
        try:
            found = self._deps.notifications.moment_of(NotificationId(self._last))
        except UnavailableError:
            return None
        self._sent[self._last] = None
        return found and min(found, self._since)

    def _send(self, key: str, payload: bytes) -> None:
        with self._lock:
            if self._behind:
                self._told = self._told or key not in self._sent
                return
        if chunk := self._chunk(key, payload):
            self.out.send(chunk)

    def _chunk(self, key: str, payload: bytes) -> bytes | None:
        """Spell an event; None when it was sent before."""
        with self._lock:
            if key in self._sent:
                return None
            self._sent[key] = None
            if len(self._sent) > _REMEMBERED:
                del self._sent[next(iter(self._sent))]
        return sse(_EVENT, payload, key)
