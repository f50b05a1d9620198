"""Ports for servers that a test starts."""

import fcntl
import itertools
import os
import socket
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Below the ephemeral range (32768 and up), so that no outgoing connection takes one meanwhile;
# above every port of an estate or its shift, each run beginning somewhere else.
_RANGE: Final = range(28100, 32000)
_turn: Iterator[int] = itertools.cycle((*_RANGE[os.getpid() % len(_RANGE) :], *_RANGE))
_LOCKS: Final = Path(tempfile.gettempdir()) / f"nozie-test-ports-{os.getuid()}"
_AT_ONCE: Final = 64
_held: Final[deque[int]] = deque()


def free_port() -> int:
    """Return a port of loopback that nobody listens on, and that no other run is given."""
    for port in itertools.islice(_turn, len(_RANGE)):
        if _is_ours(port) and _is_free(port):
            return port
    raise AssertionError("no port is free")


def _is_ours(port: int) -> bool:
    """Take the port's lock, and keep it for long: its server is yet to start, and may restart."""
    _LOCKS.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(_LOCKS / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    _held.append(lock)
    if len(_held) > _AT_ONCE:
        os.close(_held.popleft())
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
