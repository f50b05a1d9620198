"""Events between houses: the outbox and its relay on one side, the consumer on the other.

Every event arrives at least once: publishers keep it until the broker has confirmed it, consumers
acknowledge it after their work is stored. What a house must add is a key to recognise a double by.

`cloud.messaging.relay` and `.outbox` stand for themselves: who only consumes loads no SQL.
"""

from cloud.messaging.consumer import Consumer, Delivery, Hopeless, Later
from cloud.messaging.event import Event
from cloud.messaging.rabbit import RabbitSettings

__all__ = ["Consumer", "Delivery", "Event", "Hopeless", "Later", "RabbitSettings"]
