"""Live pushes over Redis: whoever stores a notification announces it, each worker hears it once.

A push is a hint and may be lost with Redis; the document store is what a stream catches up from.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, cast

import redis
import structlog

from notification.domain import Audience, CustomerId, Listener, Notification, UserId

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
    ) -> None:
        """Push to every stream of the user, or of the customer's user."""
        with self._told():
            self._redis.publish(_channel(user_id, customer_id), payload)

    def announced(self, pushes: Iterable[tuple[Notification, bytes, str | None]]) -> None:
        """Push each notification, and note under its key that it was; one round trip for all."""
        pipeline = self._redis.pipeline(transaction=False)
        for notification, payload, key in pushes:
            pipeline.publish(_channel(notification.user_id, notification.customer_id), payload)
            if key:
                pipeline.set(_SEEN + key, "1", ex=self._seen_for)
        with self._told():
            pipeline.execute()

    def seen(self, keys: Collection[str]) -> frozenset[str]:
        """Find the keys that were announced before; none when Redis cannot say."""
        names = list(keys)
        with self._told():
            values = cast("list[Any]", self._redis.mget([_SEEN + name for name in names]))
            return frozenset(name for name, value in zip(names, values, strict=True) if value)
        return frozenset()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Let an outage pass, and tell of it once."""
        try:
            yield
        except redis.RedisError as error:
            if not self._away:
                log.warning("push_put_off", reason=str(error))
            self._away = True
        else:
            self._away = False


class Hub:
    """The receiving side: one subscriber in a worker, however many streams it holds.

    Its thread starts with the first stream, hence after the fork, and ends with `close`, or when
    the worker drains.
    """

    def __init__(self, client: redis.Redis, stopping: threading.Event, limit: int) -> None:
        self._redis = client
        self._stopping = stopping
        self._limit = limit
        self._lock = threading.Lock()
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self._count = 0
        self._thread: threading.Thread | None = None
        self._missed = threading.Event()
        self._closed = False
        self.live = False

    def close(self) -> None:
        """End every stream, and take no more: another hub has taken the place of this one."""
        with self._lock:
            self._closed = True
        self._missed.set()
        for listener in self.listeners():
            listener.end()

    def join(self, listener: Listener) -> None:
        """Push to `listener` from here on; `reserve` must have made room."""
        with self._lock:
            if self._closed:
                # Its request began before: its client comes back to the hub that is there now.
                listener.end()
            for channel in _channels(listener.audience):
                self._listeners[channel].add(listener)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="push", daemon=True)
                self._thread.start()

    def leave(self, listener: Listener) -> None:
        with self._lock:
            for channel in _channels(listener.audience):
                self._listeners[channel].discard(listener)
                if not self._listeners[channel]:
                    del self._listeners[channel]

    def listeners(self) -> list[Listener]:
        with self._lock:
            return list({each for some in self._listeners.values() for each in some})

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until something may have been missed; False when all is to end."""
        self._missed.wait(seconds)
        self._missed.clear()
        return not self._is_over()

    def reserve(self) -> bool:
        """Take one of the places for streams; False when all are taken."""
        with self._lock:
            if self._count >= self._limit or self._is_over():
                return False
            self._count += 1
            return True

    def release(self) -> None:
        """Give the place back."""
        with self._lock:
            self._count -= 1

    def _is_over(self) -> bool:
        return self._closed or self._stopping.is_set()

    def _run(self) -> None:
        rest = 0.0
        while not self._is_over():
            try:
                with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.psubscribe(f"{_CHANNEL}*")
                    self._listen(subscription)
            except redis.RedisError as error:
                if self.live or not rest:
                    log.warning("waiting_for", neighbour="redis", reason=str(error))
                rest = self._rest(rest)
            except Exception:
                # What somebody pushes may be no text at all. Without this thread all were deaf.
                log.exception("push_failed")
                rest = self._rest(rest)
        self._missed.set()

    def _rest(self, last: float) -> float:
        """Let time pass before the next attempt; return how long it was."""
        rest = _TICK_S if self.live else min(_LONGEST_REST_S, last * 2 or _TICK_S / 2)
        self.live = False
        self._missed.set()
        self._stopping.wait(rest)
        return rest

    def _listen(self, subscription: Any) -> None:
        pinged = heard = time.monotonic()
        while not self._is_over():
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
            self._missed.set()
        elif message["type"] == "pmessage":
            channel = str(message["channel"]).removeprefix(_CHANNEL)
            data = message["data"]
            payload = data.encode() if isinstance(data, str) else data
            with self._lock:
                hearing = tuple(self._listeners.get(channel, ()))
            for listener in hearing:
                listener.push(payload)


def _channel(user_id: UserId | None, customer_id: CustomerId | None) -> str:
    return _CHANNEL + (str(user_id) if user_id is not None else f"{_CUSTOMER}{customer_id}")


def _channels(audience: Audience) -> frozenset[str]:
    records = {f"{_CUSTOMER}{customer_id}" for customer_id in audience.customers}
    return frozenset({str(audience.user_id)} | records)
