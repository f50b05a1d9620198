"""The tables, and Redis as a view of them, on the real servers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
import redis as driver
import sqlalchemy as sa

from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.stores import postgres
from cloud.testing import SECRET
from identity import worker
from identity.app import create_app
from identity.store import EPOCH, catch_up, purge
from tests.identity.conftest import House, changed, jti, sid
from tests.wire import Wire


@pytest.fixture
def engine(settings: Properties) -> Iterator[sa.Engine]:
    made = postgres.engine(settings)
    yield made
    made.dispose()


# --- tables and seeds


def test_seeds_have_the_ids_that_both_collections_rely_on(house: House):
    permissions = house.rows("SELECT id, name, resource, action FROM permissions ORDER BY id")
    assert [row.id for row in permissions] == list(range(1, 14))
    assert [row.name for row in permissions] == [
        "movie:read", "movie:write", "movie:delete",
        "customer:read", "customer:write", "customer:delete",
        "payment:read", "payment:write",
        "notification:read", "notification:write",
        "user:read", "user:write", "user:admin",
    ]  # fmt: skip
    assert all(row.name == f"{row.resource}:{row.action}" for row in permissions)
    roles = house.rows("SELECT id, name FROM roles ORDER BY id")
    assert [tuple(row) for row in roles] == [(1, "ADMIN"), (2, "USER"), (3, "MODERATOR")]
    assert house.rows("SELECT * FROM role_permissions") == []
    assert house.login("admin", "admin123")["roles"] == ["ADMIN"]
    assert house.rows("SELECT * FROM user_profiles") == []


def test_a_second_start_changes_nothing(house: House):
    tables = ("permissions", "roles", "users", "user_roles")
    before = [house.rows(f"SELECT * FROM {table}") for table in tables]  # noqa: S608
    worker.prepare(house.environment)
    assert [house.rows(f"SELECT * FROM {table}") for table in tables] == before  # noqa: S608


@pytest.mark.parametrize("template", ["template1"])
def test_an_administrator_of_our_own_outside_development(
    settings: Properties, engine: sa.Engine, capfd: pytest.CaptureFixture[str]
):
    """Without a password in the settings a random one is shown once, outside the log."""
    own = changed(settings, {}, profile="prod")
    worker.prepare(own)
    shown = capfd.readouterr().err
    password = shown.strip().rpartition(": ")[2]
    assert len(password) == 24
    app = create_app(own)
    body = {"username": "admin", "password": password}
    assert app.test_client().post("/api/auth/login", json=body).status_code == 200
    worker.prepare(own)
    assert "password" not in capfd.readouterr().err


# What Hibernate 6.3 makes of the JVM service's entities, in short.
HIBERNATE = """
CREATE TABLE users (id bigserial NOT NULL, created_at timestamp(6), email varchar(255),
    failed_login_attempts integer NOT NULL, last_login_at timestamp(6), last_login_ip varchar(255),
    locked_until timestamp(6), password varchar(255) NOT NULL, password_changed_at timestamp(6),
    phone_number varchar(255), status varchar(255) NOT NULL
        CHECK (status IN ('ACTIVE','LOCKED','DISABLED')),
    updated_at timestamp(6), username varchar(50) NOT NULL, PRIMARY KEY (id));
ALTER TABLE users ADD CONSTRAINT uk_6dotkott2kjsp8vw4d0m25fb7 UNIQUE (email);
ALTER TABLE users ADD CONSTRAINT uk_r43af9ap4edm43mmtq01oddj6 UNIQUE (username);
CREATE TABLE refresh_tokens (id bigserial NOT NULL, created_at timestamp(6),
    device_info varchar(255), expires_at timestamp(6) NOT NULL, ip_address varchar(255),
    revoked_at timestamp(6), revoked_reason varchar(255), token varchar(512) NOT NULL,
    user_agent varchar(255), user_id bigint NOT NULL, PRIMARY KEY (id));
ALTER TABLE refresh_tokens ADD CONSTRAINT uk_ghpmfn23vmxfu3spu3lfg4r2d UNIQUE (token);
INSERT INTO users (email, failed_login_attempts, password, status, username)
    VALUES ('ann@example.org', 0, :hash, 'ACTIVE', 'ann'), (NULL, 0, :hash, 'ACTIVE', 'ANN');
"""


@pytest.mark.parametrize("template", ["template1"])
def test_tables_that_a_jvm_service_made_are_taken_over(settings: Properties, engine: sa.Engine):
    """Accounts that differ by case alone, which it allows, must not stop the start."""
    ann = "$2a$04$wYcLTtbNXWULdLMLjK4hSOzUbpbL0Mz7TuN4jgQ3o4jC3ZkFvdpSu"
    with engine.begin() as db:
        db.execute(sa.text(HIBERNATE), {"hash": ann})
    environment = Environment(settings)
    worker.prepare(environment)
    worker.prepare(environment)
    with engine.connect() as db:
        names = db.execute(sa.text("SELECT conname FROM pg_constraint WHERE conname LIKE 'uk%'"))
        unique = set(names.scalars())
    assert unique == {
        "uk_6dotkott2kjsp8vw4d0m25fb7",
        "uk_r43af9ap4edm43mmtq01oddj6",
        "uk_ghpmfn23vmxfu3spu3lfg4r2d",
        "uk_ofx66keruapi6vyqpv6f2or37",
        "uk_pnvtwliis6p05pn6i3ndjrqt2",
        "uk_479yp5jc6091k9yltm2as3pgf",
    }
    client = create_app(environment).test_client()
    body = {"username": "Ann", "password": "right-horse"}
    assert client.post("/api/auth/register", json=body).status_code == 400


# --- Redis


def test_a_session_is_shown_in_redis(house: House):
    made, pair = house.register(), house.login()
    number = sid(pair)
    shown = house.redis.hgetall(f"nozie:identity:session:{number}")
    assert shown.keys() == {
        "userId", "device", "address", "createdAt", "lastSeenAt", "refreshTokenId",
    }  # fmt: skip
    assert shown["userId"] == str(made["id"])
    assert 604_000 < house.redis.ttl(f"nozie:identity:session:{number}") <= 604_800
    for key, member, life in [
        (f"nozie:identity:sessions:{made['id']}", str(number), 604_800),
        (f"nozie:identity:issued:{made['id']}", jti(pair), 900),
        (f"nozie:identity:issued-session:{number}", jti(pair), 900),
    ]:
        assert (house.redis.zscore(key, member) or 0) > utc_now().timestamp()
        assert life - 60 < house.redis.ttl(key) <= life
    granted = json.loads(str(house.redis.get(f"nozie:identity:permissions:{made['id']}")))
    assert granted == {"roles": ["USER"], "permissions": []}


def blacklisted(house: House) -> set[str]:
    prefix = "token:blacklist:"
    return {key.removeprefix(prefix) for key in house.redis.scan_iter(f"{prefix}*")}


def test_a_redis_that_lost_its_memory_is_filled_again(house: House):
    house.register()
    gone, kept = house.login(), house.login()
    house.post("logout", {"refreshToken": gone["refreshToken"]})
    catch_up(house.engine, house.redis, utc_now())
    before = {key: house.redis.type(key) for key in house.redis.scan_iter()}
    house.redis.flushdb()
    catch_up(house.engine, house.redis, utc_now())
    assert house.redis.get(EPOCH) == house.redis.info("server")["run_id"]
    assert blacklisted(house) == {jti(gone)}
    after = {key: house.redis.type(key) for key in house.redis.scan_iter()}
    # A cache, which the next sign-in writes anew.
    assert before.keys() - after.keys() == {f"nozie:identity:permissions:{kept['userId']}"}
    assert house.redis.exists(f"nozie:identity:session:{sid(kept)}")
    assert not house.redis.exists(f"nozie:identity:session:{sid(gone)}")


def test_a_marker_of_another_run_counts_for_nothing(house: House):
    """A Redis that was restored from an older snapshot has a marker, but not all revocations."""
    house.register()
    pair = house.login()
    house.post("logout", {"refreshToken": pair["refreshToken"]})
    catch_up(house.engine, house.redis, utc_now())
    house.redis.delete(f"token:blacklist:{jti(pair)}")
    catch_up(house.engine, house.redis, utc_now())
    assert blacklisted(house) == set()
    house.redis.set(EPOCH, "of an earlier run")
    catch_up(house.engine, house.redis, utc_now())
    assert blacklisted(house) == {jti(pair)}


def test_no_marker_is_set_when_the_memory_goes_while_it_is_filled(house: House):
    class Forgetful(driver.Redis):
        def rename(self, src: Any, dst: Any, **kwargs: Any) -> Any:
            self.flushdb()
            return super().rename(src, dst, **kwargs)

    kwargs = house.redis.get_connection_kwargs()
    forgetful = Forgetful(**{key: kwargs[key] for key in ("host", "port", "db")})
    with forgetful, pytest.raises(driver.ResponseError):
        catch_up(house.engine, forgetful, utc_now())
    assert not house.redis.exists(EPOCH)


def test_revocations_of_a_jvm_service_reach_redis(house: House):
    """It writes the table only (ID-05)."""
    house.run(
        "INSERT INTO token_blacklist (jti, user_id, token_type, expires_at)"
        " VALUES ('theirs', 1, 'ACCESS', timezone('UTC', now()) + interval '1 minute')"
    )
    catch_up(house.engine, house.redis, utc_now())
    assert blacklisted(house) == {"theirs"}


def test_without_redis_everything_works_and_is_made_good_later(
    house: House, settings: Properties, unused_tcp_port: int
):
    away = {
        "spring.data.redis.url": f"redis://127.0.0.1:{unused_tcp_port}/0",
        "resilience4j.circuitbreaker.instances.redis.wait-duration-in-open-state": "60s",
    }
    alone = replace(house, app=create_app(changed(settings, away)))
    alone.register()
    gone, kept = alone.login(), alone.login()
    fresh = alone.post("refresh", {"refreshToken": kept["refreshToken"]}).get_json()["data"]
    assert alone.post("logout", {"refreshToken": gone["refreshToken"]}).status_code == 200
    assert alone.get("me", gone["accessToken"]).status_code == 401
    assert alone.get("me", fresh["accessToken"]).status_code == 200
    assert blacklisted(house) == set()
    catch_up(house.engine, house.redis, utc_now())
    assert blacklisted(house) == {jti(gone)}
    assert house.redis.exists(f"nozie:identity:session:{sid(fresh)}")


def test_a_redis_that_hangs_and_comes_back_misses_nothing(
    house: House, settings: Properties, redis_url: str
):
    address, _, number = redis_url.removeprefix("redis://").partition("/")
    with Wire(address) as wire:
        through = {
            "spring.data.redis.url": f"redis://127.0.0.1:{wire.port}/{number}",
            "spring.data.redis.timeout": "100ms",
        }
        own = House(
            create_app(changed(settings, through)), house.engine, house.redis, house.environment
        )
        own.register()
        pair = own.login()
        wire.freeze()
        body = {"refreshToken": pair["refreshToken"]}
        assert own.post("logout", body, pair["accessToken"]).status_code == 200
        assert own.get("me", pair["accessToken"]).status_code == 401
        own.login()
        assert blacklisted(house) == set()
        wire.mend()
        catch_up(house.engine, house.redis, utc_now())
    assert blacklisted(house) == {jti(pair)}


def test_without_a_database_the_answer_is_503(settings: Properties, unused_tcp_port: int):
    away = {"spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{unused_tcp_port}/none"}
    app = create_app(changed(settings, away))
    body = {"username": "ann", "password": "right-horse"}
    answer = app.test_client().post("/api/auth/login", json=body)
    assert (answer.status_code, answer.get_json()["success"]) == (503, False)


# --- sweeping


def test_what_is_over_is_swept_away_and_nothing_else(house: House):
    house.register()
    gone, kept = house.login(), house.login()
    house.post("logout", {"refreshToken": house.login()["refreshToken"]})
    expired = "expires_at = timezone('UTC', now()) - interval '1 second'"
    house.run(f"UPDATE refresh_tokens SET {expired} WHERE session_id = :s", s=sid(gone))  # noqa: S608
    house.run(f"UPDATE access_tokens SET {expired} WHERE jti = :j", j=jti(gone))  # noqa: S608
    house.run(f"UPDATE token_blacklist SET {expired}")  # noqa: S608
    purge(house.engine, utc_now())
    assert house.rows("SELECT 1 FROM token_blacklist") == []
    assert house.rows("SELECT 1 FROM access_tokens WHERE jti = :j", j=jti(gone)) == []
    (live,) = house.rows("SELECT id FROM user_sessions WHERE is_active")
    assert live.id == sid(kept)
    assert house.post("refresh", {"refreshToken": kept["refreshToken"]}).status_code == 200


def test_a_session_without_its_refresh_token_is_in_step(house: House):
    """The sweep has taken the token, or a JVM service never named one."""
    house.register()
    pair = house.login()
    catch_up(house.engine, house.redis, utc_now())
    expired = "expires_at = timezone('UTC', now()) - interval '1 second'"
    house.run(f"UPDATE refresh_tokens SET {expired}")  # noqa: S608
    house.run("INSERT INTO user_sessions (user_id, is_active) VALUES (1, true)")
    purge(house.engine, utc_now())
    catch_up(house.engine, house.redis, utc_now())
    assert house.rows("SELECT 1 FROM user_sessions WHERE mirrored_at IS NULL") == []
    assert not house.redis.exists(f"nozie:identity:session:{sid(pair)}")


def test_a_registration_and_its_event_are_one(house: House):
    made = house.register()
    (event,) = house.rows("SELECT * FROM outbox")
    assert (event.exchange, event.routing_key) == ("identity.exchange", "user.created")
    body = json.loads(bytes(event.body))
    assert body == {
        "userId": made["id"],
        "username": "ann",
        "email": "ann@example.org",
        "occurredAt": body["occurredAt"],
    }
    house.post("register", {"username": "ann", "password": "right-horse"})
    assert len(house.rows("SELECT * FROM outbox")) == 1


def test_tokens_name_no_session_that_is_not_there(house: House):
    house.register()
    claims = jwt.decode(house.login()["accessToken"], SECRET, algorithms=["HS512"])
    (issued,) = house.rows("SELECT * FROM access_tokens")
    assert (issued.jti, str(issued.session_id)) == (claims["jti"], claims["sid"])
    assert int(issued.expires_at.replace(tzinfo=utc_now().tzinfo).timestamp()) == claims["exp"]
