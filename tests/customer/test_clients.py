"""Asking payment-service, over a real socket."""

import threading

import orjson
import pytest
from flask import Flask
from werkzeug.serving import make_server

from cloud.client import ServiceClient
from cloud.config import Environment
from cloud.errors import UnavailableError, UpstreamError
from cloud.testing import properties
from customer.clients import PaymentClient

ANSWERS = {
    1: (200, {"success": True, "data": {"id": 1, "status": "Succeeded"}}),
    2: (200, {"success": True, "data": {"id": 2, "status": "pending"}}),
    3: (404, {"success": False, "data": None}),
    4: (401, {"success": False, "data": None}),
    5: (500, {"success": False, "data": None}),
    6: (200, []),
    7: (200, {"data": {"id": 7, "status": None}}),
}


def client(uri):
    key = "spring.cloud.discovery.client.simple.instances.payment-service[0].uri"
    values = {key: uri, "spring.cloud.loadbalancer.retry.enabled": "false"}
    environment = Environment(properties("customer-service", values))
    return PaymentClient(ServiceClient("payment-service", environment))


@pytest.fixture(scope="module")
def payments():
    app = Flask("payment")

    @app.get("/api/payments/transaction/<int:number>")
    def answer(number):
        status, body = ANSWERS[number]
        return app.response_class(orjson.dumps(body), status, content_type="application/json")

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield client(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("number", "status"),
    [(1, "succeeded"), (2, "pending"), (3, None), (7, "none")],
    ids=["in any case", "pending", "unknown", "no status"],
)
def test_a_transactions_status(payments, number, status):
    assert payments.find_status(number) == status


@pytest.mark.parametrize("number", [4, 5, 6], ids=["not for us", "a failure", "no envelope"])
def test_what_is_no_answer_is_not_taken_for_one(payments, number):
    with pytest.raises(UpstreamError):
        payments.find_status(number)


def test_nobody_to_ask(unused_tcp_port):
    with pytest.raises(UnavailableError):
        client(f"http://127.0.0.1:{unused_tcp_port}").find_status(1)
