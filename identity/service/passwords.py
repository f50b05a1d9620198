"""Passwords: BCrypt as Spring Security writes and reads it, and never more of it than bearable."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import BoundedSemaphore
from typing import Final

import bcrypt

from identity.domain import PASSWORD_LIMIT, BusyError

_PREFIX: Final = b"2a"  # what Spring Security writes by default


class Passwords:
    """Hashes and compares, a few at a time.

    A hash takes a core for tens of milliseconds. Without a bound a storm of sign-ins would take
    every thread and every core, and whoever only wants `/me` would wait behind it.

    Args:
        cost: 2^cost rounds.
        parallel: hashes at a time in this process.
        waiting: callers that may wait for their turn.
        patience: how long they wait.
    """

    def __init__(self, cost: int, *, parallel: int, waiting: int, patience: timedelta) -> None:
        self._cost = cost
        self._door = BoundedSemaphore(parallel + waiting)
        self._turns = BoundedSemaphore(parallel)
        self._patience = patience.total_seconds()
        # Nobody's password: a name that nobody has costs as much time as a wrong password.
        self._nobody = self._hash(secrets.token_bytes(32))

    def hash(self, password: str) -> str:
        """Hash a password of at most 72 bytes; `$2a$`, 60 characters.

        Raises:
            BusyError: too many others wait already.
        """
        with self._turn():
            return self._hash(password.encode())

    def match(self, password: str, known: str | None) -> bool:
        """Compare with a `$2a$`, `$2b$` or `$2y$` hash; without one the same time is spent.

        Raises:
            BusyError: too many others wait already.
        """
        # A JVM service took longer passwords and hashed their first 72 bytes; they still work.
        given = password.encode()[:PASSWORD_LIMIT]
        with self._turn():
            try:
                return bcrypt.checkpw(given, (known or self._nobody).encode()) and bool(known)
            except ValueError:  # the column holds no hash
                bcrypt.checkpw(given, self._nobody.encode())
                return False

    def _hash(self, password: bytes) -> str:
        return bcrypt.hashpw(password, bcrypt.gensalt(self._cost, _PREFIX)).decode()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._door.acquire(blocking=False):
            raise BusyError
        try:
            if not self._turns.acquire(timeout=self._patience):
                raise BusyError
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._door.release()
