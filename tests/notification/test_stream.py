"""The live stream over real sockets, with the real Redis and document store."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from cloud import security
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.testing import SECRET, bearer, properties, token
from cloud.web import stopping, streams
from notification import service
from notification.app import connect, create_app
from notification.domain import Audience, UserId
from notification.routes.stream import Stream
from notification.schema import dump_push
from tests.notification.reader import Reader, draft
from tests.serving import Serving
from tests.waiting import eventually
from tests.wire import Wire

ANN, BOB = bearer(7), bearer(8)
_THREADS = {"push", "watch"}


@pytest.fixture
def serve(environment) -> Iterator[Callable[..., Any]]:
    """Serve the application, as one worker does; several may be served at once."""
    servers: list[Any] = []
    stopping.clear()

    def start(served: Environment = environment) -> Any:
        app = create_app(served)
        server: Any = Serving(app)
        servers.append(server)
        server.hub = app.extensions["deps"].hub
        return server

    yield start
    stopping.set()
    for server in servers:
        server.close()
    eventually(lambda: not [each for each in threading.enumerate() if each.name in _THREADS])
    stopping.clear()


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def connected(server: Any, headers: dict[str, str] = ANN, last: str | None = None) -> Reader:
        resumed = {} if last is None else {"Last-Event-ID": last}
        reader = Reader(server.port, {**headers, **resumed})
        readers.append(reader)
        if reader.status == 200 and last is None:
            eventually(lambda: server.hub.live)
        return reader

    yield connected
    for reader in readers:
        reader.close()


@pytest.fixture
def tell(deps):
    def told(title: str, **whom: Any) -> str:
        return service.tell(
            draft(title, **whom),
            notifications=deps.notifications,
            announcements=deps.announcements,
            dump=dump_push,
            now=utc_now(),
        ).id

    return told


def test_a_push_reaches_every_stream_of_the_user_on_any_instance_and_nobody_else(serve, read, tell):
    here, there = serve(), serve()
    mine, elsewhere, bobs = read(here), read(there), read(there, BOB)
    key = tell("paid")
    for reader in (mine, elsewhere):
        event = reader.next()
        assert (event["event"], event["id"]) == ("notification", key)
        assert event["data"]["title"] == "paid"
        assert event["data"]["readAt"] is None
    tell("for Bob", user=8)
    assert bobs.next()["data"]["title"] == "for Bob"


def test_what_the_stream_says_of_itself(serve, read):
    reader = read(serve())
    assert reader.headers["Content-Type"].startswith("text/event-stream")
    assert reader.headers["Cache-Control"] == "no-store"
    reader.beat()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}], ids=["none", "forged"])
def test_a_stream_wants_a_token(headers, serve, read):
    assert read(serve(), headers).status == 401


def test_a_reader_that_comes_back_gets_what_it_missed_and_nothing_before(serve, read, deps, tell):
    server = serve()
    long_ago = utc_now() - timedelta(minutes=5)
    deps.notifications.add_many([draft("old")], now=long_ago - timedelta(minutes=5))
    ((last, _),) = deps.notifications.add_many([draft("last")], now=long_ago)
    for number in range(250):
        moment = long_ago + timedelta(seconds=1 + number)
        deps.notifications.add_many([draft(f"missed {number}")], now=moment)
    reader = read(server, last=last.id)
    titles = [reader.next()["data"]["title"] for _ in range(250)]
    assert titles == [f"missed {number}" for number in range(250)]
    tell("now")
    assert reader.next()["data"]["title"] == "now"


def test_a_reader_may_come_back_with_the_id_of_what_was_deleted_meanwhile(serve, read, deps, tell):
    server = serve()
    last = tell("deleted")
    tell("missed")
    deps.notifications.delete(last)
    assert read(server, last=last).next()["data"]["title"] == "missed"


@pytest.mark.parametrize("last", ["no id", "", "0" * 24, "f" * 24])
def test_a_last_event_id_of_no_sense_does_not_break_the_stream(last, serve, read, tell):
    server = serve()
    reader = read(server, last=last)
    eventually(lambda: server.hub.live)
    tell("now")
    assert reader.next()["data"]["title"] == "now"


def test_a_customers_notification_reaches_the_user_behind_the_record(serve, read, tell):
    """A JVM publisher names no user."""
    reader = read(serve())
    tell("for the record", user=None, customer=1)
    assert reader.next()["data"]["customerId"] == 1


def test_while_redis_is_away_the_store_is_asked_and_nothing_comes_twice(
    serve, read, settings, environment
):
    address, number = settings["spring.data.redis.url"].removeprefix("redis://").split("/")
    with Wire(address) as wire:
        url = f"redis://127.0.0.1:{wire.port}/{number}"
        away = Environment(
            properties(
                "notification-service",
                {**settings, "spring.data.redis.url": url, "spring.data.redis.timeout": "300ms"},
            )
        )
        deps = connect(away)
        server = serve(away)
        reader = read(server)

        def told(title: str) -> None:
            service.tell(
                draft(title),
                notifications=deps.notifications,
                announcements=deps.announcements,
                dump=dump_push,
                now=utc_now(),
            )

        told("before")
        assert reader.next()["data"]["title"] == "before"
        wire.cut()
        eventually(lambda: not server.hub.live)
        told("during")
        assert reader.next()["data"]["title"] == "during"
        wire.mend()
        eventually(lambda: server.hub.live)
        told("after")
        assert reader.next()["data"]["title"] == "after"


def test_a_worker_holds_so_many_streams_and_no_more(serve, read):
    server = serve()
    held = [read(server) for _ in range(3)]
    refused = read(server)
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert json.loads(refused.read())["success"] is False
    held[0].close()
    eventually(lambda: read(server).status == 200)


def test_a_stream_ends_when_the_worker_drains(serve, read):
    reader = read(serve())
    stopping.set()
    assert reader.next() is None


def test_a_stream_ends_with_its_token(serve, read):
    soon = int((datetime.now(UTC) + timedelta(seconds=2)).timestamp())  # noqa: TID251
    reader = read(serve(), bearer(7, exp=soon))
    assert reader.next() is None


def test_a_push_that_is_none_of_ours_is_left_out(serve, read, tell, deps):
    reader = read(serve())
    for payload in (b"no JSON", b"{}", b'{"id":1,"createdAt":7}', b"[]"):
        deps.announcements.announce(payload, user_id=UserId(7), customer_id=None)
    tell("ours")
    assert reader.next()["data"]["title"] == "ours"


def test_what_is_told_while_a_reader_catches_up_comes_after_what_it_missed(serve, deps):
    """The id that it got last says where it goes on."""
    serve()
    ((last, _),) = deps.notifications.add_many([draft("last")], now=utc_now())
    deps.notifications.add_many([draft(f"missed {n}") for n in range(3)], now=utc_now())
    assert deps.hub.reserve()
    here, there = socket.socketpair()
    with here:
        caller = security.verify(token(), SECRET, now=utc_now())
        stream = Stream(deps, caller, Audience(UserId(7)), last=last.id)
        opening = stream.opening()
        streams.adopt(there, stream.out, chunked=False)
        stream.out.send(next(opening))
        stream.out.send(next(opening), missed=True)
        ((now, _),) = deps.notifications.add_many([draft("now")], now=utc_now())
        stream.push(dump_push(now))
        for chunk in opening:
            stream.out.send(chunk, missed=True)
        received = b""
        while received.count(b"data: ") < 4:
            received += here.recv(10_000)
        titles = re.findall(rb'"title":"([^"]*)"', received)
        assert titles == [b"missed 0", b"missed 1", b"missed 2", b"now"]


def test_a_push_that_is_no_text_leaves_nobody_deaf(serve, read, tell, deps):
    reader = read(serve())
    deps.announcements.announce(b"\xff\xfe", user_id=UserId(7), customer_id=None)
    tell("text")
    assert reader.next()["data"]["title"] == "text"


def test_a_refresh_of_stream_settings_leaves_no_second_subscriber(
    serve, read, environment, settings
):
    server = serve()
    before, reader = server.hub, read(server)
    changes = {"nozie.notification.stream.check": "29s"}
    environment.replace(properties("notification-service", {**settings, **changes}))
    assert connect(environment).hub is not before
    assert reader.next() is None
    again = Reader(server.port, ANN)
    assert again.status == 200
    eventually(lambda: [each.name for each in threading.enumerate()].count("push") == 1)
    assert not before.reserve()
    again.close()


def test_a_push_that_a_crash_prevented_is_made_up_for_by_the_next_delivery(serve, read, deps, tell):
    """Stored, but the process died before the push: the redelivered event pushes."""
    reader = read(serve())
    deps.notifications.add_many([draft("paid")], now=utc_now() - timedelta(minutes=1))
    tell("paid")
    assert reader.next()["data"]["title"] == "paid"


def test_a_look_that_fails_is_not_the_last():
    """The only thread that looks goes on: streams would be deaf without a word."""
    looks = []

    def among(_):
        looks.append("look")
        if len(looks) == 1:
            raise ZeroDivisionError
        return {"its token"}

    ended = threading.Event()
    listener = SimpleNamespace(caller=SimpleNamespace(jti="its token"), end=ended.set)
    streams = SimpleNamespace(
        live=True,
        join=lambda _: None,
        listeners=lambda: [] if ended.is_set() else [listener],
        wait=lambda _: True,
    )
    soon = timedelta(milliseconds=1)
    known = SimpleNamespace(among=among)
    nobody: Any = None
    watch = service.Watch(streams, nobody, known, check=soon, poll=soon, now=utc_now)
    with capture_logs() as said:
        watch.join(nobody)
        assert ended.wait(20)
    assert [line["event"] for line in said] == ["look_failed"]
