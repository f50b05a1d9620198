"""How much memory connections cost that do nothing, and whether others notice them.

`python -m bench.idle` opens 2,000 event streams and 10,000 kept connections to our gateway (two
workers, as `cloud.server` starts it), lets them rest, and asks on others meanwhile. It exits with
1 when the goal (under 200 MiB for all processes of the gateway, nobody failed) is not reached.
"""

import argparse
import asyncio
import resource
from dataclasses import dataclass, field
from typing import Final

from bench import contestants, terminal
from bench.contestants import PORTS, Running, token
from bench.load import Figures, measure
from bench.terminal import say
from deploy.local.site import HOST

_EVENTS_PORT: Final = 7084
_GOAL_MIB: Final = 200
_AT_ONCE: Final = 200
_ANSWER_S: Final = 30
_TOKEN: Final = token()
_ROUTE: Final = "spring.cloud.gateway.routes[1]"
_CHANGES: Final = {
    f"{_ROUTE}.id": "events",
    f"{_ROUTE}.uri": f"http://{HOST}:{_EVENTS_PORT}",
    f"{_ROUTE}.predicates[0]": "Path=/events",
    "nozie.gateway.timeouts.idle": "10m",
}
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n"
)

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Service:
    """Sends one event to whoever comes, then a last one when it is told to."""

    listeners: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin a stream for one request."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        self.listeners.append(writer)

    def tell(self) -> None:
        """Send everybody the last event."""
        for writer in self.listeners:
            writer.write(b"8\r\nlast: 1\n\r\n")


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: {_TOKEN}\r\n\r\n".encode()


async def _open(path: str, wanted: bytes) -> Line:
    reader, writer = await asyncio.open_connection(HOST, PORTS["nozie"], limit=4096)
    writer.write(_request(path))
    async with asyncio.timeout(_ANSWER_S):
        await reader.readuntil(wanted)
    return reader, writer


async def _open_all(count: int, path: str, wanted: bytes) -> list[Line]:
    lines: list[Line] = []
    while len(lines) < count:
        some = min(_AT_ONCE, count - len(lines))
        lines += await asyncio.gather(*(_open(path, wanted) for _ in range(some)))
    return lines


async def _hears(line: Line) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_S):
            await line[0].readuntil(b"last: 1")
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return True


async def _asks_again(line: Line) -> bool:
    reader, writer = line
    try:
        writer.write(_request("/api/movies/small"))
        async with asyncio.timeout(_ANSWER_S):
            return b" 200 OK" in await reader.readuntil(b" OK")
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


def _others(gateway: Running) -> Figures:
    return measure("nozie", gateway, "small", 32, 5)


async def _hold(given: argparse.Namespace, gateway: Running) -> bool:
    service = Service()
    server = await asyncio.start_server(service.serve, HOST, _EVENTS_PORT, backlog=1024)
    async with server:
        before, quiet = gateway.memory_mib(), await asyncio.to_thread(_others, gateway)
        streams = await _open_all(given.streams, "/events", b"data: 1")
        kept = await _open_all(given.kept, "/api/movies/small", b'"timestamp"')
        after, beside = gateway.memory_mib(), await asyncio.to_thread(_others, gateway)
        service.tell()
        told = await asyncio.gather(*map(_hears, streams))
        asked = [await _asks_again(line) for line in kept[:: max(1, len(kept) // 1000)]]
        last = gateway.memory_mib()
        for _, writer in (*streams, *kept):
            writer.transport.abort()
        server.close()
    failed = beside.failed + told.count(False) + asked.count(False)
    say(terminal.machine())
    say(f"{given.streams} event streams, {given.kept} kept connections, two workers")
    say("")
    say("| | before | with them |")
    say("|---|---|---|")
    say(f"| memory of all processes (PSS), MiB | {before:.0f} | {after:.0f}, later {last:.0f} |")
    say(f"| others, 32 at once: p50 ms | {quiet.p50_ms:.2f} | {beside.p50_ms:.2f} |")
    say(f"| others: p99 ms | {quiet.p99_ms:.2f} | {beside.p99_ms:.2f} |")
    say(f"| others: answers a second | {quiet.rate:.0f} | {beside.rate:.0f} |")
    say(f"| others: failed | {quiet.failed} | {beside.failed} |")
    say(f"| streams that heard the last event | | {told.count(True)} of {len(told)} |")
    say(f"| kept connections asked again, answered | | {asked.count(True)} of {len(asked)} |")
    reached = max(after, last) < _GOAL_MIB and not failed
    told_goal = "reached" if reached else "NOT REACHED"
    say(f"\ngoal, under {_GOAL_MIB} MiB and nobody failed: {told_goal}")
    return reached


def main() -> None:
    """Read the command line and measure."""
    parser = terminal.parser("bench.idle", __doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--kept", type=int, default=10_000)
    terminal.run(parser, _run)


def _run(given: argparse.Namespace) -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The gateway inherits it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contestants.running(contestants.alone(_CHANGES)) as found:
        return 0 if asyncio.run(_hold(given, found["nozie"])) else 1


if __name__ == "__main__":
    main()
