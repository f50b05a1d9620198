"""wrk, and what it says."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.contestants import PORTS, Running, token
from deploy.local.site import HOST

BODIES: Final = ("small", "large", "mix")
CONNECTIONS: Final = (1, 32, 256)

_SCRIPT: Final = Path(__file__).with_name("requests.lua")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one gateway did under one load.

    Attributes:
        rate: answers in a second.
        cpu_us: processor time of the gateway alone, for one request.
        failed: connections and requests that came to no answer below 400.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int

    @classmethod
    def of(cls, runs: list["Figures"]) -> "Figures":
        """Take the median of several runs, and the sum of what failed."""
        return cls(
            median(run.rate for run in runs),
            median(run.p50_ms for run in runs),
            median(run.p99_ms for run in runs),
            median(run.cpu_us for run in runs),
            sum(run.failed for run in runs),
        )


def measure(gateway: str, process: Running, body: str, connections: int, seconds: int) -> Figures:
    """Load a gateway for a while."""
    before = process.cpu_s()
    found = press(gateway, body, connections, seconds)
    requests = max(1, found["requests"])
    return Figures(
        found["requests"] / found["took_us"] * 1e6,
        found["p50_us"] / 1000,
        found["p99_us"] / 1000,
        (process.cpu_s() - before) * 1e6 / requests,
        found["failed"],
    )


def press(gateway: str, body: str, connections: int, seconds: int) -> dict[str, int]:
    """Run wrk; give its counts."""
    command = (
        "wrk", "-t", str(min(2, connections)), "-c", str(connections), "-d", f"{seconds}s",
        "--timeout", "10s", "-s", str(_SCRIPT), f"http://{HOST}:{PORTS[gateway]}/",
        "--", body, token(),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
