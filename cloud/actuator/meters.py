"""Meters: what prometheus_client counts, under Prometheus' names and under Micrometer's."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from cloud import metrics
from cloud.actuator.process import Pools, Process, served
from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError

_UNITS = ("seconds", "bytes", "files", "ns")
_LEFT_OUT = ("_bucket", "_created")

_DISTRIBUTION = "management.metrics.distribution"
_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_collectors: dict[str, Collector] = {"process": Process()}
_tags: Callable[[], Mapping[str, str]] = dict


def install(environment: Environment) -> None:
    """Follow `management.metrics`: tags that every meter carries, buckets of timers.

    Raises:
        ConfigurationError: a value cannot be used.
    """
    global _tags  # noqa: PLW0603 - the meters themselves are the process's too

    def tags() -> Mapping[str, str]:
        return environment.properties.subset("management.metrics.tags")

    tags()
    _tags = tags
    _distribute(environment.properties)
    add("pools", Pools(environment))


def _distribute(properties: Properties) -> None:
    """Give timers the buckets that are asked for, before their first observation.

    `percentiles-histogram.<meter>` for ours, fewer than Micrometer's 69 since each is a number in
    a file of every process; `slo.<meter>` for bounds of one's own. A meter is named as in
    `http.server.requests`, by the beginning of that, or by `all`.
    """
    histograms = properties.subset(f"{_DISTRIBUTION}.percentiles-histogram")
    limits = {key.partition("[")[0] for key in properties.subset(f"{_DISTRIBUTION}.slo")}
    for timer in metrics.timers:
        meter = f"{_spring_name(timer.name)[0]}."
        bounds: set[float] = set()
        for name, wanted in histograms.items():
            if wanted.lower() == "true" and (name == "all" or meter.startswith(f"{name}.")):
                bounds.update(_BOUNDS)
        for name in limits:
            if name == "all" or meter.startswith(f"{name}."):
                # In brackets a name with dots is one element, as YAML likes it.
                for spelled in (name, f"[{name}]"):
                    bounds.update(_spans_s(properties, f"{_DISTRIBUTION}.slo.{spelled}"))
        timer.bounds = tuple(sorted(bounds))


def _spans_s(properties: Properties, key: str) -> Iterator[float]:
    for text in properties.listing(key):
        try:
            yield Properties.of({"span": text}).duration("span").total_seconds()
        except ConfigurationError:
            raise properties.wrong(key, "is not a list of durations") from None


def add(name: str, collector: Collector) -> None:
    """Have `collector` asked, too, whenever meters are; the newest of a name is.

    It comes before the files of the processes are read: what it makes them write is in the answer.
    """
    _collectors[name] = collector


class _Gathered(Collector):
    """Everything, each name once, with the common tags, limited to some names if there are any."""

    def __init__(self, included: Collection[str]) -> None:
        self._included = included

    def collect(self) -> Iterator[Metric]:
        gathered = CollectorRegistry()
        for collector in _collectors.values():
            gathered.register(collector)
        if served():
            MultiProcessCollector(gathered)  # type: ignore[no-untyped-call]
        else:
            gathered.register(REGISTRY)
        seen: set[str] = set()
        tags = _tags()
        for family in gathered.collect():
            # Alone, the library has some of ours as well.
            if family.name in seen or not self._wanted(family):
                continue
            seen.add(family.name)
            if tags:
                family.samples = [
                    sample._replace(labels={**tags, **sample.labels}) for sample in family.samples
                ]
            yield family

    def _wanted(self, family: Metric) -> bool:
        names = {family.name, *(sample.name for sample in family.samples)}
        return not self._included or not names.isdisjoint(self._included)


def registry(included: Collection[str] = ()) -> CollectorRegistry:
    """Gather the meters of all processes of the instance, or of this one when it is alone.

    Args:
        included: Prometheus' names of what is wanted; everything when empty.
    """
    gathered = CollectorRegistry()
    gathered.register(_Gathered(included))
    return gathered


def names() -> list[str]:
    """List the meters by Micrometer's names."""
    return sorted(_meters())


def find(name: str, tags: Iterable[str]) -> dict[str, Any] | None:
    """Describe one meter, only samples that have all `tags` (`key:value`); None without any."""
    wanted = dict(tag.split(":", 1) for tag in tags if ":" in tag)
    readings = [
        reading
        for reading in _meters().get(name, ())
        if all(reading.labels.get(key) == value for key, value in wanted.items())
    ]
    if not readings:
        return None
    unit = next((reading.unit for reading in readings if reading.unit), None)
    return {
        "name": name,
        "description": readings[0].text,
        **({"baseUnit": unit} if unit else {}),
        "measurements": _measurements(readings),
        "availableTags": _available(readings, wanted),
    }


@dataclass(frozen=True, slots=True)
class _Reading:
    """One number of a meter, as Micrometer thinks of it."""

    statistic: str
    value: float
    unit: str | None
    labels: Mapping[str, str]
    text: str


def _meters() -> Mapping[str, list[_Reading]]:
    """Read all by Micrometer's name: a timer's count, sum and maximum are one meter."""
    meters: dict[str, list[_Reading]] = {}
    for family in registry().collect():
        name, unit = _spring_name(family.name)
        for sample in family.samples:
            if not sample.name.endswith(_LEFT_OUT):
                statistic = _statistic(family, sample.name)
                reading = _Reading(
                    statistic, sample.value, unit, sample.labels, family.documentation
                )
                meters.setdefault(name, []).append(reading)
    return meters


def _spring_name(name: str) -> tuple[str, str | None]:
    """Take the unit from the end of a name of Prometheus, and a timer's `_max`."""
    base = name.removesuffix("_max") if name.endswith("_seconds_max") else name
    unit = next((unit for unit in _UNITS if base.endswith(f"_{unit}")), None)
    return base.removesuffix(f"_{unit}").replace("_", "."), unit


def _statistic(family: Metric, sample: str) -> str:
    if family.type in {"summary", "histogram"}:
        total = "TOTAL_TIME" if family.name.endswith("_seconds") else "TOTAL"
        return "COUNT" if sample.endswith("_count") else total
    if family.type == "counter":
        return "COUNT"
    return "MAX" if family.name.endswith("_seconds_max") else "VALUE"


def _measurements(readings: Sequence[_Reading]) -> list[dict[str, Any]]:
    found: dict[str, float] = {}
    for one in readings:
        known = found.get(one.statistic, 0.0)
        greatest = one.statistic == "MAX"
        found[one.statistic] = max(known, one.value) if greatest else known + one.value
    return [{"statistic": statistic, "value": value} for statistic, value in found.items()]


def _available(readings: Sequence[_Reading], wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    tags: dict[str, set[str]] = {}
    for reading in readings:
        for key, value in reading.labels.items():
            tags.setdefault(key, set()).add(value)
    return [
        {"tag": key, "values": sorted(values)} for key, values in tags.items() if key not in wanted
    ]
