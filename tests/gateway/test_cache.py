"""MetadataCache on a real gateway, Redis and broker: what is kept, for whom, and until when."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pika
import pytest

from cloud.config import Environment
from cloud.testing import properties
from gateway import worker
from gateway.filters.metadata_cache import GENERATION, INDEX
from tests.gateway.conftest import ROUTES, Gateway, bearer, settings
from tests.ports import free_port
from tests.serving import Handler, Serving
from tests.waiting import eventually, running

SIMPLE = "spring.cloud.discovery.client.simple.instances"
ENTRIES = "nozie:gateway:cache:*"
PERSONAL = {
    "no-store": {"Cache-Control": "no-store"},
    "private": {"Cache-Control": "private, max-age=60"},
    "no-cache": {"Cache-Control": "no-cache, max-age=60"},
    "silent": {},
    "zero": {"Cache-Control": "max-age=0"},
    "cookie": {"Cache-Control": "max-age=60", "Set-Cookie": "a=b"},
    "varied": {"Cache-Control": "max-age=60", "Vary": "Authorization"},
}


class Movies(Serving):
    """A movie service that counts; `/api/movies/<name>` is kept unless PERSONAL says otherwise.

    Attributes:
        down: it answers 503.
        breaks: it hangs up in the middle of an answer.
        go_on: cleared, an answer is held back.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.heads: list[dict[str, str]] = []
        self.down = self.breaks = False
        self.go_on = threading.Event()
        self.go_on.set()
        movies = self

        class Titles(Handler):
            protocol_version = "HTTP/1.1"

            def reply(self):
                name = self.path.rsplit("/", 1)[-1]
                movies.asked[name] += 1
                movies.heads.append({k.lower(): v for k, v in self.headers.items()})
                number = movies.asked[name]
                movies.go_on.wait(10)
                headers = PERSONAL.get(name, {"Cache-Control": "max-age=60"})
                size = 200 * 1024 if name == "large" else 10
                body = json.dumps({"name": name, "number": number, "x": "x" * size}).encode()
                if name == "short":
                    headers = {"Cache-Control": "max-age=1"}
                if movies.breaks:
                    self.send_response(200)
                    self.send_header("Cache-Control", "max-age=60")
                    self.send_header("Content-Length", str(len(body) + 1))
                    self.end_headers()
                    self.wfile.write(body)
                    self.close_connection = True
                    return
                if name != "chunked":
                    self.answer(503 if movies.down else 200, body, headers)
                    return
                self.send_response(200)
                for header in headers.items():
                    self.send_header(*header)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

        super().__init__(Titles)


@pytest.fixture(scope="module")
def movies() -> Iterator[Movies]:
    with closing(Movies()) as service:
        yield service


def cached(store, movies, **more: object) -> Gateway:
    return Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": movies.url,
            ROUTES: [
                {
                    "id": "movie-service",
                    "uri": "lb://movie-service",
                    "predicates": ["Path=/api/movies/**"],
                    "filters": ["MetadataCache"],
                }
            ],
            **more,
        }
    )


@pytest.fixture(scope="module")
def gateway(store, movies) -> Iterator[Gateway]:
    running = cached(store, movies)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def fresh(store, movies) -> Iterator[None]:
    store.flushdb()
    movies.asked.clear()
    movies.heads.clear()
    yield
    movies.down = movies.breaks = False
    movies.go_on.set()


def ask(gateway, name, user=7, roles=("USER",), **headers):
    return gateway.ask(f"/api/movies/{name}", Authorization=bearer(user, *roles), **headers)


def test_the_second_answer_comes_from_the_cache(gateway, movies, store):
    first, second = ask(gateway, "a"), ask(gateway, "a", user=8)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT")
    assert first.body == second.body
    assert first.headers["etag"] == second.headers["etag"]
    assert int(second.headers["age"]) <= 2
    assert "age" not in first.headers
    assert movies.asked["a"] == 1
    (key,) = store.keys(ENTRIES)
    assert key.decode().startswith("nozie:gateway:cache:movie-service:")
    assert 0 < store.ttl(key) <= 60


def test_every_answer_has_a_correlation_id_of_its_own(gateway):
    answers = [ask(gateway, "b") for _ in range(2)]
    assert len({answer.headers["x-correlation-id"] for answer in answers}) == 2


@pytest.mark.parametrize("name", PERSONAL)
def test_what_is_for_one_caller_or_names_no_lifetime_is_never_kept(gateway, movies, store, name):
    answers = [ask(gateway, name) for _ in range(3)]
    assert [answer.json()["number"] for answer in answers] == [1, 2, 3]
    assert all("x-cache" not in answer.headers for answer in answers)
    assert not store.keys(ENTRIES)


def test_each_role_class_has_answers_of_its_own(gateway, movies):
    for roles in (("USER",), ("USER", "ADMIN"), ("ADMIN", "USER"), ("USER",)):
        ask(gateway, "c", roles=roles)
    assert movies.asked["c"] == 2


@pytest.mark.parametrize(
    ("first", "second", "asked"),
    [
        pytest.param("?x=1&y=2", "?y=2&x=1", 1, id="the order of a query means nothing"),
        pytest.param("?x=1", "?x=2", 2, id="its values do"),
        pytest.param("?x=1&x=2", "?x=2&x=1", 2, id="in their order"),
        pytest.param("", "?x=1", 2, id="so does having one"),
    ],
)
def test_a_query_is_part_of_the_name(gateway, movies, first, second, asked):
    for query in (first, second):
        ask(gateway, f"d{query}")
    assert sum(movies.asked.values()) == asked


@pytest.mark.parametrize("header", ["Accept", "Accept_Encoding"])
def test_negotiated_answers_are_kept_apart(gateway, movies, header):
    for value in ("a/b", "c/d", "a/b"):
        ask(gateway, "e", **{header: value})
    assert movies.asked["e"] == 2


def test_each_name_of_the_gateway_has_answers_of_its_own(gateway, movies):
    """A service may write into links what it is told of the host."""
    for host in ("evil.example", "api"):
        lines = (f"Host: {host}", f"Authorization: {bearer(7, 'USER')}", "Connection: close")
        head = "\r\n".join(("GET /api/movies/h HTTP/1.1", *lines, "", ""))
        assert b"X-Cache: MISS" in gateway.say(head.encode())
        assert movies.heads[-1]["x-forwarded-host"] == host


def test_who_picks_an_instance_passes_by(gateway, movies, store):
    for _ in range(2):
        assert "x-cache" not in ask(gateway, "i", X_SC_LB_Hint="canary").headers
    assert movies.asked["i"] == 2
    assert not store.keys(ENTRIES)


def test_a_known_tag_is_answered_with_304(gateway, movies):
    tag = ask(gateway, "f").headers["etag"]
    again = ask(gateway, "f", If_None_Match=f'"other", W/{tag}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask(gateway, "f", If_None_Match='"other"').status == 200


def test_a_condition_does_not_reach_the_service(gateway, movies):
    """The cache wants a whole answer, whatever the one has who asks first."""
    assert ask(gateway, "g", If_None_Match='"old"').status == 200
    assert "if-none-match" not in movies.heads[-1]


def test_those_who_ask_at_once_make_one_request(gateway, movies):
    movies.go_on.clear()
    with ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(ask, gateway, "h", user) for user in range(30)]
        eventually(lambda: movies.asked["h"])
        movies.go_on.set()
        answers = [each.result() for each in waiting]
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["number"] for answer in answers} == {1}
    assert movies.asked["h"] == 1


def test_the_first_who_asks_may_leave_without_harm_to_the_others(gateway, movies):
    movies.go_on.clear()
    client = gateway.open()
    head = f"GET /api/movies/i HTTP/1.1\r\nHost: api\r\nAuthorization: {bearer(7, 'USER')}\r\n\r\n"
    client.sendall(head.encode())
    eventually(lambda: movies.asked["i"])
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(ask, gateway, "i", 8)
        client.close()
        movies.go_on.set()
        assert other.result().status == 200
    assert movies.asked["i"] == 1


def test_who_asks_beside_a_fetch_that_hangs_soon_asks_for_himself(gateway, movies):
    movies.go_on.clear()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, gateway, "hanging", user) for user in range(3)]
        eventually(lambda: movies.asked["hanging"] == 3)
        movies.go_on.set()
        assert {each.result().status for each in waiting} == {200}


def test_an_older_copy_serves_while_a_fetch_hangs(gateway, movies):
    body = ask(gateway, "short").body
    eventually(lambda: ask(gateway, "short").headers["x-cache"] == "MISS")
    number = json.loads(body)["number"] + 1
    eventually(lambda: movies.asked["short"] == number)
    movies.go_on.clear()
    stale: Any = eventually(
        lambda: (found := ask(gateway, "short")).headers["x-cache"] == "STALE" and found
    )
    assert (stale.status, stale.json()["number"]) == (200, number)
    movies.go_on.set()
    eventually(lambda: ask(gateway, "short").json()["number"] > number)


def test_an_older_copy_serves_in_place_of_an_answer_that_breaks_off(gateway, movies):
    ask(gateway, "short")
    movies.breaks = True
    stale: Any = eventually(
        lambda: (found := ask(gateway, "short")).headers.get("x-cache") != "HIT" and found
    )
    assert (stale.status, stale.headers["x-cache"]) == (200, "STALE")
    assert ask(gateway, "never-seen").status in {502, 503}


@pytest.mark.parametrize(("name", "kept"), [("large", False), ("chunked", True)])
def test_large_answers_pass_whole(gateway, movies, name, kept):
    answers = [ask(gateway, name) for _ in range(2)]
    assert all(answer.status == 200 for answer in answers)
    assert movies.asked[name] == (1 if kept else 2)
    size = 200 * 1024 if name == "large" else 10
    body = answers[1].body
    assert len(json.loads(body)["x"]) == size


def test_a_full_cache_has_room_for_what_is_new(gateway, movies, store):
    """Whoever makes up queries fills it; what others ask for must not stay outside for that."""
    made_up = {f"nozie:gateway:cache:made-up:{number}": number for number in range(2000)}
    store.mset(made_up)
    store.zadd(INDEX, dict.fromkeys(made_up, time.time() + 86_400))
    assert [ask(gateway, "a").headers["x-cache"] for _ in range(2)] == ["MISS", "HIT"]
    assert store.zcard(INDEX) == 2000
    assert len(store.keys("nozie:gateway:cache:made-up:*")) == 1998


def test_writes_and_parts_pass_by(gateway, movies):
    for _ in range(2):
        assert ask(gateway, "j", Range="bytes=0-3").status == 200
    assert movies.asked["j"] == 2


def test_what_was_kept_serves_while_the_service_is_down(gateway, movies):
    body = ask(gateway, "short").body
    movies.down = True
    answers = [ask(gateway, "short")]

    def stale_now():
        answers.append(ask(gateway, "short"))
        return answers[-1].headers["x-cache"] == "STALE"

    eventually(stale_now)
    stale = answers[-1]
    assert (stale.status, stale.body) == (200, body)
    assert int(stale.headers["age"]) >= 1
    assert ask(gateway, "never-seen").status == 503


def test_without_redis_requests_pass(movies, store):
    away = cached(store, movies, **{"spring.data.redis.port": free_port()})
    try:
        answers = [ask(away, "k") for _ in range(3)]
        assert [answer.json()["number"] for answer in answers] == [1, 2, 3]
    finally:
        away.stop()


@pytest.fixture
def evictor(store, amqp, channel) -> Iterator[pika.BlockingConnection]:
    """The chore at work, and a connection to tell it something."""
    redis = {key: str(value) for key, value in settings(store).items()}
    environment = Environment(properties("gateway", {**amqp, **redis}))

    def listening():
        with channel.connection.channel() as other:
            try:
                return other.queue_declare(worker.QUEUE, passive=True).method.consumer_count
            except pika.exceptions.ChannelClosedByBroker:
                return 0

    with running(environment, worker.evict):
        eventually(listening)
        yield channel.connection


def announce(connection) -> None:
    body = json.dumps({"id": "1", "slug": "a", "occurredAt": "2026-01-01T00:00:00"})
    with connection.channel() as channel:
        channel.basic_publish(*worker.CHANGES, body.encode())


def test_a_changed_movie_ends_all_copies_within_a_second(gateway, movies, store, evictor):
    ask(gateway, "l")
    announce(evictor)
    began = time.monotonic()
    eventually(lambda: not store.keys("nozie:gateway:cache:*") + store.keys("*:stale:*"))
    assert ask(gateway, "l").json()["number"] == 2
    assert time.monotonic() - began < 5  # the promise is one second; the machine may be busy


def test_an_operator_sees_the_cache_and_makes_all_gateways_forget(gateway, movies, store):
    target = f"redis {INDEX}"
    path = "/actuator/caches"
    known = {"cacheManagers": {"cacheManager": {"caches": {"metadata": {"target": target}}}}}
    assert gateway.ask(path).json() == known
    one = {"target": target, "name": "metadata", "cacheManager": "cacheManager"}
    assert gateway.ask(f"{path}/metadata").json() == one
    for name in ("", "/metadata"):
        ask(gateway, "o")
        assert store.keys(ENTRIES)
        assert gateway.ask(f"{path}{name}", "DELETE").status == 204
        assert not store.keys(ENTRIES)
    assert movies.asked["o"] == 2
    assert gateway.ask(f"{path}/none", "DELETE").status == gateway.ask(f"{path}/none").status == 404


def test_an_answer_older_than_the_change_is_not_kept(gateway, movies, store, evictor):
    """Fetched before, arrived after: it would outlive the change by its whole time to live."""
    movies.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, gateway, "m")
        eventually(lambda: movies.asked["m"])
        announce(evictor)
        eventually(lambda: store.get(GENERATION))
        movies.go_on.set()
        assert waiting.result().status == 200
    assert not store.keys(ENTRIES)
    assert ask(gateway, "m").json()["number"] == 2
