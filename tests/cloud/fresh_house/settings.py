"""Typed settings, one of which can be wrong."""

from dataclasses import dataclass

from cloud.config import Properties


@dataclass(frozen=True)
class Settings:
    greeting: str
    limit: int

    @classmethod
    def of(cls, properties: Properties) -> "Settings":
        return cls(
            properties.text("fresh.greeting", "hello"),
            properties.integer("fresh.limit", 1, minimum=1),
        )
