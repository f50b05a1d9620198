"""Where stores, use cases and routes of identity meet."""

from functools import partial
from uuid import uuid4

from flask import Flask

from cloud import actuator, security, web
from cloud.breaker import Breakers
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.refresh import scope
from cloud.security import Principal
from cloud.stores import postgres, redis
from identity import routes
from identity.deps import Deps
from identity.domain import Lockout
from identity.service import Passwords, Tokens
from identity.settings import Settings
from identity.store import RedisLive, SqlAccounts, SqlSessions, SqlTrail


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("identity")
    web.install(app, environment, revoked=_revoked)
    app.register_blueprint(routes.bp)
    actuator.install(
        app,
        environment,
        checks={
            "db": postgres.check(environment),
            "redis": redis.check(environment),
        },
        # Redis may be away: what it should know is kept in the tables until it is back.
        essential={"db"},
    )
    checks = Settings.of, postgres.DatasourceSettings.of, redis.client
    web.lean_on(app, environment, lambda: connect(environment), *checks)
    return app


def connect(environment: Environment) -> Deps:
    """Describe what identity leans on now; the first use of each opens it."""
    properties = environment.properties
    settings = Settings.of(properties)
    engine, client = postgres.shared(environment), redis.shared(environment)
    return Deps(
        accounts=SqlAccounts(engine),
        sessions=SqlSessions(engine),
        live=RedisLive(client, Breakers(properties).get("redis")),
        trail=SqlTrail(engine),
        passwords=_passwords(environment, settings),
        tokens=Tokens(
            settings.access_lifetime,
            settings.refresh_lifetime,
            sign=partial(security.sign, secret=security.jwt_secret(properties)),
            new_id=lambda: str(uuid4()),
        ),
        lockout=Lockout(settings.lockout_attempts, settings.lockout_duration),
        now=utc_now,
    )


def _revoked(principal: Principal) -> bool:
    return web.current(Deps).sessions.is_revoked(principal.jti)


def _passwords(environment: Environment, settings: Settings) -> Passwords:
    """Keep the one door to the hashes: who counts those who wait must not forget them."""
    bcrypt = (
        settings.bcrypt_cost,
        settings.bcrypt_parallel,
        settings.bcrypt_waiting,
        settings.bcrypt_patience,
    )
    cost, parallel, waiting, patience = bcrypt
    return scope(environment).get(
        "passwords",
        bcrypt,
        lambda: Passwords(cost, parallel=parallel, waiting=waiting, patience=patience),
    )
