"""What goes wrong, at moments that a seed decides: processes killed, servers restarted."""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pika
import psycopg2
import requests

from deploy.local import Estate, servers
from deploy.local.probes import fetch
from deploy.local.supervisor import survivors, wait_until

REPEATED: Final = "x-repeated"
_TAP: Final = "storm.tap"
_TAPPED: Final = (
    ("payment-exchange", "payment.succeeded"),
    ("payment-exchange", "payment.refunded"),
    ("customer.exchange", "membership.changed"),
)
_PAUSE_S: Final = 0.5
_MOMENT_S: Final = 3.0
_BACK_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as the broker gave it out.

    Attributes:
        key: its routing key.
        message_id: the same for every copy of one event.
    """

    key: str
    message_id: str
    body: bytes


class Tap(threading.Thread):
    """Listens beside the consumers, and sends some of what it hears once more.

    Its queue is durable and it acknowledges what it has noted, so it misses nothing either.
    """

    def __init__(self, port: int, share: float, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._port, self._share, self._dice = port, share, dice
        self._ending = threading.Event()
        self.ready = threading.Event()
        self.fresh: dict[str, threading.Event] = {key: threading.Event() for _, key in _TAPPED}
        self.heard: list[Heard] = []
        self.repeated = 0

    def run(self) -> None:
        """Listen until `end`, over every restart of the broker."""
        while not self._ending.is_set():
            with suppress(pika.exceptions.AMQPError, OSError):
                self._listen()
            self._ending.wait(_PAUSE_S)

    def end(self) -> None:
        """Stop listening."""
        self._ending.set()
        self.join()

    def _listen(self) -> None:
        where = pika.ConnectionParameters("127.0.0.1", self._port, heartbeat=20)
        with pika.BlockingConnection(where) as connection:
            channel = connection.channel()
            channel.queue_declare(_TAP, durable=True)
            for exchange, key in _TAPPED:
                channel.exchange_declare(exchange, "topic", durable=True)
                channel.queue_bind(_TAP, exchange, key)
            channel.basic_qos(prefetch_count=100)
            self.ready.set()
            for method, properties, body in channel.consume(_TAP, inactivity_timeout=_PAUSE_S):
                if method is not None and body is not None:
                    self._note(channel, method, properties, body)
                    channel.basic_ack(method.delivery_tag)
                if self._ending.is_set():
                    return

    def _note(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if REPEATED in (properties.headers or {}):
            return
        self.heard.append(Heard(method.routing_key, properties.message_id, body))
        self.fresh[method.routing_key].set()
        if self._dice.random() < self._share:
            properties.headers = {**(properties.headers or {}), REPEATED: 1}
            channel.basic_publish(method.exchange, method.routing_key, body, properties)
            self.repeated += 1


class Storm(threading.Thread):
    """Lets one fault after the other happen; each kind comes once before any comes again."""

    def __init__(self, estate: Estate, tap: Tap, every: float, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._estate, self._tap, self._every, self._dice = estate, tap, every, dice
        self._ending = threading.Event()
        self._kinds: dict[str, Callable[[], bool]] = {
            "payment worker killed": lambda: self._kill("worker [payment"),
            "payment relay and clerk killed, events in the outbox": self._kill_relay,
            "notification consumer killed, event in hand": self._kill_consumer,
            "customer cashier killed, event in hand": self._kill_cashier,
            "RabbitMQ killed": lambda: self._crash("rabbit", "KILL"),
            "RabbitMQ restarted": lambda: self._restart("rabbit"),
            "PostgreSQL crashed": lambda: self._crash("postgres", "QUIT"),
            "PostgreSQL restarted": lambda: self._restart("postgres"),
        }
        self.happened: Counter[str] = Counter(dict.fromkeys(self._kinds, 0))
        self.caught = 0
        self.redelivered = 0

    def run(self) -> None:
        """Let things happen until `end`."""
        bag: list[str] = []
        while not self._ending.wait(self._every * self._dice.uniform(0.5, 1.5)):
            if not bag:
                bag = self._dice.sample(list(self._kinds), len(self._kinds))
            name = bag.pop()
            self.happened[name] += self._kinds[name]()

    def end(self) -> None:
        """Let nothing happen any more; everything is running again."""
        self._ending.set()
        self.join()
        self._estate.up()
        self._note_redelivered()

    def _kill_relay(self) -> bool:
        """Kill between commit and publish: as soon as events wait in the outbox."""
        with suppress(psycopg2.Error):
            link = servers.connect(self._estate.site, "paymentdb")
            with link.cursor() as cursor:
                waiting = [0]

                def look() -> bool:
                    cursor.execute("SELECT count(*) FROM outbox")
                    waiting[:] = cursor.fetchone() or [0]
                    return bool(waiting[0])

                wait_until(look, _MOMENT_S, 0)
                self.caught += waiting[0]
                killed = self._kill("registrar [payment")
            link.close()
            return killed
        return False

    def _kill_consumer(self) -> bool:
        return self._kill_after("payment.succeeded", "consumer [notification")

    def _kill_cashier(self) -> bool:
        return self._kill_after("payment.succeeded", "registrar [customer")

    def _kill_after(self, key: str, title: str) -> bool:
        """Kill between store and acknowledgement: moments after an event went out."""
        fresh = self._tap.fresh[key]
        fresh.clear()
        fresh.wait(_MOMENT_S)
        self._ending.wait(self._dice.uniform(0, 0.03))
        return self._kill(title)

    def _kill(self, title: str) -> bool:
        """Kill -9 one of our processes by the title that gunicorn gives it."""
        found = [pid for pid in survivors(self._estate.site) if title in _title(pid)]
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._dice.choice(sorted(found)), signal.SIGKILL)
            return True
        return False

    def _crash(self, name: str, how: str) -> bool:
        """Let a server die; the supervisor brings it back."""
        self._note_redelivered()
        self._estate.signal(name, how)
        wait_until(lambda: self._estate.states()[name] != "ready", 5)
        return self._await(name)

    def _restart(self, name: str) -> bool:
        self._note_redelivered()
        self._estate.stop(name)
        self._estate.start(name)
        return self._await(name)

    def _await(self, name: str) -> bool:
        def look() -> bool:
            self._estate.start(name)
            return self._estate.states()[name] == "ready"

        if not wait_until(look, _BACK_S, 0.3):
            raise RuntimeError(f"{name} does not come back")
        return True

    def _note_redelivered(self) -> None:
        """Add up what the broker gave out twice; its own counts end with it."""
        with suppress(requests.RequestException):
            for queue in queues(self._estate):
                self.redelivered += queue.get("message_stats", {}).get("redeliver", 0)


def queues(estate: Estate) -> list[dict[str, Any]]:
    """List the broker's queues with their counts, which are up to five seconds old."""
    answer = fetch(estate.url("rabbit-api", "/api/queues"), servers.GUEST)
    if answer.status_code != HTTPStatus.OK:
        raise requests.ConnectionError(f"the broker's API answers {answer.status_code}")
    found: list[dict[str, Any]] = answer.json()
    return found


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""
