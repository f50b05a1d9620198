"""What is alive right now, in Redis, for the gateway: sessions, issued and revoked tokens.

The tables are the record, Redis a view of them. A request writes both, so that the gateway sees a
sign-out at once; what Redis misses meanwhile, because it is away or lost its memory, `catch_up`
brings in from the tables.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import redis
import sqlalchemy as sa
import structlog
from redis.client import Pipeline

from cloud.breaker import CircuitBreaker, CircuitBreakerError
from cloud.envelope import local_date_time
from cloud.stores.postgres import autocommit
from identity.domain import AccessToken, Ended, Issued, Regranted, Session, SessionId, User, UserId
from identity.store.sessions import is_live, select_sessions, to_access_token, to_session
from identity.store.tables import access_tokens, blacklist, sessions

log = structlog.get_logger()

# Its value is the `run_id` of the Redis that holds every live revocation: absent, or naming
# another run, the absence of a `token:blacklist:` key there proves nothing.
EPOCH: Final = "nozie:identity:epoch"
_NEXT_EPOCH: Final = "nozie:identity:epoch:next"
# A stream of what was revoked, as it goes: gateways follow it, and know of a revocation before
# anybody tries the token, also when Redis is away by then.
REVOCATIONS: Final = "nozie:identity:revocations"
_MOST_TOLD: Final = 10_000
_PERMISSIONS_LIFE: Final = timedelta(hours=1)
_BATCH: Final = 500
_LOCK: Final = 80_85_01


class RedisLive:
    """Answers `identity.service.Live`: writes through, and never fails the request."""

    def __init__(self, client: redis.Redis, breaker: CircuitBreaker) -> None:
        self._client = client
        self._breaker = breaker

    def opened(self, issued: Issued, now: datetime) -> None:
        """Show a session with its newest access token."""

        def show(pipe: Pipeline) -> None:
            _put_session(pipe, issued.session, now)
            _put_tokens(pipe, [issued.access], now)
            _put_permissions(pipe, issued.user)

        self._write(show)

    def ended(self, ended: Ended, now: datetime) -> None:
        """Show what was revoked, and take the sessions away."""

        def show(pipe: Pipeline) -> None:
            # First what keeps somebody out.
            for token in ended.tokens:
                _put_revoked(pipe, token, now)
            for session_id in ended.sessions:
                _drop_session(pipe, ended.user_id, session_id)

        self._write(show)

    def regranted(self, changed: Regranted, now: datetime) -> None:
        """Show the roles of an account as they are now, and what was revoked with the old ones."""

        def show(pipe: Pipeline) -> None:
            for token in changed.tokens:
                _put_revoked(pipe, token, now)
            _put_permissions(pipe, changed.user)

        self._write(show)

    def _write(self, show: Callable[[Pipeline], None]) -> None:
        pipe = self._client.pipeline(transaction=False)
        show(pipe)
        try:
            self._breaker.call(pipe.execute)
        except (redis.RedisError, CircuitBreakerError) as error:
            # `catch_up` repeats it: the rows are still marked as not mirrored.
            log.warning("redis_missed_a_write", reason=type(error).__name__)


_BEHIND: Final = sa.select(
    sa.exists().where(
        blacklist.c.mirrored_at.is_(None), blacklist.c.expires_at > sa.bindparam("now")
    )
    | sa.exists().where(sessions.c.mirrored_at.is_(None))
)


def catch_up(engine: sa.Engine, client: redis.Redis, now: datetime) -> None:
    """Bring Redis in step with the tables; one instance at a time, the others have nothing to do.

    A Redis that came back empty, or with an older memory, is filled anew. The marker is renamed
    into place at the end: had Redis lost its memory again on the way, the name would be gone.

    Raises:
        redis.RedisError: Redis is away or full; what was not written is not marked as mirrored.
        UnavailableError: the database is away.
    """
    # Most of the time there is nothing to do, and an idle instance finds out in one statement.
    pipe = client.pipeline(transaction=False)
    pipe.get(EPOCH)
    pipe.info("server")
    epoch, server = pipe.execute()
    if epoch == server["run_id"]:
        with autocommit(engine).connect() as db:
            if not db.execute(_BEHIND, {"now": now}).scalar():
                return
    with engine.begin() as held:
        if not held.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))).scalar():
            return
        run_id = client.info("server")["run_id"]
        forgot = client.get(EPOCH) != run_id
        if forgot:
            client.set(_NEXT_EPOCH, run_id)
            client.delete(EPOCH)
        _mirror_revoked(engine, client, now, everything=forgot)
        if forgot:
            client.rename(_NEXT_EPOCH, EPOCH)
            log.info("redis_filled")
        _mirror_sessions(engine, client, now, everything=forgot)


def _mirror_revoked(
    engine: sa.Engine, client: redis.Redis, now: datetime, *, everything: bool
) -> None:
    wanted = blacklist.c.expires_at > now, *_unless(everything, blacklist)

    def show(_: sa.Connection, pipe: Pipeline, rows: Sequence[sa.Row[Any]]) -> None:
        for row in rows:
            _put_revoked(pipe, to_access_token(row), now)

    chosen = sa.select(blacklist, sa.null().label("session_id")).where(*wanted)
    _in_batches(engine, client, blacklist, chosen, show, now)


def _mirror_sessions(
    engine: sa.Engine, client: redis.Redis, now: datetime, *, everything: bool
) -> None:
    alive = sa.and_(*is_live(now))
    wanted = [alive] if everything else list(_unless(everything, sessions))

    def show(db: sa.Connection, pipe: Pipeline, rows: Sequence[sa.Row[Any]]) -> None:
        for row in rows:
            if row.alive:
                _put_session(pipe, to_session(row), now)
            else:
                _drop_session(pipe, UserId(row.user_id), SessionId(row.id))
        of_these = access_tokens.c.session_id.in_([row.id for row in rows if row.alive])
        issued = sa.select(access_tokens).where(of_these, access_tokens.c.expires_at > now)
        _put_tokens(pipe, [to_access_token(row) for row in db.execute(issued)], now)

    chosen = select_sessions().add_columns(alive.label("alive")).where(*wanted)
    # Who changes several sessions of an account locks them in no order: never wait for one.
    chosen = chosen.with_for_update(of=sessions, skip_locked=True)
    _in_batches(engine, client, sessions, chosen, show, now)


def _unless(everything: bool, table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:  # noqa: FBT001
    return () if everything else (table.c.mirrored_at.is_(None),)


_Show = Callable[[sa.Connection, Pipeline, Sequence[sa.Row[Any]]], None]


def _in_batches(
    engine: sa.Engine,
    client: redis.Redis,
    table: sa.Table,
    chosen: sa.Select[Any],
    show: _Show,
    now: datetime,
) -> None:
    last = 0
    while True:
        with engine.begin() as db:
            batch = chosen.where(table.c.id > last).order_by(table.c.id).limit(_BATCH)
            rows = db.execute(batch).all()
            if not rows:
                return
            pipe = client.pipeline(transaction=False)
            show(db, pipe, rows)
            pipe.execute()
            these = table.c.id.in_([row.id for row in rows])
            db.execute(sa.update(table).where(these).values(mirrored_at=now))
            last = rows[-1].id


def _put_session(pipe: Pipeline, session: Session, now: datetime) -> None:
    key = f"nozie:identity:session:{session.id}"
    fields: dict[Any, Any] = {
        "userId": session.user_id,
        "device": session.device,
        "address": session.address,
        "createdAt": local_date_time(session.created_at),
        "lastSeenAt": local_date_time(session.last_seen_at),
        "refreshTokenId": session.refresh_token_id,
    }
    pipe.hset(key, mapping=fields)
    pipe.expireat(key, session.expires_at)
    _put_member(pipe, _sessions_of(session.user_id), str(session.id), session.expires_at, now)


def _drop_session(pipe: Pipeline, user_id: UserId, session_id: SessionId) -> None:
    pipe.delete(f"nozie:identity:session:{session_id}", _issued_to(session_id))
    pipe.zrem(_sessions_of(user_id), session_id)


def _put_tokens(pipe: Pipeline, tokens: Iterable[AccessToken], now: datetime) -> None:
    for token in tokens:
        of_user = f"nozie:identity:issued:{token.user_id}"
        _put_member(pipe, of_user, token.jti, token.expires_at, now)
        if token.session_id is not None:
            _put_member(pipe, _issued_to(token.session_id), token.jti, token.expires_at, now)


def _sessions_of(user_id: UserId) -> str:
    return f"nozie:identity:sessions:{user_id}"


def _issued_to(session_id: SessionId) -> str:
    return f"nozie:identity:issued-session:{session_id}"


def _put_member(pipe: Pipeline, key: str, member: str, expires_at: datetime, now: datetime) -> None:
    """Add to a sorted set by end, without what is over; it lives as long as its longest member."""
    pipe.zremrangebyscore(key, "-inf", now.timestamp())
    pipe.zadd(key, {member: expires_at.timestamp()})
    # GT takes "no end" for the latest one, so a new key first needs some end.
    pipe.expireat(key, expires_at, nx=True)
    pipe.expireat(key, expires_at, gt=True)


def _put_revoked(pipe: Pipeline, token: AccessToken, now: datetime) -> None:
    left = math.ceil((token.expires_at - now).total_seconds())
    pipe.set(f"token:blacklist:{token.jti}", "1", ex=max(1, left))
    told: dict[Any, Any] = {"jti": token.jti, "exp": math.ceil(token.expires_at.timestamp())}
    pipe.xadd(REVOCATIONS, told, maxlen=_MOST_TOLD)


def _put_permissions(pipe: Pipeline, user: User) -> None:
    granted = {"roles": sorted(user.roles), "permissions": sorted(user.permissions)}
    key = f"nozie:identity:permissions:{user.id}"
    pipe.set(key, json.dumps(granted), ex=_PERMISSIONS_LIFE)
