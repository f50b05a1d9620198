"""What customer does beside its answers: its tables, records and memberships from events."""

from collections.abc import Callable, Mapping
from functools import partial
from threading import Event
from typing import Final

import structlog
from sqlalchemy import Engine

from cloud import client, schedule
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.messaging import Consumer, Delivery, RabbitSettings, rabbit
from cloud.messaging.relay import Relay
from cloud.outage import Outage
from cloud.server.companions import alone
from cloud.stores import postgres
from customer import consumers
from customer.clients import PaymentClient
from customer.events import EXCHANGE
from customer.settings import Settings
from customer.store import SqlCustomers, SqlMemberships, outbox

log = structlog.get_logger()

# What is consumed, and from where; for who looks at dead letters too.
QUEUES: Final = {
    consumers.QUEUE: consumers.BINDINGS,
    consumers.PAYMENT_QUEUE: consumers.PAYMENT_BINDINGS,
}


def prepare(environment: Environment) -> None:
    """Bring the tables up to date."""
    engine = postgres.engine(environment.properties)
    postgres.migrate(engine, "customer")
    engine.dispose()


def consumer(environment: Environment, stop: Event) -> None:
    """Give every new user his record, until `stop`."""
    records = SqlCustomers(_engine(environment, stop))
    handle = partial(consumers.user_created, customers=records, now=utc_now)
    _consume(environment, consumers.QUEUE, handle, stop)


def cashier(environment: Environment, stop: Event) -> None:
    """Let memberships follow payments, until `stop`."""
    settings = Settings.of(environment.properties)
    sale = consumers.Sale(
        memberships=SqlMemberships(_engine(environment, stop)),
        payments=PaymentClient(client.shared("payment-service", environment)),
        plans=settings.plans,
        trusted=settings.trust_payment_events,
        now=utc_now,
    )
    handle = partial(consumers.payment_told, sale=sale)
    _consume(environment, consumers.PAYMENT_QUEUE, handle, stop)


def _engine(environment: Environment, stop: Event) -> Engine:
    engine = postgres.engine(environment.properties)
    postgres.await_tables(engine, "customer", stop)
    return engine


def _consume(
    environment: Environment, queue: str, handle: Callable[[Delivery], None], stop: Event
) -> None:
    settings = RabbitSettings.of(environment.properties)
    prefetch = Settings.of(environment.properties).prefetch
    bindings = QUEUES[queue]
    Consumer(settings, queue=queue, bindings=bindings, handle=handle, prefetch=prefetch).run(stop)


def relay(environment: Environment, stop: Event) -> None:
    """Carry events from the outbox to RabbitMQ, until `stop`."""
    properties = environment.properties
    engine, settings = _engine(environment, stop), RabbitSettings.of(properties)
    declared = (rabbit.exchange(EXCHANGE),)
    Relay(engine, outbox, settings, properties.application, declared).run(stop)


def sweeper(environment: Environment, stop: Event) -> None:
    """End memberships whose time has come, until `stop`."""
    memberships = SqlMemberships(_engine(environment, stop))
    every = Settings.of(environment.properties).sweep_interval
    schedule.repeats(sweeper, every)
    database = Outage("database")
    while not stop.is_set():
        try:
            if ended := memberships.end_expired(utc_now()):
                log.info("memberships_ended", count=ended)
            database.back()
            stop.wait(every.total_seconds())
        except UnavailableError as error:
            database.away(error, stop)


CHORES: Mapping[str, Callable[[Environment, Event], None]] = {
    "consumer": consumer,
    "cashier": cashier,
    "relay": relay,
    "sweeper": sweeper,
}

if __name__ == "__main__":
    alone("customer", CHORES)
