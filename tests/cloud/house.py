"""Houses of the tests as instances: under gunicorn, with workers and companions."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
import yaml

from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


def spelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name properties as keyword arguments do: `__` is a dot, `_` a dash."""
    return {key.replace("__", ".").replace("_", "-"): settings[key] for key in settings}


class House:
    """The sample house; its run folder has a log beside it."""

    package = "sample_house"
    scheme = "http"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        self.port = settings.get("server.port") or free_port()
        self.name = str(settings.get("spring.application.name", self.package))
        self.run, self.log = run, run.with_suffix(".log")
        self.base = f"{self.scheme}://127.0.0.1:{self.port}"
        values = {"server.port": self.port, "nozie.server.run-dir": str(run), **settings}
        self._output = self.log.open("wb")
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            (
                str(Path(sys.executable).with_name("gunicorn")),
                *("-c", "python:cloud.server", f"tests.cloud.{self.package}.wsgi:app"),
            ),
            cwd=ROOT,
            env={**os.environ, "SPRING_APPLICATION_JSON": json.dumps(values)},  # noqa: TID251
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        # Each over a connection of its own, so that all workers get their turn.
        own = {"Connection": "close", **(headers or {})}
        return requests.get(f"{self.base}{path}", timeout=20, headers=own)

    def post(self, endpoint: str, body: object = None) -> requests.Response:
        """Tell the actuator something."""
        return requests.post(f"{self.base}/actuator{endpoint}", json=body, timeout=30)

    def answers(self, path: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.get(path).ok

    def by_worker(self, path: str, key: str, count: int = 2) -> dict[int, Any]:
        """Ask until `count` workers have said what they have; gives the newest word of each."""
        found: dict[int, Any] = {}

        def asked() -> bool:
            told = self.get(path).json()
            found[told["pid"]] = told[key]
            return len(found) >= count

        eventually(asked)
        return found

    def children(self) -> dict[int, str]:
        """Return the arbiter's living children, with what they call themselves."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            pids = [int(pid) for pid in path.read_text().split()]
        except FileNotFoundError:
            return {}
        found = {}
        for pid in pids:
            # Some end while they are looked at.
            with suppress(FileNotFoundError, ProcessLookupError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
        return found

    def pids(self, name: str) -> set[int]:
        return {pid for pid, title in self.children().items() if f"gunicorn: {name} " in title}

    def said(self, message: str) -> list[dict[str, Any]]:
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in map(json.loads, lines) if line["message"] == message]

    def told(self) -> list[str]:
        """Return the statuses that Eureka was told, in order."""
        return [line["nozie.status"] for line in self.said("registered")]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._output.close()


class FreshHouse(House):
    """Tells what it is configured with."""

    package = "fresh_house"

    def everywhere(self, key: str, value: object, count: int = 2) -> bool:
        return set(self.by_worker("/settings", key, count).values()) == {value}


class ConfiguredHouse(FreshHouse):
    """`write` is its file in the folder of a Config Server."""

    def __init__(self, run: Path, settings: Mapping[str, Any], folder: Path, url: str) -> None:
        self.name = f"t{uuid4().hex[:10]}"
        self.file = folder / f"{self.name}.yml"
        self.settings = settings
        self.write(settings)
        given = {
            "spring.application.name": self.name,
            "spring.config.import": f"optional:configserver:{url}",
            "management.endpoints.web.exposure.include": "*",
        }
        super().__init__(run, given)

    def write(self, settings: Mapping[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump(dict(settings)))

    def close(self) -> None:
        super().close()
        self.file.unlink(missing_ok=True)


class BreakerHouse(House):
    """Makes calls under a breaker."""

    package = "breaker_house"

    def call(self, times: int = 1, how: str = "ok") -> dict[str, Any]:
        answer = self.get(f"/call?times={times}&{how}")
        answer.raise_for_status()
        return dict(answer.json())

    def shown(self) -> dict[str, Any]:
        found = self.get("/actuator/circuitbreakers").json()["circuitBreakers"]
        return dict(found["callee"])

    def update(self, state: str) -> int:
        return self.post("/circuitbreakers/callee", {"updateState": state}).status_code

    def states(self) -> dict[int, str]:
        """Ask until both workers have told the state of their breaker."""
        return self.by_worker("/call?times=0", "state")
