"""Which worker accepts the next connection: the one that holds fewest.

All workers wait on one socket, and the kernel wakes whoever it likes. A connection stays where it
was accepted, so a client with few, long-lived ones could keep one core busy and leave the others
idle. Counts lie in memory that all workers of an instance share, and so does who was started last
and who serves, for one that is to end while another takes its place.
"""

import mmap
import struct
import time
from typing import Final

_PLACES: Final = 64
_ENTRY: Final = struct.Struct("=dq")  # when it was told, by the machine's monotonic clock; count
_AGES: Final = struct.Struct("=qq")  # of the youngest that was started, and that takes part
_FRESH_S: Final = 0.5
# One more than another is no matter; nor is an eighth, or a crowd that comes would wait in line.
_SLACK: Final = 1
_SHARE: Final = 8


class Crew:
    """The workers of one instance and their counts; made by the arbiter, before the fork."""

    def __init__(self) -> None:
        self._table = mmap.mmap(-1, _PLACES * _ENTRY.size)
        self._ages = mmap.mmap(-1, _AGES.size)
        self._own = 0

    def expect(self, age: int) -> None:
        """Note, before the fork, that worker number `age` is being started."""
        _, serves = _AGES.unpack_from(self._ages)
        _AGES.pack_into(self._ages, 0, age, serves)

    def join(self, age: int) -> None:
        """Take part as the worker that was started as number `age`."""
        started, serves = _AGES.unpack_from(self._ages)
        _AGES.pack_into(self._ages, 0, max(age, started), max(age, serves))
        self._own = age % _PLACES * _ENTRY.size
        self.tell(0)

    def awaits_younger(self, age: int) -> bool:
        """Tell whether a worker younger than `age` was started, but none takes part yet."""
        started, serves = _AGES.unpack_from(self._ages)
        return bool(started > age >= serves)

    def leave(self) -> None:
        """Take part no more: nobody waits for us."""
        _ENTRY.pack_into(self._table, self._own, 0.0, 0)

    def tell(self, connections: int) -> None:
        """Let the others know how many connections we hold; who is silent is not waited for."""
        _ENTRY.pack_into(self._table, self._own, time.monotonic(), connections)

    def has_turn(self, connections: int) -> bool:
        """Tell whether nobody who is there holds clearly fewer connections than we do."""
        oldest = time.monotonic() - _FRESH_S
        told = _ENTRY.iter_unpack(self._table)
        return all(
            connections <= count + _SLACK + count // _SHARE
            for moment, count in told
            if moment > oldest
        )
