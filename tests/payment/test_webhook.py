"""Events that are forged, stale, repeated, late or about something else change nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from cloud.clock import utc_now
from cloud.testing import bearer
from payment.app import create_app
from payment.schema import sign
from payment.store import messages
from tests.contract.client import checked
from tests.payment.conftest import changed
from tests.payment.events import SECRET, event, signed
from tests.payment.titles import RENTED, YEN

pytestmark = pytest.mark.estate

HOOK = "/api/payments/webhook"


@pytest.fixture
def environment(settings, engine):
    """A provider that does not decide by itself."""
    return changed(settings, nozie__payment__sandbox__delay="1h")


@pytest.fixture
def made(client):
    """A pending payment: its id and its intent."""
    body = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
    started = client.post("/api/payments/create", json=body, headers=bearer()).json["data"]
    return started["transactionId"], started["clientSecret"].partition("_secret_")[0]


def hook(client, raw, headers=None):
    answer = client.post(HOOK, data=raw, headers=signed(raw) if headers is None else headers)
    assert answer.mimetype == "text/plain"
    return answer.status_code


def transaction(client, made):
    path = f"/api/payments/transaction/{made[0]}"
    return client.get(path, headers=bearer()).json["data"]


def announced(engine):
    with engine.connect() as db:
        return [row.routing_key for row in db.execute(sa.select(messages))]


@pytest.mark.parametrize(
    ("kind", "status", "stamp"),
    [
        pytest.param("succeeded", "succeeded", "paidAt", id="succeeded"),
        pytest.param("payment_failed", "failed", "failedAt", id="failed"),
        pytest.param("canceled", "canceled", "canceledAt", id="canceled"),
    ],
)
def test_an_event_decides(client, made, engine, kind, status, stamp):
    assert hook(client, event(made, kind)) == 200
    found = transaction(client, made)
    assert (found["status"], found["errorMessage"]) == (
        status,
        "Declined." if status == "failed" else None,
    )
    assert found[stamp]
    assert announced(engine) == (["payment.succeeded"] if status == "succeeded" else [])


def test_a_charge_may_come_expanded(client, made):
    assert hook(client, event(made, latest_charge={"id": "ch_9", "object": "charge"})) == 200
    assert transaction(client, made)["chargeId"] == "ch_9"


def forged_header(raw):
    return f"t={int(utc_now().timestamp())},v1={'0' * 64}"


def moved(seconds):
    return lambda raw: sign(raw, SECRET, now=utc_now() + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(lambda raw: None, id="no signature"),
        pytest.param(lambda raw: "", id="an empty one"),
        pytest.param(lambda raw: "nonsense", id="no pairs"),
        pytest.param(forged_header, id="a wrong one"),
        pytest.param(lambda raw: sign(raw, "whsec_other", now=utc_now()), id="another secret"),
        pytest.param(lambda raw: sign(raw + b" ", SECRET, now=utc_now()), id="another body"),
        pytest.param(moved(-301), id="stale"),
        pytest.param(moved(301), id="from the future"),
        pytest.param(
            lambda raw: sign(raw, SECRET, now=utc_now()).replace("v1=", "v0="), id="another scheme"
        ),
        pytest.param(lambda raw: f"t=1,{sign(raw, SECRET, now=utc_now())}", id="two moments"),
        pytest.param(
            lambda raw: sign(raw, SECRET, now=utc_now()).replace("t=", "t=-"), id="no moment"
        ),
        pytest.param(lambda raw: f"t={int(utc_now().timestamp())},v1=\u00fc", id="no hexadecimal"),
    ],
)
def test_a_forged_event_changes_nothing(client, made, engine, header):
    raw = event(made)
    found = header(raw)
    headers = {"Content-Type": "application/json"}
    if found is not None:
        headers["Stripe-Signature"] = found
    assert hook(client, raw, headers) == 400
    assert transaction(client, made)["status"] == "pending"
    assert announced(engine) == []


@pytest.mark.parametrize("age", [pytest.param(-290, id="late"), pytest.param(290, id="early")])
def test_a_clock_may_be_wrong_by_minutes(client, made, age):
    raw = event(made)
    assert hook(client, raw, {"Stripe-Signature": moved(age)(raw)}) == 200


def test_one_of_several_signatures_is_enough(client, made):
    """While a secret is being rolled, an event is signed with both."""
    raw = event(made)
    good = sign(raw, SECRET, now=utc_now())
    moment, _, right = good.partition(",v1=")
    assert hook(client, raw, {"Stripe-Signature": f"{moment},v1={'0' * 64},v1={right}"}) == 200
    assert transaction(client, made)["status"] == "succeeded"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"amount_received": 99}, id="another amount"),
        pytest.param({"currency": "eur"}, id="another currency"),
        pytest.param({"id": "pi_other"}, id="another intent"),
    ],
)
def test_a_signed_event_that_contradicts_the_payment_is_refused(client, made, engine, change):
    assert hook(client, event(made, **change)) == 400
    assert transaction(client, made)["status"] == "pending"
    assert announced(engine) == []


def test_an_event_cannot_move_another_payments_intent(client, made, engine, app):
    """The row has no intent of its own yet, and the one named belongs to another payment."""
    with engine.begin() as db:
        row = "INSERT INTO transactions (customer_id, movie_id, amount, currency, status)"
        bare = db.execute(
            sa.text(f"{row} VALUES (1, 'm', 4.99, 'usd', 'pending') RETURNING id")
        ).scalar_one()
    assert hook(client, event((bare, made[1]))) == 400


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b'{"id":"evt_1","type":"payment_intent.succeeded"}', id="no data"),
        pytest.param(
            b'{"id":"evt_1","type":"payment_intent.succeeded","data":{"object":{}}}', id="no intent"
        ),
    ],
)
def test_what_is_no_event_is_refused(client, raw):
    assert hook(client, raw) == 400


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"type": "charge.updated"}, id="another type"),
        pytest.param({"metadata": {}}, id="no transaction"),
        pytest.param({"metadata": {"transactionId": "999999"}}, id="an unknown transaction"),
        pytest.param({"metadata": {"transactionId": "x"}}, id="somebody else's naming"),
    ],
)
def test_what_does_not_concern_us_is_accepted_and_changes_nothing(client, made, engine, change):
    assert hook(client, event(made, **change)) == 200
    assert transaction(client, made)["status"] == "pending"
    assert announced(engine) == []


def test_a_repeated_event_is_answered_and_changes_nothing(client, made, engine):
    raw = event(made)
    assert [hook(client, raw) for _ in range(3)] == [200] * 3
    assert hook(client, event(made)) == 200  # another event about the same payment
    assert announced(engine) == ["payment.succeeded"]


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        pytest.param(("succeeded", "payment_failed"), "succeeded", id="the failure comes late"),
        pytest.param(("payment_failed", "succeeded"), "succeeded", id="a second card works"),
        pytest.param(("succeeded", "canceled"), "succeeded", id="the cancellation comes late"),
        pytest.param(("canceled", "payment_failed"), "canceled", id="it was given up"),
        pytest.param(("payment_failed", "canceled"), "failed", id="a failure is final for it"),
    ],
)
def test_events_may_come_in_any_order(client, made, engine, kinds, status):
    assert [hook(client, event(made, kind)) for kind in kinds] == [200, 200]
    found = transaction(client, made)
    assert found["status"] == status
    assert found["errorMessage"] == ("Declined." if status == "failed" else None)
    assert announced(engine) == (["payment.succeeded"] if status == "succeeded" else [])


@pytest.mark.parametrize(
    "event_id", [pytest.param("evt_same", id="one event"), pytest.param(None, id="twenty events")]
)
def test_twenty_parallel_events_announce_one_payment(app, client, made, engine, event_id):
    def once(_):
        change: dict[str, Any] = {"event_id": event_id} if event_id else {}
        raw = event(made, **change)
        return hook(app.test_client(), raw)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(once, range(20))) == {200}
    assert announced(engine) == ["payment.succeeded"]
    assert transaction(client, made)["status"] == "succeeded"


def test_without_a_secret_nothing_is_believed(settings, engine, made):
    own = changed(settings, stripe__webhook_secret="whsec_xxx")
    client = checked(create_app(own), "payment")
    raw = event(made)
    assert hook(client, raw, signed(raw, "whsec_xxx")) == 400


def test_an_amount_without_cents(settings, engine):
    """One yen is the smallest unit there is."""
    own = changed(settings, nozie__payment__currency="jpy", nozie__payment__sandbox__delay="1h")
    client = checked(create_app(own), "payment")
    body = {"customerId": 1, "movieId": YEN, "amount": 500, "currency": "JPY"}
    answer = client.post("/api/payments/create", json=body, headers=bearer())
    started = answer.get_json()["data"]
    made = started["transactionId"], started["clientSecret"].partition("_secret_")[0]
    assert hook(client, event(made, currency="jpy", amount_received=50000)) == 400
    assert hook(client, event(made, currency="jpy", amount_received=500)) == 200
    assert transaction(client, made)["status"] == "succeeded"


def test_a_refused_event_tells_nothing_of_the_payment(client, made):
    raw = event(made, amount_received=1)
    answer = client.post(HOOK, data=raw, headers=signed(raw))
    assert answer.data == b"Webhook refused: the event does not match the transaction"
    assert json.loads(raw)["id"].encode() not in answer.data
