import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.config import Environment
from cloud.testing import bearer, properties
from payment.app import create_app
from tests.payment.conftest import succeed
from tests.payment.titles import CHEAP, FREE, MISSING, RENTED, STRANGE

pytestmark = pytest.mark.estate

BODY = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
CREATE = "/api/payments/create"
CHECK = "/api/payments/check-purchase"


@pytest.fixture
def client(app):
    return app.test_client()


def pay(client, headers=None, **change):
    return client.post(CREATE, json={**BODY, **change}, headers={**bearer(), **(headers or {})})


def test_a_payment_starts_pending(client):
    answer = pay(client)
    assert answer.status_code == 201
    started = answer.json["data"]
    assert set(started) == {"transactionId", "clientSecret", "ephemeralKey", "customerId"}
    one = client.get(f"/api/payments/transaction/{started['transactionId']}", headers=bearer())
    assert one.json["data"]["status"] == "pending"
    assert b'"amount":4.99' in one.data


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"amount": 5}, 400, id="not the catalogue's price"),
        pytest.param({"amount": "4.99"}, 201, id="a numeric text is a number"),
        pytest.param({"amount": 4.999}, 400, id="a part of a cent"),
        pytest.param({"amount": 0}, 400, id="nothing"),
        pytest.param({"amount": -4.99}, 400, id="less than nothing"),
        pytest.param({"amount": 1e30}, 400, id="more than a column holds"),
        pytest.param({"amount": None}, 400, id="no amount"),
        pytest.param({"currency": "eur"}, 400, id="another currency"),
        pytest.param({"currency": "USD"}, 201, id="currency in capitals"),
        pytest.param({"currency": "dollars"}, 400, id="no currency code"),
        pytest.param({"movieId": " "}, 400, id="blank movie"),
        pytest.param({"movieId": "m" * 256}, 400, id="overlong movie"),
        pytest.param({"movieId": MISSING}, 404, id="unknown movie"),
        pytest.param({"movieId": FREE, "amount": 1}, 400, id="a free title is not sold"),
        pytest.param({"movieId": STRANGE}, 502, id="a price nobody can read"),
        pytest.param({"customerId": 2}, 403, id="somebody else's record"),
        pytest.param({"customerId": 3}, 201, id="a record of the same e-mail"),
        pytest.param({"customerId": 99}, 404, id="unknown customer"),
        pytest.param({"customerId": 2**63}, 400, id="beyond 64 bits"),
        pytest.param({"customerId": "one"}, 400, id="no number"),
    ],
)
def test_what_may_be_paid(client, change, status):
    assert pay(client, **change).status_code == status


def test_a_broken_catalogue_is_an_honest_502_or_503(client, neighbours):
    neighbours.broken = True
    assert pay(client).status_code in {502, 503}


def test_the_catalogue_need_not_ask_us_while_we_wait_for_it(client, neighbours):
    """With the buyer's token it would ask whether he has paid, and we would wait for ourselves."""
    assert pay(client).status_code == 201
    assert neighbours.tokens_at_the_catalogue == [None]


def test_without_a_token_nothing_is_paid(client):
    assert client.post(CREATE, json=BODY).status_code == 401


def test_a_key_replays_the_first_answer(client):
    key = {"Idempotency-Key": "k1"}
    first, again = pay(client, key), pay(client, key)
    assert (again.status_code, again.data) == (201, first.data)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert pay(client, key, movieId=MISSING).status_code == 422


def test_a_refused_payment_uses_up_no_key(client):
    key = {"Idempotency-Key": "k1"}
    assert pay(client, key, amount=1).status_code == 400
    assert pay(client, key).status_code == 201


@pytest.mark.parametrize(
    "key", [pytest.param("k" * 256, id="overlong"), pytest.param(" ", id="blank")]
)
def test_an_unusable_key_is_refused(client, key):
    assert pay(client, idempotencyKey=key).status_code == 400


def test_twenty_parallel_creates_of_one_key_make_one_transaction(app):
    def once(_):
        return pay(app.test_client(), {"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(once, range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = {json.loads(each.data)["data"]["transactionId"] for each in answers if each.json["data"]}
    assert len(made) == 1
    listed = app.test_client().get("/api/payments", headers=bearer()).json["data"]
    assert [each["id"] for each in listed] == list(made)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        pytest.param("/api/payments/transactions/1", bearer(7), 200, id="own"),
        pytest.param("/api/payments/transactions/1", bearer(9, "ADMIN"), 200, id="an ADMIN"),
        pytest.param("/api/payments/transactions/2", bearer(7), 404, id="somebody else's"),
        pytest.param("/api/payments/transactions/99", bearer(7), 404, id="nobody's"),
        pytest.param("/api/payments/transactions/x", bearer(7), 400, id="no number"),
        pytest.param("/api/payments/transactions/1", {}, 401, id="no token"),
        pytest.param("/api/payments/transactions/1?size=101", bearer(7), 400, id="too many"),
        pytest.param("/api/payments/transaction/999", bearer(7), 404, id="no transaction"),
        pytest.param(
            f"{CHECK}?customerId=1&movieId={RENTED}",
            bearer(7),
            200,
            id="check",
        ),
        pytest.param(
            f"{CHECK}?customerId=2&movieId={RENTED}",
            bearer(7),
            404,
            id="foreign",
        ),
        pytest.param(f"{CHECK}?customerId=1", bearer(7), 400, id="no movie"),
    ],
)
def test_who_may_read(client, path, headers, status):
    assert client.get(path, headers=headers).status_code == status


def test_a_stranger_does_not_see_a_transaction(client):
    made = pay(client).json["data"]["transactionId"]
    path = f"/api/payments/transaction/{made}"
    assert client.get(path, headers=bearer(8)).status_code == 404
    assert client.get(path, headers=bearer(8, "ADMIN")).status_code == 200


def test_without_a_provider_a_payment_is_501(settings, engine):
    values = {key: settings.text(key) for key in settings.sources[0].values}
    values["nozie.payment.provider"] = "none"
    app = create_app(Environment(properties("payment-service", values)))
    assert pay(app.test_client()).status_code == 501


def test_a_title_is_sold_under_the_catalogues_id_however_the_buyer_spells_it(app, client):
    spelled = RENTED.upper()
    made = pay(client, movieId=spelled).json["data"]["transactionId"]
    succeed(app, made)
    [one] = client.get("/api/payments", headers=bearer()).json["data"]
    assert one["movieId"] == RENTED
    for each in (spelled, RENTED):
        query = {"customerId": 1, "movieId": each}
        check = client.get(CHECK, headers=bearer(), query_string=query)
        assert check.json["data"] is True
        assert pay(client, movieId=each).status_code == 409
        assert (
            client.post(
                "/payments/process",
                json={"movieId": each, "amount": 4.99, "paymentMethodId": "pm_card_visa"},
                headers=bearer(),
            ).status_code
            == 409
        )
        checkout = {"userId": "7", "movieId": each, "amount": 4.99}
        assert client.post("/create-payment", json=checkout).status_code == 400
        library = f"/purchases/users/7/purchases/{each}"
        assert client.get(library, headers=bearer()).json["movieId"] == RENTED


@pytest.mark.parametrize(
    "movie", ["trending", "slug/rented", f"{RENTED}/play", RENTED[:-1], "../genres", "rented"]
)
def test_what_names_no_title_is_not_asked_of_the_catalogue(client, neighbours, movie):
    assert pay(client, movieId=movie).status_code == 404
    assert neighbours.tokens_at_the_catalogue == []


def test_another_title_than_the_one_asked_for_is_not_sold(client, neighbours):
    neighbours.answers_as = CHEAP
    assert pay(client).status_code == 502


def test_an_admin_pays_for_himself_alone(client):
    """Contract, PY-04: owner only. He reads what others have paid, but spends nothing for them."""
    assert pay(client, bearer(9, "ADMIN")).status_code == 403
    assert pay(client, bearer(7, "ADMIN")).status_code == 201
