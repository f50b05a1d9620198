"""Notification on real stores, with neighbours that answer over HTTP."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pymongo
import pytest
from flask import Flask, jsonify, request

from cloud.config import Environment, Properties
from cloud.stores import mongo
from cloud.testing import properties
from notification import worker
from notification.app import connect
from notification.deps import Deps
from tests.notification.mailbox import MailServer
from tests.serving import Serving

CUSTOMERS = {
    1: {"id": 1, "email": "ann@example.org", "userId": 7},
    2: {"id": 2, "email": "bob@example.org", "userId": 8},
    3: {"id": 3, "email": "Carl@Example.org"},
}
TRANSACTIONS = {11: "SUCCEEDED", 12: "pending", 13: "failed"}


class Neighbours(Serving):
    """customer-service and a JVM payment-service behind one real socket."""

    def __init__(self) -> None:
        self.broken = False
        self.asked: list[str] = []
        app = Flask("neighbours")

        @app.before_request
        def note() -> Any:
            self.asked.append(request.path)
            return (jsonify(error="broken"), 500) if self.broken else None

        @app.get("/api/customers/<int:customer_id>")
        def customer(customer_id: int) -> Any:
            # As a JVM service: every record to everybody.
            found = CUSTOMERS.get(customer_id)
            return jsonify(data=found), 200 if found else 404

        @app.get("/api/customers")
        def customers() -> Any:
            return jsonify(data=list(CUSTOMERS.values()))

        @app.get("/api/customers/email/<email>")
        def by_email(email: str) -> Any:
            found = [each for each in CUSTOMERS.values() if each["email"] == email]
            return jsonify(data=found[0] if found else None), 200 if found else 404

        @app.get("/api/payments/transaction/<int:key>")
        def transaction(key: int) -> Any:
            status = TRANSACTIONS.get(key)
            return jsonify(data=status and {"id": key, "status": status}), 200 if status else 404

        super().__init__(app)


@pytest.fixture(autouse=True)
def _clients_closed(monkeypatch) -> Iterator[None]:
    """Close what a process keeps open for life."""
    made: list[Any] = []

    def tracked(*args: Any, **options: Any) -> Any:
        made.append(pymongo.MongoClient(*args, **options))
        return made[-1]

    monkeypatch.setattr(mongo, "MongoClient", tracked)
    yield
    for client in made:
        client.close()


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    with closing(Neighbours()) as running:
        yield running


@pytest.fixture
def settings(mongo_uri, redis_url, neighbours) -> dict[str, str]:
    simple = "spring.cloud.discovery.client.simple.instances"
    return {
        "spring.data.mongodb.uri": mongo_uri,
        "spring.data.redis.url": redis_url,
        f"{simple}.customer-service[0].uri": neighbours.url,
        f"{simple}.payment-service[0].uri": neighbours.url,
        "nozie.notification.stream.heartbeat": "300ms",
        "nozie.notification.stream.poll": "100ms",
        "nozie.notification.stream.limit": "3",
    }


@pytest.fixture
def snapshot(settings) -> Properties:
    return properties("notification-service", settings)


@pytest.fixture
def environment(snapshot) -> Environment:
    made = Environment(snapshot)
    worker.prepare(made)
    return made


@pytest.fixture
def deps(environment) -> Deps:
    return connect(environment)


@pytest.fixture
def stored(snapshot):
    collection = mongo.database(snapshot)["notifications"]
    return lambda: list(collection.find({}, {"_id": 0, "created_at": 0}))


@pytest.fixture
def on_broker(settings, amqp) -> Properties:
    return properties("notification-service", {**settings, **amqp})


@pytest.fixture
def channel(channel) -> Any:
    channel.confirm_delivery()
    return channel


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with closing(MailServer()) as server:
        yield server
