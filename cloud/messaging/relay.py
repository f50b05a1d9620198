"""The relay: carries events from the outbox to the broker.

At least once: a row is deleted after the broker confirmed it, in the transaction that holds its
lock. A relay that dies in between leaves the row, and the same message id goes out again.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from threading import Event as Stop
from typing import Any, Final

import pika
import sqlalchemy as sa
import structlog
from opentelemetry.trace import SpanKind

from cloud import tracing
from cloud.clock import Clock, utc_now
from cloud.errors import UnavailableError
from cloud.messaging import outbox, rabbit
from cloud.messaging.publisher import Message, Publisher
from cloud.messaging.rabbit import Declaration, RabbitSettings
from cloud.outage import Outage
from cloud.stores.postgres import listening

log = structlog.get_logger()

_BATCH: Final = 200
# A notification tells of a new event at once; this is for one that was missed, and for rows whose
# time to be tried again has come. Each look is a transaction, of which an idle instance feels most.
_POLL: Final = timedelta(seconds=3)
# An event that nobody hears is tried again after as long as it has waited so far, an hour at most.
# In an estate without its listener that is for ever; where one appears, `_heard_again` tells.
_LONGEST_REST: Final = timedelta(hours=1)


class Relay:
    """Empties one outbox; as many as one likes may run side by side.

    Only the oldest row of each key is ever taken, and its lock is kept until it is deleted. So two
    relays never hold two events of one key, and the second goes out after the first is confirmed.
    """

    def __init__(
        self,
        engine: sa.Engine,
        table: sa.Table,
        settings: RabbitSettings,
        app_id: str,
        declarations: Iterable[Declaration] = (),
        now: Clock = utc_now,
    ) -> None:
        self._engine = engine
        self._table = table
        self._ready = _oldest_of_each_key(table)
        self._settings = settings
        self._app_id = app_id
        self._declarations = tuple(declarations)
        self._now = now
        # Exchange and routing key of what is not taken: told once, not with every row and try.
        self._unheard: set[tuple[str, str]] = set()
        self._broker = Outage("rabbitmq")
        self._database = Outage("database")

    def run(self, stop: Stop) -> None:
        """Relay until `stop`; a broker or a database that is away is waited for."""
        while not stop.is_set():
            try:
                with Publisher(self._settings, "relay") as publisher:
                    publisher.declare(self._declarations)
                    self._relay(publisher, stop)
            except UnavailableError as error:
                self._database.away(error, stop)
            except rabbit.BROKER_AWAY as error:
                self._broker.away(error, stop)

    def _relay(self, publisher: Publisher, stop: Stop) -> None:
        # Each neighbour is back when it has done its part, not when it lets us in: what fails after
        # each connect must not be tried without a rest.
        with listening(self._engine, outbox.NAME) as notices:
            while not stop.is_set():
                while not stop.is_set() and self._round(publisher):
                    self._broker.back()
                self._database.back()
                publisher.wait(notices.fileno(), _POLL.total_seconds())
                self._broker.back()
                notices.drain()

    def _round(self, publisher: Publisher) -> bool:
        """Publish one batch; tell whether another is ready, of which no notification comes."""
        with self._engine.begin() as db:
            rows = db.execute(self._ready, {"now": self._now()}).all()
            if not rows:
                return False
            verdicts = self._publish(publisher, rows)
            gone = [row for row in rows if verdicts.get(str(row.message_id), "") is None]
            db.execute(sa.delete(self._table).where(self._table.c.id.in_([r.id for r in gone])))
            refused = [row for row in rows if verdicts.get(str(row.message_id))]
            if refused:
                self._put_off(db, refused, verdicts)
            ready = self._heard_again(db, gone)
        # Without a word from the broker there is nothing to go on with: `wait` says what is wrong.
        # With one, even a whole batch of refusals must not keep the rows behind it waiting.
        full = len(rows) == _BATCH and bool(verdicts)
        return ready or full or any(row.followed for row in gone)

    def _publish(
        self, publisher: Publisher, rows: Sequence[sa.Row[Any]]
    ) -> Mapping[str, str | None]:
        with ExitStack() as spans:
            return publisher.publish([self._message(row, spans) for row in rows])

    def _message(self, row: sa.Row[Any], spans: ExitStack) -> Message:
        headers: dict[str, Any] = dict(row.headers)
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.destination.name": row.exchange,
            "messaging.rabbitmq.destination.routing_key": row.routing_key,
            "messaging.message.id": str(row.message_id),
        }
        spans.enter_context(
            tracing.span(
                f"{row.exchange} publish",
                SpanKind.PRODUCER,
                attributes=attributes,
                parent=tracing.extract(headers),
            )
        )
        tracing.inject(headers)
        if row.type_id:
            headers["__TypeId__"] = row.type_id
        properties = pika.BasicProperties(  # type: ignore[no-untyped-call]
            content_type="application/json",
            content_encoding="UTF-8",
            delivery_mode=pika.DeliveryMode.Persistent.value,
            priority=0,
            message_id=str(row.message_id),
            correlation_id=headers.get(tracing.CORRELATION),
            timestamp=int(row.created_at.timestamp()),
            app_id=self._app_id,
            headers=headers,
        )
        return Message(row.exchange, row.routing_key, bytes(row.body), properties)

    def _put_off(
        self, db: sa.Connection, rows: Sequence[sa.Row[Any]], verdicts: Mapping[str, str | None]
    ) -> None:
        """Keep events that nobody hears, or that were refused; later ones of their keys wait."""
        table = self._table
        rest = sa.func.least(
            _LONGEST_REST.total_seconds(), sa.func.power(2, sa.func.least(table.c.attempts, 20))
        )
        retry_at = sa.literal(self._now()) + sa.func.make_interval(0, 0, 0, 0, 0, 0, rest)
        db.execute(
            sa.update(table)
            .where(table.c.id.in_([row.id for row in rows]))
            .values(attempts=table.c.attempts + 1, retry_at=retry_at)
        )
        for row in rows:
            if (row.exchange, row.routing_key) in self._unheard:
                continue
            self._unheard.add((row.exchange, row.routing_key))
            log.error(
                "event_not_taken",
                exchange=row.exchange,
                routing_key=row.routing_key,
                message_id=str(row.message_id),
                attempts=row.attempts + 1,
                reason=verdicts[str(row.message_id)],
            )

    def _heard_again(self, db: sa.Connection, gone: Sequence[sa.Row[Any]]) -> bool:
        """End the rest of what somebody hears now; tell whether anything is ready by that."""
        told = {(row.exchange, row.routing_key, row.attempts > 0) for row in gone}
        again = {(e, key) for e, key, rested in told if rested or (e, key) in self._unheard}
        ready = False
        for exchange, routing_key in again:
            if (exchange, routing_key) in self._unheard:
                self._unheard.remove((exchange, routing_key))
                log.info("event_taken_again", exchange=exchange, routing_key=routing_key)
            table = self._table
            # Those in another relay's hands are being tried anyway; to wait for them could be for
            # one that waits for ours.
            resting = (
                sa.select(table.c.id)
                .where(table.c.exchange == exchange, table.c.routing_key == routing_key)
                .where(table.c.retry_at.is_not(None))
                .with_for_update(skip_locked=True)
            )
            wake = sa.update(table).where(table.c.id.in_(resting)).values(retry_at=None)
            ready = db.execute(wake).rowcount > 0 or ready
        return ready


def _oldest_of_each_key(table: sa.Table) -> sa.Select[Any]:
    """Select what may go out `now`, each with whether a younger one of its key waits behind it."""
    other = table.alias("other")
    of_key = other.c.key == table.c.key
    now = sa.bindparam("now", type_=table.c.retry_at.type)
    due = table.c.retry_at.is_(None) | (table.c.retry_at <= now)
    return (
        sa.select(table, sa.exists().where(of_key, other.c.id > table.c.id).label("followed"))
        .where(~sa.exists().where(of_key, other.c.id < table.c.id), due)
        .order_by(table.c.id)
        .limit(_BATCH)
        .with_for_update(skip_locked=True, of=table)
    )
