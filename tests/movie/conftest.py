import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pymongo
import pytest
from flask import Flask, jsonify, request
from pymongo.database import Database

from cloud.config import Environment
from cloud.testing import properties
from movie import store
from movie.app import create_app
from tests.contract.client import CheckedClient, checked
from tests.contract.houses import closed_clients
from tests.serving import Serving

Document = dict[str, Any]
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def movie_uri(server: Callable[..., str]) -> Iterator[str]:
    """A database for all tests of this house: building indexes anew takes longer than a test."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    address = server("NOZIE_TEST_MONGO", "mongo")
    yield f"mongodb://{address}/{name}?directConnection=true&w=1&journal=true"
    with pymongo.MongoClient[Document](f"mongodb://{address}/?directConnection=true") as client:
        client.drop_database(name)


@pytest.fixture
def db(movie_uri: str) -> Iterator[Database[Document]]:
    """That database, emptied, with the service's indexes."""
    with pymongo.MongoClient[Document](movie_uri, tz_aware=True) as client:
        database = client.get_default_database()
        for name in ("movies", "genres", "countries", "seeds", "views"):
            database[name].delete_many({})
        store.prepare(database, view_window=timedelta(minutes=10))
        yield database


@pytest.fixture
def seed() -> Any:
    return json.loads(files("movie").joinpath("seed.json").read_text("utf-8"))


@pytest.fixture
def catalogue(db: Database[Document]) -> store.MongoCatalogue:
    return store.MongoCatalogue(db, adopt_interval=timedelta(0))


class Neighbours(Serving):
    """customer-service and payment-service behind one real socket, as the wire contract has them.

    Attributes:
        records: what GET /api/customers answers.
        bought: pairs of customer and movie.
        status: answered instead, when set.
        answering: cleared, a request hangs.
    """

    def __init__(self) -> None:
        self.records: list[Document] = [{"id": 70, "email": "Ann@example.org", "userId": 7}]
        self.bought: set[tuple[int, str]] = set()
        self.status: int | None = None
        self.tokens: list[str | None] = []
        self.answering = threading.Event()
        self.answering.set()
        app = Flask("neighbours")
        app.before_request(self._record)
        app.get("/api/customers")(self._customers)
        app.get("/api/payments/check-purchase")(self._check)
        super().__init__(app)

    def _record(self) -> Any:
        self.tokens.append(request.headers.get("Authorization"))
        self.answering.wait(10)
        return (jsonify(success=False), self.status) if self.status else None

    def _customers(self) -> Any:
        return jsonify(success=True, data=self.records)

    def _check(self) -> Any:
        pair = (int(request.args["customerId"]), request.args["movieId"])
        return jsonify(success=True, data=pair in self.bought)

    def close(self) -> None:
        self.answering.set()
        super().close()


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    with closing(Neighbours()) as running:
        yield running


@pytest.fixture
def patience() -> str:
    """How long a neighbour may take: no test but those of a hanging one should depend on it."""
    return "20s"


@pytest.fixture
def settings(movie_uri: str, neighbours: Neighbours, patience: str) -> dict[str, str]:
    """Properties of an instance; a test may add its own."""
    simple = "spring.cloud.discovery.client.simple.instances"
    return {
        "spring.data.mongodb.uri": movie_uri,
        "nozie.movie.adopt-interval": "0s",
        "nozie.movie.call-timeout": patience,
        f"{simple}.customer-service[0].uri": neighbours.url,
        f"{simple}.payment-service[0].uri": neighbours.url,
    }


@pytest.fixture
def client(settings: dict[str, str], db: Database[Document], seed: Any) -> Iterator[CheckedClient]:
    """The service with the first titles of its seed, and a client that knows its OpenAPI file."""
    store.load_seed(db, seed | {"movies": seed["movies"][:12]})
    yield from _serving(settings)


@pytest.fixture
def library(settings: dict[str, str], db: Database[Document], seed: Any) -> Iterator[CheckedClient]:
    """The same with the whole seed."""
    store.load_seed(db, seed)
    yield from _serving(settings)


def _serving(settings: dict[str, str]) -> Iterator[CheckedClient]:
    with closed_clients():
        yield checked(create_app(Environment(properties("movie-service", settings))), "movie")
