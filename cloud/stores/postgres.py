"""PostgreSQL by Spring's `spring.datasource` properties, and migrations by Alembic.

Houses use SQLAlchemy Core on the engine made here; for a database that is away they see no
driver's error, only `UnavailableError`.
"""

import importlib.util
import os
import select
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event as Stop
from typing import Any, Final, NoReturn

import psycopg2
from psycopg2 import extensions
from sqlalchemy import (
    URL,
    ColumnElement,
    Engine,
    Table,
    create_engine,
    event,
    exc,
    make_url,
    text,
    tuple_,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from cloud import metrics
from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError, UnavailableError
from cloud.outage import Outage
from cloud.refresh import scope

_LOOK_AROUND_S: Final = 1.0
# SQLSTATEs (PostgreSQL manual, appendix A) that tell of the server, not of the statement:
# connection exception, insufficient resources, operator intervention (shutdown, a statement out of
# time), system error; lock not available; read-only after a fail-over.
_AWAY: Final = ("08", "53", "57", "58", "55P03", "25006")
# PostgreSQL's own where nobody says otherwise.
_DEFAULT_LEVEL: Final = extensions.ISOLATION_LEVEL_READ_COMMITTED
_DELETED_AT_ONCE: Final = 1000
_MIGRATION_LIMIT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class DatasourceSettings:
    """Where the database is, and how long to wait for it. The pool's keys are Spring's own."""

    url: URL = field(repr=False)
    pool_size: int
    pool_wait: timedelta
    max_lifetime: timedelta
    connect_timeout: timedelta
    statement_timeout: timedelta

    @classmethod
    def of(cls, properties: Properties) -> "DatasourceSettings":
        pool, own = "spring.datasource.hikari", "nozie.datasource"
        threads = properties.integer("nozie.server.threads", 8, minimum=1)
        return cls(
            url=_url(properties),
            # A thread uses one connection at a time.
            pool_size=properties.integer(f"{pool}.maximum-pool-size", threads, minimum=1),
            pool_wait=properties.duration(f"{pool}.connection-timeout", timedelta(seconds=2)),
            max_lifetime=properties.duration(f"{pool}.max-lifetime", timedelta(minutes=30)),
            connect_timeout=properties.duration(f"{own}.connect-timeout", timedelta(seconds=2)),
            statement_timeout=properties.duration(f"{own}.statement-timeout", timedelta(seconds=5)),
        )


def engine(properties: Properties) -> Engine:
    """Describe the database; nothing is opened before the first use, nor kept over a fork.

    Raises:
        ConfigurationError: `spring.datasource.url` is absent or no JDBC URL of PostgreSQL.
    """
    settings = DatasourceSettings.of(properties)
    extensions.set_wait_callback(_wait)
    made = create_engine(
        settings.url,
        poolclass=_Pool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait.total_seconds(),
        pool_recycle=int(settings.max_lifetime.total_seconds()),
        hide_parameters=True,
        connect_args={
            "connection_factory": _connection_class(settings),
            "application_name": properties.application,
            "options": f"-c statement_timeout={_ms(settings.statement_timeout)} -c timezone=UTC",
        },
    )
    event.listen(made, "checkout", _ensure_quiet)
    event.listen(made, "handle_error", _translate)
    _forget_after_fork(made)
    return made


def shared(environment: Environment) -> Engine:
    """Return the process's one engine, made anew when a refresh has changed its settings.

    Who holds the old one finishes with it; its connections are closed when they come back.
    """
    properties = environment.properties
    return scope(environment).get(
        "datasource",
        DatasourceSettings.of(properties),
        lambda: engine(properties),
        retire=Engine.dispose,
    )


def autocommit(engine: Engine) -> Engine:
    """Return the engine, on the same pool, for statements that are a transaction each.

    What is one statement needs no BEGIN and no COMMIT, which are a round trip each.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def delete_all(engine: Engine, table: Table, which: ColumnElement[bool]) -> int:
    """Delete rows that nobody needs any more; return how many.

    In batches, a transaction each: no lock is held for long, and a crowd of rows ends no statement
    by its time-out, after which it would only be larger. Safe side by side on two instances.
    """
    key = tuple_(*table.primary_key)
    batch = table.select().with_only_columns(*table.primary_key).where(which)
    batch = batch.limit(_DELETED_AT_ONCE).with_for_update(skip_locked=True)
    delete = table.delete().where(key.in_(batch))
    deleted = 0
    while True:
        with autocommit(engine).connect() as db:
            count = db.execute(delete).rowcount
        deleted += count
        if count < _DELETED_AT_ONCE:
            return deleted


class Notices:
    """What NOTIFY has sent to a connection; readable, for `select`, when there is something."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        number: int = self._driver.fileno()
        return number

    def drain(self) -> None:
        """Take what has come off the socket; what it says is only `look`.

        Raises:
            UnavailableError: the connection is closed.
        """
        try:
            self._driver.poll()
        except psycopg2.Error as error:
            _raise_unavailable(error)
        self._driver.notifies.clear()


@contextmanager
def listening(engine: Engine, channel: str) -> Iterator[Notices]:
    """Hear a channel, on a connection that is no longer the pool's.

    Raises:
        UnavailableError: the database is away.
    """
    with autocommit(engine).connect() as connection:
        driver = connection.connection.driver_connection
        connection.detach()
        connection.execute(text(f"LISTEN {channel}"))
        yield Notices(driver)


def check(of: Engine | Environment) -> Callable[[], Mapping[str, Any]]:
    """Build the health check `db`: one statement over the pool, an environment's present one."""

    def run() -> Mapping[str, Any]:
        engine = shared(of) if isinstance(of, Environment) else of
        with autocommit(engine).connect() as connection:
            connection.execute(text("SELECT 1"))
        return {"database": "PostgreSQL", "validationQuery": "SELECT 1"}

    return run


def migrate(engine: Engine, house: str) -> None:
    """Bring the database to the newest of `<house>/migrations/NNNN_*.py`.

    Two instances may start at once: an advisory lock makes one wait for the other, which then
    finds nothing to do. All steps are one transaction, so a failed start leaves nothing half-made.

    Raises:
        UnavailableError: the database is away.
    """
    # Here, and only here, since the process that prepares an instance ends: the others, which live
    # on, never hold Alembic.
    from cloud.stores import migrations  # noqa: PLC0415

    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        connection.detach()  # its longer patience must not come back to the pool
        driver.patience = _MIGRATION_LIMIT.total_seconds()
        with connection.begin():
            connection.execute(text(f"SET LOCAL statement_timeout = {_ms(_MIGRATION_LIMIT)}"))
            lock = {"key": zlib.crc32(f"nozie:migrations:{house}".encode())}
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), lock)
            migrations.upgrade(connection, _folder(house))


def migrated(engine: Engine, house: str) -> bool:
    """Tell whether the database has all of `<house>/migrations/NNNN_*.py`; NNNN is the revision.

    Raises:
        UnavailableError: the database is away.
    """
    newest = max(path.name[:4] for path in _folder(house).glob("[0-9]*.py"))
    with engine.connect() as connection:
        if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
            return False
        found = connection.execute(text("SELECT max(version_num) FROM alembic_version")).scalar()
    return found is not None and found >= newest


def await_tables(engine: Engine, house: str, stop: Stop) -> None:
    """Wait until `stop` for the database, and for the tables, which the house's `prepare` makes."""
    database = Outage("database")
    while not stop.is_set():
        try:
            if migrated(engine, house):
                return
            stop.wait(_LOOK_AROUND_S)
        except UnavailableError as error:
            database.away(error, stop)


def _folder(house: str) -> Path:
    spec = importlib.util.find_spec(house)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"{house}: there is no such package")
    return Path(spec.origin).parent / "migrations"


def _url(properties: Properties) -> URL:
    key = "spring.datasource.url"
    given = properties.text(key)
    try:
        url = make_url(given.removeprefix("jdbc:"))
    except (exc.ArgumentError, ValueError):
        url = None
    if url is None or url.drivername != "postgresql":
        raise ConfigurationError(
            f"{properties.application}: {key} ({properties.origin(key)}) is not of the form"
            " jdbc:postgresql://host:port/database"
        )
    # JDBC's query parameters are not libpq's; the one that both spell alike is kept.
    query = {name: value for name, value in url.query.items() if name == "sslmode"}
    return url.set(
        drivername="postgresql+psycopg2",
        username=properties.get("spring.datasource.username") or url.username,
        password=properties.get("spring.datasource.password") or url.password,
        query=query,
    )


class _Pool(QueuePool):
    """A pool that is busy for too long answers with our word for it; meters know of it."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        metrics.pools.add(self)

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except exc.TimeoutError as busy:
            raise UnavailableError("the database has no connection free") from busy

    def has_connected(self) -> bool:
        """Tell whether it has a connection, or one is being made; takes no lock."""
        return self.overflow() > -self.size()


class _Connection(extensions.connection):
    """A connection that knows how long a wait for the server may take, in seconds."""

    connect_patience: float
    statement_patience: float
    patience: float | None = None

    def set_isolation_level(self, level: int | None) -> None:
        """Begin transactions or not; at a level that is named, psycopg2 would tell the server."""
        if level in {extensions.ISOLATION_LEVEL_AUTOCOMMIT, _DEFAULT_LEVEL}:
            self.autocommit = level == extensions.ISOLATION_LEVEL_AUTOCOMMIT
        else:
            super().set_isolation_level(level)


def _connection_class(settings: DatasourceSettings) -> type[_Connection]:
    """Build the class whose waits end a little after the server itself should have given up."""
    return type(
        "_Connection",
        (_Connection,),
        {
            "connect_patience": settings.connect_timeout.total_seconds(),
            "statement_patience": settings.statement_timeout.total_seconds() + 1,
        },
    )


def _wait(connection: extensions.connection) -> None:
    """Wait for the server with a deadline (psycopg2's wait callback).

    libpq waits for ever for a server that is frozen but whose kernel still acknowledges. The error
    raised here closes the connection, so that no late answer meets the wrong question.
    """
    limit = _patience(connection)
    deadline = None if limit is None else time.monotonic() + limit
    poller = select.poll()
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        poller.register(connection.fileno(), wanted)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poller.poll(left):
            raise psycopg2.OperationalError("the server did not answer in time")


def _patience(connection: extensions.connection) -> float | None:
    if not isinstance(connection, _Connection):
        return None
    if connection.patience is None:
        # The first wait is the one for the connection itself.
        connection.patience = connection.statement_patience
        return connection.connect_patience
    return connection.patience


def _ensure_quiet(
    driver: extensions.connection, _record: ConnectionPoolEntry, _handed: PoolProxiedConnection
) -> None:
    """Let the pool replace a connection that the server has closed, before a statement is lost.

    Nothing may be waiting on an idle connection: what is there is the end, or the server's word
    why. Asking the kernel costs no round trip, which a ping, at each use, would.

    Raises:
        DisconnectionError: to the pool, which connects anew.
    """
    poller = select.poll()
    poller.register(driver.fileno(), select.POLLIN)
    if poller.poll(0):
        raise exc.DisconnectionError("the server has closed the connection")


def _translate(context: ExceptionContext) -> None:
    cause = context.original_exception
    state = getattr(cause, "pgcode", None) or ""
    unasked = isinstance(cause, psycopg2.OperationalError) and not state
    if context.is_disconnect or unasked or state.startswith(_AWAY):
        _raise_unavailable(cause)


def _raise_unavailable(cause: BaseException) -> NoReturn:
    raise UnavailableError("the database is not reachable") from cause


def _forget_after_fork(made: Engine) -> None:
    """Leave inherited sockets to the parent: two processes on one would mix their answers."""
    kept = weakref.ref(made)

    def forget() -> None:
        alive = kept()
        # A pool that has no connection yet, as in an arbiter, is good for the child as it is; a
        # new one would cost every child 2 MB of pages that were shared.
        if alive is not None and isinstance(alive.pool, _Pool) and alive.pool.has_connected():
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


def _ms(span: timedelta) -> int:
    return round(span / timedelta(milliseconds=1))
