"""Where the stores, clients and routes of movie meet."""

from flask import Flask

from cloud import actuator, web
from cloud.client import ServiceClient
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.stores import mongo
from movie import routes
from movie.clients import CustomerClient, PaymentClient
from movie.deps import Deps
from movie.service import Paywall
from movie.settings import Settings
from movie.store import MongoCatalogue, MongoViews


def connect(environment: Environment) -> Deps:
    """Make what the service leans on; nothing is opened before its first use."""
    settings = Settings.of(environment.properties)
    database = mongo.database(environment.properties)
    customers = ServiceClient("customer-service", environment, timeout=settings.call_timeout)
    payments = ServiceClient("payment-service", environment, timeout=settings.call_timeout)
    return Deps(
        environment=environment,
        settings=settings,
        catalogue=MongoCatalogue(database, adopt_interval=settings.adopt_interval),
        views=MongoViews(database, settings.view_window),
        paywall=Paywall(
            CustomerClient(customers), PaymentClient(payments), open_links=settings.open_links
        ),
        check=mongo.check(database),
        now=utc_now,
    )


def create_app(deps: Deps) -> Flask:
    """Build the Flask application."""
    app = Flask("movie", static_folder=None)
    app.extensions["deps"] = deps
    web.install(app, deps.environment, translations=mongo.TRANSLATIONS)
    app.register_blueprint(routes.bp)
    actuator.install(app, deps.environment, checks={"mongo": deps.check}, essential={"mongo"})
    return app
