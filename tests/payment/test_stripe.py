"""The Stripe provider in front of stripe-mock, which refuses what Stripe would refuse."""

from datetime import timedelta
from typing import Any

import pytest
import stripe

from cloud.clock import utc_now
from cloud.testing import bearer
from payment import service
from payment.app import create_app
from payment.schema import sign
from tests.contract.client import checked
from tests.payment.conftest import changed
from tests.payment.events import event
from tests.payment.titles import CHEAP, OTHER, RENTED

pytestmark = pytest.mark.estate

CREATE = "/api/payments/create"
BODY = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
CHARGE = {"movieId": RENTED, "amount": 4.99}
NOW: dict[str, Any] = {"after": timedelta(0), "now": utc_now}


@pytest.fixture
def patience() -> str:
    """How long the provider may take: no test but that of a silent one should depend on it."""
    return "20s"


@pytest.fixture
def environment(settings, engine, desk, patience):
    return changed(
        settings,
        nozie__payment__provider="stripe",
        stripe__secret_key="sk_test_0123456789",
        stripe__api_base=desk.url,
        stripe__timeout=patience,
        stripe__retries="0",
        resilience4j__circuitbreaker__configs__default__minimum_number_of_calls="10",
        resilience4j__circuitbreaker__configs__default__sliding_window_size="10",
    )


def started(client, **change):
    answer = client.post(CREATE, json=BODY | change, headers=bearer())
    assert answer.status_code == 201, answer.json
    return answer.json["data"]


def charge(client, method="pm_card_visa", key=None, **change):
    headers = bearer() | ({"Idempotency-Key": key} if key else {})
    body = CHARGE | {"paymentMethodId": method} | change
    return client.post("/payments/process", json=body, headers=headers)


def status(client, transaction_id):
    path = f"/api/payments/transaction/{transaction_id}"
    return client.get(path, headers=bearer()).json["data"]["status"]


def reconcile(app, give_up=None):
    deps = app.extensions["deps"]
    zero = NOW["after"]
    return service.reconcile(
        transactions=deps.transactions,
        provider=deps.provider,
        after=zero,
        give_up=deps.settings.give_up if give_up is None else give_up,
        now=utc_now,
    )


def test_a_payment_becomes_an_intent(client, desk):
    made = started(client)
    [(form, headers)] = desk.asked_for("POST v1/payment_intents")
    assert form == {
        "amount": "499",
        "currency": "usd",
        "customer": made["customerId"],
        "automatic_payment_methods[enabled]": "true",
        "metadata[transactionId]": str(made["transactionId"]),
        "metadata[userId]": "7",
        "metadata[movieId]": RENTED,
    }
    assert headers["Idempotency-Key"].startswith(f"nozie-{made['transactionId']}-")
    assert made["clientSecret"] == "pi_1_secret_x"


def test_the_device_gets_a_key_of_its_own_version(client, desk):
    made = started(client)
    [(form, headers)] = desk.asked_for("POST v1/ephemeral_keys")
    assert headers["Stripe-Version"] == "2024-11-20.acacia"
    assert made["ephemeralKey"] == f"ek_{form['customer']}"


def test_a_buyer_keeps_his_stripe_customer(client, desk):
    first, second = started(client), started(client, movieId=CHEAP)
    assert first["customerId"] == second["customerId"]
    assert len(desk.asked_for("POST v1/customers")) == 1


def test_a_second_click_gets_the_same_intent(client, desk):
    first, second = started(client), started(client)
    assert first["clientSecret"] == second["clientSecret"]
    assert len(desk.asked_for("POST v1/payment_intents")) == 1


@pytest.mark.parametrize(
    ("fault", "patience", "status_code"),
    [
        pytest.param("silent", "2s", 503, id="no answer in time"),
        pytest.param("broken", "20s", 503, id="trouble of its own"),
        pytest.param("key", "20s", 501, id="our key is not accepted"),
    ],
)
def test_a_provider_in_trouble(client, desk, fault, status_code):
    desk.fault = fault
    assert client.post(CREATE, json=BODY, headers=bearer()).status_code == status_code
    desk.fault = None
    assert started(client)["clientSecret"] == "pi_1_secret_x"


def test_a_provider_that_stays_silent_is_not_asked_any_more(client, desk):
    desk.fault = "broken"
    for _ in range(12):
        assert client.post(CREATE, json=BODY, headers=bearer()).status_code == 503
    asked = len(desk.asked)
    assert client.post(CREATE, json=BODY, headers=bearer()).status_code == 503
    assert len(desk.asked) == asked


@pytest.mark.parametrize(
    ("key", "status_code"),
    [
        pytest.param("sk_test_xxx", 501, id="a placeholder"),
        pytest.param("", 501, id="none"),
    ],
)
def test_without_keys_a_payment_is_501(settings, engine, key, status_code):
    own = changed(settings, nozie__payment__provider="stripe", stripe__secret_key=key)
    client = checked(create_app(own), "payment")
    assert client.post(CREATE, json=BODY, headers=bearer()).status_code == status_code
    assert charge(client).status_code == status_code


@pytest.mark.parametrize(
    ("method", "status_code", "stored"),
    [
        pytest.param("pm_card_visa", 200, "succeeded", id="charged"),
        pytest.param("pm_card_authenticationRequired", 200, "pending", id="the buyer must act"),
        pytest.param("pm_card_chargeDeclined", 402, "failed", id="declined"),
        pytest.param("pm_unheard_of", 400, "pending", id="no such card"),
    ],
)
def test_a_charge(client, method, status_code, stored):
    answer = charge(client, method)
    assert answer.status_code == status_code
    [one] = client.get("/api/payments", headers=bearer()).json["data"]
    assert one["status"] == stored
    if status_code == 402:
        assert answer.json["message"] == one["errorMessage"] == "Your card was declined."
    if stored == "succeeded":
        assert one["chargeId"] == "ch_1"


def test_a_charge_that_was_not_answered_is_found_by_the_same_request(client, desk):
    desk.fault = "broken"
    assert charge(client, key="k").status_code == 503
    desk.fault = None
    assert charge(client, key="k").json["data"]["status"] == "succeeded"
    assert len(desk.intents) == 1
    replayed = charge(client, key="k")
    assert replayed.headers["Idempotent-Replayed"] == "true"


def test_an_intent_that_was_paid_on_the_device_is_not_charged_again(client, desk):
    """The same title, pending: one intent, which can be paid only once."""
    started(client)
    desk.pay("pi_1")
    assert charge(client).json["data"]["status"] == "succeeded"
    assert len(desk.intents) == 1


def test_reconciliation_finds_what_no_event_told(app, client, desk):
    made = started(client)["transactionId"]
    assert reconcile(app) == 0
    desk.pay("pi_1")
    assert reconcile(app) == 1
    assert status(client, made) == "succeeded"


def test_reconciliation_goes_on_past_what_the_provider_does_not_know(app, client, desk):
    lost, made = started(client), started(client, movieId=CHEAP)
    desk.intents.pop("pi_1")
    desk.pay("pi_2")
    assert reconcile(app) == 1
    assert status(client, lost["transactionId"]) == "pending"
    assert status(client, made["transactionId"]) == "succeeded"


def test_reconciliation_ends_when_the_provider_is_silent(app, client, desk):
    """Its time is not spent on asking for all of them in vain."""
    started(client), started(client, movieId=CHEAP)
    desk.fault = "broken"
    asked = len(desk.asked)
    assert reconcile(app) == 0
    assert len(desk.asked) == asked + 1


def test_what_stays_pending_is_given_up_at_the_provider(app, client, desk):
    made, lost = started(client), started(client, movieId=CHEAP)
    paid = started(client, movieId=OTHER, amount=1.5)
    desk.intents.pop("pi_2")
    desk.pay("pi_3")
    assert reconcile(app, give_up=NOW["after"]) == 3
    assert status(client, made["transactionId"]) == "canceled"
    assert desk.intents["pi_1"]["status"] == "canceled"
    assert status(client, lost["transactionId"]) == "canceled"
    assert status(client, paid["transactionId"]) == "succeeded"


def test_a_refund(client, desk):
    made = charge(client).json["data"]["transactionId"]
    path, admin = f"/api/payments/transaction/{made}/refund", bearer(9, "ADMIN")
    first, second = client.post(path, headers=admin), client.post(path, headers=admin)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json["data"]["refundedAt"] == second.json["data"]["refundedAt"] is not None
    assert len(desk.asked_for("POST v1/refunds")) == 1


def test_a_refund_of_a_silent_provider_is_repeated(app, client, desk):
    made = charge(client).json["data"]["transactionId"]
    path, admin = f"/api/payments/transaction/{made}/refund", bearer(9, "ADMIN")
    desk.fault = "broken"
    answer = client.post(path, headers=admin)
    assert (answer.status_code, answer.json["data"]["refundedAt"]) == (202, None)
    desk.fault = None
    deps = app.extensions["deps"]
    again = {"transactions": deps.transactions, "provider": deps.provider} | NOW
    assert service.repeat_refunds(**again) == 1
    assert client.get(path.removesuffix("/refund"), headers=admin).json["data"]["refundedAt"]
    assert service.repeat_refunds(**again) == 0


def test_what_was_refunded_at_stripes_own_desk_counts_as_refunded(client, desk):
    made = charge(client).json["data"]["transactionId"]
    desk.intents["pi_1"]["amount_received"] = 0
    path = f"/api/payments/transaction/{made}/refund"
    assert client.post(path, headers=bearer(9, "ADMIN")).status_code == 200


def test_our_signature_is_stripes_and_stripes_is_ours(client):
    """Stripe's own library believes what we sign; what it signs we believe."""
    made = started(client)
    raw = event((made["transactionId"], "pi_1"))
    ours = sign(raw, "whsec_of_tests", now=utc_now())
    assert stripe.Webhook.construct_event(raw, ours, "whsec_of_tests").type == (
        "payment_intent.succeeded"
    )
    moment = int(utc_now().timestamp())
    theirs = stripe.WebhookSignature._compute_signature(  # noqa: SLF001 - how the library signs
        f"{moment}.{raw.decode()}", "whsec_of_tests"
    )
    headers = {"Stripe-Signature": f"t={moment},v1={theirs}", "Content-Type": "application/json"}
    assert client.post("/api/payments/webhook", data=raw, headers=headers).status_code == 200
    assert status(client, made["transactionId"]) == "succeeded"
