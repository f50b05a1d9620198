"""Where an estate lives: its folder, its ports, its secrets, and what a user may set."""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

CHECKOUT: Final = Path(__file__).resolve().parents[2]
SHARED: Final = CHECKOUT / ".data"
"""Downloads that every estate of this checkout uses: class paths, the document store."""

PORTS: Final[Mapping[str, int]] = {
    "gateway": 8080,
    "gateway-compat": 3000,
    "movie": 8081,
    "customer": 8082,
    "payment": 8083,
    "notification": 8084,
    "identity": 8085,
    "eureka": 8761,
    "config": 8888,
    "postgres": 5432,
    "redis": 6379,
    "mongo": 27017,
    "rabbit": 5672,
    "rabbit-api": 15672,
    "rabbit-dist": 25672,
    "epmd": 4369,
    "zipkin": 9411,
    "prometheus": 9090,
    "elasticsearch": 9200,
    "elasticsearch-transport": 9300,
    "admin": 9093,
    "spring-gateway": 8090,
    # In containers only:
    "grafana": 3001,
    "kibana": 5601,
}

# Base ports end at 27017 and ephemeral ones begin at 32768: the shift keeps clear of both, and
# of every base port.
TEST_SHIFT: Final = 4000

# An estate is the same whatever shell it was started from: only these names reach it.
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "JAVA_HOME", "TERM")
_PASSED_PREFIXES: Final = ("NOZIE_", "JWT_", "STRIPE_", "MAIL_", "ENCRYPT_", "LOGGING_LEVEL_")

HOST: Final = "127.0.0.1"

# What signs tokens, opens the databases, and seals the last good configuration.
_SECRETS: Final = ("jwt", "postgres", "datasource", "snapshot")


class EstateError(Exception):
    """The estate cannot do what was asked; the text tells what to do about it."""


def setting_of(port: str) -> str:
    """Name the setting that moves a port: `rabbit-api` is moved by NOZIE_RABBIT_API_PORT."""
    return f"NOZIE_{port.upper().replace('-', '_')}_PORT"


@dataclass(frozen=True)
class Site:
    """The facts about one estate that do not change while it runs.

    Attributes:
        name: `main`, or the name of an estate beside it.
        folder: everything that it writes is below.
        ports: port numbers by name.
        environment: what its processes inherit from the user.
    """

    name: str
    folder: Path
    ports: Mapping[str, int]
    environment: Mapping[str, str]

    @property
    def settings(self) -> Mapping[str, str]:
        """The part of `environment` that says how services behave, not where programs are."""
        passed = self.environment.items()
        return {name: value for name, value in passed if name.startswith(_PASSED_PREFIXES)}

    @classmethod
    def of(cls, name: str = "main", shift: int | None = None) -> Self:
        """Read the settings of estate `main`, or lay another one out beside it, by `shift`."""
        given = os.environ  # noqa: TID251 - the estate's settings, read here only
        machine = {key: value for key, value in given.items() if key in _PASSED_ON}
        if name != "main":
            # A user's own settings are for the main estate; beside it all is as published.
            shift = shift or _number(given, "NOZIE_TEST_PORT_SHIFT", TEST_SHIFT)
            ports = {port: number + shift for port, number in PORTS.items()}
            return cls(name, SHARED / name, ports, machine)
        settings = {key: value for key, value in given.items() if key.startswith(_PASSED_PREFIXES)}
        shift = _number(given, "NOZIE_PORT_SHIFT", 0)
        ports = {
            port: _number(given, setting_of(port), number + shift) for port, number in PORTS.items()
        }
        return cls(name, SHARED, ports, machine | settings)

    def path(self, *parts: str) -> Path:
        """Name a file below the estate's folder."""
        return self.folder.joinpath(*parts)

    def address(self, port: str) -> str:
        """Give `host:port`."""
        return f"{HOST}:{self.ports[port]}"

    def url(self, port: str, path: str = "") -> str:
        """Give an http URL; `path` begins with a slash, or is empty."""
        return f"http://{self.address(port)}{path}"

    @cached_property
    def secrets(self) -> Mapping[str, str]:
        """Secrets made once for this data folder: see `_SECRETS`."""
        file = self.path("secrets.json")
        found: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        made = {name: secrets.token_hex(32) for name in _SECRETS if name not in found}
        if made:
            found |= made
            draft = file.with_suffix(f".{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(found))
            draft.rename(file)
        return found


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one process of this machine at a time do what is inside."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def taken(number: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
        except OSError:
            return True
    return False


def _number(given: Mapping[str, str], key: str, default: int) -> int:
    text = given.get(key, "").strip() or str(default)
    if not text.lstrip("-").isdigit():
        raise EstateError(f"{key} is not a number")
    return int(text)
