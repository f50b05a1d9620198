"""Where stores, clients and routes of notification meet."""

import redis
from flask import Flask

from cloud import actuator, web
from cloud.client import ServiceClient
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.messaging import rabbit
from cloud.security import Principal
from cloud.stores import mongo
from cloud.stores import redis as redis_store
from notification.clients import CustomerClient, PaymentClient
from notification.deps import Deps
from notification.routes import blueprints
from notification.settings import Settings
from notification.store import Announcements, Hub, MongoNotifications

_REVOKED = "token:blacklist:"


def connect(environment: Environment) -> Deps:
    """Describe everything that notification leans on; the first use of each opens it."""
    properties = environment.properties
    settings = Settings.of(properties)
    database, client = mongo.database(properties), redis_store.client(properties)

    def revoked(principal: Principal) -> bool:
        try:
            return bool(client.exists(_REVOKED + principal.jti))
        except redis.RedisError:
            # The gateway, which every outside caller passes, is the judge; this is a second look.
            return False

    return Deps(
        settings=settings,
        notifications=MongoNotifications(database),
        announcements=Announcements(client, settings.seen_for),
        hub=Hub(client, web.stopping, settings.streams),
        customers=CustomerClient(
            ServiceClient("customer-service", environment), settings.ownership_kept
        ),
        payments=PaymentClient(ServiceClient("payment-service", environment)),
        revoked=revoked,
        checks={
            "mongo": mongo.check(database),
            "redis": redis_store.check(client),
            "rabbit": rabbit.check(rabbit.RabbitSettings.of(properties)),
        },
        now=utc_now,
    )


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("notification", static_folder=None)
    deps = connect(environment)
    app.extensions["deps"] = deps
    web.install(app, environment, revoked=deps.revoked)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    actuator.install(app, environment, checks=deps.checks, essential={"mongo"})
    return app
