"""The other processes of customer: its tables, and the custodian of records and memberships."""

import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from threading import Event

import structlog
from sqlalchemy import Engine

from cloud import client, logging, tracing
from cloud.clock import utc_now
from cloud.config import Environment, environment
from cloud.errors import UnavailableError
from cloud.messaging import Consumer, Delivery, RabbitSettings, rabbit
from cloud.messaging.relay import Relay
from cloud.stores import postgres
from customer import consumers
from customer.clients import PaymentClient
from customer.events import EXCHANGE
from customer.settings import Settings
from customer.store import SqlCustomers, SqlMemberships, outbox

log = structlog.get_logger()


def prepare(environment: Environment) -> None:
    """Bring the tables up to date."""
    engine = postgres.engine(environment.properties)
    postgres.migrate(engine, "customer")
    engine.dispose()


def consumer(environment: Environment, stop: Event) -> None:
    """Give every new user his record, until `stop`."""
    records = SqlCustomers(postgres.engine(environment.properties))
    handle = partial(consumers.user_created, customers=records, now=utc_now)
    _consume(environment, consumers.QUEUE, consumers.BINDINGS, handle, stop)


def cashier(environment: Environment, stop: Event) -> None:
    """Let memberships follow payments, until `stop`."""
    settings = Settings.of(environment.properties)
    sale = consumers.Sale(
        memberships=SqlMemberships(postgres.engine(environment.properties)),
        payments=PaymentClient(client.shared("payment-service", environment)),
        plans=settings.plans,
        trusted=settings.trust_payment_events,
        now=utc_now,
    )
    handle = partial(consumers.payment_told, sale=sale)
    _consume(environment, consumers.PAYMENT_QUEUE, consumers.PAYMENT_BINDINGS, handle, stop)


def _consume(
    environment: Environment,
    queue: str,
    bindings: Iterable[tuple[str, str]],
    handle: Callable[[Delivery], None],
    stop: Event,
) -> None:
    settings = RabbitSettings.of(environment.properties)
    prefetch = Settings.of(environment.properties).prefetch
    Consumer(settings, queue=queue, bindings=bindings, handle=handle, prefetch=prefetch).run(stop)


def relay(environment: Environment, stop: Event) -> None:
    """Carry events from the outbox to RabbitMQ, until `stop`."""
    properties = environment.properties
    engine, settings = postgres.engine(properties), RabbitSettings.of(properties)
    declared = (rabbit.exchange(EXCHANGE),)
    Relay(engine, outbox, settings, properties.application, declared).run(stop)


def sweeper(environment: Environment, stop: Event) -> None:
    """End memberships whose time has come, until `stop`."""
    memberships = SqlMemberships(postgres.engine(environment.properties))
    every = Settings.of(environment.properties).sweep_interval.total_seconds()
    database = rabbit.Outage("database")
    while not stop.is_set():
        try:
            if ended := memberships.end_expired(utc_now()):
                log.info("memberships_ended", count=ended)
            database.back()
            stop.wait(every)
        except UnavailableError as error:
            database.away(error, stop)


def custodian(environment: Environment, stop: Event) -> None:
    """Do all of it, in threads of one process: each further process would cost its memory.

    When one of them fails the others are stopped too, and the arbiter starts all again.
    """
    _await_tables(postgres.engine(environment.properties), stop)
    works = consumer, cashier, relay, sweeper
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, environment, stop) for work in works]
        wait(running, return_when=FIRST_EXCEPTION)
        stop.set()
    for one in running:
        one.result()


def _await_tables(engine: Engine, stop: Event) -> None:
    """Wait for the database, and for its tables, which `prepare` makes."""
    database = rabbit.Outage("database")
    while not stop.is_set():
        try:
            if postgres.migrated(engine, "customer"):
                return
            stop.wait(1.0)
        except UnavailableError as error:
            database.away(error, stop)


COMPANIONS: Mapping[str, Callable[[Environment, Event], None]] = {"custodian": custodian}


def main(name: str) -> None:
    """Run one of them alone, until SIGTERM or Ctrl-C."""
    own, stop = environment("customer"), Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.configure(own.properties, name)
    tracing.configure(own.properties)
    COMPANIONS[name](own, stop)


if __name__ == "__main__":
    main(sys.argv[1])
