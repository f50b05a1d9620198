"""What payment does beside its answers: migrations, its outbox's relay, the provider's clerk."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from threading import Event
from typing import Any, Final

from opentelemetry.trace import SpanKind
from sqlalchemy import Engine

from cloud import schedule, tracing
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.messaging import RabbitSettings, rabbit
from cloud.messaging.relay import Relay
from cloud.outage import Outage
from cloud.server.companions import alone
from cloud.stores import postgres
from payment import service
from payment.app import provider
from payment.domain import ForgedEventError
from payment.events import EXCHANGE, JVM_EXCHANGE
from payment.schema import dump_event, parse_event, sign
from payment.settings import Settings
from payment.store import Sandbox, SqlKeys, SqlLimits, SqlTransactions, messages

# A JVM consumer binds its queue to its own exchange; what we publish reaches both.
_TOPOLOGY: Final = (
    rabbit.exchange(EXCHANGE),
    rabbit.exchange(JVM_EXCHANGE),
    rabbit.exchange_binding(EXCHANGE, JVM_EXCHANGE),
)
_RECONCILE_EVERY: Final = timedelta(seconds=30)
_PURGE_EVERY: Final = timedelta(hours=1)
_EVENTS_KEPT: Final = timedelta(days=30)
_LOOK_AROUND: Final = timedelta(seconds=5)
_STOP_SEEN: Final = timedelta(seconds=1)


def prepare(environment: Environment) -> None:
    """Bring the tables up to date."""
    engine = postgres.engine(environment.properties)
    postgres.migrate(engine, "payment")
    engine.dispose()


def relay(environment: Environment, stop: Event) -> None:
    """Carry events from the outbox to RabbitMQ."""
    properties = environment.properties
    engine = postgres.engine(properties)
    postgres.await_tables(engine, "payment", stop)
    settings = RabbitSettings.of(properties)
    Relay(engine, messages, settings, properties.application, _TOPOLOGY).run(stop)


def tell(collector: Sandbox, transactions: SqlTransactions) -> int:
    """Bring every verdict in by the provider's door, in the trace of its request.

    A crash after `receive` brings the same event once more, which then changes nothing.
    """
    ripe, secret = collector.due(now=utc_now()), secrets.token_hex()
    for verdict, context in ripe:
        tracing.correlation_id.set(context.get(tracing.CORRELATION))
        parent = tracing.extract(context)
        with tracing.span("sandbox event", SpanKind.INTERNAL, parent=parent):
            raw, now = dump_event(verdict), utc_now()
            notice = parse_event(raw, sign(raw, secret, now=now), secret, now=now)
            with suppress(ForgedEventError):  # told to the log; nobody could send a better one
                service.receive(notice, transactions=transactions, now=now)
            collector.told(verdict.transaction_id, now=utc_now())
    tracing.correlation_id.set(None)
    return len(ripe)


def clerk(environment: Environment, stop: Event) -> None:
    """Find out what nobody told: old pending payments, open refunds; forget what is over.

    For the sandbox it is also the messenger, who brings its events in.
    """
    settings = Settings.of(environment.properties)
    engine = postgres.engine(environment.properties)
    postgres.await_tables(engine, "payment", stop)
    collector = provider(environment, settings, engine)
    transactions, database = SqlTransactions(engine), Outage("database")
    rounds = _Rounds(settings, engine, collector, transactions)
    while not stop.is_set():
        try:
            with _waiting(collector, stop) as wait:
                database.back()
                while not stop.is_set():
                    if isinstance(collector, Sandbox):
                        tell(collector, transactions)
                    _rest(collector, rounds.make(), wait, stop)
        except UnavailableError as error:
            database.away(error, stop)


class _Rounds:
    """What the clerk does from time to time."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        collector: service.Provider | None,
        transactions: SqlTransactions,
    ) -> None:
        self._settings, self._engine = settings, engine
        self._collector, self._transactions = collector, transactions
        self._reconcile_at = self._purge_at = utc_now()
        self._reconcile_every = min(settings.reconcile_after / 2, _RECONCILE_EVERY)
        schedule.repeats(purge, _PURGE_EVERY)
        if collector is not None:
            schedule.repeats(service.reconcile, self._reconcile_every)

    def make(self) -> datetime:
        """Do what is due; tell when something will be again."""
        now = utc_now()
        after = self._settings.reconcile_after
        if self._collector is not None and now >= self._reconcile_at:
            self._reconcile_at = now + self._reconcile_every
            both: Mapping[str, Any] = {
                "transactions": self._transactions,
                "provider": self._collector,
                "after": after,
                "now": utc_now,
            }
            service.reconcile(give_up=self._settings.give_up, **both)
            service.repeat_refunds(**both)
        if now >= self._purge_at:
            self._purge_at = now + _PURGE_EVERY
            purge(self._engine, self._settings, now=now)
        return self._purge_at if self._collector is None else self._reconcile_at


def purge(engine: Engine, settings: Settings, *, now: datetime) -> None:
    """Forget answers of idempotency keys, ids of events, counters and sandbox intents."""
    SqlKeys(engine, settings.claim_lease).purge(before=now - settings.kept_for)
    SqlLimits(engine).purge(before=now - settings.kept_for)
    SqlTransactions(engine).purge_events(before=now - _EVENTS_KEPT)
    Sandbox(engine, settings.sandbox_delay, settings.sandbox_method).purge(
        before=now - _EVENTS_KEPT
    )


@contextmanager
def _waiting(collector: service.Provider | None, stop: Event) -> Iterator[Callable[[float], bool]]:
    """Yield a wait of so many seconds, which a new intent of the sandbox ends early."""
    if isinstance(collector, Sandbox):
        with collector.listening() as wait:
            yield wait
    else:
        yield stop.wait


def _rest(
    collector: service.Provider | None,
    until: datetime,
    wait: Callable[[float], bool],
    stop: Event,
) -> None:
    """Wait until something is due, or is new; a stop is seen within a moment."""
    until = min(until, utc_now() + _LOOK_AROUND)
    if isinstance(collector, Sandbox) and (due := collector.next_due()) is not None:
        until = min(until, due)
    while (left := until - utc_now()) > timedelta() and not stop.is_set():
        if wait(min(left, _STOP_SEEN).total_seconds()):
            return


CHORES: Mapping[str, Callable[[Environment, Event], None]] = {"relay": relay, "clerk": clerk}

if __name__ == "__main__":
    alone("payment", CHORES)
