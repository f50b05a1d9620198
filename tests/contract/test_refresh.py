"""What a house leans on follows a refresh, and what is not concerned stays as it is."""

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

import pytest

from cloud import web
from cloud.config import Environment
from cloud.errors import ConfigurationError
from cloud.refresh import component
from cloud.testing import properties
from tests.contract.houses import closed_clients

# Nothing is opened: a request for nothing of theirs needs none of these.
STORES = {
    "spring.datasource.url": "jdbc:postgresql://127.0.0.1:1/x",
    "spring.data.mongodb.uri": "mongodb://127.0.0.1:1/x",
    "nozie.identity.bcrypt-cost": "4",
    "nozie.payment.provider": "sandbox",
    "eureka.client.enabled": "false",
}


@pytest.fixture
def house():
    """Build a house's application; gives its environment, and what it leans on when asked."""

    def build(name: str) -> tuple[Environment, Callable[[], Any]]:
        own = Environment(properties(f"{name}-service", STORES))
        app = import_module(f"{name}.app").create_app(own)
        kind = import_module(f"{name}.deps").Deps

        def deps() -> Any:
            with app.app_context():
                return web.current(kind)

        return own, deps

    with closed_clients():
        yield build


@pytest.mark.parametrize(
    ("name", "key", "value", "seen", "kept"),
    [
        ("identity", "nozie.identity.lockout.attempts", "9", "lockout.attempts", "passwords"),
        ("identity", "nozie.identity.bcrypt-waiting", "5", "passwords", "accounts._engine"),
        ("payment", "nozie.payment.currency", "eur", "settings.currency", "shop.movies._service"),
        ("payment", "spring.datasource.hikari.maximum-pool-size", "3", "keys._engine", "now"),
        ("customer", "spring.datasource.password", "x", "customers._engine", "now"),
        ("movie", "nozie.movie.open-links", "true", "paywall", "catalogue._movies.database"),
        ("movie", "nozie.mongodb.pool-timeout", "1s", "views._views.database.client", "changes"),
        ("notification", "nozie.notification.seen-for", "1d", "settings.seen_for", "hub"),
        ("notification", "nozie.notification.stream.limit", "7", "hub", "revoked.__code__"),
        ("notification", "spring.data.redis.port", "2", "hub._redis", "now"),
    ],
)
def test_a_setting_is_followed_and_the_rest_is_kept(house, name, key, value, seen, kept):
    environment, deps = house(name)
    before = deps()
    assert deps() is before
    environment.replace(properties(f"{name}-service", {**STORES, key: value}))
    after = deps()
    assert attrgetter(seen)(after) is not attrgetter(seen)(before)
    assert attrgetter(kept)(after) is attrgetter(kept)(before)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("identity", "nozie.identity.lockout.attempts", "0"),
        ("payment", "nozie.payment.provider", "mine"),
        ("customer", "spring.datasource.url", "mysql://x"),
        ("movie", "spring.data.mongodb.uri", "mongodb://"),
        ("notification", "spring.rabbitmq.port", "none"),
        ("notification", "nozie.web.max-body-size", "much"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(house, name, key, value):
    environment, _ = house(name)
    with pytest.raises(ConfigurationError, match=key):
        environment.ensure(properties(f"{name}-service", {**STORES, key: value}))


def test_what_passes_the_checks_and_cannot_be_built_leaves_the_old_and_shows_in_health(house):
    environment, deps = house("payment")
    before = deps()
    broken = {"nozie.datasource.connect-timeout": "1s", "jwt.secret": "short"}
    environment.replace(properties("payment-service", {**STORES, **broken}))
    assert deps() is before
    assert component(environment)["status"] == "DOWN"
    environment.replace(properties("payment-service", STORES))
    assert deps() is not before
    assert component(environment) == {"status": "UP"}
