"""How long it is from a payment's 201 to its event on the buyer's open stream.

`python -m bench.push --rate 50 --seconds 30` pays through the gateway of an estate of its own (the
same as `bench.payments`) and listens on as many streams as there are buyers, each on a connection
of its own. The sandbox decides at once: its delay is 0, so what is measured is ours alone. The
clock starts when the buyer has the 201, and stops when his stream has the event; an event that was
there first counts as 0. Before the first payment the streams rest, and what notification then takes
of memory is measured; `--streams 2000` is what the goal for it is meant for.
"""

import argparse
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from statistics import quantiles
from typing import Final

from bench import terminal
from bench.payments import Crowd
from bench.shop import Client, Item, Person, opened, people, people_for, rentals
from bench.terminal import say
from deploy.local.supervisor import wait_until

_SETTINGS: Final = {"nozie.payment.sandbox.delay": "0ms"}
_BUFFER: Final = 65_536
_ANSWER_S: Final = 10.0
_LATE_S: Final = 30.0
_GOAL_MS: Final[Mapping[str, float]] = {"p50": 60, "p99": 250}
_GOAL_MIB: Final = 150


class Streams(threading.Thread):
    """Everybody's stream, read by one thread; notes when the event of each purchase came."""

    def __init__(self, address: str, listeners: list[Person]) -> None:
        super().__init__(daemon=True)
        self._selector = selectors.DefaultSelector()
        self._ending = threading.Event()
        self._rests: dict[int, bytes] = {}
        self.came: dict[tuple[int, str], float] = {}
        for person in listeners:
            self._open(address, person)

    def run(self) -> None:
        """Read until `end`."""
        while not self._ending.is_set():
            for key, _ in self._selector.select(0.2):
                with suppress(OSError):
                    self._read(key.fileobj, key.data)  # type: ignore[arg-type]

    def end(self) -> None:
        """Hang up."""
        self._ending.set()
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _open(self, address: str, person: Person) -> None:
        host, port = address.split(":")
        line = socket.create_connection((host, int(port)), timeout=_ANSWER_S)
        request = (
            f"GET /api/notifications/stream HTTP/1.1\r\nHost: {address}\r\n"
            f"Authorization: Bearer {person.token}\r\nAccept: text/event-stream\r\n\r\n"
        )
        line.sendall(request.encode())
        head = line.recv(_BUFFER)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the stream answered {head[:60]!r}")
        self._rests[person.user_id] = b""
        self._selector.register(line, selectors.EVENT_READ, person.user_id)

    def _read(self, line: socket.socket, user_id: int) -> None:
        piece = line.recv(_BUFFER)
        now = time.monotonic()
        if not piece:
            self._selector.unregister(line)
            return
        *lines, rest = (self._rests[user_id] + piece).split(b"\n")
        self._rests[user_id] = rest
        for text in lines:
            if text.startswith(b"data:") and b"deepLink" in text:
                told = json.loads(text.removeprefix(b"data:"))
                self.came.setdefault((user_id, str(told.get("deepLink"))), now)


class Buyers:
    """Pay, and note when the 201 was there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.paid: dict[tuple[int, str], float] = {}
        self.took: list[float] = []
        self.refused = 0

    def pay(self, person: Person, item: Item, number: int) -> None:
        """Buy one title."""
        began = time.monotonic()
        answer = self._client.ask(
            "POST",
            "/api/payments/create",
            {"customerId": person.customer_id, "movieId": item.id, "amount": item.price},
            token=person.token,
            headers={"Idempotency-Key": f"push-{number}"},
        )
        now = time.monotonic()
        if answer.status == HTTPStatus.CREATED:
            self.paid[person.user_id, f"movie:{item.id}"] = now
            self.took.append(now - began)
        else:
            self.refused += 1


def main() -> None:
    """Read the command line and measure."""
    parser = terminal.parser("bench.push", __doc__)
    parser.add_argument("--rate", type=float, default=50, help="payments a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=5, help="seconds that do not count")
    terminal.run(parser, _run)


def _run(given: argparse.Namespace) -> int:
    count = int(given.rate * (given.seconds + given.warm_up))
    with opened("storm", say, _SETTINGS) as estate:
        address = estate.address("gateway")
        client = Client(address)
        titles = rentals(client, people(client, 1, "reader")[0].token)
        listeners = people(client, max(given.streams, people_for(count, len(titles))), "buyer")
        streams, buyers, crowd = Streams(address, listeners), Buyers(client), Crowd()
        streams.start()
        memory = estate.memory("notification") / 2**20
        say(f"{len(listeners)} streams are open, {given.rate:g} payments a second …")
        began = time.monotonic() + 1
        for number in range(count):
            turn, place = divmod(number, len(listeners))
            who, what = listeners[place], titles[turn]
            due = began + number / given.rate
            crowd.put(due, lambda w=who, i=what, n=number: buyers.pay(w, i, n))  # type: ignore[misc]
        wait_until(lambda: not crowd.left(), given.seconds + given.warm_up + _LATE_S)
        load = os.getloadavg()[0]
        wait_until(lambda: streams.came.keys() >= buyers.paid.keys(), _LATE_S)
        streams.end()
    late = _tell(given, buyers, streams, counts_from=began + given.warm_up, load=load)
    say(f"notification with {len(listeners)} idle streams: {memory:.0f} MiB (goal < {_GOAL_MIB})")
    return late or int(memory >= _GOAL_MIB)


def _tell(
    given: argparse.Namespace,
    buyers: Buyers,
    streams: Streams,
    *,
    counts_from: float,
    load: float,
) -> int:
    counted = {key: at for key, at in buyers.paid.items() if at >= counts_from}
    late = {key: streams.came[key] - at for key, at in counted.items() if key in streams.came}
    if len(late) < 2:  # noqa: PLR2004 - what quantiles need
        say(f"only {len(late)} events came, {buyers.refused} payments were refused")
        return 1
    waits = [max(0.0, each) * 1000 for each in late.values()]
    cuts = quantiles(waits, n=100)
    found = {"p50": cuts[49], "p99": cuts[98]}
    answers = quantiles([each * 1000 for each in buyers.took], n=100)
    facts: dict[str, object] = {
        "payments a second, as asked": given.rate,
        "payments a second, as answered": round(len(counted) / given.seconds, 1),
        "streams": given.streams,
        "payments counted": len(counted),
        "payments refused": buyers.refused,
        "events that never came": len(counted) - len(late),
        "events that came before the 201": sum(each < 0 for each in late.values()),
        "sandbox delay, ms": 0,
        "201 to event, p50 ms (goal < 60)": round(found["p50"], 1),
        "201 to event, p99 ms (goal < 250)": round(found["p99"], 1),
        "201 to event, longest ms": round(max(waits), 1),
        "the 201 itself, p50 and p99 ms": f"{answers[49]:.1f} and {answers[98]:.1f}",
        "cores, load average": f"{os.cpu_count()}, {load:.1f}",
    }
    say("\n| push | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in facts.items()))
    lost = len(counted) - len(late) + buyers.refused
    reached = all(found[name] < goal for name, goal in _GOAL_MS.items())
    return 0 if reached and not lost else 1


if __name__ == "__main__":
    main()
