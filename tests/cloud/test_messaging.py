"""Outbox, relay and consumer on the real database and broker."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pika
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from cloud.clock import utc_now
from cloud.config import Properties
from cloud.errors import UnavailableError
from cloud.messaging import (
    Consumer,
    Delivery,
    Event,
    Hopeless,
    Later,
    RabbitSettings,
    outbox,
    rabbit,
)
from cloud.messaging import relay as relays
from cloud.messaging.publisher import publish_all
from cloud.messaging.relay import Relay
from cloud.stores import postgres
from tests.waiting import eventually
from tests.wire import Wire

EXCHANGE = "payment-exchange"
QUEUE = "payment.notification.queue"
BINDINGS = [("payment.exchange", "payment.succeeded"), (EXCHANGE, "payment.succeeded")]
ESTATE = [
    rabbit.exchange(EXCHANGE),
    rabbit.exchange("payment.exchange"),
    rabbit.exchange_binding(EXCHANGE, "payment.exchange"),
]
HEARTBEAT = 8  # bytes of its frame
MESSAGES = outbox.outbox(sa.MetaData())


@contextmanager
def running(run: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            run(stop)
        except Exception as error:  # noqa: BLE001 - shown by the test that started it
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert not failures, failures


@pytest.fixture
def settings(amqp) -> RabbitSettings:
    return RabbitSettings.of(Properties.of(amqp, "payment-service"))


@pytest.fixture
def channel(channel) -> Any:
    for method, arguments in ESTATE:
        getattr(channel, method)(**arguments)
    return channel


@pytest.fixture
def engine(database) -> Iterator[sa.Engine]:
    made = postgres.engine(Properties.of(database, "payment-service"))
    with made.begin() as db:
        for statement in outbox.DDL:
            db.execute(sa.text(statement))
    yield made
    made.dispose()


def put(engine, *keys, routing_key="payment.succeeded", exchange=EXCHANGE) -> None:
    for number, key in enumerate(keys):
        body = json.dumps({"transactionId": key, "number": number}).encode()
        with engine.begin() as db:
            outbox.put(db, Event(exchange, routing_key, body, key, "com.nozie.Paid"), utc_now())


def left(engine):
    with engine.connect() as db:
        return db.execute(sa.select(sa.func.count()).select_from(MESSAGES)).scalar_one()


def relay(engine, settings) -> Relay:
    return Relay(engine, MESSAGES, settings, "payment-service", ESTATE)


class Seen:
    """A handler that remembers, and fails as it is told."""

    def __init__(self, *faults: Exception) -> None:
        self.deliveries: list[Delivery] = []
        self.faults = list(faults)

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self.faults:
            raise self.faults.pop(0)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(delivery.body) for delivery in self.deliveries]


def consumer(settings, handle) -> Consumer:
    return Consumer(settings, queue=QUEUE, bindings=BINDINGS, handle=handle, declarations=ESTATE)


def depth(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_a_committed_event_reaches_the_consumer_once_with_all_its_properties(
    engine, settings, channel
):
    for method, arguments in rabbit.work_queue(QUEUE, BINDINGS):
        getattr(channel, method)(**arguments)
    with running(relay(engine, settings).run):
        put(engine, "7")
        eventually(lambda: left(engine) == 0 and depth(channel, QUEUE))
    _, properties, body = channel.basic_get(QUEUE, auto_ack=True)
    assert json.loads(body) == {"transactionId": "7", "number": 0}
    assert (properties.content_type, properties.content_encoding) == ("application/json", "UTF-8")
    assert (properties.delivery_mode, properties.priority) == (2, 0)
    assert properties.app_id == "payment-service"
    assert uuid.UUID(properties.message_id)
    assert properties.headers["__TypeId__"] == "com.nozie.Paid"
    assert properties.headers["traceparent"].startswith("00-")
    assert channel.basic_get(QUEUE) == (None, None, None), "two bindings made two of one"


def test_an_event_of_a_transaction_that_was_rolled_back_is_never_told(engine):
    event = Event(EXCHANGE, "payment.succeeded", b"{}", "1")
    with engine.connect() as db:
        outbox.put(db, event, utc_now())
        db.rollback()
    assert left(engine) == 0


def test_a_whole_batch_without_a_word_from_the_broker_goes_out_over_a_new_connection(
    engine, settings
):
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'idle in transaction'"
    )

    def in_hand() -> bool:
        """Tell whether the relay holds rows: to try their locks here would take them from it."""
        with engine.connect() as db:
            return bool(db.execute(waiting).scalar_one())

    seen = Seen()
    with (
        running(consumer(settings, seen).run),
        Wire(f"{settings.host}:{settings.port}") as wire,
        running(relay(engine, replace(settings, port=wire.port)).run),
    ):
        put(engine, "first")
        eventually(lambda: left(engine) == 0)
        wire.freeze()
        with engine.begin() as db:
            for number in range(250):
                event = Event(EXCHANGE, "payment.succeeded", b"{}", str(number))
                outbox.put(db, event, utc_now())
        eventually(in_hand)
        wire.cut()
        wire.mend()
        eventually(lambda: left(engine) == 0)


def test_an_event_that_nobody_hears_waits_in_the_outbox_for_its_first_listener(engine, settings):
    seen = Seen()
    with running(relay(engine, settings).run):
        put(engine, "1")
        attempts = sa.select(MESSAGES.c.attempts)
        eventually(lambda: engine.connect().execute(attempts).scalar())
        with running(consumer(settings, seen).run):
            eventually(lambda: seen.deliveries)
            eventually(lambda: left(engine) == 0)
    assert len(seen.deliveries) == 1


def test_a_whole_batch_that_nobody_hears_keeps_no_other_event_waiting(
    engine, settings, monkeypatch
):
    """Nothing wakes the relay between the batches: it goes on by itself."""
    monkeypatch.setattr(relays, "_POLL", timedelta(minutes=5))
    seen = Seen()
    with engine.begin() as db:
        for number in range(450):
            event = Event(EXCHANGE, "payment.unheard", b"{}", str(number))
            outbox.put(db, event, utc_now())
    put(engine, "heard")
    with running(consumer(settings, seen).run), running(relay(engine, settings).run) as stop:
        eventually(lambda: seen.deliveries)
        stop.set()
        put(engine, "wakes the relay")


def test_what_nobody_hears_is_told_once_and_rests_ever_longer_until_somebody_hears(
    engine, settings, channel
):
    now = [utc_now()]
    rests = sa.select(MESSAGES.c.attempts, MESSAGES.c.retry_at)

    def tried() -> set[int]:
        with engine.connect() as db:
            return {row.attempts for row in db.execute(rests)}

    own = Relay(engine, MESSAGES, settings, "payment-service", ESTATE, now=lambda: now[0])
    put(engine, "1", "2", "3")
    with capture_logs() as logs, running(own.run):
        for times in range(1, 16):
            eventually(tried, {times})
            with engine.connect() as db:
                longest = max(row.retry_at for row in db.execute(rests)) - now[0]
            assert longest == min(timedelta(seconds=2 ** (times - 1)), timedelta(hours=1))
            now[0] += longest
            with engine.begin() as db:
                db.execute(sa.func.pg_notify(outbox.NAME, "").select())
        for method, arguments in rabbit.work_queue(QUEUE, BINDINGS):
            getattr(channel, method)(**arguments)
        put(engine, "4")  # shows that there is a listener, and ends the others' rest
        eventually(lambda: left(engine) == 0 and depth(channel, QUEUE) == 4)
    told = [entry["event"] for entry in logs if entry["event"].startswith("event_")]
    assert told == ["event_not_taken", "event_taken_again"]


def test_events_of_one_key_arrive_in_order_from_relays_side_by_side(engine, settings):
    seen = Seen()
    put(engine, *[str(number % 7) for number in range(140)])
    with (
        running(consumer(settings, seen).run),
        running(relay(engine, settings).run),
        running(relay(engine, settings).run),
        running(relay(engine, settings).run),
    ):
        eventually(lambda: left(engine) == 0, within_s=60)
        eventually(lambda: len(seen.deliveries) >= 140)
    for key in "0123456":
        numbers = [body["number"] for body in seen.bodies if body["transactionId"] == key]
        assert numbers == sorted(numbers)
    assert len(seen.deliveries) == 140


def test_nothing_is_lost_while_the_broker_comes_and_goes(engine, settings):
    seen = Seen()
    with Wire(f"{settings.host}:{settings.port}") as wire:
        wired = replace(settings, port=wire.port)
        with running(relay(engine, wired).run), running(consumer(wired, seen).run):
            for number in range(4):
                put(engine, *[f"{number}-{key}" for key in range(20)])
                eventually(lambda: wire.connections >= 2)
                wire.cut()
                put(engine, f"{number}-during the outage")
                wire.connections = 0
                eventually(lambda: wire.connections >= 2)
                wire.mend()
                wire.connections = 0
            eventually(
                lambda: len({body["transactionId"] for body in seen.bodies}) == 84, within_s=40
            )
            eventually(lambda: left(engine) == 0)


def test_an_outage_is_told_once_at_its_begin_and_once_at_its_end(engine, settings):
    with (
        Wire(f"{settings.host}:{settings.port}") as wire,
        capture_logs() as logs,
        running(relay(engine, replace(settings, port=wire.port)).run),
    ):
        eventually(lambda: wire.connections)
        wire.cut()
        eventually(lambda: wire.connections >= 3)
        wire.mend()
        eventually(lambda: [line for line in logs if line["event"] == "neighbour_back"])
    told = [line["event"] for line in logs if line.get("neighbour") == "rabbitmq"]
    assert told == ["waiting_for", "neighbour_back"]


def told(logs, neighbour="rabbitmq"):
    return [line["event"] for line in logs if line.get("neighbour") == neighbour]


def test_a_consumer_that_fails_after_each_connect_rests_ever_longer(settings, channel):
    """The headers fill a frame: with ours added the broker ends the connection."""
    seen = Seen(*[ValueError("not yet")] * 4)
    for method, arguments in rabbit.work_queue(QUEUE, BINDINGS):
        getattr(channel, method)(**arguments)
    full = pika.BasicProperties(headers={"large": "x" * 131_000})
    channel.basic_publish(EXCHANGE, "payment.succeeded", b"{}", full)
    with capture_logs() as logs, running(consumer(settings, seen).run):
        eventually(lambda: len(seen.deliveries) == 4)
        while_it_failed = told(logs)
        eventually(lambda: "neighbour_back" in told(logs))
    assert while_it_failed == ["waiting_for"]
    assert told(logs) == ["waiting_for", "neighbour_back"]


def test_a_relay_that_fails_after_each_connect_rests_ever_longer(engine, settings):
    with engine.begin() as db:
        headers = {"large": "x" * 140_000}
        outbox.put(db, Event(EXCHANGE, "payment.succeeded", b"{}", "1", headers=headers), utc_now())
    with (
        Wire(f"{settings.host}:{settings.port}") as wire,
        capture_logs() as logs,
        running(relay(engine, replace(settings, port=wire.port)).run),
    ):
        eventually(lambda: wire.connections >= 4)
        while_it_failed = told(logs)
        with engine.begin() as db:
            db.execute(sa.delete(MESSAGES))
        eventually(lambda: "neighbour_back" in told(logs))
    assert while_it_failed == ["waiting_for"]


def test_a_failed_delivery_comes_again_later_with_its_number_and_its_own_routing_key(
    settings, channel
):
    seen = Seen(ValueError("the first time"), ValueError("and the second"))
    with running(consumer(settings, seen).run):
        eventually(lambda: _publish(channel, b"{}"))
        eventually(lambda: len(seen.deliveries) == 3)
    assert [delivery.attempt for delivery in seen.deliveries] == [0, 1, 2]
    assert {delivery.routing_key for delivery in seen.deliveries} == {"payment.succeeded"}


def test_the_fourth_repetition_is_the_last(settings, channel):
    seen = Seen(ValueError("for the fifth time"))
    with running(consumer(settings, seen).run):
        eventually(lambda: _publish(channel, b"{}", {"x-attempt": 4}))
        eventually(lambda: depth(channel, f"{QUEUE}.dlq") == 1)
    _, properties, body = channel.basic_get(f"{QUEUE}.dlq")
    assert body == b"{}"
    assert properties.headers["x-exception"] == "ValueError: for the fifth time"
    assert properties.headers["x-original-routing-key"] == "payment.succeeded"


def test_a_hopeless_delivery_becomes_a_dead_letter_at_once_and_the_next_is_handled(
    settings, channel
):
    seen = Seen(Hopeless("no JSON"))
    with running(consumer(settings, seen).run):
        eventually(lambda: _publish(channel, b"\xff"))
        eventually(lambda: _publish(channel, b"{}"))
        eventually(lambda: len(seen.deliveries) == 2)
        eventually(lambda: depth(channel, f"{QUEUE}.dlq") == 1)
    assert depth(channel, QUEUE) == 0


def test_a_store_that_is_away_is_waited_for_with_the_delivery_in_hand(settings, channel):
    seen = Seen(UnavailableError("away"), UnavailableError("away"), UnavailableError("away"))
    with running(consumer(settings, seen).run):
        eventually(lambda: _publish(channel, b"{}"))
        eventually(lambda: len(seen.deliveries) == 4)
    assert {delivery.attempt for delivery in seen.deliveries} == {0}
    assert depth(channel, QUEUE) == 0


def test_what_was_not_acknowledged_at_a_stop_is_delivered_again(settings, channel):
    first, second = Seen(*[UnavailableError("away")] * 99), Seen()
    with running(consumer(settings, first).run):
        eventually(lambda: _publish(channel, b"{}"))
        eventually(lambda: first.deliveries)
    with running(consumer(settings, second).run):
        eventually(lambda: second.deliveries)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"x-attempt": "many"}, id="an attempt in words"),
        pytest.param({"x-attempt": -3}, id="a negative attempt"),
        pytest.param({"traceparent": 7, "X-Correlation-Id": ["a"]}, id="ids of another kind"),
        pytest.param({"traceparent": "00-zz-zz-01"}, id="a trace context that is none"),
    ],
)
def test_headers_that_make_no_sense_are_as_good_as_absent(headers, settings, channel):
    seen = Seen()
    with running(consumer(settings, seen).run):
        eventually(lambda: _publish(channel, b"{}", headers))
        eventually(lambda: seen.deliveries)
    assert seen.deliveries[0].attempt == 0


def test_a_jvm_neighbours_declarations_and_ours_agree(settings, channel):
    channel.exchange_declare("payment.exchange", "topic", durable=True)
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, "payment.exchange", "payment.succeeded")
    seen = Seen()
    with running(consumer(settings, seen).run):
        eventually(lambda: _publish(channel, b"{}"))
        eventually(lambda: seen.deliveries)
    channel.queue_declare(QUEUE, durable=True)


def _publish(channel, body: bytes, headers=None) -> bool:
    """Publish as a JVM neighbour does; False while the queue is not bound yet."""
    channel.confirm_delivery()
    properties = pika.BasicProperties(content_type="application/json", headers=headers)
    try:
        channel.basic_publish(
            "payment.exchange", "payment.succeeded", body, properties, mandatory=True
        )
    except pika.exceptions.UnroutableError:
        return False
    return True


class SeenMany(Seen):
    """A handler of many, with a verdict for each body that is named."""

    def __init__(self, **verdicts: Exception) -> None:
        super().__init__()
        self.verdicts = verdicts
        self.sizes: list[int] = []

    def many(self, deliveries) -> list[Exception | None]:
        if self.faults:
            raise self.faults.pop(0)
        self.deliveries += deliveries
        self.sizes.append(len(deliveries))
        return [self.verdicts.pop(each.body.decode(), None) for each in deliveries]


def many(settings, seen, batch=10) -> Consumer:
    return Consumer(
        settings, queue=QUEUE, bindings=BINDINGS, handle_many=seen.many, batch=batch, prefetch=50
    )


def test_a_batch_is_settled_one_by_one(settings, channel):
    """What failed is repeated or buried; what went well beside it is acknowledged."""
    seen = SeenMany(b=ValueError("once"), c=Hopeless("never"), d=Later(timedelta(milliseconds=1)))
    for method, arguments in rabbit.work_queue(QUEUE, BINDINGS):
        getattr(channel, method)(**arguments)
    for body in "abcdefghijklm":
        channel.basic_publish("", QUEUE, body.encode())
    with running(many(settings, seen).run):
        eventually(lambda: len(seen.deliveries) == 15)
        eventually(lambda: depth(channel, f"{QUEUE}.dlq") == 1)
    bodies = [each.body.decode() for each in seen.deliveries]
    assert "".join(bodies[:13]) == "abcdefghijklm"
    assert max(seen.sizes) <= 10
    again = {each.body.decode(): each.attempt for each in seen.deliveries[13:]}
    assert again == {"b": 1, "d": 0}, "to be left alone for a while is no failed attempt"
    assert depth(channel, QUEUE) == 0


def test_a_batch_waits_as_a_whole_for_the_store(settings, channel):
    seen = SeenMany()
    seen.faults = [UnavailableError("away"), UnavailableError("still away")]
    with running(many(settings, seen).run):
        eventually(lambda: published(channel, b"a"))
        eventually(lambda: seen.deliveries)
    assert depth(channel, QUEUE) == 0


def published(channel, body: bytes) -> bool:
    channel.confirm_delivery()
    try:
        channel.basic_publish("payment.exchange", "payment.succeeded", body, mandatory=True)
    except pika.exceptions.UnroutableError:
        return False
    return True


def test_what_is_published_at_once_is_with_the_broker_or_an_error(settings, channel):
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, "payment.exchange", "x")
    events = [Event("payment.exchange", "x", b"%d" % number, "k") for number in range(300)]
    publish_all(settings, "test", events)
    assert depth(channel, QUEUE) == 300
    with pytest.raises(UnavailableError, match="did not take"):
        publish_all(settings, "test", [Event("payment.exchange", "nobody.listens", b"", "k")])
    with pytest.raises(UnavailableError):
        publish_all(replace(settings, port=1), "test", events)


def test_heartbeats_are_answered_while_a_handler_takes_its_time(settings, channel):
    """Else the broker would hang up, and the work begin anew for ever, as if never tried."""
    attempts: list[int] = []
    with Wire(f"{settings.host}:{settings.port}") as wire:

        def slow(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if not delivery.attempt:
                before = wire.sent
                eventually(lambda: wire.sent >= before + 4 * HEARTBEAT)
                raise ValueError("not now")

        wired = replace(settings, port=wire.port, heartbeat=timedelta(seconds=1))
        with running(consumer(wired, slow).run):
            eventually(lambda: _publish(channel, b"{}"))
            eventually(lambda: attempts == [0, 1], within_s=60)
        assert wire.connections == 1
    assert depth(channel, QUEUE) == 0


def test_one_delivery_that_breaks_a_batch_is_found_and_the_others_are_done(settings, channel):
    done: list[str] = []

    class OneBad(SeenMany):
        def many(self, deliveries) -> list[Exception | None]:
            if any(each.body == b"bad" for each in deliveries):
                raise Hopeless("one of them")
            done.extend(each.body.decode() for each in deliveries)
            return [None] * len(deliveries)

    for method, arguments in rabbit.work_queue(QUEUE, BINDINGS):
        getattr(channel, method)(**arguments)
    for body in ("a", "b", "bad", "c"):
        channel.basic_publish("", QUEUE, body.encode())
    with running(many(settings, OneBad()).run):
        eventually(lambda: depth(channel, f"{QUEUE}.dlq") == 1)
        eventually(lambda: set(done) == {"a", "b", "c"})
    assert channel.basic_get(f"{QUEUE}.dlq")[2] == b"bad"
    assert depth(channel, QUEUE) == 0
