"""What identity does beside its answers: tables and seeds, events out and in, Redis in step."""

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from secrets import token_urlsafe
from threading import Event
from typing import Final

import structlog
from redis import RedisError
from sqlalchemy import Engine

from cloud import schedule
from cloud.breaker import Breakers
from cloud.clock import Clock, utc_now
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.messaging import Consumer, RabbitSettings, rabbit
from cloud.messaging.relay import Relay
from cloud.outage import Outage
from cloud.server.companions import alone
from cloud.stores import postgres, redis
from identity import consumers
from identity.events import EXCHANGE, NOTICES
from identity.service import Passwords
from identity.settings import Settings
from identity.store import (
    ADMIN,
    RedisLive,
    SqlMemberships,
    catch_up,
    outbox,
    purge,
    seed,
    seed_admin,
)

log = structlog.get_logger()

# What is consumed, and from where; for who looks at dead letters too.
QUEUES: Final = {consumers.QUEUE: consumers.BINDINGS}
_LOOK_AROUND: Final = timedelta(seconds=2)


def prepare(environment: Environment) -> None:
    """Bring the tables up to date and add what is missing in them."""
    engine = postgres.engine(environment.properties)
    try:
        postgres.migrate(engine, "identity")
        if seed(engine, utc_now()):
            _add_admin(engine, Settings.of(environment.properties))
    finally:
        engine.dispose()


def _add_admin(engine: Engine, settings: Settings) -> None:
    password = settings.initial_password or token_urlsafe(18)
    passwords = Passwords(
        settings.bcrypt_cost, parallel=1, waiting=0, patience=settings.bcrypt_patience
    )
    if seed_admin(engine, passwords.hash(password), utc_now()):
        log.info("admin_created", username=ADMIN)
        if settings.initial_password is None:
            # The only time that it is seen, and not through the log, which is kept and shipped.
            sys.stderr.write(f"identity: password of {ADMIN}, shown only now: {password}\n")
            sys.stderr.flush()


def relay(environment: Environment, stop: Event) -> None:
    """Carry events from the outbox to RabbitMQ."""
    properties = environment.properties
    engine, settings = postgres.engine(properties), RabbitSettings.of(properties)
    declared = rabbit.exchange(EXCHANGE), rabbit.exchange(NOTICES)
    postgres.await_tables(engine, "identity", stop)
    Relay(engine, outbox, settings, properties.application, declared).run(stop)


def consumer(environment: Environment, stop: Event) -> None:
    """Let role VIP follow memberships."""
    properties = environment.properties
    engine, client = postgres.engine(properties), redis.client(properties)
    handle = partial(
        consumers.membership_changed,
        memberships=SqlMemberships(engine),
        live=RedisLive(client, Breakers(properties).get("redis")),
        now=utc_now,
    )
    settings = RabbitSettings.of(properties)
    postgres.await_tables(engine, "identity", stop)
    Consumer(settings, queue=consumers.QUEUE, bindings=consumers.BINDINGS, handle=handle).run(stop)


def upkeep(environment: Environment, stop: Event, now: Clock = utc_now) -> None:
    """Keep Redis in step with the tables, and sweep out of them what has expired."""
    properties = environment.properties
    engine, client = postgres.engine(properties), redis.client(properties)
    every = Settings.of(properties).purge_interval
    schedule.repeats(purge, every)
    neighbours, swept = Outage("redis or database", longest=_LOOK_AROUND), None
    postgres.await_tables(engine, "identity", stop)
    while not stop.is_set():
        try:
            catch_up(engine, client, now())
            if swept is None or now() - swept >= every:
                started = now()
                log.info("purged", rows=purge(engine, started))
                swept = started
            neighbours.back()
            stop.wait(_LOOK_AROUND.total_seconds())
        except (RedisError, UnavailableError) as error:
            neighbours.away(error, stop)


CHORES: Mapping[str, Callable[[Environment, Event], None]] = {
    "relay": relay,
    "consumer": consumer,
    "upkeep": upkeep,
}

if __name__ == "__main__":
    alone("identity", CHORES)
