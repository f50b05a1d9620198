"""What time does to a membership, without a database."""

from datetime import UTC, datetime, timedelta

import pytest

from customer.domain import ENDLESS, NO_MEMBERSHIP, Membership, Period, plan_name

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MONTH = timedelta(days=30)


def day(number):
    return NOW + timedelta(days=number)


@pytest.mark.parametrize(
    ("before", "after", "period"),
    [
        pytest.param(NO_MEMBERSHIP, day(30), (0, 30), id="none: from now"),
        pytest.param(Membership(None, None), day(30), (0, 30), id="a JVM service's null"),
        pytest.param(Membership(flag=True, ends_at=day(10)), day(40), (10, 40), id="running"),
        pytest.param(Membership(flag=True, ends_at=day(-1)), day(30), (0, 30), id="over, unswept"),
        pytest.param(ENDLESS, None, (0, 0), id="without an end"),
    ],
)
def test_a_payment_extends_from_the_later_of_now_and_the_end(before, after, period):
    membership, bought = before.extended(MONTH, NOW)
    assert membership == Membership(flag=True, ends_at=after)
    assert bought == Period(day(period[0]), day(period[1]))


@pytest.mark.parametrize(
    ("period", "left"),
    [
        pytest.param((-10, 20), 20, id="running"),
        pytest.param((5, 35), 30, id="to come"),
        pytest.param((-40, -10), 0, id="over"),
        pytest.param((0, 0), 0, id="nothing bought"),
    ],
)
def test_what_is_left_of_a_period(period, left):
    assert Period(day(period[0]), day(period[1])).left(NOW) == timedelta(days=left)


@pytest.mark.parametrize(
    ("before", "days", "after"),
    [
        pytest.param(Membership(flag=True, ends_at=day(40)), 30, day(10), id="some is left"),
        pytest.param(Membership(flag=True, ends_at=day(30)), 30, None, id="nothing is left"),
    ],
)
def test_a_refund_brings_the_end_nearer(before, days, after):
    shorter = before.shortened(timedelta(days=days), NOW)
    assert shorter == Membership(flag=after is not None, ends_at=after)


@pytest.mark.parametrize("endless_or_none", [ENDLESS, NO_MEMBERSHIP])
def test_without_an_end_there_is_nothing_to_shorten(endless_or_none):
    assert endless_or_none.shortened(MONTH, NOW) == endless_or_none


@pytest.mark.parametrize(
    ("membership", "active"),
    [
        pytest.param(ENDLESS, True, id="without an end"),
        pytest.param(Membership(flag=True, ends_at=day(1)), True, id="running"),
        pytest.param(Membership(flag=True, ends_at=NOW), False, id="over at this instant"),
        pytest.param(Membership(flag=False, ends_at=day(1)), False, id="switched off"),
        pytest.param(Membership(None, None), False, id="never written"),
    ],
)
def test_the_clock_decides_before_the_flag_does(membership, active):
    assert membership.is_active(NOW) is active


@pytest.mark.parametrize(
    ("movie_id", "name"), [("plan:vip", "vip"), ("plan:", ""), ("65b9", None), (None, None)]
)
def test_a_plan_is_told_from_a_title(movie_id, name):
    assert plan_name(movie_id) == name
