"""What an operator does about dead letters: `python -m cloud.messaging.dead_letters HOUSE list`.

A letter leaves its queue only after the broker has confirmed its copy in the work queue, or on a
`purge`. Killed half-way, this command may have replayed a letter that is still listed: consumers
recognise doubles, and nothing is lost.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from cloud.config import environment
from cloud.messaging import rabbit
from cloud.messaging.consumer import ATTEMPT, EXCEPTION, ORIGINAL_ROUTING_KEY
from cloud.messaging.rabbit import RabbitSettings

_NOT_FOUND: Final = 404  # AMQP 0-9-1, section 1.1
_COMMANDS: Final = {
    "list": "one line a letter: id, attempts, routing key, reason",
    "show": "headers and body of the letters with these ids",
    "replay": "send letters back to their work queue, with all their attempts before them",
    "purge": "delete letters for good",
}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message of a `<queue>.dlq`, as long as the connection that fetched it holds it."""

    tag: int
    properties: pika.BasicProperties
    body: bytes

    @property
    def id(self) -> str:
        """The message id; a JVM publisher gives none, then a digest of the body."""
        return self.properties.message_id or hashlib.sha256(self.body).hexdigest()[:16]

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.properties.headers or {})


class DeadLetters:
    """The dead letters of one work queue."""

    def __init__(self, channel: BlockingChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    def fetch(self) -> Iterator[DeadLetter]:
        """Take those that are there now, oldest first; without `remove` each goes back."""
        name = f"{self._queue}.dlq"
        count = self._channel.queue_declare(name, passive=True).method.message_count
        for _ in range(count):
            method, properties, body = self._channel.basic_get(name)
            if method is None or properties is None or body is None:
                return
            yield DeadLetter(method.delivery_tag, properties, body)

    def replay(self, letter: DeadLetter) -> None:
        """Put it into its work queue as a first delivery, then remove it."""
        kept = letter.headers
        for name in (ATTEMPT, EXCEPTION, "x-death"):
            kept.pop(name, None)
        letter.properties.headers = kept
        self._channel.basic_publish("", self._queue, letter.body, letter.properties, mandatory=True)
        self.remove(letter)

    def remove(self, letter: DeadLetter) -> None:
        self._channel.basic_ack(letter.tag)


@contextmanager
def opened(settings: RabbitSettings, queue: str) -> Iterator[DeadLetters]:
    """Open the dead letters of `queue`; what was fetched and not removed is back at the end.

    Raises:
        rabbit.BROKER_AWAY: the broker is away, or knows no such queue.
    """
    connection = pika.BlockingConnection(rabbit.parameters(settings, "dead letters"))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield DeadLetters(channel, queue)
    finally:
        with suppress(*rabbit.BROKER_AWAY):
            connection.close()


def main(house: str, arguments: Sequence[str], program: str | None = None) -> int:
    """Run one command; return the exit status: 1 when an id is unknown or the broker is away."""
    options = _parser(program).parse_args(arguments)
    queues = options.queue or _own_queues(house)
    if complaint := _complaint(options, queues):
        sys.stderr.write(f"{complaint}\n")
        return 2
    out = _own_output()
    settings = RabbitSettings.of(environment(house).properties)
    wanted, found = set(options.ids), set()
    try:
        for queue in queues:
            try:
                with opened(settings, queue) as letters:
                    found |= _run(options.command, letters, queue, wanted, out)
            except ChannelClosedByBroker as error:
                # A house that has not consumed yet has no such queue, and no letters in it.
                if options.queue or error.reply_code != _NOT_FOUND:
                    raise
    except ChannelClosedByBroker as error:
        sys.stderr.write(f"{error.reply_text}\n")
        return 1
    except UnroutableError:
        sys.stderr.write("the work queue is gone; the letter stays where it is\n")
        return 1
    except rabbit.BROKER_AWAY as error:
        sys.stderr.write(f"the broker is not reachable: {error!r}\n")
        return 1
    for missing in sorted(wanted - found):
        sys.stderr.write(f"no such letter: {missing}\n")
    return 1 if wanted - found else 0


def _own_queues(house: str) -> Sequence[str]:
    return tuple(getattr(importlib.import_module(f"{house}.worker"), "QUEUES", ()))


def _complaint(options: argparse.Namespace, queues: Sequence[str]) -> str | None:
    """Tell what is missing in the command."""
    if options.command in {"replay", "purge"} and bool(options.ids) == options.all:
        return "name the ids of letters, or --all"
    if options.command == "show" and not options.ids:
        return "name the ids of letters"
    return None if queues else "this house consumes nothing; name a work queue with --queue"


def _own_output() -> TextIO:
    """Keep standard output for the answer: what is logged on the way goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return kept


def _run(command: str, letters: DeadLetters, queue: str, wanted: set[str], out: TextIO) -> set[str]:
    """Do it to every letter that is wanted, all when none is named; return their ids."""
    done = []
    for letter in letters.fetch():
        if wanted and letter.id not in wanted:
            continue
        if command == "replay":
            letters.replay(letter)
        elif command == "purge":
            letters.remove(letter)
        out.write(_detail(letter, queue) if command == "show" else _line(letter, queue))
        done.append(letter.id)
    return set(done)


def _line(letter: DeadLetter, queue: str) -> str:
    headers = letter.headers
    facts = (letter.id, queue, headers.get(ATTEMPT), headers.get(ORIGINAL_ROUTING_KEY))
    # A reason may hold what a publisher wrote: no line of ours is broken by it.
    return "\t".join([*map(str, facts), repr(headers.get(EXCEPTION))]) + "\n"


def _detail(letter: DeadLetter, queue: str) -> str:
    known = {
        "id": letter.id,
        "queue": queue,
        "timestamp": letter.properties.timestamp,
        "appId": letter.properties.app_id,
        "headers": letter.headers,
        "body": letter.body.decode("utf-8", "backslashreplace"),
    }
    return json.dumps(known, indent=2, default=str) + "\n"


def _parser(program: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program, description="List, show, replay or delete dead letters."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--queue", action="append", help="a work queue; all of the house's when not given"
        )
        command.set_defaults(all=False)
        command.add_argument("ids", nargs="*", help="ids as `list` prints them")
        if name in {"replay", "purge"}:
            command.add_argument("--all", action="store_true", help="every letter there is now")
    return parser


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):  # noqa: PLR2004 - program and house
        _parser("python -m cloud.messaging.dead_letters HOUSE").parse_args(sys.argv[1:])
    sys.exit(main(sys.argv[1], sys.argv[2:], f"{sys.argv[0]} {sys.argv[1]}"))
