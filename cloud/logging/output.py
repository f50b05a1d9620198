"""Where lines go: stdout, whose reader may stall, and a file where one is named."""

import logging
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from cloud.config import Properties

log = structlog.get_logger()

_PATIENCE_MS = 100


class Stdout(logging.Handler):
    """Writes lines to file descriptor 1 without ever waiting long for its reader.

    Attributes:
        file: of a file that gets the same lines, None for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.file: int | None = None
        self._fd = _opened()
        self._stalled = False
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record).encode(errors="replace") + b"\n")
        except Exception:  # noqa: BLE001 - a log line is never worth a request
            self._dropped += 1

    def write(self, line: bytes) -> None:
        if self.file is not None:
            with suppress(OSError):  # a full disk; stdout has the line
                os.write(self.file, line)
        at = 0
        while at < len(line):
            try:
                at += os.write(self._fd, line[at:])
            except BlockingIOError:
                if self._stalled or not self._wait():
                    self._stalled = True
                    self._dropped += 1
                    return
        self._stalled = False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", count=dropped)

    def _wait(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(_PATIENCE_MS))


def _opened() -> int:
    """Return the descriptor to write to; a pipe or terminal is opened once more, non-blocking.

    A description of its own: non-blocking on the shared one would change it for all who inherited
    it. A regular file never makes a writer wait, and a second offset would overwrite lines.
    """
    mode = os.fstat(1).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return 1
    try:
        return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC)
    except OSError:  # of another user, as in some containers: then writes may wait
        return 1


def file_of(properties: "Properties") -> Path | None:
    """Return the file that Spring Boot would write to: `logging.file.name`, or in `.path`."""
    name, folder = (properties.get(f"logging.file.{key}") for key in ("name", "path"))
    if name:
        return Path(name)
    return Path(folder) / "spring.log" if folder else None


def opened_file(properties: "Properties") -> int | None:
    """Open that file for all processes of the instance: each line is one write, at its end.

    It grows until somebody cuts it (logrotate's `copytruncate`).
    """
    path = file_of(properties)
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        fault = f"cannot be written to: {error.strerror}"
        key = "name" if properties.get("logging.file.name") else "path"
        raise properties.wrong(f"logging.file.{key}", fault) from None
