"""The houses' Flask applications on real, fresh stores, calling each other over real sockets.

movie = houses.app("movie")        # its neighbours are up as well
client = houses.client("movie")    # held against movie/openapi.yaml
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final
from unittest import mock

import psycopg2
import pymongo
from flask import Flask

from cloud.config import Environment, Properties
from cloud.stores import mongo
from cloud.testing import properties
from tests.contract.client import CheckedClient, checked
from tests.serving import Serving

Need = Callable[[str], Any]  # pytest's getfixturevalue
Values = dict[str, str]


@dataclass(frozen=True, slots=True)
class House:
    """How an application is built.

    Attributes:
        stores: fixtures and helpers that give its properties.
        calls: houses it calls, which then run as well.
        values: properties of its own.
        samples: values of path parameters that exist, so that not every id is unknown.
    """

    stores: tuple[str, ...]
    calls: tuple[str, ...] = ()
    values: Mapping[str, str] | None = None
    samples: Mapping[str, tuple[str, ...]] | None = None


BUILT: Final[Mapping[str, House]] = {
    "identity": House(
        ("postgres", "redis", "rabbit"),
        values={"nozie.identity.bcrypt-cost": "4"},
        samples={"id": ("1", "2")},
    ),
    "movie": House(
        ("mongo",),
        calls=("customer", "payment"),
        values={"nozie.movie.seed": "true", "nozie.movie.adopt-interval": "0s"},
        samples={
            # The Lamplighter of Hội An, FREE; Red Dust Highway, RENTAL.
            "slug": ("the-lamplighter-of-hoi-an", "red-dust-highway", "drama"),
            "id": ("6867d1f472ea73737d647307", "f" * 24),
            "year": ("2019",),
        },
    ),
    "customer": House(("postgres", "rabbit"), samples={"id": ("1", "2")}),
    "payment": House(
        ("postgres", "rabbit"),
        calls=("movie", "customer"),
        values={"nozie.payment.provider": "sandbox", "nozie.payment.sandbox.delay": "0ms"},
    ),
    "notification": House(("mongo", "redis", "rabbit"), calls=("customer", "payment")),
}


@contextmanager
def closed_clients() -> Iterator[None]:
    """Close what applications open at the document store: a process would close it by ending."""
    made: list[pymongo.MongoClient[Any]] = []

    def tracked(*args: Any, **options: Any) -> pymongo.MongoClient[Any]:
        made.append(pymongo.MongoClient(*args, **options))
        return made[-1]

    with mock.patch.object(mongo, "MongoClient", tracked):
        yield
    for client in made:
        client.close()


class Houses:
    """Builds an application when it is first asked for; everything is gone after `close`."""

    def __init__(self, need: Need) -> None:
        self._need = need
        self._apps: dict[str, Flask] = {}
        self._servers: dict[str, Serving] = {}
        self._databases: list[tuple[Values, str]] = []
        self._documents: set[str] = set()
        self.environments: dict[str, Environment] = {}

    def app(self, name: str) -> Flask:
        """Build the application of a house, prepared as its instance would prepare it."""
        if name not in self._apps:
            wanted = {name, *BUILT[name].calls}
            wanted |= {other for one in BUILT[name].calls for other in BUILT[one].calls}
            for one in sorted(wanted):
                self._serve(one)
            for one in sorted(wanted - self._apps.keys()):
                self._apps[one] = self._build(one)
        return self._apps[name]

    def client(self, name: str, *, holds_requests: bool = True) -> CheckedClient:
        """Return a client that holds every answer of the house against its document."""
        return checked(self.app(name), name, holds_requests=holds_requests)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        for given, name in self._databases:
            with _administrator(given) as cursor:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        for uri in self._documents:
            with pymongo.MongoClient[Values](uri) as client:
                client.drop_database(client.get_default_database().name)

    def _serve(self, name: str) -> None:
        """Listen for a house's neighbours; its application may be built later."""
        if name in self._servers:
            return

        def late(environ: Any, start_response: Any) -> Any:
            return self._apps[name](environ, start_response)

        self._servers[name] = Serving(late)

    def _build(self, name: str) -> Flask:
        environment = Environment(self._properties(name))
        self.environments[name] = environment
        with suppress(ModuleNotFoundError):
            getattr(import_module(f"{name}.worker"), "prepare", lambda _: None)(environment)
        app: Flask = import_module(f"{name}.app").create_app(environment)
        return app

    def _properties(self, name: str) -> Properties:
        values: Values = dict(BUILT[name].values or {})
        for store in BUILT[name].stores:
            values |= self._store(store, name)
        for other, server in self._servers.items():
            instances = f"spring.cloud.discovery.client.simple.instances.{other}-service"
            values[f"{instances}[0].uri"] = server.url
        return properties(f"{name}-service", values)

    def _store(self, kind: str, name: str) -> Values:
        if kind == "mongo":
            uri = str(self._need("mongo_uri")).replace("?", f"_{name}?", 1)
            self._documents.add(uri)
            return {"spring.data.mongodb.uri": uri}
        if kind == "redis":
            return {"spring.data.redis.url": str(self._need("redis_url"))}
        if kind == "rabbit":
            return dict(self._need("amqp"))
        return self._database(name)

    def _database(self, house: str) -> Values:
        """Create a database of the house's own beside the one of the fixture."""
        given: Values = dict(self._need("database"))
        name = f"t_{house}_{uuid.uuid4().hex[:12]}"
        with _administrator(given) as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        self._databases.append((given, name))
        base, _ = given["spring.datasource.url"].rsplit("/", 1)
        return given | {"spring.datasource.url": f"{base}/{name}"}


@contextmanager
def _administrator(given: Values) -> Iterator[Any]:
    """Give a cursor outside any transaction, as CREATE DATABASE wants it."""
    host, port = given["spring.datasource.url"].split("/")[2].split(":")
    connection = psycopg2.connect(
        host=host,
        port=port,
        user=given["spring.datasource.username"],
        password=given["spring.datasource.password"],
        dbname="postgres",
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
