"""Dead letters on the real broker, through the command an operator types."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest

from cloud.config import Properties
from cloud.messaging import RabbitSettings, dead_letters, rabbit

QUEUE = "payment.notification.queue"
DEAD = f"{QUEUE}.dlq"


@pytest.fixture
def settings(amqp) -> RabbitSettings:
    return RabbitSettings.of(Properties.of(amqp, "notification-service"))


@pytest.fixture
def channel(channel) -> Any:
    for queue in (QUEUE, "identity.notification.queue", "notification.requested.queue"):
        for method, arguments in rabbit.work_queue(queue, []):
            getattr(channel, method)(**arguments)
    channel.confirm_delivery()
    return channel


@pytest.fixture
def bury(channel) -> Callable[..., None]:
    def buried(*names: str, **properties: Any) -> None:
        for name in names:
            headers = {
                "x-attempt": 4,
                "x-original-routing-key": "payment.succeeded",
                "x-exception": "Hopeless: no JSON\nat all",
                "traceparent": "kept",
            }
            kept = pika.BasicProperties(message_id=name, headers=headers, **properties)
            channel.basic_publish(rabbit.DEAD_LETTERS, QUEUE, name.encode(), kept, mandatory=True)

    return buried


@pytest.fixture
def run(amqp) -> Callable[..., subprocess.CompletedProcess[str]]:
    told = {
        **os.environ,  # noqa: TID251 - the process's own surroundings
        "SPRING_APPLICATION_JSON": json.dumps(amqp),
        "SPRING_CONFIG_IMPORT": "optional:configserver:http://127.0.0.1:1",
        "SPRING_PROFILES_ACTIVE": "test",
    }

    def typed(*words: str, house: str | None = None) -> subprocess.CompletedProcess[str]:
        program = ["notification.dead_letters"] if house is None else [dead_letters.__name__, house]
        return subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", *program, *words],
            cwd=Path(rabbit.__file__).parents[2],
            env=told,
            capture_output=True,
            text=True,
            check=False,
        )

    return typed


def depth(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_letters_are_listed_and_shown_and_stay(run, bury, channel):
    bury("one", "two")
    listed = run("list", "--queue", QUEUE)
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["one", "two"]
    assert "Hopeless: no JSON\\nat all" in listed.stdout
    shown = json.loads(run("show", "two", "--queue", QUEUE).stdout)
    assert (shown["id"], shown["body"]) == ("two", "two")
    assert shown["headers"]["traceparent"] == "kept"
    assert depth(channel, DEAD) == 2


@pytest.mark.parametrize(
    ("house", "queue"),
    [
        pytest.param("customer", "identity.customer.queue", id="records of customer"),
        pytest.param("customer", "payment.subscription.queue", id="memberships of customer"),
        pytest.param("identity", "customer.identity.queue", id="identity"),
        pytest.param("notification", QUEUE, id="notification"),
    ],
)
def test_every_house_that_consumes_names_its_queues(run, channel, house, queue):
    for method, arguments in rabbit.work_queue(queue, []):
        getattr(channel, method)(**arguments)
    letter = pika.BasicProperties(message_id="one", headers={})
    channel.basic_publish(rabbit.DEAD_LETTERS, queue, b"{}", letter, mandatory=True)
    listed = run("list", house=house)
    assert listed.returncode == 0, listed.stderr
    assert [line.split("\t")[:2] for line in listed.stdout.splitlines()] == [["one", queue]]


def test_a_house_that_consumes_nothing_has_no_letters(run):
    answer = run("list", house="payment")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "consumes nothing" in answer.stderr


def test_one_is_replayed_as_a_first_delivery(run, bury, channel):
    bury("one", "two", "three")
    answer = run("replay", "two", "--queue", QUEUE)
    assert answer.returncode == 0, answer.stderr
    _, properties, body = channel.basic_get(QUEUE, auto_ack=True)
    assert body == b"two"
    assert properties.headers == {
        "x-original-routing-key": "payment.succeeded",
        "traceparent": "kept",
    }
    assert properties.message_id == "two"
    assert depth(channel, DEAD) == 2


def test_all_of_every_queue_are_replayed_or_deleted(run, bury, channel):
    bury("one", "two")
    assert run("replay", "--all").returncode == 0
    assert (depth(channel, QUEUE), depth(channel, DEAD)) == (2, 0)
    bury("three")
    assert run("purge", "--all").returncode == 0
    assert depth(channel, DEAD) == 0


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        pytest.param(("replay",), 2, "--all", id="neither ids nor all"),
        pytest.param(("purge", "x", "--all"), 2, "--all", id="both"),
        pytest.param(("show",), 2, "ids", id="nothing to show"),
        pytest.param(("replay", "x", "--queue", QUEUE), 1, "no such letter: x", id="unknown id"),
        pytest.param(("list", "--queue", "none"), 1, "no queue", id="unknown queue"),
    ],
)
def test_a_command_that_cannot_be_followed_says_so(words, status, told, run, channel):
    answer = run(*words)
    assert answer.returncode == status
    assert told in answer.stderr


def test_help_names_the_commands(run):
    answer = run("--help")
    assert answer.returncode == 0
    for command in ("list", "show", "replay", "purge"):
        assert command in answer.stdout


def test_killed_half_way_a_letter_may_be_doubled_but_is_never_lost(
    settings, bury, channel, monkeypatch
):
    """The connection dies between the copy's confirm and the original's removal."""
    bury("one", "two")
    with dead_letters.opened(settings, QUEUE) as letters:
        first, _second = letters.fetch()
        monkeypatch.setattr(letters, "remove", lambda _: None)  # never reached
        letters.replay(first)
    assert depth(channel, QUEUE) == 1
    assert depth(channel, DEAD) == 2


def test_a_letter_stays_when_its_work_queue_is_gone(settings, bury, channel):
    bury("one")
    channel.queue_delete(QUEUE)
    with dead_letters.opened(settings, QUEUE) as letters:
        (only,) = letters.fetch()
        with pytest.raises(pika.exceptions.UnroutableError):
            letters.replay(only)
    assert depth(channel, DEAD) == 1
