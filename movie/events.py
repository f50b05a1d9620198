"""What movie tells others: that a title changed, for those who keep copies of its answers."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final
from uuid import uuid4

import orjson
import structlog

from cloud import tracing
from cloud.config import Environment
from cloud.envelope import local_date_time

log = structlog.get_logger()

EXCHANGE: Final = "movie.exchange"
CHANGED: Final = "movie.changed"


class Announcer:
    """Publishes after the write, from a thread of its own: no editor waits for the broker.

    An event is a hint: one that is lost (the broker is away, the process ends) costs its hearers
    no more than the time to live of their copies.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        # Its thread starts with the first event, long after the fork.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="announcer")

    def movie_changed(self, movie_id: str, slug: str | None, *, now: datetime) -> None:
        """Tell that a title was created, edited or deleted; a deleted one has no slug."""
        told = {"id": movie_id, "slug": slug, "occurredAt": local_date_time(now)}
        headers: dict[str, str] = {}
        tracing.inject(headers)
        self._pool.submit(self._publish, orjson.dumps(told), headers, int(now.timestamp()))

    def _publish(self, body: bytes, headers: dict[str, str], timestamp: int) -> None:
        # The driver is for the few workers that ever see a change; the others do without.
        import pika  # noqa: PLC0415

        from cloud.messaging import RabbitSettings, rabbit  # noqa: PLC0415
        from cloud.messaging.publisher import Message, Publisher  # noqa: PLC0415

        current = self._environment.properties
        properties = pika.BasicProperties(  # type: ignore[no-untyped-call]
            content_type="application/json",
            content_encoding="UTF-8",
            delivery_mode=pika.DeliveryMode.Persistent.value,
            priority=0,
            message_id=str(uuid4()),
            correlation_id=headers.get(tracing.CORRELATION),
            timestamp=timestamp,
            app_id=current.application,
            headers=headers,
        )
        try:
            with Publisher(RabbitSettings.of(current), "announcer") as publisher:
                publisher.publish([Message(EXCHANGE, CHANGED, body, properties)])
        except rabbit.BROKER_AWAY as error:
            log.warning("event_lost", routing_key=CHANGED, reason=str(error))
        except Exception:
            log.exception("event_lost", routing_key=CHANGED)
