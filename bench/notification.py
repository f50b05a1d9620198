"""How fast the consumer of payments is, beside what the document store itself takes.

`python -m bench.notification` starts a document store, Redis and RabbitMQ of its own.
Events wait in the queue; one consumer process takes them. In turns with it, as many documents of
the same kind go into a collection with the same indexes, by the same bulk writes and nothing else.
The ratio is the median of the rounds.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean, median
from typing import Any, Final

import pika
import pymongo
import requests

from bench import terminal
from bench.shop import SHIFT
from bench.terminal import say
from cloud.clock import utc_now
from cloud.config import Properties
from cloud.messaging import Event, RabbitSettings, rabbit
from cloud.messaging.publisher import publish_all
from cloud.testing import SECRET
from deploy.local import Estate
from deploy.local.servers import GUEST
from notification import worker
from notification.domain import purchase
from notification.schema import parse_payment
from notification.store import notifications

_QUEUE: Final = "payment.notification.queue"
_BATCH: Final = 200
_GOAL: Final = 0.8
_JOURNALED: Final = "directConnection=true&w=1&journal=true"


def _event(number: int) -> bytes:
    event = {"transactionId": number, "customerId": number % 500, "movieId": f"{number % 97:024x}"}
    return json.dumps({**event, "amount": 9.99, "currency": "usd", "userId": number % 500}).encode()


def _writes_per_second(uri: str, count: int) -> float:
    """Put documents into the store as the consumer does, without anything else that it does."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, w=1, journal=True)
    database = client.get_database(f"bench_{uuid.uuid4().hex[:8]}")
    try:
        notifications.create_indexes(database)
        drafts = [purchase(parse_payment(_event(number))) for number in range(count)]
        documents = [notifications.document(draft, utc_now()) for draft in drafts]
        started = time.perf_counter()
        for first in range(0, count, _BATCH):
            database["notifications"].insert_many(documents[first : first + _BATCH], ordered=False)
        return count / (time.perf_counter() - started)
    finally:
        client.drop_database(database.name)
        client.close()


@contextmanager
def _virtual_host(estate: Estate) -> Iterator[dict[str, str]]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    host, port = estate.address("rabbit").split(":")
    api = estate.url("rabbit-api", "/api")
    grant = {"configure": ".*", "write": ".*", "read": ".*"}
    requests.put(f"{api}/vhosts/{name}", auth=GUEST, timeout=10).raise_for_status()
    access = f"{api}/permissions/{name}/{GUEST[0]}"
    requests.put(access, json=grant, auth=GUEST, timeout=10).raise_for_status()
    try:
        yield {
            "spring.rabbitmq.host": host,
            "spring.rabbitmq.port": port,
            "spring.rabbitmq.username": GUEST[0],
            "spring.rabbitmq.password": GUEST[1],
            "spring.rabbitmq.virtual-host": name,
        }
    finally:
        requests.delete(f"{api}/vhosts/{name}", auth=GUEST, timeout=10)


def _fill(settings: RabbitSettings, count: int) -> None:
    connection = pika.BlockingConnection(rabbit.parameters(settings, "bench"))
    channel = connection.channel()
    for method, arguments in rabbit.work_queue(_QUEUE, worker.QUEUES[_QUEUE]):
        getattr(channel, method)(**arguments)
    connection.close()
    headers = {"x-payment-status": "succeeded"}
    for first in range(0, count, 1000):
        numbers = range(first, min(first + 1000, count))
        publish_all(
            settings,
            "bench",
            [
                Event("payment-exchange", "payment.succeeded", _event(number), "k", headers=headers)
                for number in numbers
            ],
        )


def _watch(process: "subprocess.Popen[bytes]", count: int) -> float:
    """Read in the consumer's log what it has stored; return events a second after its first batch.

    To ask the store how much it has would cost the store more than a batch.
    """
    moments: list[float] = []
    sizes: list[int] = []
    for line in process.stdout or ():
        told = json.loads(line)
        if told["message"] not in {"deliveries", "delivery"}:
            continue
        if told.get("nozie.outcome", "done") != "done":
            raise RuntimeError(f"not stored: {told}")
        moments.append(time.perf_counter())
        # A batch of one is told as the delivery that it is.
        sizes.append(told.get("nozie.count", 1))
        if sum(sizes) >= count:
            break
    return sum(sizes[1:]) / (moments[-1] - moments[0])


def _consumed_per_second(estate: Estate, uri: str, count: int) -> float:
    """Let one consumer process empty the queue; from its first document to its last."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
    database = client.get_database(f"bench_{uuid.uuid4().hex[:8]}")
    with _virtual_host(estate) as broker:
        values = {
            **broker,
            "spring.data.mongodb.uri": f"{uri}/{database.name}?{_JOURNALED}",
            "spring.data.redis.url": f"redis://{estate.address('redis')}/62",
            "spring.config.import": "optional:configserver:http://127.0.0.1:1",
            "spring.profiles.active": "test",
            "jwt.secret": SECRET,
            "management.tracing.sampling.probability": "0",
        }
        notifications.create_indexes(database)
        _fill(RabbitSettings.of(Properties.of(values, "notification-service")), count)
        process = subprocess.Popen(
            [sys.executable, "-m", "notification.worker", "consumer"],
            env={**os.environ, "SPRING_APPLICATION_JSON": json.dumps(values)},  # noqa: TID251
            stdout=subprocess.PIPE,
        )
        try:
            found = _watch(process, count)
            stored = database["notifications"].count_documents({})
            if stored != count:
                raise RuntimeError(f"{stored} of {count} events were stored")
            return found
        finally:
            process.terminate()
            process.wait()
            client.drop_database(database.name)
            client.close()


def main() -> None:
    """Read the command line and measure."""
    parser = terminal.parser("bench.notification", __doc__)
    parser.add_argument("--events", type=int, default=20_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    terminal.run(parser, lambda given: _run(given.events, given.rounds))


def _run(events: int, rounds: int) -> int:
    estate = Estate("storm", say, shift=SHIFT)
    estate.clean()
    try:
        estate.ensure("mongo", "redis", "rabbit")
        return _measure(estate, events, rounds)
    finally:
        estate.down()


def _measure(estate: Estate, count: int, rounds: int) -> int:
    """Measure in turns, so that a busy machine is as busy for either, and print."""
    uri = f"mongodb://{estate.address('mongo')}"
    say("| round | consumer, events/s | store alone, writes/s | ratio |\n|---|---|---|---|")
    before, ratios = _writes_per_second(uri, count), []
    for number in range(1, rounds + 1):
        ours = _consumed_per_second(estate, uri, count)
        after = _writes_per_second(uri, count)
        beside, before = mean((before, after)), after
        ratios.append(ours / beside)
        say(f"| {number} | {ours:.0f} | {beside:.0f} | {ratios[-1]:.2f} |")
    say(f"\nmedian {median(ratios):.2f} of {count} events each (goal >= {_GOAL})")
    return 0 if median(ratios) >= _GOAL else 1


if __name__ == "__main__":
    main()
