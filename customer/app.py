"""Where the store and the routes of customer meet."""

from flask import Flask

from cloud import actuator, web
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.stores import postgres
from customer import routes
from customer.deps import Deps
from customer.store import SqlCustomers, SqlMemberships


def create_app(environment: Environment) -> Flask:
    """Build the Flask application; nothing is opened before the first request."""
    app = Flask("customer")
    engine = postgres.engine(environment.properties)
    app.extensions["deps"] = Deps(
        customers=SqlCustomers(engine), memberships=SqlMemberships(engine), now=utc_now
    )
    web.install(app, environment)
    app.register_blueprint(routes.bp)
    actuator.install(app, environment, checks={"db": postgres.check(engine)}, essential={"db"})
    return app
