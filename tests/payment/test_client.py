"""What the app alone calls: charges with a token, checkouts without one."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.testing import bearer
from payment.app import create_app
from tests.contract.client import checked
from tests.payment.conftest import changed, succeed
from tests.payment.titles import CHEAP, MISSING, RENTED

pytestmark = pytest.mark.estate

CHARGE = {"movieId": RENTED, "amount": 4.99, "paymentMethodId": "pm_card_visa"}
CHECKOUT = {"userId": "7", "movieId": RENTED, "amount": 4.99}


@pytest.fixture
def client(app):
    return checked(app, "payment")


def charge(client, key=None, user=7, **change):
    headers = bearer(user) | ({"Idempotency-Key": key} if key else {})
    return client.post("/payments/process", json=CHARGE | change, headers=headers)


def own(client, user=7):
    return client.get("/api/payments", headers=bearer(user)).json["data"]


@pytest.mark.parametrize(
    ("method", "status", "stored", "reason"),
    [
        pytest.param("pm_card_visa", 200, "succeeded", None, id="visa"),
        pytest.param("pm_card_mastercard", 200, "succeeded", None, id="mastercard"),
        pytest.param(
            "pm_card_chargeDeclined", 402, "failed", "Your card was declined.", id="declined"
        ),
        pytest.param(
            "pm_card_visa_chargeDeclinedInsufficientFunds",
            402,
            "failed",
            "Your card has insufficient funds.",
            id="insufficient funds",
        ),
        pytest.param("pm_card_authenticationRequired", 200, "pending", None, id="must act"),
        pytest.param("pm_card_timeout", 503, "pending", None, id="no answer"),
        pytest.param("pm_card_none", 400, "pending", None, id="no such card"),
    ],
)
def test_the_sandboxs_cards(client, method, status, stored, reason):
    answer = charge(client, paymentMethodId=method)
    assert answer.status_code == status
    [one] = own(client)
    assert (one["status"], one["errorMessage"]) == (stored, reason)
    if status == 200:
        assert answer.json["data"] == {"transactionId": str(one["id"]), "status": stored}
    if status == 402:
        assert (answer.json["success"], answer.json["message"]) == (False, reason)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"amount": 1}, 400, id="not the price"),
        pytest.param({"currency": "eur"}, 400, id="another currency"),
        pytest.param({"movieId": MISSING}, 404, id="unknown title"),
        pytest.param({"paymentMethodId": " "}, 400, id="blank method"),
        pytest.param({"paymentMethodId": None}, 400, id="no method"),
        pytest.param({"userId": "8"}, 200, id="another user is ignored"),
    ],
)
def test_what_may_be_charged(client, change, status):
    assert charge(client, **change).status_code == status


def test_a_charge_needs_a_token(client):
    assert client.post("/payments/process", json=CHARGE).status_code == 401


@pytest.mark.parametrize(
    ("user", "email", "customer"),
    [
        pytest.param(7, None, 1, id="a linked record"),
        pytest.param(30, "new@example.org", 4, id="none: one is made"),
        pytest.param(31, "ann@example.org", None, id="the e-mail belongs to another's record"),
        pytest.param(32, None, None, id="none, and no e-mail to make one"),
    ],
)
def test_a_charge_finds_the_callers_record(client, user, email, customer):
    claims = {"email": email} if user > 7 else {}
    answer = client.post("/payments/process", json=CHARGE, headers=bearer(user, **claims))
    assert answer.status_code == (404 if customer is None else 200)
    if customer:
        assert own(client, user)[0]["customerId"] == customer


def test_an_admin_is_charged_as_himself(client, neighbours):
    """He is shown everybody's records, and must not take the first."""
    neighbours.customers[9] = {"id": 9, "email": "root@example.org", "userId": 9}
    headers = bearer(9, "ADMIN", email="root@example.org")
    assert client.post("/payments/process", json=CHARGE, headers=headers).status_code == 200
    assert client.get("/api/payments", headers=headers).json["data"][0]["customerId"] == 9


def test_an_answer_is_given_again(client):
    first, again = charge(client, "k"), charge(client, "k")
    assert (again.status_code, again.data) == (200, first.data)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert charge(client, "k", paymentMethodId="pm_card_mastercard").status_code == 422


def test_a_refusal_of_the_provider_is_given_again(client):
    declined = {"paymentMethodId": "pm_card_chargeDeclined"}
    first, again = charge(client, "k", **declined), charge(client, "k", **declined)
    assert (again.status_code, again.data) == (402, first.data)
    assert len(own(client)) == 1


def test_one_key_is_for_one_operation(client):
    assert charge(client, "k").status_code == 200
    body = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
    headers = bearer() | {"Idempotency-Key": "k"}
    assert client.post("/api/payments/create", json=body, headers=headers).status_code == 422


def test_a_key_of_a_refused_request_serves_another_one(client):
    """The first one had opened a transaction: it must not be mistaken for the second's."""
    assert charge(client, "k", paymentMethodId="pm_card_timeout").status_code == 503
    assert charge(client, "k", movieId=CHEAP).status_code == 200
    assert {each["movieId"]: each["status"] for each in own(client)} == {
        CHEAP: "succeeded",
        RENTED: "pending",
    }


def test_a_charge_without_an_answer_is_found_by_the_same_request(client):
    silent = {"paymentMethodId": "pm_card_timeout"}
    assert charge(client, "k", **silent).status_code == 503
    assert own(client)[0]["status"] == "pending"
    # The sandbox stays silent about it, as often as it is asked.
    assert charge(client, "k", **silent).status_code == 503
    assert len(own(client)) == 1


def test_a_title_is_charged_once(client):
    assert charge(client).status_code == 200
    assert charge(client).status_code == 409


def test_twenty_parallel_charges_take_the_money_once(app, client):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: charge(app.test_client()).status_code, range(20)))
    assert set(answers) <= {200, 409}
    assert [each["status"] for each in own(client)] == ["succeeded"]


def test_a_plan_can_be_bought_again(app, client):
    plan = {"movieId": "plan:monthly", "amount": 9.99}
    assert [charge(client, **plan).status_code for _ in range(2)] == [200, 200]
    assert client.get("/purchases/users/7/purchases", headers=bearer()).json["data"] == []


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        pytest.param({"movieId": "plan:none", "amount": 9.99}, 404, id="no such plan"),
        pytest.param({"movieId": "plan:monthly", "amount": 1}, 400, id="not its price"),
    ],
)
def test_a_plan_has_its_price(client, plan, status):
    assert charge(client, **plan).status_code == status


def checkout(client, headers=None, **change):
    return client.post("/create-payment", json=CHECKOUT | change, headers=headers or {})


def poll(client, transaction, user="7"):
    return client.get(f"/transaction/{user}/{transaction}")


def test_a_checkout_without_a_token(app, client):
    answer = checkout(client)
    assert answer.status_code == 200
    assert all(isinstance(value, str) and value for value in answer.json.values())
    name = answer.json["transactionId"]
    assert poll(client, name).json == {
        "id": name,
        "status": "pending",
        "paidAt": None,
        "failedAt": None,
        "canceledAt": None,
        "errorMessage": None,
    }
    succeed(app, own(client)[0]["id"])
    found = poll(client, name).json
    assert (found["status"], found["paidAt"][-1]) == ("succeeded", "Z")


@pytest.mark.parametrize(
    ("user", "name"),
    [
        pytest.param("8", None, id="another user"),
        pytest.param("x", None, id="no user"),
        pytest.param(str(2**63), None, id="a user beyond all"),
        pytest.param("7", "guess", id="another name"),
        pytest.param("7", "1", id="the inner id"),
        pytest.param("9" * 40, None, id="beyond 64 bits"),
    ],
)
def test_a_checkout_is_known_by_its_name_and_user(client, user, name):
    made = checkout(client).json["transactionId"]
    assert poll(client, name or made, user).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"amount": 1}, 400, id="not the price"),
        pytest.param({"userId": "x"}, 400, id="no user id"),
        pytest.param({"userId": 7}, 200, id="a number is a text"),
        pytest.param({"userId": "99"}, 404, id="a user without a record"),
        pytest.param({"userId": str(2**63 - 1)}, 404, id="the largest id that there may be"),
        pytest.param({"userId": str(2**63)}, 400, id="an id beyond all"),
        pytest.param({"movieId": MISSING}, 404, id="unknown title"),
        pytest.param({"movieTitle": "Cheaper", "movieSlug": None}, 200, id="titles are ignored"),
        pytest.param({"movieId": "plan:monthly", "amount": 9.99}, 200, id="a plan"),
    ],
)
def test_what_may_be_checked_out(client, change, status):
    client.holds_requests = False
    assert checkout(client, **change).status_code == status


def test_strangers_share_nothing_with_the_user(client):
    """Neither the provider's customer nor a pending payment, in neither direction."""
    body = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
    mine = client.post("/api/payments/create", json=body, headers=bearer()).json["data"]
    stranger, another = checkout(client).json, checkout(client).json
    again = client.post("/api/payments/create", json=body, headers=bearer()).json["data"]
    assert again == mine
    for key in ("customerId", "clientSecret", "ephemeralKey"):
        assert len({mine[key], stranger[key], another[key]}) == 3


def test_what_is_bought_is_not_sold_again_and_not_told(client):
    assert charge(client).status_code == 200
    answer = checkout(client)
    assert (answer.status_code, answer.json["message"]) == (400, "this title cannot be bought")


def test_a_user_can_be_checked_out_for_so_often_a_minute(settings, engine):
    own = changed(settings, nozie__payment__checkouts_per_user="2")
    client = checked(create_app(own), "payment")
    answers = [checkout(client) for _ in range(3)]
    # A minute may end between two of them.
    if [each.status_code for each in answers] != [200, 200, 429]:
        answers = [checkout(client) for _ in range(3)]
    assert [each.status_code for each in answers][-1] == 429
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert checkout(client, userId="8").status_code == 200


def test_an_address_may_start_so_many_checkouts_a_minute(settings, engine):
    own = changed(settings, nozie__payment__checkouts_per_address="1")
    client = checked(create_app(own), "payment")
    at = [{"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}]
    codes = [checkout(client, at[0]).status_code for _ in range(3)]
    assert 429 in codes
    assert checkout(client, at[1], userId="8").status_code == 200


def test_without_a_provider_nothing_is_sold(settings, engine):
    client = checked(create_app(changed(settings, nozie__payment__provider="none")), "payment")
    assert checkout(client).status_code == 501
    assert charge(client).status_code == 501
    refund = "/api/payments/transaction/1/refund"
    assert client.post(refund, headers=bearer(9, "ADMIN")).status_code == 501


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="nobody"),
        pytest.param(bearer(7), 403, id="the buyer"),
        pytest.param(bearer(9, "ADMIN"), 200, id="an ADMIN"),
    ],
)
def test_who_may_refund(client, headers, status):
    made = charge(client).json["data"]["transactionId"]
    path = f"/api/payments/transaction/{made}/refund"
    assert client.post(path, headers=headers).status_code == status
    check = {"customerId": 1, "movieId": RENTED}
    found = client.get("/api/payments/check-purchase", query_string=check, headers=bearer())
    assert found.json["data"] is (status != 200)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        pytest.param("pm_card_authenticationRequired", 409, id="not paid yet"),
        pytest.param("pm_card_chargeDeclined", 409, id="never paid"),
    ],
)
def test_only_what_was_paid_is_refunded(client, method, status):
    charge(client, paymentMethodId=method)
    path = f"/api/payments/transaction/{own(client)[0]['id']}/refund"
    assert client.post(path, headers=bearer(9, "ADMIN")).status_code == status
    assert (
        client.post("/api/payments/transaction/99/refund", headers=bearer(9, "ADMIN")).status_code
        == 404
    )


def test_twenty_parallel_refunds_give_the_money_back_once(app, client, engine):
    made = charge(client).json["data"]["transactionId"]
    path = f"/api/payments/transaction/{made}/refund"

    def once(_):
        return app.test_client().post(path, headers=bearer(9, "ADMIN")).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(once, range(20))) == {200}
    with engine.connect() as db:
        keys = db.exec_driver_sql("SELECT routing_key FROM outbox ORDER BY id").scalars().all()
    assert keys == ["payment.succeeded", "payment.refunded"]


def test_what_was_refunded_can_be_bought_again(client):
    made = charge(client).json["data"]["transactionId"]
    client.post(f"/api/payments/transaction/{made}/refund", headers=bearer(9, "ADMIN"))
    assert charge(client).status_code == 200
