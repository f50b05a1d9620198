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
from movie.events import Announcer
from movie.service import Paywall
from movie.settings import Settings
from movie.store import MongoCatalogue, MongoViews


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    properties = environment.properties
    settings, database = Settings.of(properties), mongo.database(properties)
    customers = ServiceClient("customer-service", environment, timeout=settings.call_timeout)
    payments = ServiceClient("payment-service", environment, timeout=settings.call_timeout)
    app = Flask("movie", static_folder=None)
    app.extensions["deps"] = Deps(
        settings=settings,
        catalogue=MongoCatalogue(database, adopt_interval=settings.adopt_interval),
        views=MongoViews(database, settings.view_window),
        changes=Announcer(properties),
        paywall=Paywall(
            CustomerClient(customers), PaymentClient(payments), open_links=settings.open_links
        ),
        now=utc_now,
    )
    web.install(app, environment, translations=mongo.TRANSLATIONS)
    app.register_blueprint(routes.bp)
    actuator.install(app, environment, checks={"mongo": mongo.check(database)}, essential={"mongo"})
    return app
