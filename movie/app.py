"""Where the stores, clients and routes of movie meet."""

from flask import Flask

from cloud import actuator, client, web
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
    app = Flask("movie", static_folder=None)
    web.install(app, environment, translations=mongo.TRANSLATIONS)
    app.register_blueprint(routes.bp)
    checks = {"mongo": mongo.check(environment)}
    actuator.install(app, environment, checks=checks, essential={"mongo"})
    announcer = Announcer(environment)
    web.lean_on(
        app, environment, lambda: connect(environment, announcer), Settings.of, mongo.database
    )
    return app


def connect(environment: Environment, announcer: Announcer) -> Deps:
    """Describe what movie leans on now; the first use of each opens it."""
    settings, database = Settings.of(environment.properties), mongo.shared(environment)
    customers = client.shared("customer-service", environment, settings.call_timeout)
    payments = client.shared("payment-service", environment, settings.call_timeout)
    return Deps(
        settings=settings,
        catalogue=MongoCatalogue(database, adopt_interval=settings.adopt_interval),
        views=MongoViews(database, settings.view_window),
        changes=announcer,
        paywall=Paywall(
            CustomerClient(customers), PaymentClient(payments), open_links=settings.open_links
        ),
        now=utc_now,
    )
