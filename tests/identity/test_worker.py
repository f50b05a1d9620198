"""The chores, on the real servers."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import redis
from structlog.testing import capture_logs

from cloud import schedule
from cloud.config import Environment, Properties
from identity import worker
from identity.store import EPOCH
from tests.identity.conftest import House, changed, jti
from tests.waiting import eventually, running


def test_a_registration_reaches_those_who_listen(house: House, settings: Properties, amqp, channel):
    environment = changed(settings, amqp)
    channel.exchange_declare("identity.exchange", "topic", durable=True)
    channel.queue_declare("heard")
    channel.queue_bind("heard", "identity.exchange", "user.created")
    made = house.register()
    with running(environment, *worker.CHORES.values()):
        heard: list[Any] = []

        def listen() -> bool:
            heard[:] = channel.basic_get("heard", auto_ack=True)
            return heard[2] is not None

        eventually(listen)
        eventually(lambda: house.rows("SELECT 1 FROM outbox") == [])
    assert orjson.loads(heard[2])["userId"] == made["id"]
    assert heard[1].app_id == "identity-service"


def test_upkeep_fills_a_redis_that_forgot(house: House):
    house.register()
    pair = house.login()
    house.post("logout", {"refreshToken": pair["refreshToken"]})
    key = f"token:blacklist:{jti(pair)}"
    with running(house.environment, *worker.CHORES.values()):
        eventually(lambda: house.redis.exists(EPOCH))
        house.redis.flushdb()
        eventually(lambda: house.redis.exists(EPOCH))
        assert house.redis.exists(key)
    assert "identity.store.purge.purge" in schedule.tasks, "what operators see of it"


@pytest.mark.parametrize("template", ["template1"])
def test_chores_wait_for_the_tables_that_prepare_makes(settings: Properties, redis_url: str):
    client, environment = redis.Redis.from_url(redis_url), Environment(settings)
    with client, running(environment, *worker.CHORES.values()):
        worker.prepare(environment)
        eventually(lambda: client.exists(EPOCH))


@pytest.mark.parametrize("work", worker.CHORES.values())
def test_a_chore_without_a_database_waits_and_can_be_stopped(
    settings: Properties, unused_tcp_port: int, work: Callable[..., None]
):
    away = {"spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{unused_tcp_port}/none"}
    with capture_logs() as said, running(changed(settings, away), work):
        eventually(lambda: said)
    assert {line["event"] for line in said} == {"waiting_for"}


def test_a_sweep_that_broke_off_is_taken_up_again(house: House):
    """The next one after it would be a day away."""
    house.register()
    house.login()
    house.run("UPDATE refresh_tokens SET expires_at = now() - interval '1 day'")
    house.run(
        "CREATE FUNCTION away() RETURNS trigger AS $$ BEGIN"
        " RAISE EXCEPTION 'going down' USING ERRCODE = '57P01'; END $$ LANGUAGE plpgsql"
    )
    house.run(
        "CREATE TRIGGER away BEFORE DELETE ON refresh_tokens FOR EACH ROW EXECUTE FUNCTION away()"
    )
    with capture_logs() as said, running(house.environment, worker.upkeep):
        eventually(lambda: [line for line in said if line["event"] == "waiting_for"])
        house.run("DROP TRIGGER away ON refresh_tokens")
        eventually(lambda: house.rows("SELECT 1 FROM refresh_tokens") == [])
