"""The consumer: one queue in, one handler, an acknowledgement after the handler's work is stored.

A delivery that fails comes again after a growing delay, through queues that hold it (no sleeping
process does); after the last delay it becomes a dead letter. A store that is away is not the
delivery's fault: it is waited for, with the delivery in hand.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from logging import DEBUG, INFO
from threading import Event as Stop
from typing import Any, Final, cast

import pika
import structlog
from opentelemetry.trace import SpanKind
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError
from pika.spec import Basic

from cloud import tracing
from cloud.errors import UnavailableError
from cloud.messaging import rabbit
from cloud.messaging.rabbit import Declaration, RabbitSettings
from cloud.outage import Outage

log = structlog.get_logger()

ATTEMPT: Final = "x-attempt"
ORIGINAL_ROUTING_KEY: Final = "x-original-routing-key"
EXCEPTION: Final = "x-exception"
_EXCEPTION_LENGTH: Final = 500
# How soon a consumer without work notices that it is to end.
_STOP_SEEN_S: Final = 2.0
# The broker gives a connection up that says nothing for two heartbeats.
_LOOKS_PER_HEARTBEAT: Final = 4
_SELDOM: Final = timedelta(seconds=5)


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
# What became of each delivery: None when its work is done, else why not.
HandleMany = Callable[[Sequence[Delivery]], Sequence[Exception | None]]
_Arrived = tuple[Basic.Deliver, pika.BasicProperties, bytes]


class Later(Exception):  # noqa: N818 - read aloud: raise Later(timedelta(seconds=30))
    """Whoever does the work asked to be left alone for a while; that counts as no attempt.

    The delivery comes back after the shortest of the delays that is long enough, else the longest.
    """

    def __init__(self, after: timedelta) -> None:
        super().__init__(f"not before {after.total_seconds():g} s from now")
        self.after = after


def one_by_one(handle: Handle) -> HandleMany:
    """Make a handler of single deliveries one of many; a store that is away ends the round."""

    def handle_many(deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        return [_outcome(handle, delivery) for delivery in deliveries]

    return handle_many


def _outcome(handle: Handle, delivery: Delivery) -> Exception | None:
    try:
        handle(delivery)
    except UnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 - told by the caller, with the delivery
        return error
    return None


class Consumer:
    """Consumes one queue; several, in as many processes as one likes, share its messages.

    The handler may see a delivery twice (the process died between its work and the acknowledgement)
    and must recognise that.

    Args:
        handle: does the work of one delivery.
        handle_many: the same for up to `batch` at once, whatever has arrived meanwhile: nothing
            is waited for to fill a batch. When it raises, each is given to it alone.
        prefetch: deliveries that the broker hands out before the first is acknowledged.
    """

    def __init__(
        self,
        settings: RabbitSettings,
        *,
        queue: str,
        bindings: Iterable[tuple[str, str]],
        handle: Handle | None = None,
        handle_many: HandleMany | None = None,
        batch: int = 200,
        prefetch: int = 50,
        declarations: Iterable[Declaration] = (),
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._declarations = (*rabbit.work_queue(queue, bindings), *declarations)
        if (handle is None) == (handle_many is None):
            raise TypeError("one of handle and handle_many is needed")
        self._handle_many = handle_many or one_by_one(cast(Handle, handle))
        self._batch = batch if handle_many else 1
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
            with session.kept_alive(self._settings.heartbeat / _LOOKS_PER_HEARTBEAT or _SELDOM):
                while not stop.is_set():
                    session.serve(_STOP_SEEN_S)
                    while session.arrived and not stop.is_set():
                        self._deal_with(session, session.take(self._batch), stop)
                        session.serve(0)
                        self._broker.back()
                    # Only now: what fails after each connect must not be tried without a rest.
                    self._broker.back()
        finally:
            with suppress(*rabbit.BROKER_AWAY):
                connection.close()

    def _deal_with(self, session: "_Session", arrived: Sequence[_Arrived], stop: Stop) -> None:
        deliveries = [_delivery(*each) for each in arrived]
        started = time.monotonic()
        verdicts = self._handle_patiently(session, deliveries, stop)
        if verdicts is None:
            return
        for each, delivery, verdict in zip(arrived, deliveries, verdicts, strict=True):
            outcome = self._settle(session, each[1], delivery, verdict)
            log.log(
                # One of many that went well is no news; the batch has its own line.
                DEBUG if len(arrived) > 1 and verdict is None else INFO,
                "delivery",
                queue=self._queue,
                routing_key=delivery.routing_key,
                message_id=delivery.message_id,
                attempt=delivery.attempt,
                outcome=outcome,
                took_ms=round((time.monotonic() - started) * 1000, 1),
            )
        # All before it are settled too: one frame for the batch.
        session.ack(arrived[-1][0])
        if len(arrived) > 1:
            took_ms = round((time.monotonic() - started) * 1000, 1)
            log.info("deliveries", queue=self._queue, count=len(arrived), took_ms=took_ms)

    def _settle(
        self,
        session: "_Session",
        properties: pika.BasicProperties,
        delivery: Delivery,
        verdict: Exception | None,
    ) -> str:
        """Send on what is not done; return what became of the delivery."""
        if verdict is None:
            return "done"
        if isinstance(verdict, Later):
            session.repeat(self._queue, delivery, properties, after=verdict.after)
            return "put_off"
        hopeless = isinstance(verdict, Hopeless)
        if not hopeless:
            log.warning("delivery_failed", queue=self._queue, exc_info=verdict)
        if hopeless or delivery.attempt >= len(rabbit.RETRY_DELAYS):
            session.bury(self._queue, delivery, properties, verdict)
            return "dead_letter"
        session.repeat(self._queue, delivery, properties)
        return "repeated"

    def _handle_patiently(
        self, session: "_Session", deliveries: Sequence[Delivery], stop: Stop
    ) -> Sequence[Exception | None] | None:
        """Handle once the store is there; None when told to stop before, without an ack."""
        while not stop.is_set():
            try:
                with session.unattended():
                    verdicts = self._handle_traced(deliveries)
            except UnavailableError as error:
                self._store.away(error, stop, session.pause)
            except Exception as error:  # noqa: BLE001 - the handler's own fault, told with each
                return self._handle_singly(session, deliveries, stop, error)
            else:
                self._store.back()
                return verdicts
        return None

    def _handle_singly(
        self, session: "_Session", deliveries: Sequence[Delivery], stop: Stop, error: Exception
    ) -> Sequence[Exception | None] | None:
        """Find out which of a batch the error is about: the others must not suffer for it."""
        if len(deliveries) == 1:
            return [error]
        log.warning("batch_failed", queue=self._queue, count=len(deliveries), reason=repr(error))
        verdicts: list[Exception | None] = []
        for delivery in deliveries:
            found = self._handle_patiently(session, [delivery], stop)
            if found is None:
                return None
            verdicts += found
        return verdicts

    def _handle_traced(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        with ExitStack() as spans:
            for delivery in deliveries:
                texts = {k: v for k, v in delivery.headers.items() if isinstance(v, str)}
                # What is said while several are in hand is said of none of them.
                said_of = texts.get(tracing.CORRELATION) if len(deliveries) == 1 else None
                spans.callback(tracing.correlation_id.reset, tracing.correlation_id.set(said_of))
                spans.enter_context(
                    tracing.span(
                        f"{self._queue} process",
                        SpanKind.CONSUMER,
                        attributes={
                            "messaging.system": "rabbitmq",
                            "messaging.destination.name": self._queue,
                            "messaging.rabbitmq.destination.routing_key": delivery.routing_key,
                        },
                        parent=tracing.extract(texts),
                    )
                )
            return self._handle_many(deliveries)


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
        # Who holds it may use the connection: the consumer's thread, but for a handler's time.
        self._mine = threading.Lock()
        self._handling = threading.Event()

    @contextmanager
    def kept_alive(self, every: timedelta) -> Iterator[None]:
        """Have heartbeats answered meanwhile by another thread, while a handler has this one."""
        over = threading.Event()

        def keep() -> None:
            while not over.is_set():
                self._handling.wait()
                over.wait(every.total_seconds())
                # Cleared first: a handler that begins from here on is noticed again.
                self._handling.clear()
                if not self._mine.acquire(blocking=False):
                    continue
                try:
                    self._handling.set()
                    if not over.is_set():
                        self.serve(0)
                except rabbit.BROKER_AWAY:
                    return  # the consumer's own thread will find out, too
                finally:
                    self._mine.release()

        keeper = threading.Thread(target=keep, name="heartbeats", daemon=True)
        with self._mine:
            keeper.start()
            try:
                yield
            finally:
                over.set()
                self._handling.set()
        keeper.join()

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """Leave the connection to who keeps it alive."""
        self._mine.release()
        self._handling.set()
        try:
            yield
        finally:
            self._mine.acquire()

    def serve(self, seconds: float) -> None:
        """Take in what arrives, answer heartbeats; end early when something came."""
        self._connection.process_data_events(time_limit=seconds)
        if not (self._in.is_open and self._in.consumer_tags):
            raise AMQPConnectionError("the broker ended the subscription")

    def pause(self, seconds: float, stop: Stop) -> None:
        """Let time pass without letting the connection die."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            self.serve(min(left, _STOP_SEEN_S))

    def take(self, most: int) -> list[_Arrived]:
        """Return what has arrived, oldest first."""
        return [self.arrived.popleft() for _ in range(min(most, len(self.arrived)))]

    def ack(self, method: Basic.Deliver) -> None:
        """Acknowledge this delivery and all before it."""
        self._in.basic_ack(method.delivery_tag, multiple=True)

    def repeat(
        self,
        queue: str,
        delivery: Delivery,
        properties: pika.BasicProperties,
        after: timedelta | None = None,
    ) -> None:
        """Let the broker deliver it again, after the delay of its next attempt or `after`."""
        attempt = delivery.attempt + 1
        long_enough = attempt
        if after is not None:
            attempt = delivery.attempt
            delays = enumerate(rabbit.RETRY_DELAYS, start=1)
            fitting = (number for number, delay in delays if delay >= after)
            long_enough = next(fitting, len(rabbit.RETRY_DELAYS))
        headers = {ATTEMPT: attempt, ORIGINAL_ROUTING_KEY: delivery.routing_key}
        self._publish("", rabbit.retry_queue(queue, long_enough), delivery, properties, headers)

    def bury(
        self, queue: str, delivery: Delivery, properties: pika.BasicProperties, error: Exception
    ) -> None:
        """Put it with the dead letters, with the reason."""
        reason = f"{type(error).__name__}: {error}"[:_EXCEPTION_LENGTH]
        headers = {
            ATTEMPT: delivery.attempt,
            ORIGINAL_ROUTING_KEY: delivery.routing_key,
            EXCEPTION: reason,
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
