"""Processes that are killed in the middle: nothing is lost, nothing is done twice."""

import json
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from cloud.clock import utc_now
from cloud.testing import bearer
from payment import service, worker
from tests.payment.conftest import changed
from tests.payment.crash import CHARGE, CREATE
from tests.waiting import eventually

pytestmark = pytest.mark.estate


@pytest.fixture
def environment(settings, engine):
    return changed(settings, nozie__payment__claim_lease="100ms")


def killed(environment, point, operation):
    """Run an operation in a process of its own, which dies behind `point`."""
    properties = environment.properties
    values = {key: properties.text(key) for key in properties.sources[0].values}
    run = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "tests.payment.crash", point, operation],
        input=json.dumps(values),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stdout + run.stderr


def tell(app):
    deps = app.extensions["deps"]
    return worker.tell(deps.provider, deps.transactions)


def count(engine, table):
    with engine.connect() as db:
        return db.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608


def announced(engine):
    with engine.connect() as db:
        return db.exec_driver_sql("SELECT routing_key FROM outbox ORDER BY id").scalars().all()


def again(client, path, body):
    """Repeat the request with its key, as a client does that got no answer."""
    headers = bearer() | {"Idempotency-Key": "k"}
    answers = []

    def code():
        answers.append(client.post(path, json=body, headers=headers))
        return answers[-1].status_code == 409

    eventually(code, wanted=False)
    return answers[-1]


@pytest.mark.parametrize("point", ["claim", "open", "start", "attach"])
def test_a_start_that_died_is_finished_by_the_same_request(app, client, environment, engine, point):
    killed(environment, point, "create")
    answer = again(client, "/api/payments/create", CREATE)
    assert answer.status_code == 201
    tell(app)
    assert (count(engine, "transactions"), count(engine, "sandbox_intents")) == (1, 1)
    assert announced(engine) == ["payment.succeeded"]


@pytest.mark.parametrize("point", ["claim", "open", "start", "attach", "charge", "settle"])
def test_a_charge_that_died_is_finished_by_the_same_request(
    app, client, environment, engine, point
):
    killed(environment, point, "process")
    answer = again(client, "/payments/process", CHARGE)
    assert (answer.status_code, answer.json["data"]["status"]) == (200, "succeeded")
    tell(app)
    assert (count(engine, "transactions"), count(engine, "sandbox_intents")) == (1, 1)
    assert announced(engine) == ["payment.succeeded"]


@pytest.mark.parametrize("point", ["charge", "settle"])
def test_a_charge_that_died_and_is_never_asked_for_again(app, environment, engine, point):
    """The provider's event brings what nobody waits for any more."""
    killed(environment, point, "process")
    tell(app)
    assert announced(engine) == ["payment.succeeded"]


def test_an_event_that_was_stored_and_not_acknowledged_comes_again(
    app, client, environment, engine
):
    client.post("/api/payments/create", json=CREATE, headers=bearer())
    killed(environment, "settle", "tell")
    assert announced(engine) == ["payment.succeeded"]
    assert tell(app) == 1
    assert tell(app) == 0
    assert announced(engine) == ["payment.succeeded"]


def test_an_event_that_contradicts_its_payment_does_not_come_again(app, client, engine):
    """It must not keep the events behind it waiting."""
    client.post("/api/payments/create", json=CREATE, headers=bearer())
    with engine.begin() as db:
        db.exec_driver_sql("UPDATE transactions SET amount = 1")
    assert [tell(app), tell(app)] == [1, 0]
    assert announced(engine) == []


@pytest.mark.parametrize("point", ["request", "refund", "refunded"])
def test_a_refund_that_died_is_finished_by_the_clerk(app, client, environment, engine, point):
    client.post("/payments/process", json=CHARGE, headers=bearer())
    killed(environment, point, "refund")
    deps = app.extensions["deps"]
    service.repeat_refunds(
        transactions=deps.transactions, provider=deps.provider, after=timedelta(0), now=utc_now
    )
    assert announced(engine) == ["payment.succeeded", "payment.refunded"]
    assert count(engine, "refunds") == 0
