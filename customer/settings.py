"""Typed settings of the customer service."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from cloud.config import Properties
from cloud.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """One line a property.

    Attributes:
        prefetch: events that a consumer holds unacknowledged at most.
        sweep_interval: how long at most an ended membership goes on as role VIP.
        trust_payment_events: act on a payment event without the word that the money came; else
            payment-service is asked.
        plans: how long one payment for a plan lasts, where the event does not say.
    """

    prefetch: int
    sweep_interval: timedelta
    trust_payment_events: bool
    plans: Mapping[str, timedelta]

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read the settings."""
        return cls(
            prefetch=properties.integer("nozie.customer.prefetch", 50, minimum=1, maximum=1000),
            sweep_interval=properties.duration(
                "nozie.customer.sweep-interval", timedelta(seconds=10)
            ),
            trust_payment_events=properties.boolean(
                "nozie.events.trust-payment-events", default=False
            ),
            plans={
                name: _length(properties, f"nozie.plans.{name}.length")
                for name in properties.tree("nozie.plans")
            },
        )


def _length(properties: Properties, key: str) -> timedelta:
    length = properties.duration(key)
    if length < timedelta(days=1):
        raise ConfigurationError(f"{key} ({properties.origin(key)}) is shorter than 1d")
    return length
