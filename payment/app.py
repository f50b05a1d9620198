"""Where stores, clients and routes of payment meet."""

from cloud.client import ServiceClient
from flask import Flask
from sqlalchemy import Engine

from cloud import actuator, web
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.stores import postgres
from payment import routes
from payment.clients import CustomerClient, MovieClient
from payment.deps import Deps
from payment.settings import Settings
from payment.store import Sandbox, SqlKeys, SqlTransactions


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("payment")
    settings = Settings.of(environment.properties)
    engine = postgres.engine(environment.properties)
    app.extensions["deps"] = Deps(
        settings=settings,
        transactions=SqlTransactions(engine),
        keys=SqlKeys(engine, settings.claim_lease),
        movies=MovieClient(ServiceClient("movie-service", environment)),
        customers=CustomerClient(ServiceClient("customer-service", environment)),
        provider=Sandbox(engine, settings.sandbox_delay)
        if settings.provider == "sandbox"
        else None,
        now=utc_now,
    )
    web.install(app, environment)
    app.register_blueprint(routes.bp)
    actuator.install(app, environment, checks={"db": postgres.check(engine)}, essential={"db"})
    return app


def _provider(settings: Settings, engine: Engine) -> Sandbox | None:
    return Sandbox(engine, settings.sandbox_delay) if settings.provider == "sandbox" else None
