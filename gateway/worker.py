"""What the gateway does beside its answers: it drops what is cached once a movie changes."""

from collections.abc import Callable, Mapping
from threading import Event
from typing import Final

import structlog
from redis import RedisError

from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.messaging import Consumer, Delivery, RabbitSettings
from cloud.stores import redis
from gateway.filters.metadata_cache import drop

log = structlog.get_logger(__name__)

QUEUE: Final = "gateway.cache.queue"
CHANGES: Final = ("movie.exchange", "movie.changed")


def evict(environment: Environment, stop: Event) -> None:
    """Drop all cached metadata on every change, whichever title it was.

    Lists, searches, genres and years may hold any title, and changes are rare. One gateway of
    the estate hears each event, and all read the same Redis.
    """
    client = redis.client(environment.properties)

    def handle(delivery: Delivery) -> None:
        try:
            dropped = drop(client)
        except RedisError as error:
            raise UnavailableError("Redis is away") from error
        log.info("cache_dropped", routing_key=delivery.routing_key, keys=dropped)

    settings = RabbitSettings.of(environment.properties)
    Consumer(settings, queue=QUEUE, bindings=[CHANGES], handle=handle).run(stop)


CHORES: Mapping[str, Callable[[Environment, Event], None]] = {"evictor": evict}
