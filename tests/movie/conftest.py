import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pymongo
import pytest
from pymongo.database import Database

from movie import store

Document = dict[str, Any]
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def db(mongo_uri: str) -> Iterator[Database[Document]]:
    """A fresh database with the service's indexes."""
    client: pymongo.MongoClient[Document] = pymongo.MongoClient(mongo_uri, tz_aware=True)
    database = client.get_default_database()
    store.prepare(database, view_window=timedelta(minutes=10))
    yield database
    client.close()


@pytest.fixture
def seed() -> Any:
    return json.loads(files("movie").joinpath("seed.json").read_text("utf-8"))


@pytest.fixture
def catalogue(db: Database[Document]) -> store.MongoCatalogue:
    return store.MongoCatalogue(db, adopt_interval=timedelta(0))
