"""Where stores, clients and routes of payment meet."""

from datetime import timedelta
from functools import partial

from flask import Flask
from sqlalchemy import Engine

from cloud import actuator, client, security, web
from cloud.breaker import Breakers
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.stores import postgres
from cloud.stores.postgres import DatasourceSettings
from payment.clients import CustomerClient, MovieClient
from payment.deps import Deps
from payment.domain import Title, UserId
from payment.routes import BLUEPRINTS
from payment.service import Provider, Shop
from payment.settings import Settings
from payment.store import Sandbox, SqlKeys, SqlLibrary, SqlLimits, SqlTransactions

_VOUCHER_LIFE = timedelta(seconds=30)


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("payment")
    web.install(app, environment)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    checks = {"db": postgres.check(environment)}
    actuator.install(app, environment, checks=checks, essential={"db"})
    web.lean_on(app, environment, lambda: connect(environment), Settings.of, DatasourceSettings.of)
    return app


def connect(environment: Environment) -> Deps:
    """Describe what payment leans on now; the first use of each opens it."""
    properties = environment.properties
    settings, engine = Settings.of(properties), postgres.shared(environment)
    voucher = partial(_voucher, security.jwt_secret(properties))
    return Deps(
        settings=settings,
        transactions=SqlTransactions(engine),
        keys=SqlKeys(engine, settings.claim_lease),
        library=SqlLibrary(engine),
        limits=SqlLimits(engine),
        shop=Shop(
            movies=MovieClient(client.shared("movie-service", environment)),
            plans={
                name: Title.of_plan(name, plan.price, plan.days)
                for name, plan in settings.plans.items()
            },
            currency=settings.currency,
        ),
        customers=CustomerClient(client.shared("customer-service", environment), voucher),
        provider=provider(environment, settings, engine),
        now=utc_now,
    )


def provider(environment: Environment, settings: Settings, engine: Engine) -> Provider | None:
    """Build who collects the money; None when nobody is configured."""
    if settings.provider == "sandbox":
        return Sandbox(engine, settings.sandbox_delay, settings.sandbox_method)
    if settings.stripe is None:
        return None
    # Its library is large: only who has an account pays for it in memory.
    from payment.clients.stripe import Stripe  # noqa: PLC0415

    return Stripe(settings.stripe, Breakers(environment.properties).get("stripe"))


def _voucher(secret: str, user_id: UserId) -> str:
    """Sign a token for one call."""
    return security.voucher(
        "payment-service", user_id, secret, now=utc_now(), lasting=_VOUCHER_LIFE
    )
