"""A service of two instances is restarted one by one, and whether any caller noticed.

`python -m bench.rolling --rate 200` asks for customer records steadily, half of it through our
gateway and half through the JVM neighbour's own load balancer, on an estate of its own. Both
instances of customer-service are replaced meanwhile. Exits with 1 when a request failed.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import uuid4

from bench import terminal
from bench.shop import Client, opened
from bench.terminal import say
from cloud.security import sign
from deploy.local import Estate, EstateError
from deploy.local.site import HOST
from deploy.local.supervisor import wait_until
from tests.estate import programs
from tests.ports import free_port

Say = Callable[[str], None]

_HOUSE: Final = "customer"
_THREADS: Final = 16
_PEOPLE: Final = 200
FAREWELL_S: Final = 3
"""More than the two seconds for which callers with a fetch and a cache of 1 s each are behind."""
_FOUND_S: Final = 90
_FOUND_TIMES: Final = 10
_BETWEEN_S: Final = 2


@dataclass(frozen=True, slots=True)
class Line:
    """One way to the service: who is asked, and for what."""

    client: Client
    path: str


def both_ways(estate: Estate, neighbour: str) -> dict[str, Line]:
    """Lead to customer-service through our gateway, and through the JVM neighbour's balancer."""
    return {
        "gateway": Line(Client(estate.address("gateway")), "/api/customers"),
        "neighbour": Line(Client(neighbour), "/call/customer-service?path=/api/customers"),
    }


def tokens(secret: str) -> list[str]:
    """Sign tokens of people who have no record: many, as each may only ask so often."""
    now = int(time.time())
    return [
        sign(
            {
                "jti": str(uuid4()), "sub": str(10**9 + number), "username": f"caller-{number}",
                "roles": ["USER"], "permissions": [], "type": "ACCESS", "iat": now,
                "exp": now + 3600,
            },
            secret,
        )
        for number in range(_PEOPLE)
    ]  # fmt: skip


@contextmanager
def steady(lines: Mapping[str, Line], secret: str, rate: float) -> Iterator[None]:
    """Ask at a steady rate, in turns along all lines, as long as the block runs.

    Begins when each way leads to the service: whoever has just started is not known to all.
    """
    people = tokens(secret)
    over = threading.Event()
    ways = list(lines.values())
    if not wait_until(lambda: all(_answers(line, people[0]) for line in ways), _FOUND_S):
        raise EstateError("not every way leads to the service")
    began = time.monotonic()

    def work(first: int) -> None:
        for number in range(first, sys.maxsize, _THREADS):
            if over.wait(max(0.0, began + number / rate - time.monotonic())):
                break
            # A thread's numbers have one remainder: by rounds, each walks all lines.
            line = ways[(number // _THREADS) % len(ways)]
            line.client.ask("GET", line.path, token=people[number % _PEOPLE])
        for line in ways:
            line.client.leave()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _answers(line: Line, token: str) -> bool:
    client, found = line.client, set()
    for _ in range(_FOUND_TIMES):
        found.add(client.ask("GET", line.path, token=token).status)
        # Each connection may meet another worker, which looks at the registry on its own.
        client.leave()
    client.statuses.clear()
    return found == {HTTPStatus.OK}


def roll(
    estate: Estate,
    neighbour: str,
    rate: float,
    say: Say,
    rounds: int = 1,
    farewell_s: float = FAREWELL_S,
) -> dict[str, dict[int, int]]:
    """Replace both instances in turn under load; count the answers by way and status.

    Args:
        estate: runs; its own instance of the service makes room for two of ours.
        neighbour: `host:port` of the JVM neighbour.
        rate: requests in a second, both ways together.
        say: told each replacement.
        rounds: how often each instance is replaced.
        farewell_s: how long an instance serves on after it has said that it goes.
    """
    lines = both_ways(estate, neighbour)
    settings = {"nozie.server.deregister-wait": f"{farewell_s:.0f}s"}
    made = [programs.another(estate.site, _HOUSE, free_port(), settings) for _ in range(2)]
    estate.stop(_HOUSE)
    with ExitStack() as all_ends:
        places = [all_ends.enter_context(ExitStack()) for _ in made]
        serving = [
            place.enter_context(programs.beside(estate.site, program))
            for program, place in zip(made, places, strict=True)
        ]
        with steady(lines, estate.site.secrets["jwt"], rate):
            for turn in range(rounds):
                for number, (program, place) in enumerate(zip(made, places, strict=True)):
                    time.sleep(_BETWEEN_S)  # noqa: TID251 - both serve for a while
                    began = time.monotonic()
                    place.close()
                    serving[number] = place.enter_context(programs.beside(estate.site, program))
                    took = time.monotonic() - began
                    say(f"  round {turn + 1}: {program.name} replaced in {took:.1f} s")
            time.sleep(_BETWEEN_S)  # noqa: TID251 - likewise
        for one in serving:
            # Their farewells side by side, each is waited for below.
            one.process.terminate()
    return {name: dict(line.client.statuses) for name, line in lines.items()}


def main() -> None:
    """Read the command line and roll."""
    parser = terminal.parser("bench.rolling", __doc__)
    parser.add_argument("--rate", type=float, default=200, help="requests in a second")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--farewell", type=float, default=FAREWELL_S, help="nozie's, in seconds")
    parser.add_argument("--fetch", type=int, default=1, help="the neighbour's, of the registry")
    parser.add_argument("--cache", type=int, default=1, help="the neighbour's, of instances")
    terminal.run(parser, _run)


def _run(given: argparse.Namespace) -> int:
    say(terminal.machine())
    port = free_port()
    behind = {
        "EUREKA_CLIENT_REGISTRYFETCHINTERVALSECONDS": str(given.fetch),
        "SPRING_CLOUD_LOADBALANCER_CACHE_TTL": f"{given.cache}s",
    }
    with (
        opened("rolling", say, {}) as estate,
        programs.beside(estate.site, programs.neighbour(estate.site, port, more=behind)),
    ):
        neighbour = f"{HOST}:{port}"
        found = roll(estate, neighbour, given.rate, say, given.rounds, given.farewell)
    failed = 0
    for name, statuses in found.items():
        bad = sum(count for status, count in statuses.items() if status != HTTPStatus.OK)
        say(f"  {name:<12}{sum(statuses.values()):7} requests, {bad} failed  {statuses}")
        failed += bad
    return 1 if failed else 0


if __name__ == "__main__":
    main()
