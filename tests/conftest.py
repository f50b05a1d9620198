"""Real servers for tests: fresh databases, virtual hosts and buckets on the test estate's servers.

A server is started when the first test asks for it, on ports and data of its own, beside a running
`make up` or without one. NOZIE_TEST_POSTGRES and its like (host:port) name a server to use instead.
The last run to end stops what is there, unless NOZIE_TEST_KEEP=1.
"""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pika
import psycopg2
import pymongo
import pytest
import redis
import requests
from pika.adapters.blocking_connection import BlockingChannel
from xdist.scheduler import LoadScopeScheduling

from cloud.messaging import RabbitSettings, rabbit
from cloud.testing import properties
from deploy.local import Estate, packages
from deploy.local.program import Program
from deploy.local.servers import GUEST


def _setting(name: str) -> str | None:
    return os.environ.get(name)  # noqa: TID251 - how a run is told which servers to use


# Folders whose tests hear of each other when they run side by side: Redis has one set of channels.
_TOGETHER = {"contract": "notification"}


class ByFolder(LoadScopeScheduling):
    """Keeps each folder's tests in one process, where several share the work (`make test`)."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        return _TOGETHER.get(folder, folder)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the proof with a JVM neighbour among what stops and starts servers."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent / "estate"):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def estate() -> Iterator[Estate]:
    """The test estate; `estate.ensure("redis")` starts what a test needs."""
    found = Estate("test")
    with found.site.path("users.lock").open("w") as users:
        # Several runs may share the servers: each holds the lock, and the last one out is alone.
        fcntl.flock(users, fcntl.LOCK_SH)
        yield found
        if _setting("NOZIE_TEST_KEEP"):
            return
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        found.down()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest):
    """Find a server's `host:port`: the one that the environment names, else the estate's."""
    started: set[str] = set()

    def find(setting: str, *names: str) -> str:
        if address := _setting(setting):
            return address
        estate: Estate = request.getfixturevalue("estate")
        if not started.issuperset(names):
            estate.ensure(*names)
            started.update(names)
        return estate.address(names[-1])

    return find


@pytest.fixture(scope="session")
def postgres_admin(server) -> SimpleNamespace:
    """PostgreSQL's administrator: `run` a statement; `way_in` to a database, as properties."""
    address = server("NOZIE_TEST_POSTGRES", "postgres")
    password = (
        "nozie" if _setting("NOZIE_TEST_POSTGRES") else Estate("test").site.secrets["postgres"]
    )
    host, port = address.split(":")

    def run(statement: str) -> None:
        # Each time anew: a test of the whole platform may have restarted the server.
        with closing(
            psycopg2.connect(
                host=host, port=port, user="postgres", password=password, dbname="postgres"
            )
        ) as admin:
            admin.autocommit = True
            with admin.cursor() as cursor:
                cursor.execute(statement)

    def way_in(name: str) -> dict[str, str]:
        return {
            "spring.datasource.url": f"jdbc:postgresql://{address}/{name}",
            "spring.datasource.username": "postgres",
            "spring.datasource.password": password,
        }

    return SimpleNamespace(run=run, way_in=way_in)


@pytest.fixture(scope="session")
def prepared(postgres_admin) -> Iterator[Callable[..., str]]:
    """Name a database that `prepare` has filled once, of which a test's own is a copy."""
    made: dict[str, str] = {}

    def find(house: str, prepare: Callable[[dict[str, str]], None]) -> str:
        if house not in made:
            name = f"t_{house}_{uuid.uuid4().hex[:8]}"
            postgres_admin.run(f"CREATE DATABASE {name}")
            prepare(postgres_admin.way_in(name))
            made[house] = name
        return made[house]

    yield find
    for name in made.values():
        with suppress(psycopg2.OperationalError):  # a test may have left the server stopped
            postgres_admin.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def template() -> str:
    """Override it with a `prepared` one: the database that `database` is a copy of."""
    return "template1"


@pytest.fixture
def database(postgres_admin, template: str) -> Iterator[dict[str, str]]:
    """A PostgreSQL database of the test's own, as Spring's datasource properties."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    postgres_admin.run(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres_admin.way_in(name)
    postgres_admin.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(server) -> Iterator[str]:
    """An emptied logical database of the real Redis, of this test alone."""
    folder = Estate("test").site.folder
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        number = next(n for n in range(1, 61) if _is_ours(folder / f"redis.{n}.lock", held))
        url = f"redis://{server('NOZIE_TEST_REDIS', 'redis')}/{number}"
        client = held.enter_context(redis.Redis.from_url(url))
        client.flushdb()
        yield url
        client.flushdb()


def _is_ours(path: Path, held: ExitStack) -> bool:
    lock = held.enter_context(path.open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture
def amqp(server) -> Iterator[dict[str, str]]:
    """A fresh virtual host of the real RabbitMQ, as Spring's properties."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    host, port = server("NOZIE_TEST_RABBIT", "rabbit").split(":")
    api = _setting("NOZIE_TEST_RABBIT_API") or Estate("test").address("rabbit-api")
    vhost, user = f"http://{api}/api/vhosts/{name}", GUEST[0]
    requests.put(vhost, auth=GUEST, timeout=10).raise_for_status()
    grant = {"configure": ".*", "write": ".*", "read": ".*"}
    requests.put(
        f"http://{api}/api/permissions/{name}/{user}", json=grant, auth=GUEST, timeout=10
    ).raise_for_status()
    yield {
        "spring.rabbitmq.host": host,
        "spring.rabbitmq.port": port,
        "spring.rabbitmq.username": GUEST[0],
        "spring.rabbitmq.password": GUEST[1],
        "spring.rabbitmq.virtual-host": name,
    }
    requests.delete(vhost, auth=GUEST, timeout=10).raise_for_status()


@pytest.fixture
def channel(amqp: dict[str, str]) -> Iterator[BlockingChannel]:
    """A channel to that virtual host."""
    settings = RabbitSettings.of(properties("test", amqp))
    connection = pika.BlockingConnection(rabbit.parameters(settings, "test"))
    yield connection.channel()
    with suppress(*rabbit.BROKER_AWAY):
        connection.close()


@pytest.fixture
def mongo_uri(server) -> Iterator[str]:
    """A fresh database of the real document store."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    address = server("NOZIE_TEST_MONGO", "mongo")
    uri = f"mongodb://{address}/{name}?directConnection=true&w=1&journal=true"
    yield uri
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(uri)
    client.drop_database(name)
    client.close()


@pytest.fixture
def eureka_url(server) -> str:
    """The real Eureka's service URL; tests share it and register under names of their own."""
    address = server("NOZIE_TEST_EUREKA", "eureka")
    return f"http://{address}/eureka/"


@pytest.fixture
def config_url(server) -> str:
    """The real Config Server, which serves deploy/config/."""
    return f"http://{server('NOZIE_TEST_CONFIG', 'rabbit', 'eureka', 'config')}"


@pytest.fixture(scope="module")
def store(server) -> Iterator[redis.Redis]:
    """A logical database for a gateway that outlives single tests."""
    client = redis.Redis.from_url(
        f"redis://{server('NOZIE_TEST_REDIS', 'redis')}/{os.getpid() % 15 + 1}"
    )
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; Debian's is installed when there is none."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - slow, and for few tests

    program = Program("chromium", 1, ("chromium",), lambda: True, packages={"chromium": "chromium"})
    if missing := packages.missing([program]):
        packages.install(missing, print)
    flags = [
        "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=flags, timeout=60_000
        )
        yield chromium
        chromium.close()
