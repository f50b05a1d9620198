"""What other houses tell, on the real broker, document store and Redis."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloud.clock import utc_now
from cloud.config import Environment
from cloud.messaging import Delivery, Hopeless, Later
from notification import consumers, worker
from notification.domain import UndecidedPaymentError
from tests.notification.events import EVENT, OURS, publish
from tests.waiting import eventually, running

QUEUE = "payment.notification.queue"


def delivery(body: Any, headers=None, attempt: int = 0) -> Delivery:
    raw = body if isinstance(body, bytes) else json.dumps(body, default=float).encode()
    return Delivery(raw, headers or {}, None, "payment.succeeded", attempt)


def on_payment(one: Delivery, deps: Any) -> None:
    (verdict,) = consumers.on_payments([one], deps)
    if verdict is not None:
        raise verdict


def test_a_payment_is_told_to_its_buyer(deps, stored):
    on_payment(delivery(EVENT, OURS), deps)
    assert stored() == [
        {
            "user_id": 7,
            "customer_id": 1,
            "type": "purchase",
            "title": "Purchase complete",
            "description": "We received your payment of 10.0 USD. Your film is ready to watch.",
            "deep_link": "movie:abc",
            "metadata": {"movieId": "abc", "transactionId": 7},
            "dedup_key": "7",
            "read": False,
        }
    ]


def test_an_amount_keeps_its_decimals(deps, stored):
    raw = b'{"transactionId":7,"customerId":1,"movieId":"a","amount":10.00,"currency":"usd"}'
    on_payment(delivery(raw, OURS), deps)
    assert "10.00 USD" in stored()[0]["description"]


def test_an_event_seen_twice_changes_nothing(deps, stored, neighbours):
    for attempt in range(3):
        on_payment(delivery(EVENT, OURS, attempt), deps)
    assert len(stored()) == 1
    assert not neighbours.asked, "our own publisher's word needs no second look"


@pytest.mark.parametrize(
    ("transaction", "attempt", "told"),
    [
        pytest.param(11, 0, 1, id="succeeded"),
        pytest.param(12, 0, None, id="pending: to be asked again"),
        pytest.param(12, 4, 0, id="pending to the last"),
        pytest.param(13, 0, 0, id="failed"),
        pytest.param(99, 0, 0, id="unknown"),
    ],
)
def test_a_jvm_publishers_event_counts_when_the_payment_succeeded(
    transaction, attempt, told, deps, stored
):
    """It tells of a payment that was only created, without any header of ours."""
    body = {**EVENT, "transactionId": transaction, "userId": None}
    if told is None:
        with pytest.raises(UndecidedPaymentError):
            on_payment(delivery(body, attempt=attempt), deps)
    else:
        on_payment(delivery(body, attempt=attempt), deps)
    assert len(stored()) == (told or 0)


def test_without_a_payment_service_to_ask_the_event_comes_again(deps, neighbours, stored):
    neighbours.broken = True
    with pytest.raises(UndecidedPaymentError):
        on_payment(delivery(EVENT), deps)
    assert stored() == []


def test_a_slow_payment_service_does_not_keep_the_others_of_a_batch(deps, neighbours, stored):
    """What there was no time to ask for comes back soon, and that counts as no attempt."""
    moments = iter(utc_now() + timedelta(seconds=4 * number) for number in range(100))
    slow = replace(deps, now=lambda: next(moments))
    jvm = [delivery({**EVENT, "transactionId": 11}) for _ in range(6)]
    verdicts = consumers.on_payments([*jvm, delivery(EVENT, OURS)], slow)
    assert [type(verdict) for verdict in verdicts] == [type(None)] * 3 + [Later] * 3 + [type(None)]
    assert len(neighbours.asked) == 3
    assert len(stored()) == 2


def test_a_trusting_estate_asks_nobody(deps, neighbours, stored):
    trusting = replace(deps, settings=replace(deps.settings, trust_payment_events=True))
    on_payment(delivery(EVENT), trusting)
    assert len(stored()) == 1
    assert not neighbours.asked


@pytest.mark.parametrize(
    ("use", "body"),
    [
        pytest.param(on_payment, b"\xff\xfe", id="no text"),
        pytest.param(on_payment, b"{", id="no JSON"),
        pytest.param(on_payment, b"[" * 100_000, id="nests too deep"),
        pytest.param(on_payment, b"[]", id="no object"),
        pytest.param(on_payment, {"customerId": 1}, id="no transaction"),
        pytest.param(on_payment, {"transactionId": 2**64}, id="beyond a long"),
        pytest.param(on_payment, {"transactionId": 1}, id="nobody to tell"),
        pytest.param(on_payment, b'{"transactionId":1,"customerId":1,"amount":NaN}', id="NaN"),
        pytest.param(on_payment, {**EVENT, "movieId": "x" * 256}, id="a movie too long"),
        pytest.param(
            consumers.on_requested,
            {"channel": "email", "template": "otp", "dedupKey": "1", "params": {"code": 2**64}},
            id="a number that no letter carries",
        ),
        pytest.param(consumers.on_user_created, {"username": "ann"}, id="a user without id"),
        pytest.param(consumers.on_requested, {"channel": "inapp"}, id="a notice without template"),
    ],
)
def test_a_poison_message_is_hopeless(use, body, deps, stored):
    with pytest.raises(Hopeless):
        use(delivery(body, OURS), deps)
    assert stored() == []


def test_a_new_user_is_greeted_once(deps, stored):
    for _ in range(2):
        consumers.on_user_created(delivery({"userId": 5, "username": "carl"}), deps)
    assert [(each["user_id"], each["title"]) for each in stored()] == [
        (5, "Welcome to Nozie, carl")
    ]


def test_a_requested_notice_is_worded_once_and_an_unknown_one_is_hopeless(deps, stored):
    notice: dict[str, Any] = {
        "userId": 7,
        "customerId": None,
        "channel": "email",
        "template": "security-refresh-token-reuse",
        "to": "ann@example.org",
        "params": {},
        "dedupKey": "security-refresh-token-reuse:1",
    }
    for _ in range(2):
        consumers.on_requested(delivery(notice), deps)
    for wrong in ({"template": "another"}, {"channel": "pigeon"}):
        with pytest.raises(Hopeless, match=r"no (template|channel)"):
            consumers.on_requested(delivery({**notice, **wrong}), deps)
    assert [each["type"] for each in stored()] == ["system"]


# On the broker.


def test_either_publisher_is_heard_once(environment, on_broker, channel, stored):
    with running(Environment(on_broker), worker.consumer):
        eventually(lambda: publish(channel, 1))
        publish(channel, 2, "payment.exchange")
        publish(channel, 11, "payment.exchange", None)
        publish(channel, 2)
        eventually(lambda: len(stored()) == 3)
        publish(channel, 4)
        eventually(lambda: len(stored()) == 4)
    assert sorted(int(each["dedup_key"]) for each in stored()) == [1, 2, 4, 11]


def test_a_poison_message_does_not_hold_up_the_next(environment, on_broker, channel, stored):
    with running(Environment(on_broker), worker.consumer):
        eventually(lambda: publish(channel, 1))
        for _ in range(10):
            channel.basic_publish("payment.exchange", "payment.succeeded", b"\xff")
        publish(channel, 2)
        eventually(lambda: len(stored()) == 2)
        dead = f"{QUEUE}.dlq"
        eventually(lambda: channel.queue_declare(dead, passive=True).method.message_count == 10)


def more_than(stored, number: int) -> bool:
    return len(stored()) > number


def test_killed_consumers_lose_and_double_nothing(environment, on_broker, channel, stored):
    """Each life ends by kill -9, wherever it is between store and acknowledgement."""
    values = json.dumps(dict(on_broker.subset("")))
    command = [sys.executable, "-m", "notification.worker", "consumer"]
    house = Path(worker.__file__).parents[1]
    told = {
        **os.environ,  # noqa: TID251 - the process's own surroundings
        "SPRING_APPLICATION_JSON": values,
        "SPRING_CLOUD_CONFIG_ENABLED": "false",
        "SPRING_CONFIG_IMPORT": "optional:configserver:http://127.0.0.1:1",
        "SPRING_PROFILES_ACTIVE": "test",
    }
    for life in range(5):
        process = subprocess.Popen(  # noqa: S603 - our own module
            command, cwd=house, env=told, stdout=subprocess.DEVNULL
        )
        try:
            eventually(partial(publish, channel, life * 100))
            for number in range(1, 40):
                publish(channel, life * 100 + number)
            eventually(partial(more_than, stored, life * 30))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    with running(Environment(on_broker), worker.consumer):
        eventually(lambda: len(stored()) == 200)
    assert len({each["dedup_key"] for each in stored()}) == 200
