"""Live pushes over Redis: whoever stores a notification announces it, each worker hears it once.

A push is a hint and may be lost with Redis; the document store is what a stream catches up from.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import redis
import structlog

from notification.domain import Audience, CustomerId, Mailbox, UserId

log = structlog.get_logger()

_CHANNEL: Final = "nozie:notification:push:"
_CUSTOMER: Final = "customer:"
_SEEN: Final = "nozie:notification:seen:"
_TICK_S: Final = 1.0
_PING_EVERY_S: Final = 5.0
_LONGEST_REST_S: Final = 5.0


class Announcements:
    """The sending side. Redis being away is no failure of what it is asked to announce."""

    def __init__(self, client: redis.Redis, seen_for: timedelta) -> None:
        self._redis = client
        self._seen_for = seen_for
        self._away = False

    def announce(
        self, payload: bytes, *, user_id: UserId | None, customer_id: CustomerId | None
    ) -> bool:
        """Push to every stream of the user, or of the customer's user; False when it cannot."""
        if user_id is None and customer_id is None:
            return True
        channel = str(user_id) if user_id is not None else f"{_CUSTOMER}{customer_id}"
        try:
            self._redis.publish(_CHANNEL + channel, payload)
        except redis.RedisError as error:
            self._tell(error)
            return False
        self._tell(None)
        return True

    def seen(self, key: str) -> bool:
        """Tell whether `key` was announced before; False when Redis cannot say."""
        try:
            return bool(self._redis.exists(_SEEN + key))
        except redis.RedisError:
            return False

    def remember(self, key: str) -> None:
        """Note that `key` was announced."""
        try:
            self._redis.set(_SEEN + key, "1", ex=self._seen_for)
        except redis.RedisError as error:
            self._tell(error)

    def _tell(self, error: Exception | None) -> None:
        if error is not None and not self._away:
            log.warning("push_put_off", reason=str(error))
        self._away = error is not None


class Hub:
    """The receiving side: one subscriber in a worker, however many streams it holds.

    Its thread starts with the first stream, hence after the fork.
    """

    def __init__(self, client: redis.Redis, stopping: threading.Event, limit: int) -> None:
        self._redis = client
        self._stopping = stopping
        self._limit = limit
        self._lock = threading.Lock()
        self._mailboxes: dict[str, set[Mailbox]] = defaultdict(set)
        self._count = 0
        self._thread: threading.Thread | None = None
        self.live = False

    @contextmanager
    def subscribed(self, mailbox: Mailbox) -> Iterator[None]:
        """Deliver into `mailbox` meanwhile; `reserve` must have made room."""
        channels = _channels(mailbox.audience)
        with self._lock:
            for channel in channels:
                self._mailboxes[channel].add(mailbox)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="push", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                for channel in channels:
                    self._mailboxes[channel].discard(mailbox)
                    if not self._mailboxes[channel]:
                        del self._mailboxes[channel]

    def reserve(self) -> bool:
        """Take one of the places for streams; False when all are taken."""
        with self._lock:
            if self._count >= self._limit or self._stopping.is_set():
                return False
            self._count += 1
            return True

    def release(self) -> None:
        """Give the place back."""
        with self._lock:
            self._count -= 1

    def _run(self) -> None:
        rest = 0.0
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.psubscribe(f"{_CHANNEL}*")
                    self._listen(subscription)
            except redis.RedisError as error:
                if self.live or not rest:
                    log.warning("waiting_for", neighbour="redis", reason=str(error))
                rest = _TICK_S if self.live else min(_LONGEST_REST_S, rest * 2 or _TICK_S / 2)
                self.live = False
                self._every(Mailbox.look)
                self._stopping.wait(rest)
        self._every(Mailbox.end)

    def _listen(self, subscription: Any) -> None:
        pinged = heard = time.monotonic()
        while not self._stopping.is_set():
            message = subscription.get_message(timeout=_TICK_S)
            now = time.monotonic()
            if message is not None:
                heard = now
                self._on_message(message)
            if now - heard > 2 * _PING_EVERY_S:
                raise redis.TimeoutError("no answer to a ping")
            if now - pinged > _PING_EVERY_S:
                # A server that hangs would look like one that has nothing to say.
                subscription.ping()
                pinged = now

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] == "psubscribe":
            if not self.live:
                log.info("push_live")
            self.live = True
            self._every(Mailbox.look)
        elif message["type"] == "pmessage":
            channel = str(message["channel"]).removeprefix(_CHANNEL)
            data = message["data"]
            payload = data.encode() if isinstance(data, str) else data
            with self._lock:
                for mailbox in self._mailboxes.get(channel, ()):
                    mailbox.put(payload)

    def _every(self, tell: Any) -> None:
        with self._lock:
            for mailbox in {each for some in self._mailboxes.values() for each in some}:
                tell(mailbox)


def _channels(audience: Audience) -> frozenset[str]:
    records = {f"{_CUSTOMER}{customer_id}" for customer_id in audience.customers}
    return frozenset({str(audience.user_id)} | records)
