"""The three stores, the real ones, with the faults that they have in real life."""

import os
import threading
from collections.abc import Iterator

import pymongo
import pytest
import redis
import sqlalchemy as sa

from cloud.config import Properties
from cloud.errors import ConfigurationError, UnavailableError
from cloud.stores import mongo, postgres
from cloud.stores import redis as redis_store
from tests.waiting import eventually
from tests.wire import Wire

HOUSE = "tests.cloud.migrated_house"


def properties(*parts, **more) -> Properties:
    values = {key: value for part in parts for key, value in part.items()}
    return Properties.of({**values, **more}, "identity-service")


def through(wire: Wire, database: dict[str, str]) -> dict[str, str]:
    name = database["spring.datasource.url"].rsplit("/", 1)[1]
    return {**database, "spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{wire.port}/{name}"}


@pytest.fixture
def wire(database) -> Iterator[Wire]:
    with Wire(database["spring.datasource.url"].split("/")[2]) as made:
        yield made


@pytest.fixture
def wired(wire, database) -> Iterator[sa.Engine]:
    short = {"nozie.datasource.statement-timeout": "500ms", "nozie.server.threads": "2"}
    made = postgres.engine(properties(through(wire, database), short))
    yield made
    made.dispose()


def one(engine: sa.Engine):
    with engine.connect() as db:
        return db.execute(sa.text("SELECT 1")).scalar_one()


def test_nothing_is_opened_before_the_first_use(wire, wired):
    assert wire.connections == 0
    assert postgres.check(wired)()["database"] == "PostgreSQL"
    assert wire.connections == 1


def test_a_restarted_database_is_noticed_before_a_statement_is_lost(wire, wired):
    assert one(wired) == 1
    wire.cut()
    wire.mend()
    assert one(wired) == 1


def test_a_database_that_is_away_is_unavailable_and_heals(wire, wired):
    wire.cut()
    with pytest.raises(UnavailableError):
        one(wired)
    wire.mend()
    assert one(wired) == 1


@pytest.mark.parametrize("connected", [True, False], ids=["while in use", "while connecting"])
def test_a_frozen_database_ends_the_wait(connected, wire, wired):
    """Without a limit libpq waits for ever: the kernel of a stopped server still acknowledges."""
    if connected:
        one(wired)
    wire.freeze()
    with pytest.raises(UnavailableError):
        one(wired)
    wire.mend()
    assert one(wired) == 1


def test_a_statement_out_of_time_is_unavailable(wired):
    with pytest.raises(UnavailableError), wired.connect() as db:
        db.execute(sa.text("SELECT pg_sleep(10)"))
    assert one(wired) == 1


def test_a_pool_that_stays_busy_is_unavailable(database):
    short = {"spring.datasource.hikari.maximum-pool-size": "1"}
    engine = postgres.engine(
        properties(database, short, **{"spring.datasource.hikari.connection-timeout": "50"})
    )
    with engine.connect(), pytest.raises(UnavailableError):
        engine.connect()
    engine.dispose()


def test_what_is_one_statement_is_one_round_trip(database):
    two = {"spring.datasource.hikari.maximum-pool-size": "2"}
    engine = postgres.engine(properties(database, two))
    single = postgres.autocommit(engine)
    with single.connect() as db:
        backend = db.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    last = "SELECT query, state FROM pg_stat_activity WHERE pid = :pid"
    with engine.connect(), single.connect() as db:
        told = db.execute(sa.text(last), {"pid": backend}).one()
    # No COMMIT, and no SET as the connection went back and came again.
    assert tuple(told) == ("SELECT pg_backend_pid()", "idle")
    # The same connections still begin transactions where these are asked for.
    with engine.begin() as one, engine.begin() as another:
        for db in (one, another):
            begun = [db.execute(sa.text("SELECT now()")).scalar_one() for _ in range(2)]
            assert begun[0] == begun[1]
    engine.dispose()


def test_a_wrong_statement_is_not_taken_for_a_fault_of_the_server(wired):
    with pytest.raises(sa.exc.ProgrammingError), wired.connect() as db:
        db.execute(sa.text("SELECT nothing_of_that_name"))


def test_a_fork_does_not_share_an_open_connection(wired):
    backend = sa.text("SELECT pg_backend_pid()")
    with wired.connect() as db:
        mine = db.execute(backend).scalar_one()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        with wired.connect() as db:
            os.write(writer, str(db.execute(backend).scalar_one()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    assert theirs != mine
    with wired.connect() as db:
        assert db.execute(backend).scalar_one() == mine


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("jdbc:mysql://localhost/db", id="another database"),
        pytest.param("localhost", id="no URL"),
        pytest.param("jdbc:postgresql://localhost:port/db", id="a port in words"),
    ],
)
def test_a_datasource_that_cannot_be_used_names_its_key_and_not_its_value(url):
    with pytest.raises(ConfigurationError, match=r"spring\.datasource\.url") as raised:
        postgres.engine(properties({"spring.datasource.url": url}))
    assert url not in str(raised.value)


def test_migrations_run_once_however_many_instances_start(database):
    engines = [postgres.engine(properties(database)) for _ in range(3)]
    threads = [
        threading.Thread(target=postgres.migrate, args=(engine, HOUSE)) for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    postgres.migrate(engines[0], HOUSE)
    with engines[0].connect() as db:
        assert db.execute(sa.text("SELECT title FROM films")).scalars().all() == ["one"]
    for engine in engines:
        engine.dispose()


def test_migrations_accept_the_tables_of_a_jvm_neighbour(database):
    engine = postgres.engine(properties(database))
    with engine.begin() as db:
        db.execute(sa.text("CREATE TABLE films (id bigserial PRIMARY KEY, title varchar(255))"))
    assert not postgres.migrated(engine, HOUSE)
    postgres.migrate(engine, HOUSE)
    assert postgres.migrated(engine, HOUSE)
    assert one(engine) == 1
    engine.dispose()


def test_the_document_store_answers_and_keeps_journaled_writes(mongo_uri):
    database = mongo.database(properties({"spring.data.mongodb.uri": mongo_uri}))
    assert mongo.check(database)()["maxWireVersion"] >= 9
    assert database["films"].insert_one({"slug": "one"}).acknowledged
    assert [film["slug"] for film in database["films"].find()] == ["one"]
    assert database.client.options.write_concern.document["j"] is True
    database.client.close()


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_document_store_that_is_away_is_translated_and_heals(fault, mongo_uri):
    address = mongo_uri.split("/")[2]
    with Wire(address) as wire:
        database = mongo.database(
            properties(
                {"spring.data.mongodb.uri": mongo_uri.replace(address, f"127.0.0.1:{wire.port}")},
                {"nozie.mongodb.socket-timeout": "500", "nozie.mongodb.connect-timeout": "500"},
            )
        )
        assert mongo.check(database)()
        getattr(wire, fault)()
        with pytest.raises(pymongo.errors.PyMongoError) as raised:
            mongo.check(database)()
        assert any(isinstance(raised.value, known) for known in mongo.TRANSLATIONS)
        wire.mend()
        eventually(mongo.check(database))
        database.client.close()


def test_a_document_store_that_a_refresh_has_replaced_is_away(mongo_uri):
    """Who holds it for longer than a request may take is told so, and does not end of it."""
    database = mongo.database(properties({"spring.data.mongodb.uri": mongo_uri}))
    database.client.close()
    with pytest.raises(UnavailableError), mongo.translated():
        database.command("hello")


@pytest.mark.parametrize("uri", ["mongodb://localhost", "localhost:27017/films", "mongodb://:x/a"])
def test_a_document_store_without_a_database_is_refused_at_the_start(uri):
    with pytest.raises(ConfigurationError, match=r"spring\.data\.mongodb\.uri"):
        mongo.database(properties({"spring.data.mongodb.uri": uri}))


def test_redis_answers_by_url_and_by_host(redis_url):
    client = redis_store.client(properties({"spring.data.redis.url": redis_url}))
    assert redis_store.check(client)()["version"]
    client.set("name", "ß")
    address, number = redis_url.removeprefix("redis://").split("/")
    host, port = address.split(":")
    other = redis_store.client(
        properties({"spring.data.redis": {"host": host, "port": port, "database": number}})
    )
    assert other.get("name") == "ß"
    client.close()
    other.close()


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_redis_that_is_away_is_translated_and_heals(fault, redis_url):
    address, number = redis_url.removeprefix("redis://").split("/")
    with Wire(address) as wire:
        client = redis_store.client(
            properties(
                {"spring.data.redis.url": f"redis://127.0.0.1:{wire.port}/{number}"},
                {"spring.data.redis.timeout": "300ms"},
            )
        )
        assert redis_store.check(client)()
        getattr(wire, fault)()
        with pytest.raises(redis.RedisError) as raised:
            client.get("name")
        assert any(isinstance(raised.value, known) for known in redis_store.TRANSLATIONS)
        wire.mend()
        assert redis_store.check(client)()
        client.close()
