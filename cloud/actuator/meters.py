"""Meters: what prometheus_client counts, under Prometheus' names and under Micrometer's."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_TICKS = os.sysconf("SC_CLK_TCK")
_STATISTICS = {"_count": "COUNT", "_sum": "TOTAL", "_total": "COUNT", "_max": "MAX"}
_LEFT_OUT = ("_bucket", "_created")


class _Process(Collector):
    """The instance as a whole: arbiter, workers and companions, from /proc (Linux)."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None

    def collect(self) -> Iterator[Metric]:
        uptime_s, cpu_s = _usage(_parent())
        since_s, before_s = self._seen or (0.0, 0.0)
        self._seen = uptime_s, cpu_s
        span_s = (uptime_s - since_s) * (os.cpu_count() or 1)
        usage = (cpu_s - before_s) / span_s if span_s > 0 else 0.0
        yield GaugeMetricFamily("process_uptime_seconds", "Time since the start", uptime_s)
        yield GaugeMetricFamily(
            "process_cpu_usage", "Share of all processors since the last reading", max(0.0, usage)
        )


_process = _Process()
_more: dict[str, Collector] = {}


def add(name: str, collector: Collector) -> None:
    """Have `collector` asked, too, whenever meters are; the newest of a name is.

    It comes before the files of the processes are read: what it makes them write is in the answer.
    """
    _more[name] = collector


def registry() -> CollectorRegistry:
    """Gather the meters of all processes of the instance, or of this one when it is alone."""
    gathered = CollectorRegistry()
    for collector in (_process, *_more.values()):
        gathered.register(collector)
    if served():
        MultiProcessCollector(gathered)  # type: ignore[no-untyped-call]
    else:
        gathered.register(REGISTRY)
    return gathered


def _parent() -> int:
    """Name the process that all others of the instance descend from."""
    return os.getppid() if served() else os.getpid()


def served() -> bool:
    """Tell whether `cloud.server` runs us: it alone makes meters be kept in files."""
    return values.ValueClass is not values.MutexValue


def _usage(parent: int) -> tuple[float, float]:
    """Return seconds since the parent's start, and of processor time it and its children used."""
    fields = _stat(parent)
    booted_s = float(Path("/proc/uptime").read_text().split()[0])
    # utime, stime, and those of children that are gone: proc(5), fields 14 to 17 of stat.
    ticks = sum(map(int, fields[11:15]))
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            ticks += sum(map(int, _stat(int(child))[11:13]))
        except OSError:  # gone meanwhile, its parent counts it from now on
            continue
    return booted_s - int(fields[19]) / _TICKS, ticks / _TICKS


def _stat(pid: int) -> Sequence[str]:
    """Read /proc/<pid>/stat from its third field on; the second may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def names() -> list[str]:
    """List the meters by Micrometer's names."""
    return sorted(_meters())


def find(name: str, tags: Iterable[str]) -> dict[str, Any] | None:
    """Describe one meter, only samples that have all `tags` (`key:value`); None without any."""
    wanted = dict(tag.split(":", 1) for tag in tags if ":" in tag)
    samples = [
        sample
        for sample in _meters().get(name, ())
        if all(sample.labels.get(key) == value for key, value in wanted.items())
    ]
    if not samples:
        return None
    timed = any(sample.name.endswith(("_seconds_sum", "_seconds")) for sample in samples)
    return {
        "name": name,
        **({"baseUnit": "seconds"} if timed else {}),
        "measurements": _measurements(samples),
        "availableTags": _available(samples, wanted),
    }


def _meters() -> Mapping[str, list[Sample]]:
    """Samples by Micrometer's name: a timer's count, sum and maximum are one meter."""
    meters: dict[str, list[Sample]] = {}
    for family in registry().collect():
        for sample in family.samples:
            if not sample.name.endswith(_LEFT_OUT):
                meters.setdefault(_spring_name(sample.name), []).append(sample)
    return meters


def _spring_name(name: str) -> str:
    for suffix in _STATISTICS:
        name = name.removesuffix(suffix)
    return name.removesuffix("_seconds").replace("_", ".")


def _measurements(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    found: dict[str, float] = {}
    for sample in samples:
        suffix = next((s for s in _STATISTICS if sample.name.endswith(s)), "")
        statistic = _STATISTICS.get(suffix, "VALUE")
        if sample.name.endswith("_seconds_sum"):
            statistic = "TOTAL_TIME"
        known = found.get(statistic, 0.0)
        found[statistic] = max(known, sample.value) if statistic == "MAX" else known + sample.value
    return [{"statistic": statistic, "value": value} for statistic, value in found.items()]


def _available(samples: Sequence[Sample], wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    tags: dict[str, set[str]] = {}
    for sample in samples:
        for key, value in sample.labels.items():
            tags.setdefault(key, set()).add(value)
    return [
        {"tag": key, "values": sorted(values)} for key, values in tags.items() if key not in wanted
    ]
