"""One live stream: pushes as they come, the store for what a push may have missed."""

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from cloud.errors import UnavailableError
from cloud.security import Principal
from cloud.web.streams import comment, sse
from notification.deps import Deps
from notification.domain import Audience, Mailbox, NotificationId
from notification.schema import dump_push

_EVENT: Final = "notification"
# Two consumers may store in another order than their clocks said: looking back this far loses
# none. What the client got already is not sent twice within one connection.
_OVERLAP: Final = timedelta(seconds=1)
_REMEMBERED: Final = 1000
_BATCH: Final = 100


class Stream:
    """The events of one client, each at least once over reconnections; its id tells doubles."""

    def __init__(
        self, deps: Deps, caller: Principal, audience: Audience, *, last: str | None
    ) -> None:
        self._deps = deps
        self._caller = caller
        self._audience = audience
        self._last = last
        self._mailbox = Mailbox(audience, deps.settings.stream_queue)
        self._cursor = deps.now()
        self._sent: deque[str] = deque(maxlen=_REMEMBERED)

    def chunks(self) -> Iterator[bytes]:
        """Yield until the client is gone, too slow, its token spent, or the worker drains."""
        settings = self._deps.settings
        retry = round(settings.stream_retry / timedelta(milliseconds=1))
        yield b"retry: %d\n\n" % retry
        with self._deps.hub.subscribed(self._mailbox):
            # Subscribed first: what is stored from here on is either pushed or found.
            self._resume()
            heartbeat, check = settings.stream_heartbeat.total_seconds(), 0.0
            spoke = time.monotonic()
            while not self._is_over():
                now = time.monotonic()
                if self._mailbox.missed or now >= check:
                    self._mailbox.missed = False
                    check = now + self._check_after()
                    if self._deps.revoked(self._caller):
                        return
                    for missed in self._catch_up():
                        yield missed
                        spoke = time.monotonic()
                payload = self._mailbox.take(min(check, spoke + heartbeat) - now)
                if payload and (chunk := self._event(payload)):
                    yield chunk
                    spoke = time.monotonic()
                elif time.monotonic() - spoke >= heartbeat:
                    yield comment("heartbeat")
                    spoke = time.monotonic()

    def _check_after(self) -> float:
        settings, hub = self._deps.settings, self._deps.hub
        return (settings.stream_check if hub.live else settings.stream_poll).total_seconds()

    def _is_over(self) -> bool:
        return self._mailbox.ended or self._deps.now() >= self._caller.expires_at

    def _resume(self) -> None:
        if self._last is None:
            return
        try:
            moment = self._deps.notifications.moment_of(NotificationId(self._last))
        except UnavailableError:
            moment = None
        if moment is not None:
            self._cursor = min(moment, self._cursor)
            self._sent.append(self._last)

    def _catch_up(self) -> Iterator[bytes]:
        """Yield what the store has since the last event; nothing while the store is away."""
        since = self._cursor - _OVERLAP
        while True:
            try:
                found = self._deps.notifications.since(self._audience, since, _BATCH)
            except UnavailableError:
                return
            for each in found:
                if each.id not in self._sent:
                    yield self._chunk(each.id, each.created_at, dump_push(each))
            if len(found) < _BATCH or found[-1].created_at <= since:
                return
            since = found[-1].created_at

    def _event(self, payload: bytes) -> bytes | None:
        """Spell a push; None when it was sent before, or when it is none of ours."""
        try:
            fields: Any = orjson.loads(payload)
            key, created_at = str(fields["id"]), datetime.fromisoformat(fields["createdAt"])
        except (ValueError, KeyError, TypeError):
            return None
        if key in self._sent or "\n" in key or b"\n" in payload:
            return None
        return self._chunk(key, created_at.astimezone(UTC), payload)

    def _chunk(self, key: str, created_at: datetime, payload: bytes) -> bytes:
        self._sent.append(key)
        self._cursor = max(self._cursor, created_at)
        return sse(_EVENT, payload, key)
