"""What this process does again and again, noted by who does it, for operators to see."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """Work that begins anew so long after it has ended.

    Attributes:
        target: module and name of the function.
        interval: as it is set; after a failure the next try may come sooner or later.
    """

    target: str
    interval: timedelta


tasks: dict[str, Task] = {}
"""By target."""


def repeats(work: Callable[..., Any], interval: timedelta) -> None:
    """Note that `work` is done with this interval from now on."""
    target = f"{work.__module__}.{work.__qualname__}"
    tasks[target] = Task(target, interval)
