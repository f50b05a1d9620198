from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from cloud.errors import CloudError
from cloud.stores import postgres
from customer.domain import Details
from customer.store import customers

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
ANN = Details("ann@example.org")

pytestmark = pytest.mark.estate


def rows(engine):
    with engine.connect() as db:
        return db.execute(sa.select(customers).order_by(customers.c.id)).all()


def test_the_table_is_the_jvm_services(engine):
    """Under other names Hibernate would add its constraints a second time."""
    found = sa.inspect(engine)
    unique = {one["name"]: one["column_names"] for one in found.get_unique_constraints("customers")}
    assert unique == {
        "uk_rfbvkrffamfql7cjmen8v976v": ["email"],
        "uk_ear2fekgai78b2eh3rqew7i4d": ["firebase_uid"],
    }
    columns = {one["name"]: one for one in found.get_columns("customers")}
    assert columns["id"]["default"] == "nextval('customers_id_seq'::regclass)"
    assert [name for name, one in columns.items() if not one["nullable"]] == ["id", "email"]


@pytest.mark.parametrize("template", ["template1"])
def test_a_table_that_a_jvm_service_made_is_taken_over(database, environment):
    engine = postgres.engine(environment.properties)
    with engine.begin() as db:
        db.execute(
            sa.text(
                "CREATE TABLE customers"
                " (id bigserial PRIMARY KEY, email varchar(255), is_subscribed boolean)"
            )
        )
        db.execute(sa.text("INSERT INTO customers (email) VALUES ('ann@example.org')"))
    postgres.migrate(engine, "customer")
    postgres.migrate(engine, "customer")
    columns = {one["name"] for one in sa.inspect(engine).get_columns("customers")}
    assert {"user_id", "subscription_expires_at"} <= columns
    engine.dispose()


def test_of_simultaneous_creations_one_succeeds(records, engine):
    def create(user_id):
        try:
            records.create(ANN, None, user_id, now=NOW)
        except CloudError as error:
            return type(error).__name__
        return "made"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    assert sorted(outcomes) == ["TakenError"] * 7 + ["made"]
    assert len(rows(engine)) == 1


def test_of_simultaneous_claims_all_find_the_same_record(records, engine):
    records.create(ANN, None, None, now=NOW)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: records.claim(7, "ANN@example.org", now=NOW), range(8)))
    assert {one.user_id for one in found} == {7}


def test_of_two_users_with_one_address_one_gets_the_record(records):
    records.create(ANN, None, None, now=NOW)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda user: records.claim(user, ANN.email, now=NOW), (7, 8)))
    assert sorted(one is None for one in found) == [False, True]


def test_a_new_user_gets_a_record_once(records, engine):
    assert records.welcome(7, ANN.email, now=NOW) == "created"
    assert records.welcome(7, ANN.email, now=NOW) == "known"
    (row,) = rows(engine)
    assert (row.user_id, row.is_subscribed) == (7, False)
    assert row.created_at == NOW.replace(tzinfo=None)


def test_a_record_that_is_gone_does_not_come_back_with_a_late_copy_of_the_event(records, engine):
    records.welcome(7, ANN.email, now=NOW)
    with engine.begin() as db:
        db.execute(sa.delete(customers))
    assert records.welcome(7, ANN.email, now=NOW) == "known"
    assert rows(engine) == []


def test_a_record_with_his_address_is_linked_to_a_new_user(records, engine):
    records.create(Details("Ann@Example.org"), "fb", None, now=NOW)
    assert records.welcome(7, ANN.email, now=NOW) == "linked"
    (row,) = rows(engine)
    assert (row.user_id, row.firebase_uid) == (7, "fb")


def test_a_user_who_came_before_his_event_keeps_his_record(records, engine):
    records.create(ANN, None, 7, now=NOW)
    assert records.welcome(7, "other@example.org", now=NOW) == "nothing_to_do"
    assert len(rows(engine)) == 1


def test_an_address_that_is_anothers_is_left_to_him(records, engine):
    records.create(ANN, None, 8, now=NOW)
    assert records.welcome(7, ANN.email, now=NOW) == "address_taken"
    assert [row.user_id for row in rows(engine)] == [8]


def test_a_user_without_an_address_gets_no_record(records, engine):
    assert records.welcome(7, None, now=NOW) == "nothing_to_do"
    assert rows(engine) == []
