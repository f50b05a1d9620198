"""The last requests of a process, kept for an operator to look at.

Written with every request, read now and then: what it costs and holds is bounded, whatever comes.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Final

CAPACITY: Final = 100

_PER_S: Final = 20.0
_LONGEST_URI: Final = 2000
_LONGEST: Final = 200
_MOST: Final = 50

Field = tuple[str | bytes, str | bytes]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and how it was answered; nothing is masked yet.

    Attributes:
        at: seconds since the epoch, when it came.
        principal: who made it, as far as known.
    """

    at: float
    took_s: float
    method: str
    uri: str
    status: int
    remote: str
    principal: str | None
    request: tuple[Field, ...]
    response: tuple[Field, ...]


class Recent:
    """The last exchanges; all of a calm process, a sample of a busy one. Any thread may use it."""

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = monotonic) -> None:
        self._kept: deque[Exchange] = deque(maxlen=capacity)
        self._capacity = capacity
        self._clock = clock
        self._free = float(capacity)
        self._since = clock()

    def admits(self) -> bool:
        """Tell whether the next one is to be kept: a burst of all that fit, then 20 a second."""
        now = self._clock()
        self._free = min(self._capacity, self._free + (now - self._since) * _PER_S)
        self._since = now
        if self._free < 1:
            return False
        self._free -= 1
        return True

    def keep(
        self,
        method: str,
        uri: str,
        status: int,
        *,
        at: float,
        took_s: float,
        remote: str,
        principal: str | None,
        request: Iterable[Field],
        response: Iterable[Field],
    ) -> None:
        """Keep one, without the rest of fields that are very long; call after `admits`."""
        uri, fields = uri[:_LONGEST_URI], (_cut(request), _cut(response))
        self._kept.append(Exchange(at, took_s, method, uri, status, remote, principal, *fields))

    def list(self) -> list[Exchange]:
        """Return what is kept, the oldest first."""
        return list(self._kept)


def _cut(fields: Iterable[Field]) -> tuple[Field, ...]:
    return tuple((name, value[:_LONGEST]) for name, value in islice(fields, _MOST))


recent: Final = Recent()
"""Of this process."""
