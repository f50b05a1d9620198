"""The other processes of customer: its tables, and the consumer of identity's events."""

import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from threading import Event

from cloud import logging, tracing
from cloud.clock import utc_now
from cloud.config import Environment, environment
from cloud.messaging import Consumer, RabbitSettings
from cloud.stores import postgres
from customer import consumers
from customer.settings import Settings
from customer.store import SqlCustomers


def prepare(environment: Environment) -> None:
    """Bring the tables up to date."""
    engine = postgres.engine(environment.properties)
    postgres.migrate(engine, "customer")
    engine.dispose()


def consumer(environment: Environment, stop: Event) -> None:
    """Give every new user his record, until `stop`."""
    properties = environment.properties
    records = SqlCustomers(postgres.engine(properties))
    Consumer(
        RabbitSettings.of(properties),
        queue=consumers.QUEUE,
        bindings=consumers.BINDINGS,
        handle=partial(consumers.user_created, customers=records, now=utc_now),
        prefetch=Settings.of(properties).prefetch,
    ).run(stop)


COMPANIONS: Mapping[str, Callable[[Environment, Event], None]] = {"consumer": consumer}


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
