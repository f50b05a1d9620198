"""RabbitMQ by Spring's `spring.rabbitmq` properties: its address, and what we declare."""

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pika
import structlog
from pika.exceptions import AMQPError

from cloud.config import Properties

log = structlog.get_logger()

# What a lost or refused connection raises. The driver lets a refused socket pass as it is.
BROKER_AWAY: Final = (AMQPError, OSError)
DEAD_LETTERS: Final = "nozie.dlx"
RETRY_DELAYS: Final = (
    timedelta(seconds=1),
    timedelta(seconds=5),
    timedelta(seconds=25),
    timedelta(seconds=125),
)

# The name of a method of a channel and its arguments: the blocking and the evented channel of the
# driver have them in common. Declaring what exists alike changes nothing (AMQP 0-9-1, 1.7.2.1).
Declaration = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RabbitSettings:
    """Where the broker is, and how long to wait for it."""

    application: str
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    virtual_host: str
    tls: bool
    connect_timeout: timedelta
    heartbeat: timedelta

    @classmethod
    def of(cls, properties: Properties) -> "RabbitSettings":
        prefix = "spring.rabbitmq"
        tls = properties.boolean(f"{prefix}.ssl.enabled", False)  # noqa: FBT003 - the default
        port = properties.integer(f"{prefix}.port", 5671 if tls else 5672, minimum=1, maximum=65535)
        return cls(
            application=properties.application,
            host=properties.text(f"{prefix}.host", "localhost"),
            port=port,
            username=properties.text(f"{prefix}.username", "guest"),
            password=properties.text(f"{prefix}.password", "guest"),
            virtual_host=properties.text(f"{prefix}.virtual-host", "/"),
            tls=tls,
            connect_timeout=properties.duration(
                f"{prefix}.connection-timeout", timedelta(seconds=2)
            ),
            heartbeat=properties.duration(
                f"{prefix}.requested-heartbeat", timedelta(seconds=20), unit="s"
            ),
        )


def parameters(settings: RabbitSettings, purpose: str) -> pika.ConnectionParameters:
    """Put the settings into the driver's form; `purpose` names the connection for an operator."""
    patience = settings.connect_timeout.total_seconds()
    return pika.ConnectionParameters(
        host=settings.host,
        port=settings.port,
        virtual_host=settings.virtual_host,
        credentials=pika.PlainCredentials(settings.username, settings.password),
        ssl_options=pika.SSLOptions(ssl.create_default_context()) if settings.tls else None,
        heartbeat=round(settings.heartbeat.total_seconds()),
        socket_timeout=patience,
        stack_timeout=patience * 2,
        # A broker short of disk or memory stops reading from publishers.
        blocked_connection_timeout=settings.heartbeat.total_seconds() * 2,
        client_properties={"connection_name": f"{settings.application} {purpose}"},
    )


def check(settings: RabbitSettings) -> Callable[[], Mapping[str, Any]]:
    """Build the health check `rabbit`: a connection of its own, opened and closed."""

    def run() -> Mapping[str, Any]:
        connection = pika.BlockingConnection(parameters(settings, "health"))
        connection.close()
        return {}

    return run


def exchange(name: str) -> Declaration:
    """Declare a durable topic exchange."""
    return "exchange_declare", {"exchange": name, "exchange_type": "topic", "durable": True}


def exchange_binding(source: str, destination: str, key: str = "#") -> Declaration:
    """Let `destination` hear what `source` is told."""
    return "exchange_bind", {"source": source, "destination": destination, "routing_key": key}


def work_queue(name: str, bindings: Iterable[tuple[str, str]]) -> list[Declaration]:
    """Declare a queue with its bindings, its retry queues and its dead letters.

    The queue itself has no arguments, because a JVM neighbour declares it so. A message waits in
    `<queue>.retry.<n>` until the broker sends it back through the default exchange.
    """
    dead = f"{name}.dlq"
    declared = [exchange(DEAD_LETTERS), _queue(dead), _binding(dead, DEAD_LETTERS, name)]
    for number, delay in enumerate(RETRY_DELAYS, start=1):
        arguments = {
            "x-message-ttl": round(delay / timedelta(milliseconds=1)),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": name,
        }
        declared.append(_queue(retry_queue(name, number), arguments))
    declared.append(_queue(name))
    # Last: what arrives from here on finds everything in place.
    for source, key in bindings:
        declared += [exchange(source), _binding(name, source, key)]
    return declared


def retry_queue(name: str, attempt: int) -> str:
    """Name the queue in which a message waits for its `attempt`th repetition, from 1."""
    return f"{name}.retry.{attempt}"


def _queue(name: str, arguments: Mapping[str, Any] | None = None) -> Declaration:
    return "queue_declare", {"queue": name, "durable": True, "arguments": arguments}


def _binding(queue: str, source: str, key: str) -> Declaration:
    return "queue_bind", {"queue": queue, "exchange": source, "routing_key": key}
