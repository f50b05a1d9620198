"""Debian's packages: installed when missing, without letting Debian start their services."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.local.program import Program
from deploy.local.site import EstateError

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_CLUSTER: Final = Path("/etc/postgresql-common/createcluster.conf")
_SYSTEMD: Final = Path("/run/systemd/system")
_UNITS: Final = {
    "postgresql-15": ("postgresql",),
    "redis-server": ("redis-server",),
    "rabbitmq-server": ("rabbitmq-server", "epmd.socket", "epmd"),
    "prometheus": ("prometheus", "prometheus-node-exporter"),
}


def missing(programs: Iterable[Program]) -> list[str]:
    """List the packages that programs need and this machine does not have."""
    wanted = {name: sign for program in programs for name, sign in program.packages.items()}
    return sorted(name for name, sign in wanted.items() if not _present(sign))


def install(names: list[str], say: Callable[[str], None]) -> None:
    """Install packages; needs root and apt-get."""
    words = f"apt-get install {' '.join(names)}"
    if shutil.which("apt-get") is None:
        raise EstateError(f"missing on this machine, and no apt-get to install: {' '.join(names)}")
    if os.geteuid() != 0:
        raise EstateError(f"packages are missing; as root: {words}")
    say(f"installing {' '.join(names)}")
    with _nothing_starts():
        _apt("update")
        keep = ("-o", "Dpkg::Options::=--force-confold")
        _apt("install", "-y", "--no-install-recommends", *keep, *names)
    if _SYSTEMD.is_dir():
        units = [unit for name in names for unit in _UNITS.get(name, ())]
        _run("systemctl", "disable", "--now", *units, check=False)


def _present(sign: str) -> bool:
    if sign.startswith("/"):
        return any(Path("/").glob(sign[1:]))
    return shutil.which(sign) is not None


@contextmanager
def _nothing_starts() -> Iterator[None]:
    """Keep what is being installed from starting (policy-rc.d), and from making a cluster."""
    if not _CLUSTER.exists():
        _CLUSTER.parent.mkdir(parents=True, exist_ok=True)
        _CLUSTER.write_text("create_main_cluster = false\n")
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _apt(*words: str) -> None:
    _run("apt-get", "-q", *words, check=True)


def _run(*command: str, check: bool) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}  # noqa: TID251 - apt's own
    done = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise EstateError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
