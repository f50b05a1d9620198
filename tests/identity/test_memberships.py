"""Role VIP follows what customer-service tells, on the real servers."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pika
import pytest

from cloud.clock import utc_now
from cloud.config import Properties
from cloud.messaging.consumer import Delivery, Hopeless
from identity import consumers, worker
from identity.store import SqlMemberships
from tests.identity.conftest import House, changed, jti
from tests.waiting import eventually, running


def body(user_id: Any, version: Any, active: Any) -> bytes:
    told = {
        "userId": user_id,
        "customerId": 1,
        "active": active,
        "expiresAt": None,
        "version": version,
        "occurredAt": "2026-01-02T03:04:05",
    }
    return orjson.dumps(told)


@pytest.fixture
def tell(house: House):
    """Deliver an event as the consumer gets it."""
    live = house.app.extensions["deps"].live

    def deliver(user_id: Any, version: Any, active: Any) -> None:
        delivery = Delivery(body(user_id, version, active), {}, None, "membership.changed", 0)
        consumers.membership_changed(
            delivery, memberships=SqlMemberships(house.engine), live=live, now=utc_now
        )

    return deliver


def roles(house: House, token: str) -> list[str]:
    return sorted(house.get("me", token).get_json()["data"]["roles"])


def refreshed(house: House, pair: dict[str, Any]) -> dict[str, Any]:
    answer = house.post("refresh", {"refreshToken": pair["refreshToken"]})
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json()["data"])


def audited(house: House) -> list[str]:
    return [action for action, _ in house.audit() if action.startswith("ROLE_")]


def test_a_membership_gives_the_role_and_its_end_takes_it_back(house: House, tell):
    user = house.register()
    pair = house.login()
    assert house.rows("SELECT 1 FROM roles WHERE name = 'VIP'") == []
    tell(user["id"], 1, active=True)
    # Who is signed in goes on, and has the role with the next token.
    assert house.get("me", pair["accessToken"]).status_code == 200
    pair = refreshed(house, pair)
    assert sorted(pair["roles"]) == ["USER", "VIP"]

    tell(user["id"], 2, active=False)
    assert house.get("me", pair["accessToken"]).status_code == 401
    assert house.redis.exists(f"token:blacklist:{jti(pair)}")
    cached = json.loads(house.redis.get(f"nozie:identity:permissions:{user['id']}") or "")
    assert cached["roles"] == ["USER"]
    pair = refreshed(house, pair)
    assert pair["roles"] == ["USER"]
    assert roles(house, pair["accessToken"]) == ["USER"]
    assert audited(house) == ["ROLE_ASSIGN", "ROLE_REVOKE"]


def test_a_word_heard_twice_changes_nothing(house: House, tell):
    user = house.register()
    for _ in range(3):
        tell(user["id"], 1, active=True)
    tell(user["id"], 2, active=True)
    tell(user["id"], 3, active=False)
    pair = house.login()
    tell(user["id"], 3, active=False)
    assert house.get("me", pair["accessToken"]).status_code == 200
    assert audited(house) == ["ROLE_ASSIGN", "ROLE_REVOKE"]


@pytest.mark.parametrize(
    ("order", "held"),
    [
        pytest.param([(3, False), (1, True), (2, True)], ["USER"], id="the end first"),
        pytest.param([(4, True), (3, False), (2, True)], ["USER", "VIP"], id="the latest first"),
    ],
)
def test_the_newest_word_counts_in_whichever_order_they_come(house: House, tell, order, held):
    user = house.register()
    for version, active in order:
        tell(user["id"], version, active=active)
    assert sorted(house.login()["roles"]) == held


def test_words_at_the_same_moment_end_as_the_newest_says(house: House, tell):
    user = house.register()
    words = [(version, version % 2 == 1) for version in range(1, 10)] * 2
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda word: tell(user["id"], *word), words))
    assert sorted(house.login()["roles"]) == ["USER", "VIP"]
    assert house.rows("SELECT version FROM memberships")[0].version == 9


def test_two_accounts_that_are_the_first_members_share_one_role(house: House, tell):
    users = [house.register(name)["id"] for name in ("ann", "bob", "eve")]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda user: tell(user, 1, active=True), users))
    assert len(house.rows("SELECT 1 FROM roles WHERE name = 'VIP'")) == 1
    assert (
        len(house.rows("SELECT 1 FROM user_roles JOIN roles ON id = role_id AND name = 'VIP'")) == 3
    )


def test_a_role_that_an_administrator_gave_is_not_taken(house: House, tell):
    user, other = house.register(), house.register("bob")
    tell(other["id"], 1, active=True)
    house.run(
        "INSERT INTO user_roles SELECT :user, id FROM roles WHERE name = 'VIP'", user=user["id"]
    )
    tell(user["id"], 1, active=True)
    tell(user["id"], 2, active=False)
    assert sorted(house.login()["roles"]) == ["USER", "VIP"]


def test_a_role_that_an_administrator_took_is_not_missed(house: House, tell):
    user = house.register()
    tell(user["id"], 1, active=True)
    house.run("DELETE FROM user_roles WHERE user_id = :user AND role_id > 3", user=user["id"])
    pair = house.login()
    tell(user["id"], 2, active=False)
    assert house.get("me", pair["accessToken"]).status_code == 200


def test_a_revocation_reaches_a_redis_that_was_away(house: House, tell):
    """The row waits for it, as any revocation does."""
    user = house.register()
    tell(user["id"], 1, active=True)
    house.login()
    tell(user["id"], 2, active=False)
    assert [row.mirrored_at for row in house.rows("SELECT mirrored_at FROM token_blacklist")] == [
        None
    ]


def test_an_account_that_is_gone_has_no_role_to_lose(house: House, tell):
    tell(999, 1, active=True)
    assert house.rows("SELECT 1 FROM memberships") == []


@pytest.mark.parametrize(
    ("user_id", "version", "active"),
    [
        pytest.param(None, 1, True, id="nobody"),
        pytest.param("x", 1, True, id="an ill-typed user"),
        pytest.param(1, None, True, id="no version"),
        pytest.param(1, 2**63, True, id="a version beyond 64 bits"),
        pytest.param(1, 1, None, id="neither begun nor ended"),
    ],
)
def test_what_is_not_the_event_is_hopeless(house: House, tell, user_id, version, active):
    with pytest.raises(Hopeless):
        tell(user_id, version, active)


def test_events_arrive_by_the_broker(house: House, settings: Properties, amqp, channel):
    user = house.register()
    channel.confirm_delivery()
    channel.exchange_declare("customer.exchange", "topic", durable=True)

    def published(version: int, *, active: bool) -> bool:
        try:
            channel.basic_publish(
                "customer.exchange",
                "membership.changed",
                body(user["id"], version, active),
                mandatory=True,
            )
        except pika.exceptions.UnroutableError:
            return False
        return True

    def held() -> int:
        return len(house.rows("SELECT 1 FROM user_roles WHERE user_id = :user", user=user["id"]))

    with running(changed(settings, amqp), *worker.CHORES.values()):
        eventually(lambda: published(1, active=True))
        eventually(lambda: held() == 2)
        assert published(1, active=True)
        assert published(2, active=False)
        eventually(lambda: held() == 1)
    assert audited(house) == ["ROLE_ASSIGN", "ROLE_REVOKE"]
