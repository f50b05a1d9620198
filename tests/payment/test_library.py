import pytest
import sqlalchemy as sa

from cloud.testing import bearer
from payment.domain import Intent, TransactionId
from payment.store import SqlTransactions
from tests.payment.conftest import succeed
from tests.payment.titles import CHEAP, FREE, MISSING, OTHER, RENTED, STRANGE

pytestmark = pytest.mark.estate

LIBRARY = "/purchases/users/7/purchases"
TRANSACTIONS = "/purchases/users/7/transactions"


def bought(app, movie=RENTED, user=7, customer=1):
    """Pay for a title, and have the provider say so."""
    body = {"customerId": customer, "movieId": movie, "amount": 4.99}
    answer = app.test_client().post("/api/payments/create", json=body, headers=bearer(user))
    assert answer.status_code == 201, answer.json
    return succeed(app, answer.json["data"]["transactionId"])


def listed(client, **query):
    answer = client.get(LIBRARY, headers=bearer(), query_string=query)
    assert answer.status_code == 200
    return [each["movieId"] for each in answer.json["data"]]


def test_a_paid_title_is_in_the_library(app, client):
    made = bought(app)
    assert listed(client) == [RENTED]
    one = client.get(f"{LIBRARY}/{RENTED}", headers=bearer()).json
    assert {name: one[name] for name in ("title", "imageUrl", "isDownloaded", "transactionId")} == {
        "title": "Rented",
        "imageUrl": "http://img/rented.jpg",
        "isDownloaded": False,
        "transactionId": str(made),
    }
    assert one["purchasedAt"].endswith("Z")


def test_a_pending_payment_is_not_in_the_library(client):
    body = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
    client.post("/api/payments/create", json=body, headers=bearer())
    assert listed(client) == []
    assert client.get(f"{LIBRARY}/{RENTED}", headers=bearer()).status_code == 404


def test_a_free_title_is_added_with_its_flags(client):
    added = client.post(LIBRARY, json={"movieId": FREE, "isDownloaded": True}, headers=bearer())
    assert added.status_code == 201
    assert (added.json["data"]["isDownloaded"], added.json["data"]["transactionId"]) == (True, None)
    assert listed(client) == [FREE]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"movieId": RENTED}, 403, id="neither free nor paid"),
        pytest.param({"movieId": MISSING}, 404, id="unknown title"),
        pytest.param({}, 400, id="no title"),
        pytest.param({"movieId": FREE, "isFinished": "maybe"}, 400, id="a flag that is none"),
        pytest.param([], 400, id="no object"),
    ],
)
def test_the_library_grants_nothing(client, body, status):
    assert client.post(LIBRARY, json=body, headers=bearer()).status_code == status


def test_a_hidden_title_stays_bought_and_is_listed_again_when_added(app, client):
    bought(app)
    assert client.delete(f"{LIBRARY}/{RENTED}", headers=bearer()).status_code == 200
    assert listed(client) == []
    assert client.get(f"{LIBRARY}/{RENTED}", headers=bearer()).status_code == 200
    assert client.post(LIBRARY, json={"movieId": RENTED}, headers=bearer()).status_code == 201
    assert listed(client) == [RENTED]


def test_hiding_what_is_not_there_leaves_no_trace(client):
    assert client.delete(f"{LIBRARY}/{RENTED}", headers=bearer()).status_code == 200
    assert client.get(f"{LIBRARY}/{RENTED}", headers=bearer()).status_code == 404


def test_a_title_bought_anew_after_it_was_hidden_is_listed(app, client, engine):
    made = bought(app)
    client.delete(f"{LIBRARY}/{RENTED}", headers=bearer())
    admin = bearer(9, "ADMIN")
    assert client.post(f"/api/payments/transaction/{made}/refund", headers=admin).status_code == 200
    assert client.get(f"{LIBRARY}/{RENTED}", headers=bearer()).status_code == 404
    bought(app)
    assert listed(client) == [RENTED]


def test_a_purchase_of_a_jvm_service_is_described_by_the_catalogue(app, client, engine, neighbours):
    bought(app)
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO transactions (customer_id, movie_id, amount, status)"
                " VALUES (1, :other, 1.50, 'COMPLETED'), (2, :strange, 4.99, 'COMPLETED')"
            ),
            {"other": OTHER, "strange": STRANGE},
        )
    found = client.get(LIBRARY, headers=bearer()).json["data"]
    assert {each["movieId"]: each["title"] for each in found} == {
        RENTED: "Rented",
        OTHER: "Other",
    }
    neighbours.broken = True
    found = client.get(f"{LIBRARY}/{OTHER}", headers=bearer()).json
    assert found["title"] == OTHER


def test_the_newest_comes_first(app, client):
    bought(app)
    client.post(LIBRARY, json={"movieId": FREE}, headers=bearer())
    assert listed(client) == [FREE, RENTED]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("GET", LIBRARY, {}, 401, id="reading without a token"),
        pytest.param("GET", LIBRARY, bearer(8), 403, id="reading another's"),
        pytest.param("GET", LIBRARY, bearer(9, "ADMIN"), 200, id="an ADMIN reads"),
        pytest.param("GET", "/purchases/users/x/purchases", bearer(), 400, id="no user id"),
        pytest.param("POST", LIBRARY, bearer(9, "ADMIN"), 403, id="an ADMIN adds nothing"),
        pytest.param("POST", LIBRARY, {}, 401, id="adding without a token"),
        pytest.param("GET", f"{LIBRARY}/{FREE}", bearer(8), 403, id="reading one of another's"),
        pytest.param("DELETE", f"{LIBRARY}/{FREE}", bearer(8), 403, id="hiding another's"),
        pytest.param("DELETE", f"{LIBRARY}/{FREE}", bearer(9, "ADMIN"), 200, id="an ADMIN hides"),
        pytest.param("GET", TRANSACTIONS, bearer(8), 403, id="another's transactions"),
        pytest.param("GET", TRANSACTIONS, {}, 401, id="transactions without a token"),
        pytest.param("GET", TRANSACTIONS, bearer(9, "ADMIN"), 200, id="an ADMIN reads payments"),
        pytest.param("POST", TRANSACTIONS, bearer(9, "ADMIN"), 403, id="an ADMIN records nothing"),
        pytest.param("POST", TRANSACTIONS, bearer(), 202, id="recording is ignored"),
    ],
)
def test_whose_library_it_is(client, method, path, headers, status):
    body = {"json": {"movieId": FREE, "status": "completed"}} if method == "POST" else {}
    assert client.open(path, method=method, headers=headers, **body).status_code == status


def test_the_app_cannot_write_payment_states(client):
    body = {"movieId": RENTED, "amount": 4.99, "status": "completed"}
    assert client.post(TRANSACTIONS, json=body, headers=bearer()).status_code == 202
    assert client.get(TRANSACTIONS, headers=bearer()).json["data"] == []
    assert client.post(TRANSACTIONS, json=[1], headers=bearer()).status_code == 400


def test_transactions_of_a_title(app, client):
    made = bought(app)
    bought(app, CHEAP)
    query = {"movieId": RENTED}
    [one] = client.get(TRANSACTIONS, headers=bearer(), query_string=query).json["data"]
    assert (one["id"], one["userId"], one["status"], one["movieTitle"]) == (
        str(made),
        "7",
        "succeeded",
        "Rented",
    )
    assert one["paidAt"].endswith("Z")
    assert len(client.get(TRANSACTIONS, headers=bearer()).json["data"]) == 2


def test_a_purchase_without_an_intent_cannot_be_refunded(app, client, engine):
    """Such as one that a JVM service recorded: no provider knows it."""
    with engine.begin() as db:
        made = db.execute(
            sa.text(
                "INSERT INTO transactions (customer_id, movie_id, amount, status)"
                " VALUES (1, :rented, 4.99, 'succeeded') RETURNING id"
            ),
            {"rented": RENTED},
        ).scalar_one()
    admin = bearer(9, "ADMIN")
    assert client.post(f"/api/payments/transaction/{made}/refund", headers=admin).status_code == 409
    SqlTransactions(engine).attach(TransactionId(made), Intent("pi_1", "", "", "cus_1"))
    assert client.post(f"/api/payments/transaction/{made}/refund", headers=admin).status_code == 200
