"""From an event to a mailbox over the real broker; a dead channel hurts nothing beside it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloud.config import Environment, Properties
from cloud.testing import properties
from notification import worker
from tests.notification.events import publish
from tests.notification.mailbox import MailServer, mail_settings
from tests.waiting import eventually, running


@pytest.fixture
def on_broker(settings, amqp, mail_server) -> Properties:
    values = {**settings, **amqp, **mail_settings(mail_server.port)}
    return properties("notification-service", values)


@pytest.fixture
def told(on_broker, channel) -> Iterator[Any]:
    def tell(exchange: str, key: str, **body: Any) -> None:
        channel.basic_publish(exchange, key, json.dumps(body).encode())

    with running(Environment(on_broker), worker.consumer):
        eventually(lambda: publish(channel, 1, headers={"x-payment-status": "succeeded"}))
        yield tell


def subjects(server: MailServer) -> list[str]:
    return [mail["Subject"] for mail in server.mails]


def test_a_receipt_a_welcome_and_a_requested_mail_arrive(told, mail_server, stored):
    eventually(lambda: "Your receipt from Nozie" in subjects(mail_server))
    eventually(lambda: publish_all_known(told))
    eventually(lambda: len(mail_server.mails) == 3)
    assert sorted(mail["To"] for mail in mail_server.mails) == [
        "ann@example.org",
        "ann@example.org",
        "carl@example.org",
    ]
    assert len(stored()) == 2, "the payment and the welcome; a password is nobody's news"


def publish_all_known(told) -> bool:
    told(
        "identity.exchange",
        "user.created",
        userId=5,
        username="carl",
        email="carl@example.org",
    )
    told(
        "notification.exchange",
        "notification.requested",
        userId=7,
        channel="email",
        template="password-reset",
        to="ann@example.org",
        params={"code": "123456"},
        dedupKey="reset:1",
    )
    return True


def test_a_dead_mail_server_hurts_nobody_and_the_mail_comes_later(
    told,
    mail_server,
    channel,
    stored,
):
    eventually(lambda: len(mail_server.mails) == 1)
    mail_server.on_data = "451 not now"
    publish(channel, 2, headers={"x-payment-status": "succeeded"})
    eventually(lambda: len(stored()) == 2)
    waiting = "notification.email.queue.retry.1"
    eventually(lambda: channel.queue_declare(waiting, passive=True).method.message_count == 1)
    publish(channel, 3, headers={"x-payment-status": "succeeded"})
    eventually(lambda: len(stored()) == 3)
    mail_server.on_data = "250 OK"
    eventually(lambda: len(mail_server.mails) == 3)
    assert len({mail["Message-ID"] for mail in mail_server.mails}) == 3
