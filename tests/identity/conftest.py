"""Identity on a real PostgreSQL and a real Redis, through its real Flask application."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
import redis as driver
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from cloud.config import Environment, Properties
from cloud.stores import postgres, redis
from cloud.testing import SECRET, properties
from identity.app import create_app
from identity.worker import prepare
from tests.contract.client import checked

RIGHT = "right-horse"


@dataclass
class House:
    """The application, and a look behind it."""

    app: Flask
    engine: sa.Engine
    redis: driver.Redis
    environment: Environment

    def client(self) -> FlaskClient:
        """A client that holds every answer against `identity/openapi.yaml`."""
        return checked(self.app, "identity")

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as db:
            return list(db.execute(sa.text(statement), values))

    def run(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as db:
            db.execute(sa.text(statement), values)

    def post(self, path: str, body: Any = None, token: str = "", **headers: str) -> TestResponse:
        return self.client().post(f"/api/auth/{path}", json=body, headers=_with(token, headers))

    def get(self, path: str, token: str = "") -> TestResponse:
        return self.client().get(f"/api/auth/{path}", headers=_with(token, {}))

    def register(self, name: str = "ann", **more: Any) -> dict[str, Any]:
        body = {"username": name, "email": f"{name}@example.org", "password": RIGHT}
        answer = self.post("register", {**body, **more})
        assert answer.status_code == 201, answer.text
        return dict(answer.get_json()["data"])

    def login(self, name: str = "ann", password: str = RIGHT) -> dict[str, Any]:
        answer = self.post("login", {"username": name, "password": password})
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json()["data"])

    def audit(self) -> list[tuple[str, bool]]:
        found = self.rows("SELECT action, success FROM audit_logs ORDER BY id")
        return [tuple(row) for row in found]


def _with(token: str, headers: dict[str, str]) -> dict[str, str]:
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    return {**own, "Authorization": f"Bearer {token}"} if token else own


def changed(settings: Properties, changes: dict[str, str], profile: str = "test") -> Environment:
    """Hold the same settings, but for a few."""
    (source,) = settings.sources
    values = {key: str(held.value) for key, held in source.values.items()}
    return Environment(properties("identity-service", {**values, **changes}, profile))


def _settings(database: dict[str, str], redis_url: str) -> Properties:
    return properties(
        "identity-service",
        {
            **database,
            "spring.data.redis.url": redis_url,
            "spring.data.redis.timeout": "5s",
            "nozie.server.threads": "12",
            "nozie.identity.bcrypt-cost": "4",
            "resilience4j.circuitbreaker.instances.redis.minimum-number-of-calls": "2",
            "resilience4j.circuitbreaker.instances.redis.sliding-window-size": "4",
        },
    )


def sid(pair: dict[str, Any]) -> int:
    return int(jwt.decode(pair["accessToken"], SECRET, algorithms=["HS512"])["sid"])


def jti(pair: dict[str, Any]) -> str:
    return str(jwt.decode(pair["accessToken"], SECRET, algorithms=["HS512"])["jti"])


@pytest.fixture
def template(prepared, redis_url: str) -> str:
    return str(prepared("identity", lambda own: prepare(Environment(_settings(own, redis_url)))))


@pytest.fixture
def settings(database: dict[str, str], redis_url: str) -> Properties:
    return _settings(database, redis_url)


@pytest.fixture
def house(settings: Properties) -> Iterator[House]:
    environment = Environment(settings)
    prepare(environment)
    engine, client = postgres.engine(settings), redis.client(settings)
    app = create_app(environment)
    yield House(app, engine, client, environment)
    client.close()
    engine.dispose()
