"""The last good answer of the Config Server, on disk: an instance starts while the server is away.

It is encrypted and signed with a configured key; without one nothing is kept.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from cloud import aside
from cloud.clock import Clock, utc_now
from cloud.config.imports import Import
from cloud.config.properties import Properties
from cloud.config.sources import PropertySource, PropertyValue
from cloud.errors import UnavailableError

log = structlog.get_logger()

TAKEN: Final = "config.client.snapshot"
"""Says since when, in ISO 8601: a property that is there as long as a snapshot is in force."""

_SETTINGS: Final = "nozie.config.snapshot"
_WAIT: Final = timedelta(seconds=30)


class UnusableError(Exception):
    """There is one, but it cannot be used; the text says why, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Of what one import said.

    Attributes:
        file: where it is kept.
        purpose: whom it was asked for, and where: it is good for nobody else.
        wait_s: how long the server is waited for before it is used.
    """

    file: Path
    purpose: str
    key: str = field(repr=False)
    wait_s: float

    def keep(self, sources: Sequence[PropertySource], now: Clock = utc_now) -> None:
        """Put the sources in place of those before; a failure is told, and is no reason to stop."""
        taken = now().isoformat(timespec="seconds")
        text = json.dumps({"taken": taken, "sources": [source.dump() for source in sources]})
        try:
            sealed = aside.seal(text.encode(), self.key, self.purpose)
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self.file, sealed)
        except (OSError, UnavailableError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            log.warning("config_snapshot_not_kept", file=str(self.file), reason=reason)

    def find(self) -> list[PropertySource] | None:
        """Return the sources as they were, with the instant in `TAKEN`; None when none was kept.

        Raises:
            UnusableError: it was changed, or made with another key.
        """
        try:
            sealed = self.file.read_bytes()
            found = json.loads(aside.unseal(sealed, self.key, self.purpose))
        except FileNotFoundError:
            return None
        except (OSError, aside.RefusedError, UnavailableError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnusableError(f"the snapshot {self.file} cannot be used: {reason}") from None
        held = PropertyValue(found["taken"], str(self.file))
        sources = [PropertySource.load(source) for source in found["sources"]]
        return [PropertySource("configClient", {TAKEN: held}), *sources]


def enabled(local: Properties, *, say: bool) -> bool:
    """Tell whether snapshots are kept and used; `say` in the log when there is no key."""
    if not local.boolean(f"{_SETTINGS}.enabled", default=True):
        return False
    if _key(local):
        return True
    if say:
        reason = f"neither {_SETTINGS}.key nor encrypt.key is set"
        log.info("config_snapshots_off", reason=reason)
    return False


def of(local: Properties, entry: Import) -> Snapshot:
    """Name the snapshot of an import."""
    whom = [entry.name, entry.profiles, *entry.labels, entry.place]
    purpose = f"configuration 1 {json.dumps(whom)}"  # 1: the shape of what is sealed
    default = Path.home() / ".local" / "state" / "nozie"
    folder = Path(local.text(f"{_SETTINGS}.folder", str(default)))
    digest = hashlib.sha256(purpose.encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]", "_", f"{local.application}-{digest}.snapshot")
    wait = local.duration(f"{_SETTINGS}.wait", _WAIT)
    return Snapshot(folder / name, purpose, _key(local), wait.total_seconds())


def _key(local: Properties) -> str:
    return local.get(f"{_SETTINGS}.key") or local.get("encrypt.key") or ""


def _replace(file: Path, content: bytes) -> None:
    """Write beside the file, then rename: whoever reads finds the old one or the new one."""
    number, draft = tempfile.mkstemp(prefix=file.name, dir=file.parent)
    try:
        with os.fdopen(number, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(number)
        Path(draft).replace(file)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
