from decimal import Decimal

import pytest

from payment.domain import (
    CustomerId,
    MovieId,
    Order,
    PriceError,
    Status,
    Title,
    UserId,
    ensure_price,
)

ORDER = Order(CustomerId(1), MovieId("m1"), Decimal("4.99"), "usd", UserId(7), None)


@pytest.mark.parametrize(
    ("now", "later", "allowed"),
    [
        pytest.param("pending", "succeeded", True, id="a payment succeeds"),
        pytest.param("pending", "failed", True, id="a payment fails"),
        pytest.param("pending", "canceled", True, id="a payment is given up"),
        pytest.param("failed", "succeeded", True, id="a second card works"),
        pytest.param("failed", "canceled", False, id="a failure is not given up later"),
        pytest.param("succeeded", "failed", False, id="money that came stays"),
        pytest.param("succeeded", "succeeded", False, id="a repeated verdict changes nothing"),
        pytest.param("canceled", "succeeded", False, id="what was given up stays so"),
    ],
)
def test_a_transaction_moves_one_way(now, later, allowed):
    assert Status(now).may_become(Status(later)) is allowed


@pytest.mark.parametrize(
    ("title", "field"),
    [
        pytest.param(Title(MovieId("m1"), Decimal("5.00"), "RENTAL"), "amount", id="other price"),
        pytest.param(Title(MovieId("m1"), Decimal("4.99"), "FREE"), "movieId", id="free title"),
        pytest.param(Title(MovieId("m1"), Decimal("4.99"), "PREMIUM"), "movieId", id="premium"),
    ],
)
def test_the_catalogue_decides_the_price(title, field):
    with pytest.raises(PriceError) as refused:
        ensure_price(title, ORDER, "usd")
    assert set(refused.value.fields) == {field}


def test_the_price_of_a_rented_title_is_accepted():
    ensure_price(Title(MovieId("m1"), Decimal("4.99"), "RENTAL"), ORDER, "usd")


def test_another_currency_is_refused():
    with pytest.raises(PriceError):
        ensure_price(Title(MovieId("m1"), Decimal("4.99"), "RENTAL"), ORDER, "eur")
