"""What movie announces, on a real broker."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cloud.config import Environment
from cloud.testing import properties
from movie.events import CHANGED, EXCHANGE, Announcer
from tests.waiting import eventually

NOW = datetime(2026, 7, 1, 12, 30, 15, 250_000, tzinfo=UTC)


@pytest.mark.parametrize("slug", ["a-film", None], ids=["written", "deleted"])
def test_a_change_is_announced(amqp, channel, slug):
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    channel.queue_declare("hears")
    channel.queue_bind("hears", EXCHANGE, CHANGED)
    Announcer(Environment(properties("movie-service", amqp))).movie_changed("65b9", slug, now=NOW)
    heard: list[Any] = []

    def arrived() -> bool:
        method, told, body = channel.basic_get("hears", auto_ack=True)
        heard[:] = [told, body]
        return method is not None

    eventually(arrived)
    told, body = heard
    assert json.loads(body) == {
        "id": "65b9",
        "slug": slug,
        "occurredAt": "2026-07-01T12:30:15.250000",
    }
    assert (told.content_type, told.delivery_mode, told.app_id) == (
        "application/json",
        2,
        "movie-service",
    )
    assert told.message_id


def test_an_absent_broker_disturbs_nobody(capsys):
    absent = {"spring.rabbitmq.host": "127.0.0.1", "spring.rabbitmq.port": "1"}
    announcer = Announcer(Environment(properties("movie-service", absent)))
    announcer.movie_changed("65b9", "a-film", now=NOW)
    announcer._pool.shutdown()  # noqa: SLF001 - waits for the thread
    assert "event_lost" in capsys.readouterr().out
