import threading
import time

import orjson
import pika
import pytest
import sqlalchemy as sa

from cloud.config import Environment
from cloud.testing import properties
from customer import consumers, worker
from customer.store import customers

pytestmark = pytest.mark.estate


@pytest.fixture
def channel(amqp):
    parameters = pika.ConnectionParameters(
        amqp["spring.rabbitmq.host"],
        int(amqp["spring.rabbitmq.port"]),
        amqp["spring.rabbitmq.virtual-host"],
        pika.PlainCredentials("guest", "guest"),
    )
    connection = pika.BlockingConnection(parameters)
    yield connection.channel()
    connection.close()


@pytest.fixture
def consuming(database, amqp, engine, channel):
    environment = Environment(properties("customer-service", {**database, **amqp}))
    stop = threading.Event()
    thread = threading.Thread(target=worker.COMPANIONS["custodian"], args=(environment, stop))
    thread.start()
    eventually(lambda: declared(channel), "identity.exchange")
    yield
    stop.set()
    thread.join(10)


def declared(channel):
    probe = channel.connection.channel()
    try:
        probe.queue_bind(consumers.QUEUE, "identity.exchange", "user.created")
    except pika.exceptions.ChannelClosedByBroker:
        return None
    probe.close()
    return "identity.exchange"


def eventually(read, wanted, seconds=15.0):
    deadline = time.monotonic() + seconds
    while (found := read()) != wanted:
        assert time.monotonic() < deadline, f"{found!r} never became {wanted!r}"
        threading.Event().wait(0.02)


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
