"""The one member of an instance: a connection to the broker in a thread of a companion."""

import base64
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError
from pika.spec import Basic

from cloud.bus import events
from cloud.bus.events import Event
from cloud.config import Environment, Properties
from cloud.errors import CloudError, UnavailableError
from cloud.messaging import rabbit
from cloud.messaging.rabbit import RabbitSettings
from cloud.outage import Outage
from cloud.peers import peers
from cloud.refresh import refresher

log = structlog.get_logger()

TOPIC: Final = "bus"
"""On which the other processes of the instance hand over what they want to say."""

_LOOK_EVERY_S: Final = 5.0
_CONFIRM_LIMIT_S: Final = 1.5
_JSON: Final = "application/json"

_Outgoing = tuple[Event, "Future[None]"]


class Member:
    """Hears what is meant for this instance and acts upon it; says what it is given."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._refresher = refresher(environment)
        self._id = events.bus_id(environment.properties)
        self._outage = Outage("rabbitmq")
        self._outgoing: deque[_Outgoing] = deque()
        self._connection: pika.BlockingConnection | None = None
        # Refreshing takes its time, in which the connection must live on.
        self._hands = ThreadPoolExecutor(1, "bus-events")
        self._moved = False
        environment.require(RabbitSettings.of)
        environment.subscribe(self._follow)

    def run(self, stop: threading.Event) -> None:
        """Stay connected until `stop`; a broker that is away is waited for."""
        while not stop.is_set():
            try:
                self._serve(stop)
            except rabbit.BROKER_AWAY as error:
                self._outage.away(error, stop)
        self._hands.shutdown(wait=False, cancel_futures=True)

    def send(self, event: Event) -> None:
        """Publish; returns when the broker has it.

        Raises:
            UnavailableError: it is away.
        """
        done: Future[None] = Future()
        self._outgoing.append((event, done))
        try:
            if self._connection is None:
                raise UnavailableError("the bus is not connected")
            self.wake()
            done.result(_CONFIRM_LIMIT_S)
        except TimeoutError:
            raise UnavailableError("the broker did not take the event in time") from None
        finally:
            done.cancel()

    def wake(self) -> None:
        """Have the connection's thread look around at once."""
        connection = self._connection
        if connection is not None:
            with suppress(*rabbit.BROKER_AWAY):
                connection.add_callback_threadsafe(lambda: None)

    def hear(self, what: Any) -> None:
        """Take over what another process of the instance wants to say."""
        self.send(Event.load(what))

    def _serve(self, stop: threading.Event) -> None:
        properties = self._environment.properties
        destination = properties.text("spring.cloud.bus.destination", "springCloudBus")
        self._moved = False
        settings = RabbitSettings.of(properties)
        connection = pika.BlockingConnection(rabbit.parameters(settings, "bus"))
        try:
            channel = self._channel(connection, destination)
            self._connection = connection
            self._outage.back()
            log.info("bus_joined", id=self._id, exchange=destination)
            while not (stop.is_set() or self._moved):
                connection.process_data_events(_LOOK_EVERY_S)
                if not channel.consumer_tags:
                    raise AMQPConnectionError("the broker ended the subscription")
                self._say(channel, destination)
        finally:
            self._connection = None
            with suppress(*rabbit.BROKER_AWAY):
                connection.close()

    def _channel(self, connection: pika.BlockingConnection, destination: str) -> BlockingChannel:
        """Declare what Spring Cloud Stream declares for a group-less consumer."""
        channel = connection.channel()
        channel.exchange_declare(destination, "topic", durable=True)
        tail = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        queue = f"{destination}.anonymous.{tail}"
        channel.queue_declare(queue, exclusive=True, auto_delete=True)
        channel.queue_bind(queue, destination, "#")
        channel.basic_consume(queue, self._on_message, auto_ack=True)
        channel.confirm_delivery()
        return channel

    def _say(self, channel: BlockingChannel, destination: str) -> None:
        while self._outgoing:
            event, done = self._outgoing.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            properties = pika.BasicProperties(  # type: ignore[no-untyped-call]
                content_type=_JSON,
                delivery_mode=pika.DeliveryMode.Persistent.value,
                message_id=str(uuid.uuid4()),
                headers={"target-protocol": "amqp"},
            )
            try:
                channel.basic_publish(destination, destination, event.dump(), properties)
            except rabbit.BROKER_AWAY:
                done.set_exception(UnavailableError("the broker is not reachable"))
                raise
            done.set_result(None)

    def _on_message(
        self, _: BlockingChannel, __: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        try:
            event = Event.load(body)
        except ValueError:
            log.debug("bus_message_unknown", content_type=properties.content_type)
            return
        self._hands.submit(self._safely, event)

    def _safely(self, event: Event) -> None:
        try:
            self._act(event)
        except CloudError as error:
            log.warning("bus_event_failed", type=event.type, id=event.id, reason=str(error))
        except Exception:
            log.exception("bus_event_failed", type=event.type, id=event.id)

    def _act(self, event: Event) -> None:
        """Follow Spring's BusConsumer, but acknowledge only what was done."""
        properties = self._environment.properties
        own = event.origin == self._id
        if properties.boolean("spring.cloud.bus.trace.enabled", default=False) and not own:
            log.info("bus_event", type=event.type, id=event.id, origin=event.origin, **_told(event))
        work = self._works(properties).get(event.type)
        names = properties.listing("spring.cloud.config.name")
        if work is None or not events.is_meant(event.destination, self._id, names):
            return
        if not own:
            log.info("bus_event_followed", type=event.type, id=event.id, origin=event.origin)
            work(event)
        if properties.boolean("spring.cloud.bus.ack.enabled", default=True):
            to = properties.get("spring.cloud.bus.ack.destination-service")
            self.send(event.acknowledged(self._id, events.destination_of(to)))

    def _works(self, properties: Properties) -> dict[str, Callable[[Event], object]]:
        def nothing(_: Event) -> None:
            """Not enabled; Spring acknowledges all the same."""

        def enabled(kind: str) -> bool:
            return properties.boolean(f"spring.cloud.bus.{kind}.enabled", default=True)

        return {
            events.REFRESH: self._refresh if enabled("refresh") else nothing,
            events.ENVIRONMENT: self._manage if enabled("env") else nothing,
        }

    def _refresh(self, _: Event) -> None:
        self._refresher.refresh()

    def _manage(self, event: Event) -> None:
        values: Any = event.more.get("values")
        if isinstance(values, dict):
            self._refresher.manage(
                {str(key): str(value) for key, value in values.items() if value is not None}
            )

    def _follow(self, _properties: Properties, changed: frozenset[str]) -> None:
        if any(key.startswith(("spring.rabbitmq.", "spring.cloud.bus.dest")) for key in changed):
            self._moved = True
            self.wake()


def _told(event: Event) -> dict[str, Any]:
    return {"acknowledges": event.more.get("ackId")} if event.type == events.ACK else {}


@contextmanager
def joined(environment: Environment, stop: threading.Event) -> Iterator[None]:
    """Be the instance's member of the bus, in a thread, until `stop` or the end of the block."""
    member = Member(environment)
    peers(environment).on(TOPIC, member.hear)
    thread = threading.Thread(target=member.run, args=(stop,), name="bus", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        member.wake()
        thread.join(2.0)
