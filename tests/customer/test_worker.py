import subprocess
import sys
import threading
from datetime import timedelta

import orjson
import pika
import pytest
import sqlalchemy as sa
from flask import Flask
from structlog.testing import capture_logs
from werkzeug.serving import make_server

from cloud import schedule
from cloud.client import ServiceClient
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.messaging import Consumer, RabbitSettings
from cloud.testing import properties
from customer import consumers, worker
from customer.clients import PaymentClient
from customer.store import SqlMemberships, customers, outbox, plan_payments
from tests.waiting import eventually, running
from tests.wire import Wire

pytestmark = pytest.mark.estate


@pytest.fixture
def payment_uri(unused_tcp_port):
    """Where payment-service is looked for; nobody answers there, unless a test does."""
    return f"http://127.0.0.1:{unused_tcp_port}"


@pytest.fixture
def consuming(database, amqp, engine, channel, payment_uri):
    settings = {
        "nozie.customer.sweep-interval": "50ms",
        "spring.cloud.discovery.client.simple.instances.payment-service[0].uri": payment_uri,
    }
    environment = Environment(properties("customer-service", {**database, **amqp, **settings}))
    with running(environment, *worker.CHORES.values()):
        eventually(lambda: declared(channel, consumers.QUEUE, *consumers.BINDINGS), wanted=True)
        pairs = consumers.PAYMENT_BINDINGS
        eventually(lambda: declared(channel, consumers.PAYMENT_QUEUE, *pairs), wanted=True)
        eventually(lambda: "customer.worker.sweeper" in schedule.tasks)  # what operators see of it
        yield


def declared(channel, queue, *bindings):
    probe = channel.connection.channel()
    try:
        for exchange, key in bindings:
            probe.queue_bind(queue, exchange, key)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    probe.close()
    return True


def publish(channel, body):
    channel.basic_publish("identity.exchange", "user.created", body)


def event(user_id, email):
    told = {"userId": user_id, "username": "u", "email": email, "occurredAt": "2026-01-02T03:04:05"}
    return orjson.dumps(told)


def owners(engine):
    with engine.connect() as db:
        query = sa.select(customers.c.user_id, customers.c.email).order_by(customers.c.user_id)
        return [tuple(row) for row in db.execute(query)]


def test_every_new_user_gets_a_record_however_often_the_event_comes(consuming, channel, engine):
    for _ in range(3):
        publish(channel, event(7, "ann@example.org"))
    publish(channel, event(8, None))
    publish(channel, event(9, "eve@example.org"))
    eventually(lambda: owners(engine), [(7, "ann@example.org"), (9, "eve@example.org")])


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"email":"a@b"}', b'{"userId":"x","email":"a@b"}', b"\xff"],
    ids=["no JSON", "no object", "no user", "an ill-typed user", "no UTF-8"],
)
def test_what_is_not_the_event_becomes_a_dead_letter(consuming, channel, engine, body):
    publish(channel, body)
    publish(channel, event(9, "eve@example.org"))
    eventually(lambda: channel.basic_get(f"{consumers.QUEUE}.dlq", auto_ack=True)[2], body)
    eventually(lambda: owners(engine), [(9, "eve@example.org")])


def pay(channel, what, transaction, customer, *, exchange="payment-exchange", word=True):
    told = {
        "transactionId": transaction,
        "customerId": customer,
        "movieId": "plan:vip",
        "amount": 9.99,
        "currency": "usd",
        "userId": 7,
        "planDays": 30,
    }
    headers = {"x-payment-status": what} if word else {}
    channel.basic_publish(
        exchange, f"payment.{what}", orjson.dumps(told), pika.BasicProperties(headers=headers)
    )


@pytest.fixture
def ann(engine):
    with engine.begin() as db:
        row = {"email": "ann@example.org", "user_id": 7, "is_subscribed": False}
        return db.execute(sa.insert(customers).values(row).returning(customers.c.id)).scalar_one()


def days_left(engine):
    with engine.connect() as db:
        row = db.execute(sa.select(customers).where(customers.c.user_id == 7)).one()
    end = row.subscription_expires_at
    return row.is_subscribed and round((end - utc_now().replace(tzinfo=None)) / timedelta(days=1))


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_a_membership_follows_payments_and_tells_of_itself(consuming, channel, engine, ann):
    channel.queue_declare("heard")
    channel.queue_bind("heard", "customer.exchange", "membership.changed")
    for exchange in ("payment-exchange", "payment.exchange"):
        pay(channel, "succeeded", 1, ann, exchange=exchange)
    pay(channel, "succeeded", 2, ann)
    eventually(lambda: days_left(engine), 60)
    for exchange in ("payment-exchange", "payment.exchange"):
        pay(channel, "refunded", 1, ann, exchange=exchange)
    eventually(lambda: days_left(engine), 30)
    past = (utc_now() - timedelta(seconds=1)).replace(tzinfo=None)
    with engine.begin() as db:
        db.execute(sa.update(customers).values(subscription_expires_at=past))
    eventually(lambda: ready(channel, "heard"), 4)
    heard = [orjson.loads(channel.basic_get("heard", auto_ack=True)[2]) for _ in range(4)]
    assert [one["active"] for one in heard] == [True, True, True, False]
    assert [one["userId"] for one in heard] == [7] * 4
    assert [one["customerId"] for one in heard] == [ann] * 4
    assert heard[0]["expiresAt"] < heard[1]["expiresAt"] > heard[2]["expiresAt"]
    assert heard[3]["expiresAt"] is None
    versions = [one["version"] for one in heard]
    assert versions == sorted(set(versions))
    eventually(lambda: days_left(engine), wanted=False)


def test_a_payment_that_nobody_can_vouch_for_waits_and_then_counts(
    consuming, channel, engine, ann, unused_tcp_port
):
    """Payment-service is away: the broker holds the event for a while, however often."""
    pay(channel, "succeeded", 1, ann, word=False, exchange="payment.exchange")
    eventually(lambda: ready(channel, f"{consumers.PAYMENT_QUEUE}.retry.1"), 1)
    assert days_left(engine) is False
    app = Flask("payment")

    @app.get("/api/payments/transaction/<int:number>")
    def answer(number):
        return {"success": True, "data": {"id": number, "status": "succeeded"}}

    server = make_server("127.0.0.1", unused_tcp_port, app)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        eventually(lambda: days_left(engine), 30)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_hopeless_payment_events_become_dead_letters(consuming, channel, engine, ann):
    channel.basic_publish("payment-exchange", "payment.succeeded", b"{")
    pay(channel, "refunded", 1, ann, word=False)
    pay(channel, "succeeded", 2, ann)
    eventually(lambda: ready(channel, f"{consumers.PAYMENT_QUEUE}.dlq"), 2)
    eventually(lambda: days_left(engine), 30)


_DYING = """
import os, signal, sys, threading
from functools import partial
import orjson
from cloud.client import ServiceClient
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.messaging import Consumer, RabbitSettings
from cloud.stores import postgres
from cloud.testing import properties
from customer import consumers
from customer.store import SqlMemberships
values = properties("customer-service", orjson.loads(sys.argv[1]))
engine = postgres.engine(values)
sale = consumers.Sale(SqlMemberships(engine), None, {}, trusted=False, now=utc_now)
def handle(delivery):
    consumers.payment_told(delivery, sale)
    os.kill(os.getpid(), signal.SIGKILL)
Consumer(RabbitSettings.of(values), queue=consumers.PAYMENT_QUEUE,
         bindings=consumers.PAYMENT_BINDINGS, handle=handle).run(threading.Event())
"""


def test_a_process_killed_between_commit_and_ack_has_not_counted_twice(
    database, amqp, engine, channel, ann
):
    values = {**database, **amqp}
    environment = Environment(properties("customer-service", values))
    command = [sys.executable, "-c", _DYING, orjson.dumps(values).decode()]
    dying = subprocess.Popen(command)  # noqa: S603 - our own text
    pairs = consumers.PAYMENT_BINDINGS
    eventually(lambda: declared(channel, consumers.PAYMENT_QUEUE, *pairs), wanted=True)
    pay(channel, "succeeded", 1, ann)
    assert dying.wait(30) == -9
    assert days_left(engine) == 30
    # The broker has it still, and delivers it to the next process.
    eventually(lambda: ready(channel, consumers.PAYMENT_QUEUE), 1)
    with capture_logs() as said, running(environment, *worker.CHORES.values()):
        eventually(
            lambda: [line["outcome"] for line in said if line["event"] == "membership_event"],
            ["known"],
        )
        eventually(lambda: ready(channel, consumers.PAYMENT_QUEUE), 0)
    assert days_left(engine) == 30
    with engine.connect() as db:
        assert len(db.execute(sa.select(plan_payments)).all()) == 1


def test_a_connection_cut_between_commit_and_ack_counts_once(database, amqp, engine, channel, ann):
    """Five payments in a row, each of which loses its acknowledgement once."""
    cut = set()
    with Wire(f"{amqp['spring.rabbitmq.host']}:{amqp['spring.rabbitmq.port']}") as wire:
        through = {"spring.rabbitmq.host": "127.0.0.1", "spring.rabbitmq.port": str(wire.port)}
        values = properties("customer-service", {**database, **amqp, **through})
        asked = PaymentClient(ServiceClient("payment-service", Environment(values)))
        sale = consumers.Sale(SqlMemberships(engine), asked, {}, trusted=False, now=utc_now)

        def handle(delivery):
            consumers.payment_told(delivery, sale)
            if delivery.body not in cut:
                cut.add(delivery.body)
                wire.cut()
                wire.mend()

        def consume(_, stop):
            Consumer(
                RabbitSettings.of(values),
                queue=consumers.PAYMENT_QUEUE,
                bindings=consumers.PAYMENT_BINDINGS,
                handle=handle,
            ).run(stop)

        with running(None, consume):
            pairs = consumers.PAYMENT_BINDINGS
            eventually(lambda: declared(channel, consumers.PAYMENT_QUEUE, *pairs), wanted=True)
            for number in range(1, 6):
                pay(channel, "succeeded", number, ann)
            eventually(lambda: (len(cut), days_left(engine)), (5, 150))
            eventually(lambda: ready(channel, consumers.PAYMENT_QUEUE), 0)
    assert days_left(engine) == 150


def test_what_the_broker_should_hear_waits_for_it_in_the_outbox(
    database, engine, ann, channel, amqp
):
    SqlMemberships(engine).set(ann, subscribed=True, now=utc_now())
    with engine.connect() as db:
        assert len(db.execute(sa.select(outbox)).all()) == 1
    channel.exchange_declare("customer.exchange", "topic", durable=True)
    channel.queue_declare("heard")
    channel.queue_bind("heard", "customer.exchange", "#")
    environment = Environment(properties("customer-service", {**database, **amqp}))
    with running(environment, *worker.CHORES.values()):
        eventually(lambda: ready(channel, "heard"), 1)


def test_chores_without_a_database_wait_and_can_be_stopped(database, amqp, unused_tcp_port):
    away = {"spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{unused_tcp_port}/none"}
    environment = Environment(properties("customer-service", {**database, **amqp, **away}))
    with capture_logs() as said, running(environment, *worker.CHORES.values()):
        eventually(lambda: [line["event"] for line in said], ["waiting_for"])
