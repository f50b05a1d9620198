"""One connection to the broker that publishes in batches and knows what the broker took.

The driver's blocking channel waits for the confirm of each message before it sends the next; on
the evented one a batch shares one wait, and the same wait serves heartbeats and a second socket.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import pika
from pika.channel import Channel
from pika.exceptions import AMQPConnectionError
from pika.spec import Basic

from cloud import tracing
from cloud.errors import UnavailableError
from cloud.messaging import rabbit
from cloud.messaging.event import Event
from cloud.messaging.rabbit import Declaration, RabbitSettings

_CONFIRM_LIMIT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Message:
    """What goes over the wire; `properties.message_id` tells messages apart."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties


def publish_all(settings: RabbitSettings, app_id: str, events: Sequence[Event]) -> None:
    """Publish over a connection of its own; returns once the broker has every one.

    For what is published on the way of something that comes again when this fails: who must not
    lose an event otherwise puts it into an outbox.

    Raises:
        UnavailableError: the broker is away, or did not take all; some may have been taken.
    """
    messages = [_message(event, app_id) for event in events]
    try:
        with Publisher(settings, "events") as publisher:
            verdicts = publisher.publish(messages)
    except rabbit.BROKER_AWAY as error:
        raise UnavailableError("the broker is not reachable") from error
    for message in messages:
        reason = verdicts.get(str(message.properties.message_id), "no answer")
        if reason is not None:
            raise UnavailableError(f"the broker did not take {message.routing_key}: {reason}")


def _message(event: Event, app_id: str) -> Message:
    headers: dict[str, Any] = dict(event.headers)
    tracing.inject(headers)
    properties = pika.BasicProperties(  # type: ignore[no-untyped-call]
        content_type="application/json",
        content_encoding="UTF-8",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=str(uuid.uuid4()),
        correlation_id=headers.get(tracing.CORRELATION),
        timestamp=int(time.time()),
        app_id=app_id,
        headers=headers,
    )
    return Message(event.exchange, event.routing_key, event.body, properties)


class Publisher:
    """A connection in confirm mode. Every method raises `rabbit.BROKER_AWAY` when it is lost."""

    def __init__(self, settings: RabbitSettings, purpose: str) -> None:
        self._lost: str | None = None
        self._exchanges: set[str] = set()
        self._sent = 0
        self._waiting: dict[int, str] = {}
        self._verdicts: dict[str, str | None] = {}
        self._connection = pika.SelectConnection(
            rabbit.parameters(settings, purpose),
            on_open_callback=self._wake,
            on_open_error_callback=self._lose,
            on_close_callback=self._lose,
        )
        self._limit = settings.connect_timeout.total_seconds() * 2
        try:
            self._run(lambda: self._connection.is_open, self._limit)
            self._channel: Channel = self._call(self._open_channel)
            self._call(self._confirm_mode)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, or drop what is left of the connection."""
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()
        self._spin(lambda: bool(self._connection.is_closed), 1)
        self._connection.ioloop.close()

    def declare(self, declarations: Iterable[Declaration]) -> None:
        """Declare exchanges, queues and bindings, each once more if need be."""
        for method, arguments in declarations:
            self._call(partial(self._declare, method, arguments))

    def publish(self, messages: Iterable[Message]) -> Mapping[str, str | None]:
        """Publish all and wait for the broker's word on each.

        Returns:
            message id to None (the broker has it) or to the reason why it was refused. An id is
            missing when the broker did not say, because the connection was lost or time was out.
        """
        self._verdicts, self._waiting = {}, {}
        try:
            for message in messages:
                self._publish(message)
            self._run(lambda: not self._waiting, _CONFIRM_LIMIT)
        except rabbit.BROKER_AWAY as error:
            self._lost = self._lost or str(error)
        return self._verdicts

    def wait(self, readable: int, seconds: float) -> None:
        """Serve the connection until the file descriptor `readable` has something, or time ends."""
        self._ensure_alive()
        loop = self._connection.ioloop
        loop.add_handler(readable, lambda *_: loop.stop(), loop.READ)
        timer = loop.call_later(seconds, loop.stop)
        try:
            loop.start()
        finally:
            loop.remove_timeout(timer)
            loop.remove_handler(readable)
        self._ensure_alive()

    def _publish(self, message: Message) -> None:
        if message.exchange not in self._exchanges:
            # Publishing to an exchange that is not there closes the channel.
            self.declare([rabbit.exchange(message.exchange)])
            self._exchanges.add(message.exchange)
        self._sent += 1
        self._waiting[self._sent] = str(message.properties.message_id)
        self._channel.basic_publish(
            message.exchange,
            message.routing_key,
            message.body,
            message.properties,
            mandatory=True,
        )

    def _on_return(self, _: Channel, method: Basic.Return, sent: Any, __: bytes) -> None:
        # Arrives before the ack of the same message.
        self._verdicts[sent.message_id] = f"{method.reply_code} {method.reply_text}"

    def _on_confirm(self, frame: Any) -> None:
        confirm = frame.method
        taken = isinstance(confirm, Basic.Ack)
        tags = (
            [tag for tag in self._waiting if tag <= confirm.delivery_tag]
            if confirm.multiple
            else [confirm.delivery_tag]
        )
        for tag in tags:
            message_id = self._waiting.pop(tag)
            self._verdicts.setdefault(message_id, None if taken else "refused by the broker")
        self._wake()

    def _open_channel(self, done: Callable[[Channel], None]) -> None:
        channel = self._connection.channel(on_open_callback=done)
        channel.add_on_close_callback(self._lose)
        channel.add_on_return_callback(self._on_return)

    def _declare(
        self, method: str, arguments: Mapping[str, Any], done: Callable[[Any], None]
    ) -> None:
        getattr(self._channel, method)(**arguments, callback=done)

    def _confirm_mode(self, done: Callable[[Any], None]) -> None:
        self._channel.confirm_delivery(self._on_confirm, callback=done)

    def _call(self, start: Callable[[Callable[[Any], None]], object]) -> Any:
        answer: list[Any] = []

        def done(result: Any) -> None:
            answer.append(result)
            self._wake()

        start(done)
        self._run(lambda: bool(answer), self._limit)
        return answer[0]

    def _run(self, finished: Callable[[], bool], seconds: float) -> None:
        self._spin(lambda: self._lost is not None or finished(), seconds)
        self._ensure_alive()
        if not finished():
            raise AMQPConnectionError("the broker did not answer in time")

    def _spin(self, finished: Callable[[], bool], seconds: float) -> None:
        loop = self._connection.ioloop
        deadline = time.monotonic() + seconds
        while not finished() and (left := deadline - time.monotonic()) > 0:
            timer = loop.call_later(left, loop.stop)
            try:
                loop.start()
            finally:
                loop.remove_timeout(timer)

    def _ensure_alive(self) -> None:
        if self._lost is not None:
            raise AMQPConnectionError(self._lost)

    def _lose(self, _: object, reason: object) -> None:
        self._lost = str(reason) or repr(reason)
        self._wake()

    def _wake(self, *_: object) -> None:
        self._connection.ioloop.stop()
