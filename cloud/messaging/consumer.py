"""The consumer: one queue in, one handler, an acknowledgement after the handler's work is stored.

A delivery that fails comes again after a growing delay, through queues that hold it (no sleeping
process does); after the last delay it becomes a dead letter. A store that is away is not the
delivery's fault: it is waited for, with the delivery in hand.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event as Stop
from typing import Any, Final

import pika
import structlog
from opentelemetry.trace import SpanKind
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError
from pika.spec import Basic

from cloud import tracing
from cloud.errors import UnavailableError
from cloud.messaging import rabbit
from cloud.messaging.rabbit import Declaration, Outage, RabbitSettings

log = structlog.get_logger()

ATTEMPT: Final = "x-attempt"
ORIGINAL_ROUTING_KEY: Final = "x-original-routing-key"
_EXCEPTION: Final = "x-exception"
_EXCEPTION_LENGTH: Final = 500


class Hopeless(Exception):  # noqa: N818 - read aloud: raise Hopeless("no JSON")
    """No repetition will help: the delivery becomes a dead letter at once."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message, as a handler sees it.

    Attributes:
        headers: whatever the publisher wrote; a JVM publisher writes next to none.
        message_id: None from a JVM publisher.
        routing_key: the publisher's own, on a repetition too.
        attempt: 0 for the first delivery, up to 4 for the last repetition.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    message_id: str | None
    routing_key: str
    attempt: int


Handle = Callable[[Delivery], None]
_Arrived = tuple[Basic.Deliver, pika.BasicProperties, bytes]


class Consumer:
    """Consumes one queue; several, in as many processes as one likes, share its messages.

    `handle` may see a delivery twice (the process died between its work and the acknowledgement)
    and must recognise that.
    """

    def __init__(
        self,
        settings: RabbitSettings,
        *,
        queue: str,
        bindings: Iterable[tuple[str, str]],
        handle: Handle,
        prefetch: int = 50,
        declarations: Iterable[Declaration] = (),
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._declarations = (*rabbit.work_queue(queue, bindings), *declarations)
        self._handle = handle
        self._prefetch = prefetch
        self._broker = Outage("rabbitmq")
        self._store = Outage("store")

    def run(self, stop: Stop) -> None:
        """Consume until `stop`; a broker that is away is waited for."""
        while not stop.is_set():
            try:
                self._consume(stop)
            except rabbit.BROKER_AWAY as error:
                self._broker.away(error, stop)

    def _consume(self, stop: Stop) -> None:
        purpose = f"consumer of {self._queue}"
        connection = pika.BlockingConnection(rabbit.parameters(self._settings, purpose))
        try:
            session = _Session(connection, self._declarations, self._queue, self._prefetch)
            self._broker.back()
            while not stop.is_set():
                session.serve(1.0)
                while session.arrived and not stop.is_set():
                    self._deal_with(session, session.arrived.popleft(), stop)
                    session.serve(0)
        finally:
            with suppress(*rabbit.BROKER_AWAY):
                connection.close()

    def _deal_with(self, session: "_Session", arrived: _Arrived, stop: Stop) -> None:
        method, properties, body = arrived
        delivery = _delivery(method, properties, body)
        started = time.monotonic()
        outcome = "repeated"
        try:
            if not self._handle_patiently(session, delivery, stop):
                return
            outcome = "done"
        except Hopeless as error:
            outcome = "dead_letter"
            session.bury(self._queue, delivery, properties, error)
        except Exception as error:  # the handler's own fault, or one it foresaw none of
            log.warning("delivery_failed", queue=self._queue, exc_info=True)
            if delivery.attempt < len(rabbit.RETRY_DELAYS):
                session.repeat(self._queue, delivery, properties)
            else:
                outcome = "dead_letter"
                session.bury(self._queue, delivery, properties, error)
        session.ack(method)
        log.info(
            "delivery",
            queue=self._queue,
            routing_key=delivery.routing_key,
            message_id=delivery.message_id,
            attempt=delivery.attempt,
            outcome=outcome,
            took_ms=round((time.monotonic() - started) * 1000, 1),
        )

    def _handle_patiently(self, session: "_Session", delivery: Delivery, stop: Stop) -> bool:
        """Handle once the store is there; False when told to stop before, without an ack."""
        while not stop.is_set():
            try:
                self._handle_traced(delivery)
            except UnavailableError as error:
                session.pause(self._store.next_delay(error), stop)
            else:
                self._store.back()
                return True
        return False

    def _handle_traced(self, delivery: Delivery) -> None:
        texts = {name: value for name, value in delivery.headers.items() if isinstance(value, str)}
        known = tracing.correlation_id.set(texts.get(tracing.CORRELATION))
        try:
            with tracing.span(
                f"{self._queue} process",
                SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "rabbitmq",
                    "messaging.destination.name": self._queue,
                    "messaging.rabbitmq.destination.routing_key": delivery.routing_key,
                },
                parent=tracing.extract(texts),
            ):
                self._handle(delivery)
        finally:
            tracing.correlation_id.reset(known)


class _Session:
    """One connection's two channels: one that consumes, one that publishes with confirms."""

    def __init__(
        self,
        connection: pika.BlockingConnection,
        declarations: Iterable[Declaration],
        queue: str,
        prefetch: int,
    ) -> None:
        self.arrived: deque[_Arrived] = deque()
        self._connection = connection
        self._in = connection.channel()
        for method, arguments in declarations:
            getattr(self._in, method)(**arguments)
        self._out = connection.channel()
        self._out.confirm_delivery()
        self._in.basic_qos(prefetch_count=prefetch)
        self._in.basic_consume(queue, self._on_message)

    def serve(self, seconds: float) -> None:
        """Take in what arrives, answer heartbeats; end early when something came."""
        self._connection.process_data_events(time_limit=seconds)
        if not (self._in.is_open and self._in.consumer_tags):
            raise AMQPConnectionError("the broker ended the subscription")

    def pause(self, seconds: float, stop: Stop) -> None:
        """Let time pass without letting the connection die."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            self.serve(min(left, 1.0))

    def ack(self, method: Basic.Deliver) -> None:
        self._in.basic_ack(method.delivery_tag)

    def repeat(self, queue: str, delivery: Delivery, properties: pika.BasicProperties) -> None:
        """Let the broker deliver it again after the delay of its next attempt."""
        attempt = delivery.attempt + 1
        headers = {ATTEMPT: attempt, ORIGINAL_ROUTING_KEY: delivery.routing_key}
        self._publish("", rabbit.retry_queue(queue, attempt), delivery, properties, headers)

    def bury(
        self, queue: str, delivery: Delivery, properties: pika.BasicProperties, error: Exception
    ) -> None:
        """Put it with the dead letters, with the reason."""
        reason = f"{type(error).__name__}: {error}"[:_EXCEPTION_LENGTH]
        headers = {
            ATTEMPT: delivery.attempt,
            ORIGINAL_ROUTING_KEY: delivery.routing_key,
            _EXCEPTION: reason,
        }
        self._publish(rabbit.DEAD_LETTERS, queue, delivery, properties, headers)
        log.error("dead_letter", queue=queue, message_id=delivery.message_id, reason=reason)

    def _publish(
        self,
        exchange: str,
        key: str,
        delivery: Delivery,
        properties: pika.BasicProperties,
        headers: Mapping[str, Any],
    ) -> None:
        properties.headers = {**delivery.headers, **headers}
        properties.delivery_mode = pika.DeliveryMode.Persistent.value
        # Confirmed before the original is acknowledged: in between there are two, never none.
        self._out.basic_publish(exchange, key, delivery.body, properties, mandatory=True)

    def _on_message(
        self,
        _: BlockingChannel,
        method: Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        self.arrived.append((method, properties, body))


def _delivery(method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> Delivery:
    headers: Mapping[str, Any] = properties.headers or {}
    attempt = headers.get(ATTEMPT)
    original = headers.get(ORIGINAL_ROUTING_KEY)
    return Delivery(
        body=body,
        headers=headers,
        message_id=properties.message_id,
        routing_key=original if isinstance(original, str) else str(method.routing_key),
        attempt=attempt if isinstance(attempt, int) and attempt >= 0 else 0,
    )
