"""RabbitMQ by Spring's `spring.rabbitmq` properties: the address, the topology, the way back."""

import ssl
from dataclasses import dataclass, field
from datetime import timedelta

import pika

from cloud.config import Properties


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
        return cls(
            application=properties.application,
            host=properties.text(f"{prefix}.host", "localhost"),
            port=properties.integer(
                f"{prefix}.port", 5671 if tls else 5672, minimum=1, maximum=65535
            ),
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
