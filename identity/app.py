"""Where stores, use cases and routes of identity meet."""

from functools import partial
from uuid import uuid4

from flask import Flask

from cloud import actuator, security, web
from cloud.breaker import Breakers
from cloud.clock import utc_now
from cloud.config import Environment
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
    properties = environment.properties
    settings = Settings.of(properties)
    engine, client = postgres.engine(properties), redis.client(properties)
    sessions = SqlSessions(engine)

    def revoked(principal: Principal) -> bool:
        return sessions.is_revoked(principal.jti)

    app = Flask("identity")
    app.extensions["deps"] = Deps(
        accounts=SqlAccounts(engine),
        sessions=sessions,
        live=RedisLive(client, Breakers(properties).get("redis")),
        trail=SqlTrail(engine),
        passwords=Passwords(
            settings.bcrypt_cost,
            parallel=settings.bcrypt_parallel,
            waiting=settings.bcrypt_waiting,
            patience=settings.bcrypt_patience,
        ),
        tokens=Tokens(
            settings.access_lifetime,
            settings.refresh_lifetime,
            sign=partial(security.sign, secret=security.jwt_secret(properties)),
            new_id=lambda: str(uuid4()),
        ),
        lockout=Lockout(settings.lockout_attempts, settings.lockout_duration),
        now=utc_now,
    )
    web.install(app, environment, revoked=revoked)
    app.register_blueprint(routes.bp)
    actuator.install(
        app,
        environment,
        checks={"db": postgres.check(engine), "redis": redis.check(client)},
        # Redis may be away: what it should know is kept in the tables until it is back.
        essential={"db"},
    )
    return app
