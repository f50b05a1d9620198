"""Payment on a real PostgreSQL, with a catalogue and customer records that answer over HTTP."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

from cloud.config import Environment, Properties
from cloud.stores import postgres
from cloud.testing import properties

CUSTOMERS = {
    1: {"id": 1, "email": "ann@example.org", "userId": 7},
    2: {"id": 2, "email": "bob@example.org", "userId": 8},
    3: {"id": 3, "email": "Ann@Example.org"},
}
MOVIES = {
    "rented": {"price": 4.99, "accessType": "RENTAL"},
    "free": {"price": 0, "accessType": "FREE"},
    "strange": {"price": "much", "accessType": "RENTAL"},
}


class Neighbours:
    """movie-service and customer-service behind one real socket."""

    def __init__(self) -> None:
        self.broken = False
        app = Flask("neighbours")

        @app.get("/api/movies/<movie_id>")
        def movie(movie_id: str) -> Any:
            if self.broken:
                return jsonify(error="broken"), 500
            found = MOVIES.get(movie_id)
            return (jsonify(data=found), 200) if found else (jsonify(data=None), 404)

        @app.get("/api/customers/<int:customer_id>")
        def customer(customer_id: int) -> Any:
            found = CUSTOMERS.get(customer_id)
            if found is None:
                return jsonify(data=None), 404
            # As our customer-service: a record is hidden from a stranger, reduced without a token.
            signed_in = "Authorization" in request.headers
            if signed_in and customer_id == 2:
                return jsonify(data=None), 404
            return jsonify(data=found if signed_in else {"id": customer_id}), 200

        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    running = Neighbours()
    yield running
    running.close()


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
        },
    )


@pytest.fixture
def engine(settings: Properties) -> Iterator[Any]:
    made = postgres.engine(settings)
    postgres.migrate(made, "payment")
    yield made
    made.dispose()


@pytest.fixture
def environment(settings: Properties, engine: Any) -> Environment:
    return Environment(settings)
