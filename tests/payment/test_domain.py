from decimal import Decimal

import pytest

from payment.domain import (
    MovieId,
    Order,
    PriceError,
    Status,
    Title,
    UserId,
    ensure_price,
)

ORDER = Order(MovieId("m1"), Decimal("4.99"), "usd", UserId(7))


def title(price, access):
    return Title(MovieId("m1"), Decimal(price), access, "A movie")


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
    ("offered", "field"),
    [
        pytest.param(title("5.00", "RENTAL"), "amount", id="other price"),
        pytest.param(title("4.99", "FREE"), "movieId", id="free title"),
        pytest.param(title("4.99", "PREMIUM"), "movieId", id="premium"),
    ],
)
def test_the_catalogue_decides_the_price(offered, field):
    with pytest.raises(PriceError) as refused:
        ensure_price(offered, ORDER, "usd")
    assert set(refused.value.fields) == {field}


def test_the_price_of_a_rented_title_is_accepted():
    ensure_price(title("4.99", "RENTAL"), ORDER, "usd")


def test_another_currency_is_refused():
    with pytest.raises(PriceError):
        ensure_price(title("4.99", "RENTAL"), ORDER, "eur")
