"""Real servers for tests: fresh databases, virtual hosts and buckets on the servers of the estate."""

import os
import uuid
from collections.abc import Iterator

import psycopg2
import pymongo
import pytest
import redis
import requests

PG = os.environ.get("NOZIE_TEST_POSTGRES", "127.0.0.1:55432")  # noqa: TID251
REDIS = os.environ.get("NOZIE_TEST_REDIS", "127.0.0.1:56379")  # noqa: TID251
AMQP = os.environ.get("NOZIE_TEST_RABBIT", "127.0.0.1:55672")  # noqa: TID251
AMQP_API = os.environ.get("NOZIE_TEST_RABBIT_API", "127.0.0.1:55673")  # noqa: TID251
MONGO = os.environ.get("NOZIE_TEST_MONGO", "127.0.0.1:57017")  # noqa: TID251


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """A fresh PostgreSQL database, as Spring's datasource properties."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    host, port = PG.split(":")
    admin = psycopg2.connect(
        host=host, port=port, user="postgres", password="nozie", dbname="postgres"
    )
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield {
        "spring.datasource.url": f"jdbc:postgresql://{PG}/{name}",
        "spring.datasource.username": "postgres",
        "spring.datasource.password": "nozie",
    }
    with admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


@pytest.fixture
def redis_url() -> Iterator[str]:
    """An emptied logical database of the real Redis."""
    number = int(uuid.uuid4()) % 60 + 1
    url = f"redis://{REDIS}/{number}"
    client = redis.Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture
def amqp() -> Iterator[dict[str, str]]:
    """A fresh virtual host of the real RabbitMQ, as Spring's properties."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    api, auth = f"http://{AMQP_API}/api", ("guest", "guest")
    requests.put(f"{api}/vhosts/{name}", auth=auth, timeout=10).raise_for_status()
    grant = {"configure": ".*", "write": ".*", "read": ".*"}
    requests.put(
        f"{api}/permissions/{name}/guest", json=grant, auth=auth, timeout=10
    ).raise_for_status()
    host, port = AMQP.split(":")
    yield {
        "spring.rabbitmq.host": host,
        "spring.rabbitmq.port": port,
        "spring.rabbitmq.username": "guest",
        "spring.rabbitmq.password": "guest",
        "spring.rabbitmq.virtual-host": name,
    }
    requests.delete(f"{api}/vhosts/{name}", auth=auth, timeout=10).raise_for_status()


@pytest.fixture
def mongo_uri() -> Iterator[str]:
    """A fresh database of the real document store."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    uri = f"mongodb://{MONGO}/{name}?directConnection=true&w=1&journal=true"
    yield uri
    client: pymongo.MongoClient = pymongo.MongoClient(uri)
    client.drop_database(name)
    client.close()


@pytest.fixture
def eureka_url() -> str:
    """The real Eureka's service URL; tests share it and register under names of their own."""
    return os.environ.get("NOZIE_TEST_EUREKA", "http://127.0.0.1:58761/eureka/")  # noqa: TID251


@pytest.fixture
def config_url() -> str:
    """The real Config Server, which serves deploy/config/."""
    return os.environ.get("NOZIE_TEST_CONFIG", "http://127.0.0.1:58888")  # noqa: TID251
