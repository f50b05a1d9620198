"""movie, customer and payment agree on who may watch what: three real services, real sockets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest

from cloud.testing import bearer
from tests.contract.houses import Houses
from tests.waiting import eventually

pytestmark = pytest.mark.estate

RENTAL = "red-dust-highway"
EMAILS = {7: "ann@example.org", 8: "bob@example.org"}


@contextmanager
def provider(houses: Houses) -> Iterator[None]:
    """Payment's clerk at work, who lets the sandbox decide."""
    stop = threading.Event()
    run = import_module("payment.worker").clerk
    thread = threading.Thread(target=run, args=(houses.environments["payment"], stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_title_plays_for_the_one_who_paid_for_it(houses: Houses):
    movie, customer, payment = (houses.client(name) for name in ("movie", "customer", "payment"))
    viewer, stranger = bearer(7), bearer(8)
    title = movie.get(f"/api/movies/slug/{RENTAL}").get_json()["data"]

    def play(who: dict[str, str]) -> int:
        return movie.get(f"/api/movies/{title['id']}/play", headers=who).status_code

    # Without a customer record nobody has bought anything.
    assert (play(viewer), play(stranger), play({})) == (403, 403, 401)
    records = {}
    for number, email in EMAILS.items():
        made = customer.post("/api/customers", json={"email": email}, headers=bearer(number))
        records[number] = made.get_json()["data"]["id"]
    assert play(viewer) == 403

    order = {"customerId": records[7], "movieId": title["id"], "amount": title["price"]}
    assert payment.post("/api/payments/create", json=order, headers=viewer).status_code == 201
    assert play(viewer) == 403, "started is not paid: the provider decides in its own step"

    with provider(houses):
        eventually(lambda: play(viewer), 200)
    assert (play(stranger), play({})) == (403, 401)
