import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from payment.domain import (
    AlreadyBoughtError,
    CustomerId,
    KeptAnswer,
    KeyInFlightError,
    KeyReusedError,
    MovieId,
    Order,
    Outcome,
    Status,
    Title,
    UserId,
    Verdict,
)
from payment.store import Sandbox, SqlKeys, SqlTransactions, messages

pytestmark = pytest.mark.estate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SINCE = NOW - timedelta(minutes=15)


def order(key=None, movie="m1", digest=None):
    return Order(MovieId(movie), Decimal("4.99"), "usd", UserId(7), key, digest or movie)


def opened(transactions, key=None, movie="m1", *, since=SINCE, now=NOW, **change):
    title = Title(
        MovieId(movie), Decimal("4.99"), "RENTAL", "A movie", plan_days=change.pop("days", None)
    )
    return transactions.open(
        order(key, movie, change.pop("digest", None)),
        CustomerId(1),
        title,
        reuse_since=since,
        now=now,
        **change,
    )


def sandbox(engine, method="pm_card_visa"):
    return Sandbox(engine, timedelta(0), method)


@pytest.fixture
def transactions(engine):
    return SqlTransactions(engine)


def started(engine, transactions, key=None):
    made = opened(transactions, key)
    intent = sandbox(engine).start(made, None, on_device=True, now=NOW)
    transactions.attach(made.id, intent)
    verdict = Verdict(made.id, intent.id, Status.SUCCEEDED, made.amount, "usd", charge_id="ch_1")
    return made, verdict


def outbox_bodies(engine):
    with engine.connect() as db:
        return [json.loads(bytes(row.body)) for row in db.execute(sa.select(messages))]


def test_two_clicks_without_a_key_make_one_pending_transaction(transactions):
    first = opened(transactions)
    assert opened(transactions).id == first.id


def test_an_old_pending_transaction_is_not_offered_again(transactions):
    first = opened(transactions)
    later = NOW + timedelta(minutes=16)
    fresh = opened(transactions, since=later - timedelta(minutes=15), now=later)
    assert fresh.id != first.id


def test_twenty_parallel_opens_of_one_key_make_one_transaction(transactions, engine):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: opened(transactions, "k"), range(20)))
    assert len({each.id for each in made}) == 1
    with engine.connect() as db:
        assert db.execute(sa.text("SELECT count(*) FROM transactions")).scalar() == 1


def test_success_writes_status_and_event_together(transactions, engine):
    made, verdict = started(engine, transactions)
    assert transactions.settle(verdict, now=NOW) is Outcome.CHANGED
    settled = transactions.find(made.id)
    assert settled is not None
    assert (settled.status, settled.charge_id, settled.paid_at) == ("succeeded", "ch_1", NOW)
    assert outbox_bodies(engine) == [
        {
            "transactionId": made.id,
            "customerId": 1,
            "movieId": "m1",
            "amount": 4.99,
            "currency": "usd",
            "userId": 7,
            "planDays": None,
        }
    ]


def test_a_repeated_verdict_is_announced_once(transactions, engine):
    _, verdict = started(engine, transactions)
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(lambda _: transactions.settle(verdict, now=NOW), range(8)))
    assert changed.count(Outcome.CHANGED) == 1
    assert len(outbox_bodies(engine)) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"amount": Decimal("0.99")}, id="another amount"),
        pytest.param({"currency": "eur"}, id="another currency"),
        pytest.param({"intent_id": "pi_forged"}, id="another intent"),
    ],
)
def test_a_verdict_that_does_not_match_changes_nothing(transactions, engine, change):
    made, verdict = started(engine, transactions)
    fields = {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__} | change
    assert transactions.settle(Verdict(**fields), now=NOW) is Outcome.CONTRADICTION
    found = transactions.find(made.id)
    assert found is not None
    assert found.status == "pending"
    assert outbox_bodies(engine) == []


def test_a_title_is_bought_once(transactions, engine):
    _, verdict = started(engine, transactions)
    transactions.settle(verdict, now=NOW)
    assert transactions.bought(CustomerId(1), MovieId("m1"))
    assert not transactions.bought(CustomerId(1), MovieId("m2"))
    with pytest.raises(AlreadyBoughtError):
        opened(transactions)


def test_rows_of_a_jvm_service_count_by_customer(transactions, engine):
    """They carry no user, and old seed data spells success COMPLETED."""
    opened(transactions, movie="m2")
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO transactions (customer_id, movie_id, amount, status)"
                " VALUES (1, 'm1', 4.99, 'COMPLETED'), (2, 'm1', 4.99, 'COMPLETED')"
            )
        )
    assert transactions.bought(CustomerId(1), MovieId("m1"))
    found = transactions.of_user(UserId(7), limit=10, offset=0)
    assert sorted(each.movie_id for each in found) == ["m1", "m2"]


def test_a_key_replays_its_answer(engine):
    keys = SqlKeys(engine, timedelta(seconds=60))
    assert keys.claim(7, "k", "body", now=NOW) is None
    keys.keep(7, "k", KeptAnswer(201, b"{}"), claimed=NOW)
    assert keys.claim(7, "k", "body", now=NOW) == KeptAnswer(201, b"{}")


@pytest.mark.parametrize(
    ("user", "digest", "refusal"),
    [
        pytest.param(7, "body", KeyInFlightError, id="the first is in flight"),
        pytest.param(7, "other", KeyReusedError, id="another body"),
        pytest.param(8, "other", None, id="another caller's key is his own"),
    ],
)
def test_a_claimed_key(engine, user, digest, refusal):
    keys = SqlKeys(engine, timedelta(seconds=60))
    keys.claim(7, "k", "body", now=NOW)
    if refusal is None:
        assert keys.claim(user, "k", digest, now=NOW) is None
    else:
        with pytest.raises(refusal):
            keys.claim(user, "k", digest, now=NOW)


def test_the_key_of_a_crashed_request_is_taken_over_once(engine):
    keys = SqlKeys(engine, timedelta(seconds=60))
    keys.claim(7, "k", "body", now=NOW)
    later = NOW + timedelta(seconds=61)
    assert keys.claim(7, "k", "body", now=later) is None
    with pytest.raises(KeyInFlightError):
        keys.claim(7, "k", "body", now=later)


def test_a_refused_request_uses_up_no_key(engine):
    keys = SqlKeys(engine, timedelta(seconds=60))
    keys.claim(7, "k", "body", now=NOW)
    keys.release(7, "k", claimed=NOW)
    assert keys.claim(7, "k", "other", now=NOW) is None
