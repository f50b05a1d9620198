"""Payment on a real PostgreSQL, with a catalogue and customer records that answer over HTTP."""

import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from flask import Flask, jsonify, request

from cloud import security
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.stores import postgres
from cloud.testing import SECRET, properties
from deploy.local import probes
from payment.app import create_app
from payment.deps import Deps
from payment.domain import Outcome, Status, TransactionId, Verdict
from tests.contract.client import CheckedClient, checked
from tests.payment.desk import Desk, stripe_mock
from tests.payment.titles import CHEAP, FREE, OTHER, RENTED, STRANGE, YEN
from tests.ports import free_port
from tests.serving import Serving
from tests.waiting import eventually

WEBHOOK_SECRET = "whsec_of_tests"
CUSTOMERS: dict[int, dict[str, Any]] = {
    1: {"id": 1, "email": "ann@example.org", "userId": 7},
    2: {"id": 2, "email": "bob@example.org", "userId": 8},
    3: {"id": 3, "email": "Ann@Example.org"},
}
MOVIES: dict[str, dict[str, Any]] = {
    RENTED: {
        "name": "Rented",
        "price": 4.99,
        "accessType": "RENTAL",
        "posterUrl": "http://img/rented.jpg",
        "slug": "rented",
        "tmdbRating": 7.5,
    },
    CHEAP: {"name": "Cheap", "price": 4.99, "accessType": "RENTAL"},
    OTHER: {"name": "Other", "price": 1.5, "accessType": "RENTAL"},
    FREE: {"name": "Free", "price": 0, "accessType": "FREE"},
    YEN: {"name": "Yen", "price": 500, "accessType": "RENTAL"},
    STRANGE: {"price": "much", "accessType": "RENTAL"},
}


class Neighbours(Serving):
    """movie-service and customer-service behind one real socket."""

    def __init__(self) -> None:
        self.broken = False
        self.answers_as: str | None = None
        self.customers: dict[int, dict[str, Any]] = dict(CUSTOMERS)
        self.tokens_at_the_catalogue: list[str | None] = []
        app = Flask("neighbours")

        @app.get("/api/movies/<movie_id>")
        def movie(movie_id: str) -> Any:
            self.tokens_at_the_catalogue.append(request.headers.get("Authorization"))
            if self.broken:
                return jsonify(error="broken"), 500
            # As ours and the JVM one: digits in either case find a title, whose id is its own.
            own = movie_id.lower()
            found = {"id": self.answers_as or own, **MOVIES[own]} if own in MOVIES else None
            return (jsonify(data=found), 200) if found else (jsonify(data=None), 404)

        @app.get("/api/customers/<int:customer_id>")
        def customer(customer_id: int) -> Any:
            found = self.customers.get(customer_id)
            if found is None:
                return jsonify(data=None), 404
            # As our customer-service: a record is hidden from a stranger, reduced without a token.
            signed_in = "Authorization" in request.headers
            if signed_in and customer_id == 2:
                return jsonify(data=None), 404
            return jsonify(data=found if signed_in else {"id": customer_id}), 200

        @app.get("/api/customers")
        def customers() -> Any:
            """Show an ADMIN all, others their own, as our customer-service does."""
            caller = security.verify(
                security.bearer(request.headers.get("Authorization")), SECRET, now=utc_now()
            )
            found = [
                each
                for each in self.customers.values()
                if caller.has_role("ADMIN") or each.get("userId") == caller.user_id
            ]
            return jsonify(data=found), 200

        @app.get("/api/customers/email/<email>")
        def customer_by_email(email: str) -> Any:
            found = [each for each in self.customers.values() if each["email"] == email]
            return (jsonify(data=found[0]), 200) if found else (jsonify(data=None), 404)

        @app.post("/api/customers")
        def create() -> Any:
            email = request.get_json()["email"]
            if any(each["email"] == email for each in self.customers.values()):
                return jsonify(data=None), 400
            made = {"id": len(self.customers) + 1, "email": email}
            self.customers[made["id"]] = made
            return jsonify(data=made), 201

        super().__init__(app)


def succeed(app: Flask, transaction_id: int) -> int:
    """Settle a payment as its provider would; return its id."""
    deps: Deps = app.extensions["deps"]
    found = deps.transactions.find(TransactionId(transaction_id))
    assert found is not None
    verdict = Verdict(
        found.id,
        found.stripe_payment_intent_id,
        Status.SUCCEEDED,
        found.amount,
        found.currency or "",
        charge_id=f"ch_{found.id}",
    )
    assert deps.transactions.settle(verdict, now=utc_now()) is Outcome.CHANGED
    return transaction_id


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    with closing(Neighbours()) as running:
        yield running


@pytest.fixture(scope="session")
def stripe_mock_url() -> Iterator[str]:
    """The real stripe-mock, on a port of its own."""
    port = free_port()
    program = [str(stripe_mock()), "-http-addr", f"127.0.0.1:{port}"]
    with subprocess.Popen(  # noqa: S603 - a fixed program
        program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as mock:
        eventually(lambda: probes.listens(port))
        yield f"http://127.0.0.1:{port}"
        mock.terminate()


@pytest.fixture
def desk(stripe_mock_url: str) -> Iterator[Desk]:
    with closing(Desk(stripe_mock_url)) as running:
        yield running


@pytest.fixture
def template(prepared) -> str:
    return str(prepared("payment", migrated))


def migrated(own: dict[str, str]) -> None:
    engine = postgres.engine(properties("payment-service", own))
    postgres.migrate(engine, "payment")
    engine.dispose()


@pytest.fixture
def settings(database: dict[str, str], neighbours: Neighbours) -> Properties:
    simple = "spring.cloud.discovery.client.simple.instances"
    return properties(
        "payment-service",
        {
            **database,
            f"{simple}.movie-service[0].uri": neighbours.url,
            f"{simple}.customer-service[0].uri": neighbours.url,
            "eureka.client.enabled": "false",
            "nozie.payment.provider": "sandbox",
            "nozie.payment.sandbox.delay": "0ms",
            "stripe.webhook-secret": WEBHOOK_SECRET,
            "nozie.plans.monthly.price": "9.99",
            "nozie.plans.monthly.length": "30d",
        },
    )


@pytest.fixture
def engine(settings: Properties) -> Iterator[Any]:
    made = postgres.engine(settings)
    yield made
    made.dispose()


def changed(settings: Properties, **values: str) -> Environment:
    """Build the same environment with some properties changed; `__` stands for a dot."""
    before = {key: settings.text(key) for key in settings.sources[0].values}
    after = {name.replace("__", ".").replace("_", "-"): value for name, value in values.items()}
    return Environment(properties("payment-service", before | after))


@pytest.fixture
def environment(settings: Properties, engine: Any) -> Environment:
    return Environment(settings)


@pytest.fixture
def app(environment: Environment) -> Flask:
    return create_app(environment)


@pytest.fixture
def client(app: Flask) -> CheckedClient:
    return checked(app, "payment")
