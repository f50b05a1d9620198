"""One process of an estate: how it starts, what it listens on, when it is ready."""

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """A process that the supervisor keeps.

    Attributes:
        name: its name everywhere: in the supervisor, of its log, on the command line.
        tier: programs of a tier start together, when all lower tiers are ready.
        ready: true when it can be used; an error means not yet.
        ports: names of the ports that it listens on.
        packages: Debian packages it comes from, each with the command or file that shows it is
            installed.
        user: the system user it runs as when we are root.
        prepare: what must exist before it starts; idempotent.
        settle: what must be done once it is ready; idempotent.
        shows: where a person looks at it, for the table at the end.
    """

    name: str
    tier: int
    command: tuple[str, ...]
    ready: Callable[[], bool]
    ports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    prepare: Callable[[], None] = lambda: None
    settle: Callable[[], None] = lambda: None
    stop_signal: str = "TERM"
    stop_seconds: int = 15
    exit_codes: str = "0"
    shows: str = ""


def as_user(user: str, folder: Path) -> tuple[str, ...]:
    """Build the words before a command that drop root for `user`; none when we are not root.

    A checkout below a closed folder, /root for one, is out of other users' reach. The process
    then keeps the one capability to pass through, and no more of root.
    """
    if os.geteuid() != 0:
        return ()
    drop = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    if all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents)):
        return drop
    # access(2) heeds the capability only with this bit; RabbitMQ asks it before it writes.
    keep = ("--securebits=+no_setuid_fixup", "--inh-caps=+dac_read_search")
    return (*drop, *keep, "--ambient-caps=+dac_read_search")


def own(folder: Path, user: str, mode: int = 0o700) -> None:
    """Make a folder, and give it to `user` when we are root."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(mode)
