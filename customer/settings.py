"""Typed settings of the customer service."""

from dataclasses import dataclass
from typing import Self

from cloud.config import Properties


@dataclass(frozen=True, slots=True)
class Settings:
    """One line a property.

    Attributes:
        prefetch: events that a consumer holds unacknowledged at most.
    """

    prefetch: int

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read the settings."""
        return cls(
            prefetch=properties.integer("nozie.customer.prefetch", 50, minimum=1, maximum=1000),
        )
