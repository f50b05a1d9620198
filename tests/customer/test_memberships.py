"""Memberships on a real PostgreSQL: whatever comes twice, at once or the wrong way round."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import sqlalchemy as sa

from cloud.errors import UnavailableError
from cloud.messaging.consumer import Delivery, Hopeless
from customer import consumers
from customer.domain import UndecidedPaymentError, UnknownCustomerError, UnknownPlanError
from customer.store import SqlMemberships, customers, outbox, plan_payments

pytestmark = pytest.mark.estate

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)


class Payments:
    """Payment-service's word on every transaction."""

    def __init__(self, status):
        self.status = status

    def find_status(self, transaction_id):
        if isinstance(self.status, Exception):
            raise self.status
        return self.status


@pytest.fixture
def memberships(engine):
    return SqlMemberships(engine)


@pytest.fixture
def ann(engine):
    """The id of a record of user 7."""
    with engine.begin() as db:
        row = {"email": "ann@example.org", "user_id": 7, "is_subscribed": False}
        return db.execute(sa.insert(customers).values(row).returning(customers.c.id)).scalar_one()


@pytest.fixture
def tell(memberships, ann):
    """Deliver an event as the consumer gets it."""

    def deliver(what, transaction=1, *, now=NOW, status=None, word=True, trusted=False, **changes):
        told = {
            "transactionId": transaction,
            "customerId": ann,
            "movieId": "plan:vip",
            "amount": 9.99,
            "currency": "usd",
            "userId": 7,
            "planDays": 30,
            **changes,
        }
        headers = {"x-payment-status": what} if word else {}
        delivery = Delivery(orjson.dumps(told), headers, None, f"payment.{what}", 0)
        sale = consumers.Sale(
            memberships=memberships,
            payments=Payments(status),
            plans={"vip": 7 * DAY},
            trusted=trusted,
            now=lambda: now,
        )
        consumers.payment_told(delivery, sale)

    return deliver


def state(engine):
    """Return flag and days until the end, counted from NOW."""
    with engine.connect() as db:
        row = db.execute(sa.select(customers).where(customers.c.user_id == 7)).one()
    end = row.subscription_expires_at
    return row.is_subscribed, end and (end.replace(tzinfo=UTC) - NOW) / DAY


def told(engine):
    """Return what waits to be published: active or not, in order of versions."""
    with engine.connect() as db:
        rows = db.execute(sa.select(outbox).order_by(outbox.c.id)).all()
    bodies = [orjson.loads(row.body) for row in rows]
    assert {row.key for row in rows} <= {"membership:7"}
    versions = [body["version"] for body in bodies]
    assert versions == sorted(set(versions))
    return [body["active"] for body in bodies]


def ledger(engine):
    with engine.connect() as db:
        return db.execute(sa.select(plan_payments).order_by(plan_payments.c.transaction_id)).all()


def test_a_paid_plan_counts_once_however_often_it_is_told(tell, engine):
    for hour in range(3):
        tell("succeeded", now=NOW + timedelta(hours=hour))
    assert state(engine) == (True, 30)
    assert told(engine) == [True]


def test_five_deliveries_at_once_count_once(tell, engine):
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: tell("succeeded"), range(5)))
    assert state(engine) == (True, 30)
    assert told(engine) == [True]


def test_payments_stack_even_when_they_come_at_once(tell, engine):
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda number: tell("succeeded", number), [1, 2, 3, 4, 5] * 2))
    assert state(engine) == (True, 150)
    assert told(engine) == [True] * 5


def test_a_payment_after_the_end_begins_anew(tell, engine):
    tell("succeeded", 1)
    tell("succeeded", 2, now=NOW + 40 * DAY)
    assert state(engine) == (True, 70)


def test_an_end_that_somebody_else_wrote_is_extended(tell, engine):
    end = (NOW + 10 * DAY).replace(tzinfo=None)
    with engine.begin() as db:
        db.execute(sa.update(customers).values(is_subscribed=True, subscription_expires_at=end))
    tell("succeeded")
    assert state(engine) == (True, 40)


def test_a_refund_takes_back_once_what_is_left(tell, engine):
    tell("succeeded")
    for _ in range(3):
        tell("refunded", now=NOW + 3 * DAY)
    assert state(engine) == (False, None)
    assert told(engine) == [True, False]


def test_a_payment_told_again_after_its_refund_changes_nothing(tell, engine):
    tell("succeeded")
    tell("refunded")
    tell("succeeded")
    assert state(engine) == (False, None)
    assert told(engine) == [True, False]


def test_a_refund_that_overtakes_its_payment_wins(tell, engine):
    tell("refunded")
    tell("succeeded")
    tell("refunded")
    assert state(engine) == (False, None)
    assert told(engine) == []


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["first first", "second first"])
def test_refunds_commute(tell, engine, order):
    """A first plan has run for ten days; the second, behind it, loses nothing by its refund."""
    tell("succeeded", 1)
    tell("succeeded", 2)
    later = NOW + 10 * DAY
    tell("refunded", order[0], now=later)
    assert state(engine) == (True, 40 if order[0] == 1 else 30)
    tell("refunded", order[1], now=later)
    assert state(engine) == (False, None)
    assert told(engine) == [True, True, True, False]


def test_a_refund_of_a_plan_that_has_run_out_takes_nothing_from_a_later_one(tell, engine):
    tell("succeeded", 1)
    tell("succeeded", 2, now=NOW + 40 * DAY)
    tell("refunded", 1, now=NOW + 45 * DAY)
    assert state(engine) == (True, 70)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_doubled_events_from_many_sides_ends_alike(tell, engine, seed):
    """Ten payments, of which five are given back: five months are left, whoever comes first."""
    events = [("succeeded", number) for number in range(1, 11)]
    events += [("refunded", number) for number in range(1, 11, 2)]
    events *= 2
    random.Random(seed).shuffle(events)  # noqa: S311 - no secret
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda event: tell(*event), events))
    assert state(engine) == (True, 150)
    assert [bool(row.ended_at) for row in ledger(engine)] == [True, False] * 5


def test_a_title_is_none_of_our_business(tell, engine):
    tell("succeeded", movieId="65b9", planDays=None)
    tell("succeeded", 2, movieId=None)
    tell("refunded", 3, movieId="65b9")
    assert state(engine) == (False, None)
    assert ledger(engine) == []


@pytest.mark.parametrize(
    ("status", "days"),
    [
        pytest.param("succeeded", 7, id="paid"),
        pytest.param("failed", None, id="failed"),
        pytest.param("canceled", None, id="canceled"),
        pytest.param(None, None, id="no such transaction"),
    ],
)
def test_who_tells_of_payments_he_only_created_is_checked(tell, engine, status, days):
    """A JVM event says neither what was sold nor that it was paid."""
    tell("succeeded", word=False, status=status, userId=None, planDays=None)
    assert state(engine) == (days is not None, days)


@pytest.mark.parametrize(
    "status", ["pending", UnavailableError("away")], ids=["pending", "nobody to ask"]
)
def test_an_undecided_payment_is_asked_about_again(tell, engine, status):
    with pytest.raises(UndecidedPaymentError):
        tell("succeeded", word=False, status=status)
    tell("succeeded", word=False, status="succeeded")
    assert state(engine) == (True, 30)


def test_where_every_publisher_is_trusted_nobody_is_asked(tell, engine):
    tell("succeeded", word=False, trusted=True, status=AssertionError("asked"))
    assert state(engine) == (True, 30)


def test_a_refund_without_the_word_of_its_publisher_is_refused(tell, engine):
    tell("succeeded")
    with pytest.raises(Hopeless):
        tell("refunded", word=False, status="succeeded")
    assert state(engine) == (True, 30)


def test_the_word_that_a_payment_succeeded_is_none_for_its_refund(tell, memberships, ann):
    body = orjson.dumps({"transactionId": 1, "customerId": ann, "movieId": "plan:vip"})
    forged = Delivery(body, {"x-payment-status": "succeeded"}, None, "payment.refunded", 0)
    sale = consumers.Sale(memberships, Payments(None), {}, trusted=False, now=lambda: NOW)
    with pytest.raises(Hopeless):
        consumers.payment_told(forged, sale)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"transactionId": None}, id="no transaction"),
        pytest.param({"transactionId": 2**63}, id="beyond 64 bits"),
        pytest.param({"customerId": "x"}, id="an ill-typed customer"),
        pytest.param({"planDays": 0}, id="no days"),
        pytest.param({"planDays": 10**9}, id="days beyond any calendar"),
        pytest.param({"movieId": "plan:\0"}, id="text that cannot be stored"),
    ],
)
def test_what_cannot_be_read_is_hopeless(tell, engine, changes):
    with pytest.raises(Hopeless):
        tell("succeeded", **changes)
    assert ledger(engine) == []


def test_money_for_nobody_or_for_an_unknown_plan_does_not_pass_unseen(tell, engine):
    with pytest.raises(UnknownCustomerError):
        tell("succeeded", customerId=999, userId=None)
    with pytest.raises(UnknownPlanError):
        tell("succeeded", movieId="plan:gold", planDays=None)
    assert ledger(engine) == []
    tell("succeeded", customerId=999)  # the payer's own record
    assert state(engine) == (True, 30)


def test_an_end_that_has_come_is_swept_and_told_once(tell, memberships, engine):
    tell("succeeded")
    assert memberships.end_expired(NOW + 30 * DAY - timedelta(microseconds=1)) == 0
    over = NOW + 30 * DAY
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: memberships.end_expired(over), range(4))) == 1
    assert state(engine) == (False, None)
    assert told(engine) == [True, False]


def test_a_sweep_ends_more_than_one_batch(memberships, engine):
    past = (NOW - DAY).replace(tzinfo=None)
    rows = [
        {"email": f"{n}@example.org", "is_subscribed": True, "subscription_expires_at": past}
        for n in range(250)
    ]
    with engine.begin() as db:
        db.execute(sa.insert(customers), rows)
    assert memberships.end_expired(NOW) == 250


def test_a_payment_as_the_end_comes_is_not_swept_away(tell, memberships, engine):
    tell("succeeded", 1)
    over = NOW + 30 * DAY
    with ThreadPoolExecutor(2) as pool:
        paid = pool.submit(tell, "succeeded", 2, now=over)
        swept = pool.submit(memberships.end_expired, over)
        paid.result()
        swept.result()
    assert state(engine) == (True, 60)
    assert told(engine)[-1] is True


def test_an_admins_word_goes_before_payments(tell, memberships, engine, ann):
    memberships.set(ann, subscribed=True, now=NOW)
    tell("succeeded")
    tell("refunded")
    assert state(engine) == (True, None)
    tell("succeeded", 2)
    memberships.set(ann, subscribed=False, now=NOW)
    tell("refunded", 2)
    assert state(engine) == (False, None)
    assert told(engine) == [True, False]
    tell("succeeded", 3)
    assert state(engine) == (True, 30)


def test_an_admin_changes_nothing_that_is_so_already(tell, memberships, engine, ann):
    memberships.set(ann, subscribed=False, now=NOW)
    tell("succeeded")
    memberships.set(ann, subscribed=True, now=NOW)
    assert state(engine) == (True, 30)
    assert told(engine) == [True]


def test_a_membership_is_told_of_when_its_record_gets_a_user(tell, records, engine, ann):
    with engine.begin() as db:
        db.execute(sa.update(customers).values(user_id=None))
    tell("succeeded", userId=None)
    with engine.connect() as db:
        assert db.execute(sa.select(outbox)).all() == []
    assert records.claim(7, "ann@example.org", now=NOW).id == ann
    assert told(engine) == [True]


def test_versions_rise_above_those_of_a_lost_database(engine):
    """They begin with the time, in microseconds."""
    with engine.connect() as db:
        first = db.execute(sa.text("SELECT nextval('membership_versions')")).scalar_one()
    assert first > NOW.timestamp() * 1_000_000
