"""Where the store and the routes of customer meet."""

from flask import Flask

from cloud import actuator, web
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.stores import postgres
from cloud.stores.postgres import DatasourceSettings
from customer import routes
from customer.deps import Deps
from customer.settings import Settings
from customer.store import SqlCustomers, SqlMemberships


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("customer")
    web.install(app, environment)
    app.register_blueprint(routes.bp)
    checks = {"db": postgres.check(environment)}
    actuator.install(app, environment, checks=checks, essential={"db"})
    web.lean_on(app, environment, lambda: connect(environment), Settings.of, DatasourceSettings.of)
    return app


def connect(environment: Environment) -> Deps:
    """Describe what customer leans on now."""
    engine = postgres.shared(environment)
    return Deps(customers=SqlCustomers(engine), memberships=SqlMemberships(engine), now=utc_now)
