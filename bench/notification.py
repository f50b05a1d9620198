"""How fast the consumer of payments is, beside what the document store itself takes.

`python -m bench.notification [EVENTS]`, on the servers that NOZIE_TEST_MONGO, NOZIE_TEST_REDIS and
NOZIE_TEST_RABBIT (with NOZIE_TEST_RABBIT_API) name. Events wait in the queue; one consumer process
takes them. In turns with it, as many documents of the same kind go into a collection with the same
indexes, by the same bulk writes and nothing else. Prints one line of JSON; `ratio` is the median.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import mean, median
from typing import Any, Final

import pika
import pymongo
import requests

from cloud.clock import utc_now
from cloud.config import Properties
from cloud.messaging import Event, RabbitSettings, rabbit
from cloud.messaging.publisher import publish_all
from cloud.testing import SECRET
from notification import worker
from notification.domain import purchase
from notification.schema import parse_payment
from notification.store import notifications

_QUEUE: Final = "payment.notification.queue"
_BATCH: Final = 200
_ROUNDS: Final = 5
_LIMIT_S: Final = 600.0
_GUEST: Final = ("guest", "guest")
_JOURNALED: Final = "directConnection=true&w=1&journal=true"


def _server(name: str, default: str) -> str:
    return os.environ.get(f"NOZIE_TEST_{name}", default)  # noqa: TID251 - as the tests are told


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
def _virtual_host() -> Iterator[dict[str, str]]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    host, port = _server("RABBIT", "127.0.0.1:55672").split(":")
    api = f"http://{_server('RABBIT_API', '127.0.0.1:55673')}/api"
    grant = {"configure": ".*", "write": ".*", "read": ".*"}
    requests.put(f"{api}/vhosts/{name}", auth=_GUEST, timeout=10).raise_for_status()
    answer = requests.put(f"{api}/permissions/{name}/guest", json=grant, auth=_GUEST, timeout=10)
    answer.raise_for_status()
    try:
        yield {
            "spring.rabbitmq.host": host,
            "spring.rabbitmq.port": port,
            "spring.rabbitmq.virtual-host": name,
        }
    finally:
        requests.delete(f"{api}/vhosts/{name}", auth=_GUEST, timeout=10)


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


def _until(true: Callable[[], bool]) -> float:
    deadline = time.perf_counter() + _LIMIT_S
    while not true():
        if time.perf_counter() > deadline:
            raise TimeoutError("the consumer did not finish")
        time.sleep(0.1)  # noqa: TID251 - waits for another process
    return time.perf_counter()


def _consumed_per_second(uri: str, count: int) -> float:
    """Let one consumer process empty the queue; from its first document to its last."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
    database = client.get_database(f"bench_{uuid.uuid4().hex[:8]}")
    redis = _server("REDIS", "127.0.0.1:56379")
    with _virtual_host() as broker:
        values = {
            **broker,
            "spring.data.mongodb.uri": f"{uri}/{database.name}?{_JOURNALED}",
            "spring.data.redis.url": f"redis://{redis}/62",
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
            stdout=subprocess.DEVNULL,
        )
        stored = database["notifications"].estimated_document_count
        try:
            started = _until(lambda: stored() > 0)
            first = stored()
            return (count - first) / (_until(lambda: stored() >= count) - started)
        finally:
            process.terminate()
            process.wait()
            client.drop_database(database.name)
            client.close()


def main(count: int) -> None:
    """Measure in turns, so that a busy machine is as busy for either, and print."""
    uri = f"mongodb://{_server('MONGO', '127.0.0.1:57017')}"
    store, consumed = [_writes_per_second(uri, count)], []
    for _ in range(_ROUNDS):
        consumed.append(_consumed_per_second(uri, count))
        store.append(_writes_per_second(uri, count))
    beside = [mean(pair) for pair in pairwise(store)]
    ratios = [ours / theirs for ours, theirs in zip(consumed, beside, strict=True)]
    told = {
        "events": count,
        "consumer_per_s": [round(each) for each in consumed],
        "store_per_s": [round(each) for each in store],
        "ratios": [round(each, 2) for each in ratios],
        "ratio": round(median(ratios), 2),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
