"""Revocations in the real Redis, and what holds while it is away or has forgotten."""

from datetime import UTC, datetime, timedelta

import pytest
import redis

from cloud.errors import UnavailableError
from cloud.security import Principal
from cloud.stores.revocations import Revocations
from tests.wire import Wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(redis_url):
    made = redis.Redis.from_url(redis_url, decode_responses=True)
    yield made
    made.close()


@pytest.fixture
def revocations(client, clock) -> Revocations:
    return Revocations(client, timedelta(seconds=60), clock)


def caller(jti: str = "a", sid: str | None = "1") -> Principal:
    return Principal(
        user_id=7,
        username="ann",
        email=None,
        roles=frozenset(),
        permissions=frozenset(),
        jti=jti,
        sid=sid,
        expires_at=NOW + timedelta(minutes=15),
        token="",
    )


@pytest.fixture
def filled(client) -> None:
    """Redis as identity leaves it: every revocation there, and the mark of this run."""
    client.set("nozie:identity:epoch", client.info("server")["run_id"])


def test_what_was_taken_back_is_told_and_nothing_else(filled, client, revocations):
    client.set("token:blacklist:a", "1")
    assert revocations.is_revoked(caller("a"), grave=False)
    assert not revocations.is_revoked(caller("b"), grave=True)
    assert revocations.among([caller("a"), caller("b")]) == {"a"}
    assert revocations.among([]) == frozenset()


@pytest.mark.parametrize("mark", [None, "another run"], ids=["empty", "restored"])
def test_a_redis_that_forgot_is_not_believed_for_long(mark, client, clock, revocations):
    if mark:
        client.set("nozie:identity:epoch", mark)
    assert not revocations.is_revoked(caller(), grave=True)
    clock.now += timedelta(seconds=61)
    assert not revocations.is_revoked(caller(), grave=False)
    with pytest.raises(UnavailableError):
        revocations.is_revoked(caller(), grave=True)


def test_absence_is_all_there_is_for_an_issuer_without_sessions(client, clock, revocations):
    clock.now += timedelta(hours=1)
    assert not revocations.is_revoked(caller(sid=None), grave=True)


def test_without_redis_the_revoked_stay_out_and_others_pass_for_the_grace(filled, redis_url, clock):
    address, number = redis_url.removeprefix("redis://").split("/")
    with Wire(address) as wire:
        own = redis.Redis.from_url(f"redis://127.0.0.1:{wire.port}/{number}", decode_responses=True)
        own.set("token:blacklist:a", "1")
        revocations = Revocations(own, timedelta(seconds=60), clock)
        assert revocations.is_revoked(caller("a"), grave=False)
        wire.cut()
        assert revocations.is_revoked(caller("a"), grave=False)
        assert not revocations.is_revoked(caller("b"), grave=True)
        clock.now += timedelta(seconds=61)
        with pytest.raises(UnavailableError):
            revocations.is_revoked(caller("b"), grave=True)
        assert revocations.is_revoked(caller("a"), grave=True)
        wire.mend()
        assert not revocations.is_revoked(caller("b"), grave=True)
        own.close()
