"""Houses as instances, an application of each test's own at the real Eureka, a door before it."""

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.local import Estate
from tests.cloud.eureka import Voice
from tests.cloud.house import ConfiguredHouse, FreshHouse, House, spelled
from tests.waiting import eventually
from tests.wire import Wire

QUICK: dict[str, Any] = {
    "eureka.client.enabled": True,
    "eureka.client.registry-fetch-interval-seconds": 1,
    "eureka.instance.prefer-ip-address": True,
    "eureka.instance.lease-renewal-interval-in-seconds": 1,
    "eureka.instance.lease-expiration-duration-in-seconds": 30,
    "nozie.server.health-interval": "1s",
    "nozie.server.deregister-wait": "0s",
    "management.endpoints.web.exposure.include": "*",
    "management.endpoint.serviceregistry.access": "unrestricted",
}


@pytest.fixture
def app() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def door(eureka_url: str) -> Iterator[Wire]:
    with Wire(urlsplit(eureka_url).netloc) as door:
        yield door


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Hang up after a test, and let no breaker of it speak in another."""
    yield
    while Voice.made:
        Voice.made.pop().server.close()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.name.startswith("breaker "):
            thread.cancel()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a house of a kind, by default with a run folder of its own."""
    made: list[House] = []

    def start(kind: Callable[..., House], settings: Any, *more: Any, run: str = "") -> House:
        made.append(kind(tmp_path / (run or f"run{len(made)}"), settings, *more))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def house(begin, app: str, eureka_url: str) -> Callable[..., FreshHouse]:
    """Start a house that tells Eureka everything at once."""

    def start(url: str = eureka_url, **more: Any) -> FreshHouse:
        own = {"spring.application.name": app, "eureka.client.service-url.defaultZone": url}
        house: FreshHouse = begin(FreshHouse, {**own, **QUICK, **spelled(more)})
        return house

    return start


@pytest.fixture(scope="module")
def served(server) -> tuple[Path, str]:
    """The folder of the real Config Server's own files, and its address."""
    url = f"http://{server('NOZIE_TEST_CONFIG', 'rabbit', 'eureka', 'config')}"
    folder = Estate("test").site.path("config")
    folder.mkdir(parents=True, exist_ok=True)
    return folder, url


@pytest.fixture
def start(begin, served: tuple[Path, str]) -> Callable[..., ConfiguredHouse]:
    """Start a house whose settings come from the real Config Server, or from `url`."""

    def run(url: str = served[1], **settings: Any) -> ConfiguredHouse:
        given = {"fresh.greeting": "one", **spelled(settings)}
        house: ConfiguredHouse = begin(ConfiguredHouse, given, served[0], url)
        eventually(lambda: house.answers("/settings"))
        return house

    return run
