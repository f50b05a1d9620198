"""The table, and what of the goal is reached."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from bench.load import Figures

Results = Mapping[tuple[str, str, int], Figures]


@dataclass(frozen=True, slots=True)
class Facts:
    """How the figures came about."""

    at: datetime
    cores: int
    load: float
    took_s: float
    given: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of the goal: a ratio that is at least, or at most, so much."""

    name: str
    value: float
    bound: float
    at_least: bool

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "reached" if self.reached else "NOT REACHED"
        return f"| {self.name} | {self.value:.2f} | {sign} {self.bound} | {verdict} |"


def line(gateway: str, body: str, connections: int, figures: Figures) -> str:
    """Write one result for the terminal."""
    return (
        f"{body:>5} {connections:>3} {gateway:>6} {figures.rate:>9.0f}/s"
        f"  p50 {figures.p50_ms:>7.2f} ms  p99 {figures.p99_ms:>7.2f} ms"
        f"  cpu {figures.cpu_us:>5.0f} us  failed {figures.failed}"
    )


def text(results: Results, memory: Mapping[str, float], facts: Facts) -> str:
    """Write the report."""
    rows = [
        f"| {body} | {connections} | {gateway} | {it.rate:.0f} | {it.p50_ms:.2f} | {it.p99_ms:.2f}"
        f" | {it.cpu_us:.0f} | {it.failed} |"
        for (gateway, body, connections), it in sorted(
            results.items(), key=lambda item: (item[0][1], item[0][2], item[0][0])
        )
    ]
    held = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items())
    said = (
        f"{facts.at:%Y-%m-%d %H:%M} UTC, {facts.cores} cores, load average {facts.load:.1f}"
        f" at the end, {facts.took_s:.0f} s, {facts.given}, Python {' '.join(sys.version.split())}"
    )
    return "\n".join(
        [
            said,
            "",
            "| body | connections | gateway | answers/s | p50 ms | p99 ms | CPU us | failed |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Memory (PSS, after the load): {held}.",
            "",
            "| ratio | is | goal | |",
            "|---|---|---|---|",
            *map(str, marks(results, memory)),
            "",
        ]
    )


def marks(results: Results, memory: Mapping[str, float]) -> Iterator[Mark]:
    """Hold the results against the goal."""
    for gateway, body, connections in results:
        if gateway != "nozie":
            continue
        ours, spring, nginx = (
            results[name, body, connections] for name in ("nozie", "spring", "nginx")
        )
        load = f"{body}, {connections} connections"
        if connections == 1:
            yield Mark(f"{load}: p50 to Spring", ours.p50_ms / spring.p50_ms, 0.7, at_least=False)
            continue
        yield Mark(f"{load}: throughput to Spring", ours.rate / spring.rate, 3.0, at_least=True)
        yield Mark(f"{load}: p99 to Spring", ours.p99_ms / spring.p99_ms, 0.35, at_least=False)
        yield Mark(f"{load}: throughput to nginx", ours.rate / nginx.rate, 0.4, at_least=True)
    yield Mark("memory to Spring", memory["nozie"] / memory["spring"], 0.2, at_least=False)
