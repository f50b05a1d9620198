"""Routes that an operator added while the gateway runs: one file that all its workers read."""

import fcntl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog

from cloud.config import Properties
from cloud.eureka import folder

log = structlog.get_logger(__name__)

_FILE = "routes.json"

Definitions = Sequence[Mapping[str, Any]]


class Added:
    """The file in the instance's run folder; it outlives workers, not the folder."""

    def __init__(self, properties: Properties) -> None:
        self._file = folder.run_folder(properties) / _FILE
        self._stamp = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def changed(self) -> bool:
        """Tell whether the file was written since this was asked last."""
        before, self._stamp = self._stamp, self._look()
        return self._stamp != before

    def read(self) -> Definitions:
        """Return the definitions; none when the file cannot be read."""
        try:
            found = orjson.loads(self._file.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, orjson.JSONDecodeError) as error:
            log.error("added_routes_unreadable", reason=str(error))  # noqa: TRY400 - says it all
            return ()
        return [item for item in found if isinstance(item, dict)]

    def change(self, change: Callable[[Definitions], Definitions]) -> None:
        """Replace the definitions, one writer at a time; readers see the old or the new.

        Raises:
            OSError: the run folder cannot be written to.
        """
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft = self._file.with_suffix(".draft")
            draft.write_bytes(orjson.dumps(list(change(self.read()))))
            draft.replace(self._file)
