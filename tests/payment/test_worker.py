import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from cloud import schedule
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.testing import bearer
from payment import service, worker
from payment.app import create_app, provider
from payment.settings import Settings
from payment.store import SqlTransactions
from tests.payment.conftest import changed
from tests.payment.titles import CHEAP, RENTED
from tests.waiting import eventually, running

pytestmark = pytest.mark.estate

BODY = {"customerId": 1, "movieId": RENTED, "amount": 4.99}


@pytest.fixture
def environment(settings, amqp, engine):
    return changed(settings, **amqp)


def listen_as_a_jvm_neighbour(channel):
    """Bind the JVM queue exactly as a JVM service declares it."""
    channel.exchange_declare("payment.exchange", "topic", durable=True)
    channel.queue_declare("payment.notification.queue", durable=True)
    channel.queue_bind("payment.notification.queue", "payment.exchange", "payment.succeeded")


def pay(client, headers=None):
    made = client.post("/api/payments/create", json=BODY, headers=bearer() | (headers or {}))
    return made.json["data"]["transactionId"]


def status(client, transaction_id):
    found = client.get(f"/api/payments/transaction/{transaction_id}", headers=bearer())
    return found.json["data"]["status"]


def test_a_payment_succeeds_in_a_step_of_its_own_and_is_announced(client, environment, channel):
    listen_as_a_jvm_neighbour(channel)
    correlation = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
    made = pay(client, {"X-Correlation-Id": correlation})
    assert status(client, made) == "pending"
    with running(environment, worker.clerk, worker.relay):
        eventually(lambda: status(client, made), "succeeded")
        queue = "payment.notification.queue"
        eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count, 1)
    _, sent, body = channel.basic_get(queue)
    assert json.loads(body)["transactionId"] == made
    assert b'"amount":4.99' in body
    assert sent.content_type == "application/json"
    assert sent.headers["__TypeId__"] == "com.nozie.common.event.PaymentSucceededEvent"
    assert sent.headers["X-Correlation-Id"] == correlation
    assert "traceparent" in sent.headers


def test_the_broker_may_be_away(client, environment, channel):
    """The payment succeeds; the event waits in the outbox until somebody carries it."""
    made = pay(client)
    with running(environment, worker.clerk):
        eventually(lambda: status(client, made), "succeeded")
    # What operators see of it, at /actuator/scheduledtasks.
    assert {"payment.worker.purge", "payment.service.settling.reconcile"} <= set(schedule.tasks)
    listen_as_a_jvm_neighbour(channel)
    with running(environment, worker.relay):
        queue = "payment.notification.queue"
        eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count, 1)


def refund(client, made):
    path = f"/api/payments/transaction/{made}/refund"
    return client.post(path, headers=bearer(9, "ADMIN")).status_code


def test_a_refund_follows_its_payment(client, environment, channel):
    """In the order of their commits, also when the broker comes late."""
    made = pay(client)
    with running(environment, worker.clerk):
        eventually(lambda: status(client, made), "succeeded")
    assert refund(client, made) == 200
    channel.queue_declare("all")
    channel.exchange_declare("payment-exchange", "topic", durable=True)
    channel.queue_bind("all", "payment-exchange", "#")
    with running(environment, worker.relay):
        eventually(lambda: channel.queue_declare("all", passive=True).method.message_count, 2)
    told = [channel.basic_get("all", auto_ack=True) for _ in range(2)]
    assert [one[0].routing_key for one in told] == ["payment.succeeded", "payment.refunded"]
    assert [one[1].headers["x-payment-status"] for one in told] == ["succeeded", "refunded"]
    assert told[0][2] == told[1][2]
    assert "__TypeId__" not in told[1][1].headers


def test_the_clerk_finds_out_what_no_event_told(settings, engine, amqp):
    """The provider has charged, but neither its answer nor its event arrives."""
    own = changed(settings, nozie__payment__reconcile_after="200ms")
    client = create_app(own).test_client()
    body = {"movieId": RENTED, "amount": 4.99, "paymentMethodId": "pm_card_timeout"}
    assert client.post("/payments/process", json=body, headers=bearer()).status_code == 503
    made = client.get("/api/payments", headers=bearer()).get_json()["data"][0]["id"]
    assert status(client, made) == "pending"
    with running(own, worker.clerk):
        eventually(lambda: status(client, made), "succeeded")


def test_the_clerk_gives_up_what_nobody_confirms(settings, engine):
    own = changed(
        settings,
        nozie__payment__reconcile_after="100ms",
        nozie__payment__give_up="200ms",
        nozie__payment__sandbox__method="pm_card_authenticationRequired",
    )
    client = create_app(own).test_client()
    made = pay(client)
    with running(own, worker.clerk):
        eventually(lambda: status(client, made), "canceled")


def test_the_sandboxs_buyer_may_use_a_card_that_is_declined(settings, engine):
    own = changed(settings, nozie__payment__sandbox__method="pm_card_chargeDeclined")
    client = create_app(own).test_client()
    made = pay(client)
    with running(own, worker.clerk):
        eventually(lambda: status(client, made), "failed")


def test_rows_of_a_jvm_service_are_not_asked_about(settings, engine):
    with engine.begin() as db:
        made = db.exec_driver_sql(
            "INSERT INTO transactions (customer_id, movie_id, amount, status, created_at)"
            " VALUES (1, 'm', 4.99, 'pending', '2020-01-01') RETURNING id"
        ).scalar_one()
    assert (
        SqlTransactions(engine).claim_pending(
            older_than=utc_now(), unseen_since=utc_now(), now=utc_now()
        )
        == []
    )
    assert made


@pytest.fixture
def muddled(engine):
    """The provider's books say another amount than ours."""

    def muddle() -> None:
        with engine.begin() as db:
            db.exec_driver_sql("UPDATE sandbox_intents SET amount = 1")

    return muddle


def test_an_answer_that_contradicts_the_record_is_told(environment, client, engine, muddled):
    made = pay(client)
    muddled()
    collector = provider(environment, Settings.of(environment.properties), engine)
    assert collector is not None
    later = utc_now() + timedelta(hours=1)
    with capture_logs() as logs:
        decided = service.reconcile(
            transactions=SqlTransactions(engine),
            provider=collector,
            after=timedelta(minutes=1),
            give_up=timedelta(days=1),
            now=lambda: later,
        )
    assert (decided, status(client, made)) == (0, "pending")
    assert [
        entry["transaction_id"] for entry in logs if entry["event"] == "payment_contradicted"
    ] == [made]


def test_a_charge_whose_answer_contradicts_the_record_is_told(client, muddled):
    body = {"movieId": RENTED, "amount": 4.99, "paymentMethodId": "pm_card_authenticationRequired"}
    client.post("/payments/process", json=body, headers=bearer())
    muddled()
    again = {**body, "paymentMethodId": "pm_card_visa"}
    with capture_logs() as logs:
        answer = client.post("/payments/process", json=again, headers=bearer())
    assert answer.json["data"]["status"] == "pending"
    assert "payment_contradicted" in [entry["event"] for entry in logs]


def test_every_pending_payment_has_its_turn_before_one_has_a_second(client, engine):
    """However long the round takes: the oldest may be due again before the youngest was asked."""
    made = [pay(client, {"Idempotency-Key": str(number)}) for number in range(3)]
    transactions, later = SqlTransactions(engine), utc_now() + timedelta(hours=1)
    turns = []
    for hours in range(4):
        now = later + timedelta(hours=hours)
        [one] = transactions.claim_pending(
            older_than=now, unseen_since=now - timedelta(minutes=1), now=now, limit=1
        )
        turns.append(one.id)
    assert turns == [*made, made[0]]


def test_a_pending_payment_is_asked_about_by_one_clerk(environment, client, engine):
    made = pay(client)
    later = utc_now() + timedelta(hours=1)

    def claim(_):
        found = SqlTransactions(engine).claim_pending(
            older_than=later, unseen_since=later - timedelta(minutes=1), now=later
        )
        return [one.id for one in found]

    with ThreadPoolExecutor(4) as pool:
        claimed = [one for each in pool.map(claim, range(8)) for one in each]
    assert claimed == [made]


def test_what_is_old_is_forgotten(environment, client, engine):
    pay(client, {"Idempotency-Key": "k"})
    client.post("/create-payment", json={"userId": "7", "movieId": CHEAP, "amount": 4.99})
    settings = Settings.of(environment.properties)
    worker.tell(create_app(environment).extensions["deps"].provider, SqlTransactions(engine))
    tables = ("idempotency_keys", "checkout_limits", "provider_events", "sandbox_intents")

    def rows():
        with engine.connect() as db:
            return [
                db.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608
                for table in tables
            ]

    before = rows()
    assert min(before) > 0
    worker.purge(engine, settings, now=utc_now() + timedelta(hours=47))
    assert rows() == before
    worker.purge(engine, settings, now=utc_now() + timedelta(days=31))
    assert rows() == [0, 0, 0, 0]


_ADDED = {
    "idempotency_keys": "(user_id, key, request_hash, claimed_at) SELECT 7, n::text, 'x', now()",
    "checkout_limits": "(key, minute, count) SELECT n::text, now(), 1",
    "provider_events": "(id, received_at) SELECT n::text, now()",
    "sandbox_intents": "(transaction_id, intent_id, client_secret, ephemeral_key, customer, amount,"
    " currency, due_at, told_at, context) SELECT n, n::text, 'x', 'x', 'x', 1, 'usd', now(), now(),"
    " '{}'",
}
_AT_MOST_1000 = """
CREATE FUNCTION at_most_1000() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM gone) > 1000 THEN RAISE 'too many at once'; END IF;
    RETURN NULL;
END $$
"""


def test_what_is_old_is_forgotten_a_thousand_at_a_time(environment, engine):
    """One statement for all would end by its time-out when there are many, and never get done."""
    with engine.begin() as db:
        db.exec_driver_sql(_AT_MOST_1000)
        for table, rows in _ADDED.items():
            db.exec_driver_sql(f"INSERT INTO {table} {rows} FROM generate_series(1, 2500) AS n")
            db.exec_driver_sql(
                f"CREATE TRIGGER batches AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone"
                " FOR EACH STATEMENT EXECUTE FUNCTION at_most_1000()"
            )
    settings = Settings.of(environment.properties)
    worker.purge(engine, settings, now=utc_now() + timedelta(days=31))
    with engine.connect() as db:
        for table in _ADDED:
            assert db.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() == 0  # noqa: S608


def test_a_companion_runs_alone(environment, client, channel):
    """`python -m payment.worker relay`, ended by SIGTERM."""
    listen_as_a_jvm_neighbour(channel)
    made = pay(client)
    with running(environment, worker.clerk):
        eventually(lambda: status(client, made), "succeeded")
    properties_ = environment.properties
    values = {key: properties_.text(key) for key in properties_.sources[0].values}
    own = {
        "PATH": "/usr/bin:/bin",
        "SPRING_APPLICATION_JSON": json.dumps(values),
        "SPRING_PROFILES_ACTIVE": "test",
        "SPRING_CLOUD_CONFIG_ENABLED": "false",
    }
    program = [sys.executable, "-m", "payment.worker", "relay"]
    with subprocess.Popen(program, env=own, stdout=subprocess.DEVNULL) as alone:  # noqa: S603
        queue = "payment.notification.queue"
        eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count, 1)
        alone.terminate()
        assert alone.wait(15) == 0


def test_a_companion_that_does_not_exist_is_told_so():
    program = [sys.executable, "-m", "payment.worker", "nobody"]
    run = subprocess.run(program, capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 1
    assert run.stderr == "usage: python -m payment.worker {relay,clerk}\n"


@pytest.mark.parametrize("template", ["template1"])
def test_a_companion_waits_for_its_tables(database, settings):
    """It may be started before `prepare` has made them."""
    own = Environment(settings)
    with running(own, worker.clerk):
        worker.prepare(own)
        client = create_app(own).test_client()
        made = pay(client)
        eventually(lambda: status(client, made), "succeeded")
