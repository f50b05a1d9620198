from datetime import timedelta

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from cloud.clock import utc_now
from cloud.testing import bearer
from customer.store import customers

ANN, BOB, ADMIN = bearer(7), bearer(8), bearer(1, "ADMIN")
STRANGER = bearer(9, email="eve@example.org")
NAMELESS = bearer(10, email=None)
PATH = "/api/customers"
BODY = {"email": "ann@example.org", "fullName": "Ann"}
KEYS = [
    "id",
    "userId",
    "firebaseUid",
    "email",
    "fullName",
    "phoneNumber",
    "avatarUrl",
    "dateOfBirth",
    "gender",
    "isSubscribed",
    "stripeCustomerId",
    "createdAt",
    "updatedAt",
]

pytestmark = pytest.mark.estate


def row(engine, **where):
    query = sa.select(customers).filter_by(**where)
    with engine.connect() as db:
        return db.execute(query).one()


@pytest.fixture
def legacy(engine):
    """Records as a JVM service leaves them: no link."""
    rows = [
        {"email": "Ann@Example.org", "stripe_customer_id": "cus_1", "firebase_uid": "fb-1"},
        {"email": "bob@example.org", "stripe_customer_id": None, "firebase_uid": None},
    ]
    with engine.begin() as db:
        found = db.execute(sa.insert(customers).returning(customers.c.id), rows)
        return [one.id for one in found]


def test_a_user_creates_his_record_and_reads_it(client, engine):
    made = client.post(PATH, json={**BODY, "firebaseUid": "fb", "gender": None}, headers=ANN)
    assert made.status_code == 201
    data = made.json["data"]
    assert list(data) == KEYS
    assert (data["email"], data["isSubscribed"], data["updatedAt"]) == (BODY["email"], False, None)
    assert row(engine, id=data["id"]).user_id == 7
    read = client.get(f"{PATH}/{data['id']}", headers=ANN)
    assert read.json["data"] == data
    assert client.get(f"{PATH}/email/ann@example.org", headers=ANN).json["data"] == data


def test_an_account_has_one_record(client):
    assert client.post(PATH, json=BODY, headers=ANN).status_code == 201
    again = client.post(PATH, json={"email": "ANN@example.org"}, headers=ANN)
    assert (again.status_code, again.json["data"]) == (400, None)


@pytest.mark.parametrize(
    ("headers", "email", "status"),
    [
        pytest.param(ANN, "bob@example.org", 403, id="somebody else's address"),
        pytest.param(NAMELESS, "ann@example.org", 403, id="an account without an address"),
        pytest.param(ADMIN, "bob@example.org", 201, id="an admin may"),
        pytest.param({}, "ann@example.org", 401, id="nobody"),
    ],
)
def test_a_record_is_created_in_ones_own_name(client, engine, headers, email, status):
    made = client.post(PATH, json={"email": email}, headers=headers)
    assert made.status_code == status
    if status == 201:
        assert row(engine, email=email).user_id is None


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        pytest.param({}, {"email"}, id="no e-mail"),
        pytest.param({"email": None}, {"email"}, id="null"),
        pytest.param({"email": "  "}, {"email"}, id="blank"),
        pytest.param({"email": "no address"}, {"email"}, id="malformed"),
        pytest.param({"email": "a@b", "fullName": "x" * 256}, {"fullName"}, id="too long"),
        pytest.param(
            {"email": "a@b", "fullName": "\N{FACE WITH TEARS OF JOY}" * 128},
            {"fullName"},
            id="too long in UTF-16",
        ),
        pytest.param({"email": "a@b", "gender": "a\0b"}, {"gender"}, id="a NUL"),
        pytest.param({"email": "a@b", "gender": {"a": 1}}, {"gender"}, id="an object"),
    ],
)
def test_what_is_wrong_is_said_field_by_field(client, body, fields):
    answer = client.post(PATH, json=body, headers=ADMIN)
    assert (answer.status_code, set(answer.json["data"])) == (400, fields)


def test_numbers_and_booleans_are_taken_for_text(client):
    client.holds_requests = False
    body = {"email": "a@b", "phoneNumber": 123, "gender": True, "unknown": [1]}
    data = client.post(PATH, json=body, headers=ADMIN).json["data"]
    assert (data["phoneNumber"], data["gender"]) == ("123", "true")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param({"email": "bob@example.org"}, "email", id="e-mail"),
        pytest.param({"email": "x@y", "firebaseUid": "fb-1"}, "firebaseUid", id="firebaseUid"),
    ],
)
def test_a_taken_value_is_the_callers_fault(client, legacy, body, field):
    answer = client.post(PATH, json=body, headers=ADMIN)
    assert answer.status_code == 400
    assert set(answer.json["data"]) == {field}


def test_a_record_without_a_link_is_linked_on_first_use(client, engine, legacy):
    assert client.get(f"{PATH}/{legacy[0]}", headers=STRANGER).status_code == 404
    assert client.get(f"{PATH}/{legacy[0]}", headers=ANN).status_code == 200
    assert row(engine, id=legacy[0]).user_id == 7
    # The link, not the address, counts from now on.
    impostor = bearer(9, email="ann@example.org")
    assert client.get(f"{PATH}/{legacy[0]}", headers=impostor).status_code == 404


@pytest.mark.parametrize("headers", [ANN, STRANGER], ids=["another owner", "a stranger"])
def test_others_are_told_that_there_is_no_record(client, legacy, headers):
    for path in (f"{PATH}/{legacy[1]}", f"{PATH}/email/bob@example.org", f"{PATH}/999999"):
        assert client.get(path, headers=headers).status_code == 404
    put = client.put(f"{PATH}/{legacy[1]}", json={"email": "bob@example.org"}, headers=headers)
    assert put.status_code == 404


def test_nobody_learns_only_that_a_record_exists(client, engine, legacy):
    data = client.get(f"{PATH}/{legacy[0]}").json["data"]
    assert data == dict.fromkeys(KEYS) | {"id": legacy[0]}
    assert client.get(f"{PATH}/999999").status_code == 404
    assert row(engine, id=legacy[0]).user_id is None


def test_a_bad_token_does_not_count_as_none(client, legacy):
    answer = client.get(f"{PATH}/{legacy[0]}", headers={"Authorization": "Bearer x.y.z"})
    assert answer.status_code == 401


@pytest.mark.parametrize("wrong", ["abc", "1.0", "9223372036854775808", "%20"])
def test_an_id_that_is_no_number_is_a_400(client, wrong):
    assert client.get(f"{PATH}/{wrong}", headers=ANN).status_code == 400


def test_the_stripe_id_is_for_admins(client, legacy):
    path = f"{PATH}/{legacy[0]}"
    assert client.get(path, headers=ANN).json["data"]["stripeCustomerId"] is None
    assert client.get(path, headers=ADMIN).json["data"]["stripeCustomerId"] == "cus_1"


def test_a_list_holds_ones_own_record_or_for_an_admin_all(client, legacy):
    def listed(headers, query=""):
        answer = client.get(f"{PATH}{query}", headers=headers)
        return [one["id"] for one in answer.json["data"]], answer.headers["X-Total-Count"]

    assert listed(ANN) == ([legacy[0]], "1")
    assert listed(ANN, "?page=1") == ([], "1")
    assert listed(STRANGER) == ([], "0")
    assert listed(ADMIN) == (legacy, "2")
    assert listed(ADMIN, "?page=1&size=1") == (legacy[1:], "2")
    assert client.get(PATH).status_code == 401


@pytest.mark.parametrize("query", ["size=0", "size=101", "page=-1", "page=x", "size=1e1"])
def test_a_page_out_of_bounds_is_a_400(client, query):
    assert client.get(f"{PATH}?{query}", headers=ADMIN).status_code == 400


def test_an_update_writes_every_field_null_included(client, engine, legacy):
    path = f"{PATH}/{legacy[0]}"
    first = {"email": "Ann@Example.org", "fullName": "Ann", "firebaseUid": "other"}
    assert client.put(path, json=first, headers=ANN).json["data"]["fullName"] == "Ann"
    data = client.put(path, json={"email": "ann@example.org"}, headers=ANN).json["data"]
    assert (data["fullName"], data["email"]) == (None, "ann@example.org")
    assert data["firebaseUid"] == "fb-1"
    assert data["updatedAt"]


@pytest.mark.parametrize(
    ("headers", "email", "status"),
    [
        pytest.param(ANN, "new@example.org", 400, id="not the account's"),
        pytest.param(ANN, "bob@example.org", 400, id="another one's"),
        pytest.param(ADMIN, "new@example.org", 200, id="an admin may"),
        pytest.param(ADMIN, "bob@example.org", 400, id="taken"),
        pytest.param({}, "Ann@Example.org", 401, id="nobody"),
    ],
)
def test_an_address_changes_only_to_the_accounts_own(client, legacy, headers, email, status):
    answer = client.put(f"{PATH}/{legacy[0]}", json={"email": email}, headers=headers)
    assert answer.status_code == status
    if status == 400:
        assert set(answer.json["data"]) == {"email"}


def test_an_admin_cannot_replace_what_is_not_there(client):
    answer = client.put(f"{PATH}/999999", json={"email": "a@b"}, headers=ADMIN)
    assert answer.status_code == 404


@pytest.mark.parametrize("on", ["true", "on", "YES", "1"])
def test_an_admin_begins_and_ends_a_membership(client, engine, legacy, on):
    """Whatever Spring takes for a yes."""
    client.holds_requests = False
    path = f"{PATH}/{legacy[0]}/subscription"
    with capture_logs() as said:
        begun = client.patch(f"{path}?isSubscribed={on}", headers=ADMIN)
    assert (begun.status_code, begun.json["data"]["isSubscribed"]) == (200, True)
    assert [line["by"] for line in said if line["event"] == "subscription_set"] == [1]
    found = row(engine, id=legacy[0])
    assert (found.is_subscribed, found.subscription_expires_at) == (True, None)
    ended = client.patch(f"{path}?isSubscribed=off", headers=ADMIN)
    assert ended.json["data"]["isSubscribed"] is False
    assert client.get(f"{PATH}/{legacy[0]}", headers=ANN).json["data"]["isSubscribed"] is False


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        pytest.param({}, "?isSubscribed=true", 401, id="nobody"),
        pytest.param(ANN, "?isSubscribed=true", 403, id="the owner"),
        pytest.param(ADMIN, "", 400, id="no flag"),
        pytest.param(ADMIN, "?isSubscribed=", 400, id="an empty flag"),
        pytest.param(ADMIN, "?isSubscribed=maybe", 400, id="another word"),
        pytest.param(ADMIN, "?isSubscribed=2", 400, id="another number"),
    ],
)
def test_a_membership_is_set_by_an_admin_and_with_a_flag(
    client, engine, legacy, headers, query, status
):
    answer = client.patch(f"{PATH}/{legacy[0]}/subscription{query}", headers=headers)
    assert answer.status_code == status
    if status == 400:
        assert set(answer.json["data"]) == {"isSubscribed"}
    assert row(engine, id=legacy[0]).is_subscribed is None


def test_nobody_can_be_made_a_member_who_is_not_there(client):
    answer = client.patch(f"{PATH}/999999/subscription?isSubscribed=true", headers=ADMIN)
    assert answer.status_code == 404


@pytest.mark.parametrize(("days", "subscribed"), [(1, True), (-1, False)], ids=["runs", "is over"])
def test_the_end_of_a_membership_shows_before_anybody_swept(
    client, engine, legacy, days, subscribed
):
    end = (utc_now() + timedelta(days=days)).replace(tzinfo=None)
    with engine.begin() as db:
        db.execute(sa.update(customers).values(is_subscribed=True, subscription_expires_at=end))
    read = client.get(f"{PATH}/{legacy[0]}", headers=ANN)
    assert read.json["data"]["isSubscribed"] is subscribed
