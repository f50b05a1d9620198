"""What an operator fears, done on purpose: `python -m bench.drill eureka --minutes 10`.

Eureka is killed under steady load through our gateway and through the JVM neighbour's own load
balancer, stays away, and comes back empty. Counted: requests that failed, and the seconds until all
are registered again. Exits with 1 when a request failed, or they are not back within 35 s.

What the neighbour fails to do after Eureka's return is told and does not count: Netflix's client
believes an empty registry at once, where ours holds what it knows.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from bench import terminal
from bench.rolling import both_ways, steady
from bench.shop import opened
from bench.terminal import say
from deploy.local import Estate, probes
from deploy.local.services import SERVICES
from deploy.local.site import HOST
from deploy.local.supervisor import wait_until
from tests.estate import programs
from tests.ports import free_port

BACK_S: Final = 35
_SETTLED_S: Final = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        away: by way, how many answers of each status while there was no Eureka.
        back: likewise, from its return on.
        back_s: from Eureka's first answer until all were registered with it; None when never.
    """

    away: dict[str, Counter[int]]
    back: dict[str, Counter[int]]
    back_s: float | None

    def failed(self) -> int:
        """Count what must not be: by our gateway at any time, by the neighbour while away."""
        counted = (*self.away.values(), self.back["gateway"])
        return sum(each.total() - each[HTTPStatus.OK] for each in counted)


def eureka(estate: Estate, neighbour: str, away_s: float, rate: float) -> Outcome:
    """Kill Eureka under load, let it be away for so long, and start it without its registry.

    Args:
        estate: runs.
        neighbour: `host:port` of the JVM neighbour.
        away_s: seconds without Eureka.
        rate: requests in a second.
    """
    lines = both_ways(estate, neighbour)
    wanted = {*(name.upper() for name in SERVICES.values()), "NEIGHBOUR"}

    def all_back() -> bool:
        return probes.registered(estate.url("eureka")).keys() >= wanted

    with steady(lines, estate.site.secrets["jwt"], rate):
        # Whoever is killed and stopped at once stays away.
        estate.signal("eureka", "KILL")
        estate.stop("eureka")
        _wait(away_s)
        away = {name: line.client.statuses.copy() for name, line in lines.items()}
        estate.ensure("eureka")
        began = time.monotonic()
        back = wait_until(lambda: probes.holds(all_back), 2 * BACK_S)
        back_s = time.monotonic() - began
        _wait(_SETTLED_S)
    after = {name: line.client.statuses - away[name] for name, line in lines.items()}
    return Outcome(away, after, back_s if back else None)


def _wait(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251 - this is what the drill is made of


DRILLS: Final[dict[str, Callable[[Estate, str, float, float], Outcome]]] = {"eureka": eureka}


def main() -> None:
    """Read the command line and drill."""
    parser = terminal.parser("bench.drill", __doc__)
    parser.add_argument("drill", choices=sorted(DRILLS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=40, help="requests in a second")
    terminal.run(parser, _run)


def _run(given: argparse.Namespace) -> int:
    say(terminal.machine())
    port = free_port()
    with (
        opened("drill", say, {}) as estate,
        programs.beside(estate.site, programs.neighbour(estate.site, port)),
    ):
        act = DRILLS[given.drill]
        found = act(estate, f"{HOST}:{port}", given.minutes * 60, given.rate)
    for when, answers in (("away", found.away), ("back", found.back)):
        for name, statuses in answers.items():
            say(f"  {when}  {name:<12}{statuses.total():7} requests  {dict(statuses)}")
    back = "never" if found.back_s is None else f"{found.back_s:.1f} s after its first answer"
    say(f"  {found.failed()} failed; all registered again: {back}")
    return 1 if found.failed() or found.back_s is None or found.back_s > BACK_S else 0


if __name__ == "__main__":
    main()
