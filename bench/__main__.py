"""`python -m bench`: measure, and say how the three compare."""

import argparse
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Final

from bench import contestants, report, terminal
from bench.contestants import GATEWAYS, Running
from bench.load import BODIES, CONNECTIONS, Figures, measure, press
from bench.terminal import say

_WARM_CONNECTIONS: Final = 64


def main() -> None:
    """Read the command line and measure."""
    parser = terminal.parser("bench", __doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each single run")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--warm-up", type=int, default=60, help="seconds, of each gateway")
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=BODIES)
    parser.add_argument("--connections", nargs="+", type=int, default=CONNECTIONS)
    terminal.run(parser, _run)


def _run(given: argparse.Namespace) -> int:
    with contestants.running(contestants.contestants()) as found:
        text = _compare(given, found)
    file = contestants.FOLDER / "report.md"
    file.write_text(text)
    say(f"\n{text}\nalso in {file}")
    return 0


def _compare(given: argparse.Namespace, found: Mapping[str, Running]) -> str:
    began = time.monotonic()
    loads = list(product(given.bodies, given.connections))
    total = given.warm_up * 3 + given.seconds * given.rounds * len(loads) * len(GATEWAYS)
    say(f"{terminal.machine()}; about {total} s")
    # Whoever was compiled or cached last is warm: all get the same, the JVM needs it most.
    for gateway in GATEWAYS:
        press(gateway, "mix", _WARM_CONNECTIONS, given.warm_up)
    runs: dict[tuple[str, str, int], list[Figures]] = {}
    for turn in range(given.rounds):
        for body, connections in loads:
            # In turns, so that what disturbs the machine disturbs all alike.
            for gateway in GATEWAYS:
                figures = measure(gateway, found[gateway], body, connections, given.seconds)
                runs.setdefault((gateway, body, connections), []).append(figures)
                told = report.line(gateway, body, connections, figures)
                say(f"  {turn + 1}/{given.rounds} {told}")
    memory = {gateway: found[gateway].memory_mib() for gateway in GATEWAYS}
    facts = report.Facts(
        at=datetime.now(UTC),  # noqa: TID251 - a person at a terminal, not a rule
        cores=os.cpu_count() or 1,
        load=float(Path("/proc/loadavg").read_text().split()[0]),
        took_s=time.monotonic() - began,
        given=vars(given),
    )
    return report.text({load: Figures.of(some) for load, some in runs.items()}, memory, facts)


if __name__ == "__main__":
    main()
