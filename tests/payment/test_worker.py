import json
import threading
from contextlib import contextmanager

import pika
import pytest

from cloud.config import Environment
from cloud.testing import bearer, properties
from payment import worker
from payment.app import create_app
from tests.payment.conftest import eventually

pytestmark = pytest.mark.estate

BODY = {"customerId": 1, "movieId": "rented", "amount": 4.99}


@contextmanager
def running(environment, *names):
    stop = threading.Event()
    threads = [
        threading.Thread(target=getattr(worker, name), args=(environment, stop)) for name in names
    ]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(10)


@pytest.fixture
def environment(settings, amqp, engine):
    values = {key: settings.text(key) for key in settings.sources[0].values}
    return Environment(properties("payment-service", values | amqp))


@pytest.fixture
def client(environment):
    return create_app(environment).test_client()


@pytest.fixture
def channel(amqp):
    credentials = pika.PlainCredentials("guest", "guest")
    parameters = pika.ConnectionParameters(
        amqp["spring.rabbitmq.host"],
        int(amqp["spring.rabbitmq.port"]),
        amqp["spring.rabbitmq.virtual-host"],
        credentials,
    )
    connection = pika.BlockingConnection(parameters)
    yield connection.channel()
    connection.close()


def listen_as_a_jvm_neighbour(channel):
    """Bind the JVM queue exactly as a JVM service declares it."""
    channel.exchange_declare("payment.exchange", "topic", durable=True)
    channel.queue_declare("payment.notification.queue", durable=True)
    channel.queue_bind("payment.notification.queue", "payment.exchange", "payment.succeeded")


def pay(client, headers=None):
    made = client.post("/api/payments/create", json=BODY, headers=bearer() | (headers or {}))
    return made.json["data"]["transactionId"]


def status(client, transaction_id):
    found = client.get(f"/api/payments/transaction/{transaction_id}", headers=bearer())
    return found.json["data"]["status"]


def test_a_payment_succeeds_in_a_step_of_its_own_and_is_announced(client, environment, channel):
    listen_as_a_jvm_neighbour(channel)
    correlation = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
    made = pay(client, {"X-Correlation-Id": correlation})
    assert status(client, made) == "pending"
    with running(environment, "clerk", "relay"):
        eventually(lambda: status(client, made), "succeeded")
        queue = "payment.notification.queue"
        eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count, 1)
    _, sent, body = channel.basic_get(queue)
    assert json.loads(body)["transactionId"] == made
    assert b'"amount":4.99' in body
    assert sent.content_type == "application/json"
    assert sent.headers["__TypeId__"] == "com.nozie.common.event.PaymentSucceededEvent"
    assert sent.headers["X-Correlation-Id"] == correlation
    assert "traceparent" in sent.headers


def test_the_broker_may_be_away(client, environment, channel):
    """The payment succeeds; the event waits in the outbox until somebody carries it."""
    made = pay(client)
    with running(environment, "clerk"):
        eventually(lambda: status(client, made), "succeeded")
    listen_as_a_jvm_neighbour(channel)
    with running(environment, "relay"):
        queue = "payment.notification.queue"
        eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count, 1)
