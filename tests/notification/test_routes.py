"""Operations of notification through its real door, on the real document store."""

from dataclasses import replace
from datetime import timedelta

import pytest
from bson import Int64, ObjectId

from cloud.clock import utc_now
from cloud.errors import InvalidError
from cloud.stores import mongo
from cloud.testing import bearer
from notification.app import create_app
from notification.domain import CustomerId, Draft, UserId
from tests.contract.client import checked

ANN, BOB, ADMIN = bearer(7), bearer(8), bearer(9, "ADMIN")
APP = "/notifications/users/7/notifications"


@pytest.fixture
def client(environment):
    return checked(create_app(environment), "notification")


@pytest.fixture
def collection(snapshot):
    return mongo.database(snapshot)["notifications"]


@pytest.fixture
def add(deps):
    counter = iter(range(1000))

    def store(user=7, customer=1, title="hello"):
        draft = Draft(
            type="purchase",
            title=title,
            description="text",
            user_id=None if user is None else UserId(user),
            customer_id=None if customer is None else CustomerId(customer),
            deep_link="movie:abc",
        )
        moment = utc_now() + timedelta(milliseconds=10 * next(counter))
        return deps.notifications.add_many([draft], now=moment)[0][0].id

    return store


def titles(answer):
    assert answer.status_code == 200, answer.json
    return [each["title"] for each in answer.json["data"]]


def test_a_customers_notifications_come_newest_first_and_limited(client, add):
    for number in range(3):
        add(title=f"number {number}")
    add(user=8, customer=2, title="somebody else's")
    assert titles(client.get("/api/notifications/1", headers=ANN)) == [
        "number 2",
        "number 1",
        "number 0",
    ]
    assert titles(client.get("/api/notifications/1?limit=1", headers=ANN)) == ["number 2"]
    first = client.get("/api/notifications/1", headers=ANN).json["data"][0]
    assert set(first) == {
        *("id", "customerId", "type", "title", "description", "deepLink", "read", "createdAt")
    }
    assert not first["createdAt"].endswith("Z")


@pytest.mark.parametrize("path", ["", "/unread", "/count"])
@pytest.mark.parametrize(
    ("headers", "customer", "status"),
    [
        pytest.param(None, 1, 401, id="nobody"),
        pytest.param(BOB, 1, 404, id="somebody else"),
        pytest.param(ANN, 99, 404, id="a record that is not there"),
        pytest.param(ADMIN, 1, 200, id="an administrator"),
        pytest.param(ADMIN, 99, 200, id="an administrator, no record"),
        pytest.param(ANN, "abc", 400, id="no number"),
        pytest.param(ANN, 2**63, 400, id="a number beyond a long"),
    ],
)
def test_a_customers_notifications_are_for_the_owner(path, headers, customer, status, client):
    """The neighbour answers as a JVM service does, so it is we who compare."""
    answer = client.get(f"/api/notifications/{customer}{path}", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("limit", ["0", "101", "ten"])
def test_a_limit_out_of_bounds_is_the_callers_fault(limit, client):
    answer = client.get(f"/api/notifications?limit={limit}", headers=ANN)
    assert answer.status_code == 400
    assert "limit" in answer.json["data"]


def test_without_the_customer_service_ownership_is_unavailable_and_the_own_list_is_not(
    client, add, neighbours
):
    add(title="mine")
    neighbours.broken = True
    assert client.get("/api/notifications/1", headers=ANN).status_code in {502, 503}
    assert titles(client.get("/api/notifications", headers=ANN)) == ["mine"]


def test_reading_counts_down_and_is_remembered(client, add):
    first, _ = add(title="one"), add(title="two")
    counted = client.get("/api/notifications/1/count", headers=ANN)
    assert counted.json["data"] == {"unreadCount": 2}
    for _ in range(2):
        answer = client.patch(f"/api/notifications/{first}/read", headers=ANN)
        assert answer.status_code == 200
        assert answer.json["data"]["read"] is True
    assert titles(client.get("/api/notifications/1/unread", headers=ANN)) == ["two"]
    read = {each["title"]: each["readAt"] for each in client.get(APP, headers=ANN).json["data"]}
    assert read["two"] is None
    assert read["one"].endswith("Z")


@pytest.mark.parametrize("key", [str(ObjectId()), "7", "x" * 300], ids=["unknown", "no id", "long"])
def test_marking_what_is_not_there_is_not_found(key, client):
    assert client.patch(f"/api/notifications/{key}/read", headers=ANN).status_code == 404
    assert client.patch(f"{APP}/{key}/read", headers=ANN).status_code == 404


def test_nobody_marks_or_deletes_a_foreign_notification(client, add, deps):
    key = add(user=8, customer=2)
    assert client.patch(f"/api/notifications/{key}/read", headers=ANN).status_code == 404
    assert client.patch(f"{APP}/{key}/read", headers=ANN).status_code == 404
    assert client.delete(f"/api/notifications/{key}", headers=ANN).status_code == 200
    assert client.delete(f"{APP}/{key}", headers=ANN).status_code == 200
    assert deps.notifications.find(key).read is False
    assert client.delete(f"/api/notifications/{key}", headers=ADMIN).status_code == 200
    assert deps.notifications.find(key) is None


def test_what_a_jvm_service_stored_is_read_by_its_customer(client, collection):
    collection.insert_one(
        {
            "_class": "com.nozie.notificationservice.model.Notification",
            "customer_id": Int64(1),
            "title": None,
            "deep_link": "movie:abc",
            "created_at": utc_now(),
        }
    )
    own = client.get("/api/notifications", headers=ANN).json["data"]
    assert [(each["title"], each["read"]) for each in own] == [(None, False)]
    app = client.get(APP, headers=ANN).json["data"]
    assert (app[0]["type"], app[0]["title"], app[0]["readAt"]) == ("general", "", None)
    assert client.get(APP, headers=BOB).status_code == 403
    assert client.patch(f"{APP}/read-all", headers=ANN).status_code == 200
    assert client.get(APP, headers=ANN).json["data"][0]["readAt"]


def test_a_customer_of_another_user_lends_no_notifications(client, add):
    """The record of customer 3 has no user: it is whose e-mail it holds."""
    add(user=None, customer=3, title="for Carl")
    add(user=None, customer=1, title="for Ann")
    assert titles(client.get("/api/notifications", headers=ANN)) == ["for Ann"]
    carl = bearer(5, email="carl@example.org")
    assert titles(client.get("/api/notifications/3", headers=carl)) == ["for Carl"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("get", APP, None, 401, id="list, nobody"),
        pytest.param("get", APP, ADMIN, 200, id="list, an administrator"),
        pytest.param("patch", f"{APP}/read-all", ADMIN, 403, id="mark, an administrator"),
        pytest.param("patch", f"{APP}/{ObjectId()}/read", BOB, 403, id="mark, somebody else"),
        pytest.param("post", APP, ADMIN, 403, id="create, an administrator"),
        pytest.param("delete", f"{APP}/read", BOB, 403, id="delete, somebody else"),
        pytest.param("delete", f"{APP}/read", ADMIN, 200, id="delete, an administrator"),
        pytest.param("get", APP.replace("7", "me"), ANN, 400, id="a user that is no number"),
        pytest.param("put", APP, ANN, 405, id="another method"),
        pytest.param("post", "/api/notifications", ANN, 403, id="create for anybody, a user"),
    ],
)
def test_the_app_writes_for_its_user_only(method, path, headers, status, client):
    answer = getattr(client, method)(path, headers=headers, json={"title": "x", "customerId": 1})
    assert answer.status_code == status
    assert answer.json["success"] is (status < 400)


def test_the_app_marks_and_deletes_its_own(client, add):
    first, second = add(), add()
    add(user=8, customer=2)
    assert client.patch(f"{APP}/{first}/read", headers=ANN).status_code == 200
    assert client.delete(f"{APP}/read", headers=ANN).status_code == 200
    assert [each["id"] for each in client.get(APP, headers=ANN).json["data"]] == [second]
    assert client.patch(f"{APP}/read-all", headers=ANN).status_code == 200
    assert client.get("/api/notifications/1/count", headers=ANN).json["data"]["unreadCount"] == 0
    assert client.get("/api/notifications/2/count", headers=ADMIN).json["data"]["unreadCount"] == 1
    assert client.delete(f"{APP}/{second}", headers=ANN).status_code == 200
    assert titles(client.get(APP, headers=ANN)) == []


def test_an_administrator_creates_and_chooses_no_id(client):
    client.holds_requests = False
    body = {"customerId": "1", "title": "Sale", "id": "mine", "read": True, "createdAt": "now"}
    answer = client.post("/api/notifications", headers=ADMIN, json=body)
    assert answer.status_code == 201
    assert answer.json["data"]["read"] is False
    assert answer.json["data"]["id"] != "mine"
    assert titles(client.get("/api/notifications/1", headers=ANN)) == ["Sale"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="empty"),
        pytest.param({"customerId": 1, "title": "x" * 256}, id="a title too long"),
        pytest.param({"customerId": 1, "title": "\x00"}, id="a NUL"),
        pytest.param([1], id="no object"),
    ],
)
def test_a_body_that_cannot_be_stored_is_refused(body, client):
    answer = client.post("/api/notifications", headers=ADMIN, json=body)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("sent", "stored"), [("tips", "tips"), ("purchase", "general"), (None, "general")]
)
def test_the_app_may_note_general_things_only(sent, stored, client):
    body = {"type": sent, "title": "mine", "readAt": "2020-01-01T00:00:00Z"}
    answer = client.post(APP, headers=ANN, json=body)
    assert answer.status_code == 201
    assert (answer.json["data"]["type"], answer.json["data"]["readAt"]) == (stored, None)


def test_a_revoked_token_is_refused(client, deps, snapshot):
    from cloud.stores import redis as redis_store  # noqa: PLC0415 - for this one line

    revoked = bearer(7, jti="taken-back")
    redis_store.client(snapshot).set("token:blacklist:taken-back", "1")
    assert client.get("/api/notifications", headers=revoked).status_code == 401


def test_a_draft_told_twice_is_one_notification(deps):
    draft = Draft(type="purchase", title="t", description="d", user_id=UserId(7), dedup_key="7")
    first, new = deps.notifications.add_many([draft], now=utc_now())[0]
    again, repeated = deps.notifications.add_many([replace(draft, title="other")], now=utc_now())[0]
    assert (new, repeated) == (True, False)
    assert again == first


def test_numbers_of_metadata_are_stored_as_a_jvm_service_would_and_read_back(client, collection):
    raw = b'{"title":"x","metadata":{"price":1.50,"n":[1,9223372036854775807],"deep":{"e":1e3}}}'
    given = {"price": 1.5, "n": [1, 2**63 - 1], "deep": {"e": 1000.0}}
    answer = client.post(APP, headers=ANN, data=raw, content_type="application/json")
    assert answer.status_code == 201, answer.text
    assert answer.json["data"]["metadata"] == given
    assert collection.find_one()["metadata"] == given
    assert isinstance(collection.find_one()["metadata"]["deep"]["e"], float)
    assert client.get(APP, headers=ANN).json["data"][0]["metadata"] == given


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"n": 2**63}, id="a number beyond a long"),
        pytest.param({"deep": [{"n": -(2**63) - 1}]}, id="the same, deep"),
        pytest.param({"at": {"$ref": "a", "$id": 1}}, id="what a driver takes for a reference"),
        pytest.param({"text": "x" * 17_000}, id="too much"),
    ],
)
def test_metadata_that_the_store_cannot_hold_is_refused(metadata, client, collection):
    answer = client.post(APP, headers=ANN, json={"title": "x", "metadata": metadata})
    assert answer.status_code == 400
    assert "metadata" in answer.json["data"]
    assert collection.find_one() is None


def test_a_record_with_another_address_is_still_the_users(client, add):
    """An administrator has changed it, or it is spelt otherwise."""
    add(user=None, customer=1, title="for Ann")
    add(user=None, customer=3, title="for Carl")
    moved = bearer(7, email="ann@elsewhere.example")
    assert titles(client.get("/api/notifications", headers=moved)) == ["for Ann"]
    assert titles(client.get(APP, headers=moved)) == ["for Ann"]
    carl = bearer(5, email="carl@example.org")
    assert titles(client.get("/api/notifications", headers=carl)) == ["for Carl"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"metadata": {"n": 2**63}}, id="a number"),
        pytest.param({"description": "x" * (17 << 20)}, id="beyond a document"),
    ],
)
def test_what_can_never_be_stored_is_told_from_a_store_that_is_away(fields, deps):
    good = Draft(type="purchase", title="t", description="d", user_id=UserId(7), dedup_key="7")
    bad = replace(good, dedup_key="8", **fields)
    with pytest.raises(InvalidError):
        deps.notifications.add_many([good, bad], now=utc_now())
