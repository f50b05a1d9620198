"""payment between the real customer-service and movie-service, over real sockets."""

import pytest

from cloud.testing import bearer

pytestmark = pytest.mark.estate

RENTAL = "/api/movies/slug/red-dust-highway"


def test_a_user_without_a_record_gets_one_and_is_known_by_it(houses):
    """His first charge makes the record; a checkout without a token finds it by his id."""
    payment, movie = houses.client("payment"), houses.client("movie")
    title = movie.get(RENTAL, headers=bearer()).get_json()["data"]
    order = {"movieId": title["id"], "amount": title["price"]}
    stranger = {**order, "userId": "7"}
    assert payment.post("/create-payment", json=stranger).status_code == 404
    plan = {"movieId": "plan:monthly", "amount": 9.99, "paymentMethodId": "pm_card_visa"}
    assert payment.post("/payments/process", json=plan, headers=bearer()).status_code == 404

    declined = {**order, "paymentMethodId": "pm_card_chargeDeclined"}
    assert payment.post("/payments/process", json=declined, headers=bearer()).status_code == 402
    [record] = houses.client("customer").get("/api/customers", headers=bearer()).json["data"]
    assert record["userId"] == 7

    made = payment.post("/create-payment", json=stranger)
    assert made.status_code == 200
    assert payment.get(f"/transaction/7/{made.json['transactionId']}").json["status"] == "pending"

    charge = {**order, "paymentMethodId": "pm_card_visa"}
    assert payment.post("/payments/process", json=charge, headers=bearer()).status_code == 200
    [bought] = payment.get("/purchases/users/7/purchases", headers=bearer()).json["data"]
    assert (bought["title"], bought["price"]) == (title["name"], title["price"])
    play = f"/api/movies/{title['id']}/play"
    assert movie.get(play, headers=bearer()).status_code == 200
    assert movie.get(play, headers=bearer(8)).status_code == 403

    refund = f"/api/payments/transaction/{bought['transactionId']}/refund"
    assert payment.post(refund, headers=bearer(9, "ADMIN")).status_code == 200
    assert movie.get(play, headers=bearer()).status_code == 403
