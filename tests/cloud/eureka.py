"""What tests say to a real Eureka, and what it lists."""

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import requests

from cloud.config import Properties
from cloud.eureka.registrar import Registrar, connect
from cloud.eureka.registration import Registration
from cloud.testing import properties

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def settings(app: str, url: str, **more: str) -> Properties:
    return properties(
        app,
        {
            "eureka.client.service-url.defaultZone": url,
            "eureka.instance.prefer-ip-address": "true",
            "eureka.instance.metadata-map.tags.team": "films",
            **more,
        },
    )


def registration(read: Properties, port: int = 8085) -> Registration:
    url = read.text("eureka.client.service-url.defaultZone")
    return Registration.of(read, port=port, eureka_url=url, now=NOW)


class Voice:
    """A registrar in front of the real server, and what the server lists of it."""

    made: ClassVar[list["Voice"]] = []

    def __init__(self, read: Properties, port: int = 8085) -> None:
        self.made.append(self)
        self.registration = registration(read, port)
        self.server = connect(read, "127.0.0.1")
        self.clock = NOW
        self.registrar = Registrar(self.server, self.registration, self.now)

    def now(self) -> datetime:
        self.clock += timedelta(milliseconds=1)
        return self.clock


def listed(url: str, app: str) -> dict[str, Any] | None:
    answer = requests.get(
        f"{url}apps/{app.upper()}", headers={"Accept": "application/json"}, timeout=5
    )
    return answer.json()["application"]["instance"][0] if answer.ok else None


def status(url: str, app: str) -> str | None:
    found = listed(url, app)
    return found["status"] if found else None
