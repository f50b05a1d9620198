"""The other processes of notification: its indexes, and the consumer of what others tell."""

import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Final

from cloud import logging, tracing
from cloud.config import Environment, environment
from cloud.messaging import Consumer, RabbitSettings, rabbit
from cloud.stores import mongo
from notification import consumers
from notification.app import connect
from notification.deps import Deps
from notification.store import create_indexes

_PAYMENT: Final = "payment-exchange"
_JVM_PAYMENT: Final = "payment.exchange"
# A JVM consumer hears our publisher over this, whoever of the two starts first.
_TOPOLOGY: Final = (
    rabbit.exchange(_PAYMENT),
    rabbit.exchange(_JVM_PAYMENT),
    rabbit.exchange_binding(_PAYMENT, _JVM_PAYMENT),
)
_SUCCEEDED: Final = "payment.succeeded"
_Use = Callable[..., None]
QUEUES: Final[Mapping[str, tuple[_Use, tuple[tuple[str, str], ...]]]] = {
    "payment.notification.queue": (
        consumers.on_payment,
        ((_JVM_PAYMENT, _SUCCEEDED), (_PAYMENT, _SUCCEEDED)),
    ),
    "identity.notification.queue": (
        consumers.on_user_created,
        (("identity.exchange", "user.created"),),
    ),
    "notification.requested.queue": (
        consumers.on_requested,
        (("notification.exchange", "notification.requested"),),
    ),
}


def prepare(environment: Environment) -> None:
    """Create the indexes that are not there."""
    database = mongo.database(environment.properties)
    create_indexes(database)
    database.client.close()


def consumer(environment: Environment, stop: Event) -> None:
    """Consume every queue until `stop`, each in a thread of its own."""
    deps = connect(environment)
    settings = RabbitSettings.of(environment.properties)
    with ThreadPoolExecutor(len(QUEUES), "consumer") as threads:
        running = [threads.submit(_consume, settings, queue, deps, stop) for queue in QUEUES]
    for one in running:
        one.result()


def _consume(settings: RabbitSettings, queue: str, deps: Deps, stop: Event) -> None:
    use, bindings = QUEUES[queue]
    try:
        Consumer(
            settings,
            queue=queue,
            bindings=bindings,
            handle=partial(use, deps=deps),
            prefetch=deps.settings.prefetch,
            declarations=_TOPOLOGY,
        ).run(stop)
    finally:
        # One that fails for good ends all: the process is started anew as a whole.
        stop.set()


COMPANIONS: Mapping[str, Callable[[Environment, Event], None]] = {"consumer": consumer}


def main(name: str) -> None:
    """Run one of them alone, until SIGTERM or Ctrl-C."""
    own, stop = environment("notification"), Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.configure(own.properties, name)
    tracing.configure(own.properties)
    COMPANIONS[name](own, stop)


if __name__ == "__main__":
    main(sys.argv[1])
