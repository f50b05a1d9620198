"""Where stores, clients and routes of notification meet."""

from datetime import timedelta
from functools import partial
from uuid import uuid4

from flask import Flask, request

from cloud import actuator, security, web
from cloud.client import ServiceClient
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.messaging import rabbit
from cloud.security import Principal
from cloud.stores import mongo
from cloud.stores import redis as redis_store
from cloud.stores.revocations import Revocations
from notification.clients import CustomerClient, PaymentClient, RabbitPost, Templates
from notification.clients.fcm import Fcm, FcmSettings
from notification.clients.mail import Mail, MailSettings
from notification.deps import Deps
from notification.domain import EMAIL, PUSH, UserId
from notification.routes import blueprints
from notification.schema import dump_letter
from notification.service import ADMIN, Watch
from notification.service.ports import Channel
from notification.settings import Settings
from notification.store import (
    Announcements,
    Hub,
    MongoDeliveries,
    MongoDevices,
    MongoNotifications,
    MongoPreferences,
)

_VOUCHER_LIFE = timedelta(minutes=1)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def connect(environment: Environment) -> Deps:
    """Describe everything that notification leans on; the first use of each opens it."""
    properties = environment.properties
    settings = Settings.of(properties)
    database, client = mongo.database(properties), redis_store.client(properties)

    notifications = MongoNotifications(database)
    rabbit_settings, channels = rabbit.RabbitSettings.of(properties), _channels(properties)
    revocations = Revocations(client, settings.revocation_grace, utc_now)
    hub = Hub(client, web.stopping, settings.streams)

    def revoked(principal: Principal) -> bool:
        # What only reads may go on for longer than what changes something, or sees everybody's.
        grave = request.method not in _READS or principal.has_role(ADMIN)
        return revocations.is_revoked(principal, grave=grave)

    return Deps(
        settings=settings,
        notifications=notifications,
        announcements=Announcements(client, settings.seen_for),
        hub=hub,
        watch=Watch(
            hub,
            notifications,
            revocations,
            check=settings.stream_check,
            poll=settings.stream_poll,
            now=utc_now,
        ),
        customers=CustomerClient(
            ServiceClient("customer-service", environment),
            settings.ownership_kept,
            partial(_voucher, security.jwt_secret(properties)),
        ),
        payments=PaymentClient(ServiceClient("payment-service", environment)),
        devices=MongoDevices(database),
        preferences=MongoPreferences(database),
        deliveries=MongoDeliveries(database),
        post=RabbitPost(rabbit_settings, channels, dump_letter),
        templates=Templates(),
        channels=channels,
        revoked=revoked,
        checks={
            "mongo": mongo.check(database),
            "redis": redis_store.check(client),
            "rabbit": rabbit.check(rabbit_settings),
            **({"mail": mail.check} if isinstance(mail := channels.get(EMAIL), Mail) else {}),
        },
        now=utc_now,
    )


def _channels(properties: Properties) -> dict[str, Channel]:
    """Open the channels that are configured; their use connects."""
    found: dict[str, Channel] = {}
    if mail := MailSettings.of(properties):
        found[EMAIL] = Mail(mail)
    if account := FcmSettings.of(properties):
        found[PUSH] = Fcm(account, utc_now)
    return found


def _voucher(secret: str, user_id: UserId) -> str:
    """Sign a token that speaks for a user without roles, long enough for one call."""
    now = utc_now()
    claims = {
        "jti": str(uuid4()),
        "sub": str(user_id),
        "username": "notification-service",
        "roles": [],
        "permissions": [],
        "type": "ACCESS",
        "iat": int(now.timestamp()),
        "exp": int((now + _VOUCHER_LIFE).timestamp()),
    }
    return security.sign(claims, secret)


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
