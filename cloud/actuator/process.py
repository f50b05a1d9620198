"""Meters of the instance as a whole: its processes, its machine, its pools (Linux, proc(5)).

Micrometer's names where there is one. What only a JVM has (`jvm_*`) is absent; what Python has
instead is named `python_*`.
"""

import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud import metrics
from cloud.config import Environment
from cloud.peers import Peers, peers
from cloud.peers import values as answered

_TOPIC: Final = "pools"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_NS: Final = 1e9


def served() -> bool:
    """Tell whether `cloud.server` runs us: it alone makes meters be kept in files."""
    return values.ValueClass is not values.MutexValue


def parent() -> int:
    """Name the process that all others of the instance descend from."""
    return os.getppid() if served() else os.getpid()


def uptime_s() -> float:
    """Return for how long the instance runs."""
    booted_s = float(Path("/proc/uptime").read_text().split()[0])
    return booted_s - int(_stat(parent())[19]) / _TICKS


def memory_bytes() -> int:
    """Return what all processes of the instance hold, shared pages by share."""
    return sum(map(_pss, (parent(), *children(parent()))))


class Process(Collector):
    """The instance: arbiter, workers and companions; shares are since the last reading."""

    def __init__(self) -> None:
        self._seen = 0.0, 0.0
        self._machine = 0, 0

    def collect(self) -> Iterator[Metric]:
        pids = [parent(), *children(parent())]
        uptime, cpu_s = uptime_s(), _cpu_s(pids)
        (since, before_s), self._seen = self._seen, (uptime, cpu_s)
        span_s = (uptime - since) * (os.cpu_count() or 1)
        usage = (cpu_s - before_s) / span_s if span_s > 0 else 0.0
        yield _gauge("process_uptime_seconds", "Time since the start", uptime)
        yield _gauge("process_start_time_seconds", "Start, since the epoch", time.time() - uptime)
        yield _gauge(
            "process_cpu_usage", "Share of all processors since the last reading", max(0.0, usage)
        )
        yield CounterMetricFamily("process_cpu_time_ns", "Processor time used", value=cpu_s * _NS)
        yield from self._of_processes(pids)
        yield from self._of_machine()

    @staticmethod
    def _of_processes(pids: Sequence[int]) -> Iterator[Metric]:
        files = sum(_count(pid, "fd") for pid in pids)
        threads = sum(_count(pid, "task") for pid in pids)
        yield _gauge("process_files_open_files", "Open file descriptors", files)
        yield _gauge("process_files_max_files", "Limit of open file descriptors", _max_files())
        yield _gauge(
            "process_memory_pss_bytes", "Memory, shared pages by share", sum(map(_pss, pids))
        )
        yield _gauge("python_processes", "Arbiter, workers and companions", len(pids))
        yield _gauge("python_threads_live", "Threads of all processes", threads)
        info = GaugeMetricFamily(
            "python_info", "What runs us", labels=("implementation", "version")
        )
        info.add_metric((platform.python_implementation(), platform.python_version()), 1)
        yield info

    def _of_machine(self) -> Iterator[Metric]:
        busy, total = _machine_ticks()
        (busy_before, before), self._machine = self._machine, (busy, total)
        usage = (busy - busy_before) / (total - before) if total > before else 0.0
        yield _gauge("system_cpu_usage", "Share of all processors in use", usage)
        yield _gauge("system_cpu_count", "Processors", os.cpu_count() or 1)
        yield _gauge("system_load_average_1m", "Threads that run or want to", os.getloadavg()[0])
        path = str(Path.cwd())
        disk = shutil.disk_usage(path)
        for name, value in (("free", disk.free), ("total", disk.total)):
            family = GaugeMetricFamily(f"disk_{name}_bytes", "Of the file system", labels=("path",))
            family.add_metric((path,), value)
            yield family


class Pools(Collector):
    """Connection pools of all processes, under the names that boards know from HikariCP."""

    def __init__(self, environment: Environment) -> None:
        self._peers: Peers = peers(environment)
        self._peers.on(_TOPIC, lambda _: [_pool(pool) for pool in list(metrics.pools)])

    def collect(self) -> Iterator[Metric]:
        told = [pool for pools in answered(self._peers.ask(_TOPIC)).values() for pool in pools]
        if not told:
            return
        sums = {key: sum(pool[key] for pool in told) for key in told[0]}
        for key, value in sums.items():
            name = f"hikaricp_connections_{key}".removesuffix("_")
            family = GaugeMetricFamily(name, "Connections to the database", labels=("pool",))
            family.add_metric(("dataSource",), value)
            yield family


def _pool(pool: Any) -> dict[str, int]:
    idle, active = pool.checkedin(), pool.checkedout()
    return {"": idle + active, "active": active, "idle": idle, "max": pool.size(), "min": 0}


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value)


def children(pid: int) -> list[int]:
    """List the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of processes, and of the first one's children that are gone."""
    ticks = 0
    for number, pid in enumerate(pids):
        # One that ends meanwhile is counted by its parent from then on.
        with suppress(OSError):
            # utime, stime, and those of children that are gone: fields 14 to 17.
            ticks += sum(map(int, _stat(pid)[11 : 13 if number else 15]))
    return ticks / _TICKS


def _stat(pid: int) -> Sequence[str]:
    """Read /proc/<pid>/stat from its third field on; the second may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _count(pid: int, kind: str) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/{kind}"))  # noqa: PTH208 - no path is needed
    except OSError:
        return 0


def _max_files() -> int:
    for line in Path("/proc/self/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    return 0


def _pss(pid: int) -> int:
    """Return bytes; a page that three processes share counts a third in each."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = (line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(next(found, "0")) * 1024


def _machine_ticks() -> tuple[int, int]:
    """Return what the processors have worked, and all there was, since the machine started."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(field) for field in first.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)
