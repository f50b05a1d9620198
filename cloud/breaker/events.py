"""What happened to a breaker, as Resilience4j tells it: the last events, in a ring."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cloud.errors import CloudError

TYPES = (
    "ERROR",
    "IGNORED_ERROR",
    "SUCCESS",
    "NOT_PERMITTED",
    "STATE_TRANSITION",
    "RESET",
    "FORCED_OPEN",
    "DISABLED",
    "FAILURE_RATE_EXCEEDED",
    "SLOW_CALL_RATE_EXCEEDED",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        type: one of TYPES.
        at: monotonic seconds.
        took_s: of a call that was made.
        error: class and text of what it raised.
        transition: `CLOSED_TO_OPEN`.
    """

    type: str
    at: float
    took_s: float | None = None
    error: str | None = None
    transition: str | None = None


class Events:
    """The last events; adding one costs a tuple."""

    def __init__(self, size: int, held: Iterable[tuple[Any, ...]] = ()) -> None:
        self.held: deque[tuple[Any, ...]] = deque(held, maxlen=size)
        self.add = self.held.append

    def __iter__(self) -> Iterator[Event]:
        return iter([Event(*held) for held in self.held.copy()])


def told(error: BaseException | None) -> str | None:
    """Put an error into words, as `Throwable.toString` does.

    The text of a driver's error may hold an address with a password; ours are safe to show. Kept
    as text, since an exception holds on to all that its frames hold.
    """
    if error is None:
        return None
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{kind}: {error}" if isinstance(error, CloudError) else kind
