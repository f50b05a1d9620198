"""What members of a Spring Cloud Bus say, and whom they mean.

Source: `org.springframework.cloud.bus.event`, DefaultBusPathMatcher, PathServiceMatcher and
PathDestinationFactory of Spring Cloud Bus 4.1, IdUtils of Spring Cloud Commons.
"""

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final, Self

import orjson

from cloud.config import Properties

REFRESH: Final = "RefreshRemoteApplicationEvent"
ENVIRONMENT: Final = "EnvironmentChangeRemoteApplicationEvent"
ACK: Final = "AckRemoteApplicationEvent"

EVERYBODY: Final = "**"

_CLASSES: Final = "org.springframework.cloud.bus.event"
_FIELDS: Final = ("type", "timestamp", "originService", "destinationService", "id")


@dataclass(frozen=True, slots=True)
class Event:
    """One message, in the order in which Spring writes its fields.

    Attributes:
        type: the Java class, without its package.
        timestamp: milliseconds since 1970.
        origin: the bus id of who said it.
        destination: a pattern of bus ids.
        more: the fields that only this type has: `values`, or `ackId` and its like.
    """

    type: str
    timestamp: int
    origin: str
    destination: str | None
    id: str
    more: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def new(cls, kind: str, origin: str, destination: str, **more: Any) -> Self:
        """Say something now."""
        stamp = int(time.time() * 1000)
        return cls(kind, stamp, origin, destination, str(uuid.uuid4()), more)

    @classmethod
    def load(cls, body: bytes | str) -> Self:
        """Read a message; any type is taken.

        Raises:
            ValueError: it is none.
        """
        told = orjson.loads(body)
        if not isinstance(told, dict) or not isinstance(told.get("type"), str):
            raise ValueError("no event of a bus")  # noqa: TRY004 - of the message, not the code
        more = {key: value for key, value in told.items() if key not in _FIELDS}
        _, stamp, origin, destination, number = (told.get(key) for key in _FIELDS)
        return cls(
            told["type"], stamp or 0, str(origin or ""), destination, str(number or ""), more
        )

    def dump(self) -> bytes:
        """Write it as Jackson does: no blanks, fields in Spring's order."""
        own = (self.type, self.timestamp, self.origin, self.destination, self.id)
        return orjson.dumps({**dict(zip(_FIELDS, own, strict=True)), **self.more})

    def acknowledged(self, by: str, to: str) -> "Event":
        """Build the answer that it was heard and acted upon."""
        return Event.new(
            ACK,
            by,
            to,
            ackId=self.id,
            ackDestinationService=self.destination,
            event=f"{_CLASSES}.{self.type}",
        )


def bus_id(properties: Properties) -> str:
    """Name this instance on the bus: `application[:profiles]:index:random`, or as configured.

    The random part is the same in all processes of the instance, and in none of another.
    """
    if given := properties.get("spring.cloud.bus.id"):
        return given
    name = properties.get("vcap.application.name")
    if not name:
        profiles = ",".join(properties.listing("spring.profiles.active"))
        name = f"{properties.application}:{profiles}" if profiles else properties.application
    indexes = ("vcap.application.instance_index", "spring.application.index", "server.port")
    index = next((found for key in indexes if (found := properties.get(key))), "8080")
    number = properties.get("vcap.application.instance_id") or properties.get("random.value")
    return f"{name}:{index}:{number}"


def destination_of(path: str | None) -> str:
    """Complete what a caller gave: `svc` and `svc:8080` mean all below, nothing means everybody."""
    if not path or path == EVERYBODY:
        return EVERYBODY
    return path if path.count(":") > 1 or path.endswith(":**") else f"{path}:**"


def is_meant(destination: str | None, own_id: str, config_names: Sequence[str] = ()) -> bool:
    """Tell whether the destination means the instance of this bus id.

    Args:
        destination: parts between colons; `*` and `?` stand for characters of a part, `**` for
            any number of parts. None or blank is everybody.
        own_id: several profiles in it, behind commas, count each by itself.
        config_names: `spring.cloud.config.name`; they count as names of the instance, too.
    """
    if not destination or not destination.strip():
        return True
    wanted = destination.split(":")
    return any(_matches(wanted, name.split(":")) for name in _names(own_id, config_names))


def _names(own_id: str, config_names: Sequence[str]) -> Iterator[str]:
    _, colon, rest = own_id.partition(":")
    for name in (own_id, *(f"{config}{colon}{rest}" for config in config_names)):
        yield name
        parts = name.split(":")
        if len(parts) > 1 and "," in parts[1]:
            for profile in parts[1].split(","):
                yield ":".join((parts[0], profile.strip(), *parts[2:]))


def _matches(wanted: Sequence[str], parts: Sequence[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == EVERYBODY:
        return any(_matches(wanted[1:], parts[skipped:]) for skipped in range(len(parts) + 1))
    return bool(parts and _glob(wanted[0]).match(parts[0]) and _matches(wanted[1:], parts[1:]))


@lru_cache(64)
def _glob(part: str) -> re.Pattern[str]:
    return re.compile(translate(part.replace("[", "[[]")))
