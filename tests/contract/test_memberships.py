"""payment, customer and identity agree on who is a member: real services, broker and databases."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import orjson
import pika
import pytest

from tests.contract.houses import Houses
from tests.waiting import eventually, running

pytestmark = pytest.mark.estate

ANN = {"username": "ann", "password": "right-horse"}


@contextmanager
def at_chores(houses: Houses, *names: str) -> Iterator[None]:
    """These houses at their chores."""
    with ExitStack() as stack:
        for name in names:
            chores = import_module(f"{name}.worker").CHORES.values()
            stack.enter_context(running(houses.environments[name], *chores))
        yield


def test_a_paid_plan_makes_a_member_until_it_is_given_back(houses: Houses, channel):
    identity, customer = houses.client("identity"), houses.client("customer")
    signed_up = {**ANN, "email": "ann@example.org"}
    user = identity.post("/api/auth/register", json=signed_up).get_json()["data"]
    pair = identity.post("/api/auth/login", json=ANN).get_json()["data"]

    def refresh() -> list[str]:
        answer = identity.post("/api/auth/refresh", json={"refreshToken": pair["refreshToken"]})
        pair.update(answer.get_json()["data"])
        return sorted(pair["roles"])

    def mine() -> list[dict[str, Any]]:
        bearer = {"Authorization": f"Bearer {pair['accessToken']}"}
        return list(customer.get("/api/customers", headers=bearer).get_json()["data"])

    def signed_in() -> int:
        bearer = {"Authorization": f"Bearer {pair['accessToken']}"}
        return identity.get("/api/auth/me", headers=bearer).status_code

    with at_chores(houses, "identity", "customer"):
        channel.confirm_delivery()
        channel.exchange_declare("payment-exchange", "topic", durable=True)
        eventually(lambda: len(mine()), 1)
        told = {
            "transactionId": 1,
            "customerId": mine()[0]["id"],
            "movieId": "plan:vip",
            "amount": 9.99,
            "currency": "usd",
            "userId": user["id"],
            "planDays": 30,
        }

        def pay(what: str) -> bool:
            word = pika.BasicProperties(headers={"x-payment-status": what})
            body, key = orjson.dumps(told), f"payment.{what}"
            try:
                channel.basic_publish("payment-exchange", key, body, word, mandatory=True)
            except pika.exceptions.UnroutableError:
                return False
            return True

        eventually(lambda: pay("succeeded"), wanted=True)
        pay("succeeded")
        eventually(lambda: mine()[0]["isSubscribed"], wanted=True)
        eventually(refresh, ["USER", "VIP"])
        assert signed_in() == 200
        for _ in range(2):
            pay("refunded")
        eventually(lambda: mine()[0]["isSubscribed"], wanted=False)
        eventually(signed_in, 401)
        assert refresh() == ["USER"]
        assert signed_in() == 200
