"""Where stores, clients and routes of notification meet."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

from flask import Flask, request

from cloud import actuator, client, security, web
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.messaging import rabbit
from cloud.refresh import scope
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

_SETTINGS: Final = (
    *(Settings.of, MailSettings.of, FcmSettings.of, rabbit.RabbitSettings.of),
    *(mongo.database, redis_store.client),
)
_VOUCHER_LIFE = timedelta(minutes=1)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def connect(environment: Environment) -> Deps:
    """Describe everything that notification leans on; the first use of each opens it."""
    properties = environment.properties
    settings = Settings.of(properties)
    database, redis = mongo.shared(environment), redis_store.shared(environment)

    notifications = MongoNotifications(database)
    rabbit_settings, channels = rabbit.RabbitSettings.of(properties), _channels(properties)
    live = _live(environment, settings, notifications)

    def revoked(principal: Principal) -> bool:
        # What only reads may go on for longer than what changes something, or sees everybody's.
        grave = request.method not in _READS or principal.has_role(ADMIN)
        return live.revocations.is_revoked(principal, grave=grave)

    return Deps(
        settings=settings,
        notifications=notifications,
        announcements=Announcements(redis, settings.seen_for),
        hub=live.hub,
        watch=live.watch,
        customers=CustomerClient(
            client.shared("customer-service", environment),
            settings.ownership_kept,
            partial(_voucher, security.jwt_secret(properties)),
        ),
        payments=PaymentClient(client.shared("payment-service", environment)),
        devices=MongoDevices(database),
        preferences=MongoPreferences(database),
        deliveries=MongoDeliveries(database),
        post=RabbitPost(rabbit_settings, channels, dump_letter),
        templates=Templates(),
        channels=channels,
        revoked=revoked,
        checks={
            "mongo": mongo.check(database),
            "redis": redis_store.check(redis),
            "rabbit": rabbit.check(rabbit_settings),
            **({"mail": mail.check} if isinstance(mail := channels.get(EMAIL), Mail) else {}),
        },
        now=utc_now,
    )


@dataclass(frozen=True, slots=True)
class _Live:
    """What the open streams of a worker lean on, as long as they are open."""

    hub: Hub
    watch: Watch
    revocations: Revocations

    def end(self) -> None:
        """End the streams: their clients come back at once, to what has taken the place of this."""
        self.hub.close()


def _live(environment: Environment, settings: Settings, notifications: MongoNotifications) -> _Live:
    """Keep what streams lean on, and what is known of revocations, until their settings change."""
    redis = redis_store.shared(environment)
    # Their identity stands for their settings: they are made anew when these change.
    made_from = (
        *(id(redis), id(mongo.shared(environment))),
        *(settings.revocation_grace, settings.streams),
        *(settings.stream_check, settings.stream_poll),
    )

    def make() -> _Live:
        revocations = Revocations(redis, settings.revocation_grace, utc_now)
        hub = Hub(redis, web.stopping, settings.streams)
        watch = Watch(
            hub,
            notifications,
            revocations,
            check=settings.stream_check,
            poll=settings.stream_poll,
            now=utc_now,
        )
        return _Live(hub, watch, revocations)

    return scope(environment).get("streams", made_from, make, _Live.end, after_s=1)


def _channels(properties: Properties) -> dict[str, Channel]:
    """Open the channels that are configured; their use connects."""
    found: dict[str, Channel] = {}
    if mail := MailSettings.of(properties):
        found[EMAIL] = Mail(mail)
    if account := FcmSettings.of(properties):
        found[PUSH] = Fcm(account, utc_now)
    return found


def _voucher(secret: str, user_id: UserId) -> str:
    """Sign a token for one call."""
    return security.voucher(
        "notification-service", user_id, secret, now=utc_now(), lasting=_VOUCHER_LIFE
    )


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("notification", static_folder=None)
    web.install(app, environment, revoked=lambda principal: web.current(Deps).revoked(principal))
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    actuator.install(app, environment, checks=_checks(app, environment), essential={"mongo"})
    web.lean_on(app, environment, lambda: connect(environment), *_SETTINGS)
    return app


def _checks(app: Flask, environment: Environment) -> Mapping[str, actuator.Check]:
    """Build the health checks; each asks what is leant on when it is asked, in its own thread."""

    def check(name: str) -> Mapping[str, Any]:
        deps: Deps = app.extensions["deps"]
        found = deps.checks.get(name)
        return found() if found else {}

    return {name: partial(check, name) for name in connect(environment).checks}
