"""An event on its way to the broker."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, told to whoever listens.

    Attributes:
        exchange: declared by the publisher, a durable topic exchange.
        routing_key: what the event is, `payment.succeeded`.
        body: JSON, UTF-8.
        key: events of one key are published in the order in which they were put.
        type_id: `__TypeId__` for a JVM neighbour's converter; None writes no such header.
        headers: further headers of the message.
    """

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    key: str
    type_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
