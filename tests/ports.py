"""Ports for servers that a test starts."""

import itertools
import os
import socket
from collections.abc import Iterator
from typing import Final

# Below the ephemeral range (32768 and up), so that no outgoing connection takes one meanwhile;
# above every port of an estate or its shift, each run beginning somewhere else.
_RANGE: Final = range(28100, 32000)
_turn: Iterator[int] = itertools.cycle((*_RANGE[os.getpid() % len(_RANGE) :], *_RANGE))


def free_port() -> int:
    """Return a port of loopback that nobody listens on, never the same twice in a row."""
    for port in itertools.islice(_turn, len(_RANGE)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
