"""The other processes of payment: migrations, the relay of its outbox, the sandbox provider."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import Event
from typing import Final

import structlog
from opentelemetry.trace import SpanKind

from cloud import tracing
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.messaging import RabbitSettings, Relay, rabbit
from cloud.stores import postgres
from payment import service
from payment.events import EXCHANGE, JVM_EXCHANGE
from payment.settings import Settings
from payment.store import Sandbox, SqlKeys, SqlTransactions, messages

log = structlog.get_logger()

# A JVM consumer binds its queue to its own exchange; what we publish reaches both.
_TOPOLOGY: Final = (
    rabbit.exchange(EXCHANGE),
    rabbit.exchange(JVM_EXCHANGE),
    rabbit.exchange_binding(EXCHANGE, JVM_EXCHANGE),
)
_PURGE_EVERY: Final = timedelta(hours=1)
_LOOK_AROUND: Final = timedelta(seconds=1)


def prepare(environment: Environment) -> None:
    """Bring the tables up to date."""
    engine = postgres.engine(environment.properties)
    postgres.migrate(engine, "payment")
    engine.dispose()


def relay(environment: Environment, stop: Event) -> None:
    """Carry events from the outbox to RabbitMQ."""
    properties = environment.properties
    engine = postgres.engine(properties)
    settings = RabbitSettings.of(properties)
    Relay(engine, messages, settings, properties.application, _TOPOLOGY).run(stop)


def sandbox(environment: Environment, stop: Event) -> None:
    """Decide what the sandbox was asked to collect; forget old idempotency keys on the way."""
    settings = Settings.of(environment.properties)
    engine = postgres.engine(environment.properties)
    provider = Sandbox(engine, settings.sandbox_delay)
    transactions, keys = SqlTransactions(engine), SqlKeys(engine, settings.claim_lease)
    database, purged = rabbit.Outage("database"), utc_now() - _PURGE_EVERY
    while not stop.is_set():
        try:
            with provider.listening() as wait:
                database.back()
                while not stop.is_set():
                    decide(provider, transactions)
                    if utc_now() - purged >= _PURGE_EVERY:
                        purged = utc_now()
                        keys.purge(before=purged - settings.kept_for)
                    wait(_until(provider).total_seconds())
        except UnavailableError as error:
            database.away(error, stop)


def decide(provider: Sandbox, transactions: SqlTransactions) -> int:
    """Deliver every verdict whose time has come, in the trace of its request; return how many.

    A crash after `settle` delivers the verdict once more, which then changes nothing.
    """
    ripe = provider.due(now=utc_now())
    for verdict, context in ripe:
        tracing.correlation_id.set(context.get(tracing.CORRELATION))
        parent = tracing.extract(context)
        with tracing.span("sandbox settle", SpanKind.INTERNAL, parent=parent):
            changed = service.settle(verdict, transactions=transactions, now=utc_now())
            provider.told(verdict.transaction_id, now=utc_now())
            log.info(
                "payment_settled",
                transaction_id=verdict.transaction_id,
                status=verdict.status,
                changed=changed,
            )
    tracing.correlation_id.set(None)
    return len(ripe)


def _until(provider: Sandbox) -> timedelta:
    """Tell how long nothing is due; at most a moment, so that a stop is seen."""
    due = provider.next_due()
    left = _LOOK_AROUND if due is None else due - utc_now()
    return min(max(left, timedelta()), _LOOK_AROUND)


COMPANIONS: Mapping[str, Callable[[Environment, Event], None]] = {
    "relay": relay,
    "sandbox": sandbox,
}
