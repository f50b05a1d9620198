"""What an instance knows of revocations by itself: one file that all its workers write and read.

Redis may go, and come back without its memory. What any worker was told of a revocation then holds
for all of them, for those that are forked later, and for the next life of the instance.
"""

import fcntl
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
import structlog

log = structlog.get_logger(__name__)

_FILE, _SEEN, _HEARD = "revoked.jsonl", "redis.seen", "redis.heard"
_LARGE = 4 * 1024 * 1024
_MOST = 50_000
_NOTED_EVERY_S = 1.0

Revocation = tuple[str, float]
"""The id of a token (`jti`), and when the token would have ended, in epoch seconds."""


class Memory:
    """Revoked tokens until they expire, and when Redis could last be believed.

    Args:
        folder: the instance's run folder; without it, or when it cannot be written to, one
            worker's knowledge is its own.
        now: epoch seconds.
    """

    def __init__(self, folder: Path | None, now: Callable[[], float]) -> None:
        self._folder = folder
        self._path = os.fspath(folder / _FILE) if folder is not None else ""
        self._now = now
        self._known: dict[str, float] = {}
        self._read: tuple[int, int] = (0, 0)  # the file's inode, and how far it was read
        self._good = dict.fromkeys((_SEEN, _HEARD), 0.0)
        self._noted = self._good.copy()
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # What an earlier worker saw stays as old as it is.
                for name in self._good:
                    os.close(os.open(folder / name, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                self._alone(error)
        self.catch_up()
        if not self._told(_SEEN):
            self._good = dict.fromkeys(self._good, now())

    def __contains__(self, jti: str) -> bool:
        return jti in self._known

    def add(self, found: Iterable[Revocation]) -> None:
        """Keep these tokens out for the rest of their lives."""
        now = self._now()
        fresh = {jti: end for jti, end in found if jti not in self._known and end > now}
        if not fresh:
            return
        if self._folder is not None:
            try:
                self._share(self._folder / _FILE, fresh)
            except OSError as error:
                self._alone(error)
        self._keep(fresh)

    def _share(self, path: Path, fresh: dict[str, float]) -> None:
        with _private(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.catch_up()
            lines = _lines((jti, end) for jti, end in fresh.items() if jti not in self._known)
            size = path.stat().st_size if path.exists() else 0
            if size > _LARGE:
                self._forget()
                with _private(path.with_suffix(".draft"), "wb") as draft:
                    draft.write(_lines(self._known.items()) + lines)
                path.with_suffix(".draft").replace(path)
            elif lines:
                with _private(path, "ab") as file:
                    # What a writer that died left unfinished is a line of its own.
                    file.write(b"\n" + lines if size != self._read[1] else lines)

    def catch_up(self) -> None:
        """Take over what other workers have noted since; next to nothing when they have not."""
        if self._folder is None:
            return
        try:
            # It may happen with every request: a Path costs five times as much.
            found = os.stat(self._path)  # noqa: PTH116
            inode, at = self._read
            at = at if inode == found.st_ino and at <= found.st_size else 0
            if at == found.st_size:
                return
            with Path(self._path).open("rb") as file:
                file.seek(at)
                whole, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            self._alone(error)
            return
        self._read = (found.st_ino, at + len(whole) + 1 if whole else at)
        now = self._now()
        told = (_revocation(line) for line in whole.splitlines())
        self._keep({one[0]: one[1] for one in told if one is not None and one[1] > now})

    def _keep(self, fresh: dict[str, float]) -> None:
        self._known |= fresh
        if len(self._known) > _MOST:
            self._forget()
            self._known = dict(list(self._known.items())[-_MOST:])

    def _forget(self) -> None:
        now = self._now()
        self._known = {jti: end for jti, end in self._known.items() if end > now}

    # --- since when nobody could tell

    def believed(self) -> None:
        """Note that Redis knows every revocation right now."""
        self._note(_SEEN)

    def heard(self) -> None:
        """Note that Redis answered: all that a token of an issuer without sessions can ask for."""
        self._note(_HEARD)

    def _note(self, name: str) -> None:
        self._good[name] = now = self._now()
        if self._folder is not None and now - self._noted[name] >= _NOTED_EVERY_S:
            self._noted[name] = now
            try:
                os.utime(self._folder / name, (now, now))
            except OSError as error:
                self._alone(error)

    def doubtful_for_s(self, *, sessions: bool = True) -> float:
        """Tell for how long Redis could not be believed, by all that the workers have seen.

        Without `sessions`: of a token whose issuer keeps none, for which any answer will do.
        """
        names = (_SEEN,) if sessions else (_SEEN, _HEARD)
        return self._now() - max(max(self._good[name], self._told(name)) for name in names)

    def _told(self, name: str) -> float:
        """When any worker last noted it; a worker that is replaced earns no new grace."""
        try:
            return (self._folder / name).stat().st_mtime if self._folder is not None else 0.0
        except OSError:
            return 0.0

    def _alone(self, error: OSError) -> None:
        log.error("revocations_not_shared", reason=str(error))
        self._folder = None


def _private(path: Path, mode: str) -> IO[Any]:
    return open(path, mode, opener=partial(os.open, mode=0o600))


def _lines(found: Iterable[Revocation]) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in found)


def _revocation(line: bytes) -> Revocation | None:
    try:
        jti, end = orjson.loads(line)
        return str(jti), float(end)
    except (ValueError, TypeError):
        return None  # of a writer that died half-way
