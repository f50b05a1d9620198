"""The other processes of notification: its indexes, and the consumer of what others tell."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any, Final

from cloud.config import Environment
from cloud.messaging import Consumer, RabbitSettings, rabbit
from cloud.server.companions import alone
from cloud.stores import mongo
from notification import consumers
from notification.app import connect
from notification.clients import letters
from notification.domain import CHANNELS
from notification.store import notifications, people

_PAYMENT: Final = "payment-exchange"
_JVM_PAYMENT: Final = "payment.exchange"
# A JVM consumer hears our publisher over this, whoever of the two starts first.
_TOPOLOGY: Final = (
    rabbit.exchange(_PAYMENT),
    rabbit.exchange(_JVM_PAYMENT),
    rabbit.exchange_binding(_PAYMENT, _JVM_PAYMENT),
)
_SUCCEEDED: Final = "payment.succeeded"
QUEUES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "payment.notification.queue": ((_JVM_PAYMENT, _SUCCEEDED), (_PAYMENT, _SUCCEEDED)),
    "identity.notification.queue": (("identity.exchange", "user.created"),),
    "notification.requested.queue": ((letters.EXCHANGE, "notification.requested"),),
    **{letters.queue(channel): letters.bindings(channel) for channel in CHANNELS},
}


def prepare(environment: Environment) -> None:
    """Create the indexes that are not there."""
    database = mongo.database(environment.properties)
    notifications.create_indexes(database)
    people.create_indexes(database)
    database.client.close()


def consumer(environment: Environment, stop: Event) -> None:
    """Consume every queue until `stop`, each in a thread of its own: no channel holds another."""
    deps = connect(environment)
    settings = RabbitSettings.of(environment.properties)
    handlers: dict[str, dict[str, Any]] = {
        "payment.notification.queue": {
            "handle_many": partial(consumers.on_payments, deps=deps),
            "prefetch": deps.settings.prefetch,
            "batch": deps.settings.batch,
        },
        "identity.notification.queue": {"handle": partial(consumers.on_user_created, deps=deps)},
        "notification.requested.queue": {"handle": partial(consumers.on_requested, deps=deps)},
    }
    for channel in deps.channels:
        # Few at once: what one process holds, another cannot deliver meanwhile.
        handlers[letters.queue(channel)] = {
            "handle": partial(consumers.on_letter, deps=deps),
            "prefetch": 10,
        }
    payments, *others = handlers
    with ThreadPoolExecutor(len(others) + deps.settings.consumers, "consumer") as threads:
        running = [
            threads.submit(_consume, settings, queue, handlers[queue], stop)
            for queue in (*others, *[payments] * deps.settings.consumers)
        ]
    for one in running:
        one.result()


def _consume(settings: RabbitSettings, queue: str, options: Mapping[str, Any], stop: Event) -> None:
    declared = (*_TOPOLOGY, *letters.declarations())
    try:
        Consumer(
            settings, queue=queue, bindings=QUEUES[queue], declarations=declared, **options
        ).run(stop)
    finally:
        # One that fails for good ends all: the process is started anew as a whole.
        stop.set()


COMPANIONS: Mapping[str, Callable[[Environment, Event], None]] = {"consumer": consumer}

if __name__ == "__main__":
    alone("notification", COMPANIONS)
