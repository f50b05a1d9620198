"""LocalResponseCache: what is kept, for whom, for how long, and in how much memory."""

import re
from dataclasses import replace

import pytest

from cloud.breaker import Breakers
from cloud.clock import utc_now
from cloud.config import Properties
from cloud.errors import ConfigurationError
from cloud.security import Principal
from gateway.exchange import Exchange, Reply, Stream, Tools
from gateway.filters import build
from gateway.filters.local_response_cache import Cache, everywhere
from gateway.handler import refusal
from gateway.route import define

OPTIONS = "filter.local-response-cache"


async def nowhere(*_):
    raise AssertionError


def tools(share=1, **options):
    given = {f"{OPTIONS}.{name}": value for name, value in options.items()}
    return Tools(Breakers(Properties.of({})).get, nowhere, nowhere, given.get, share=share)


class Service:
    """Numbers its answers, and gives each the headers it is told."""

    def __init__(self, *headers, status=200, size=0):
        self.asked, self.headers, self.status, self.size = 0, list(headers), status, size

    async def __call__(self, _):
        self.asked += 1
        return Reply(self.status, list(self.headers), b"%d" % self.asked + b"x" * self.size)


class Source:
    """One that has nothing to be slowed down."""

    def pause_reading(self):
        pass

    resume_reading = abandon = pause_reading


def request(*headers, path="/a", **changes):
    base = {"method": "GET", "path": path, "raw_path": path, "route": "r", "host": "api"}
    authorization = next((value for name, value in headers if name == b"authorization"), None)
    return Exchange(**base | changes, headers=list(headers), authorization=authorization)


def answers(text="LocalResponseCache=10s", given=None):
    """Build what asks the service through one cache."""
    apply = build(define(text), given or tools())

    async def ask(service, *headers, **changes):
        return await apply(request(*headers, **changes), service)

    return ask


def told(reply):
    return b",".join(v for n, v in reply.headers if n.lower() == b"cache-control").decode()


async def test_who_asks_the_same_again_gets_the_same_and_how_long_it_holds():
    ask, service = answers(), Service((b"ETag", b'"1"'), (b"Expires", b"0"), (b"Pragma", b"x"))
    first, second = await ask(service), await ask(service)
    assert (first.body, second.body, service.asked) == (b"1", b"1", 1)
    assert second.headers[0] == (b"ETag", b'"1"')
    assert {name for name, _ in second.headers} == {b"ETag", b"Cache-Control"}
    assert re.fullmatch(r"max-age=(9|10)", told(second))


KEPT_APART = {
    "another path": {"path": "/b"},
    "another query": {"query": "x=1"},
    "a query that reads like none": {"query": "None"},
    "an empty query": {"query": ""},
    "another host": {"host": "other"},
    "another route": {"route": "for others"},
    "another caller": {
        "principal": Principal(8, "u", None, frozenset(), frozenset(), "j", None, utc_now(), "")
    },
}


@pytest.mark.parametrize("changes", KEPT_APART.values(), ids=KEPT_APART)
async def test_another_request_has_an_answer_of_its_own(changes):
    ask, service = answers(), Service()
    await ask(service)
    await ask(service, **changes)
    assert service.asked == 2


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"range"])
async def test_what_tells_callers_apart_keeps_their_answers_apart(name):
    ask, service = answers(), Service()
    for value in (b"one", b"two", b"one"):
        await ask(service, (name, value))
    assert service.asked == 2


@pytest.mark.parametrize(
    ("vary", "asked"), [(b"Accept-Language, X-Other", 2), (b"X-Other", 1), (b"*", 3)]
)
async def test_answers_vary_as_their_service_says(vary, asked):
    ask, service = answers(), Service((b"Vary", vary))
    for language in (b"de", b"en", b"de"):
        await ask(service, (b"accept-language", language))
    assert service.asked == asked


NOT_KEPT = {
    "private": Service((b"Cache-Control", b"max-age=5, private")),
    "no-store among others": Service((b"Cache-Control", b"no-cache, no-store, max-age=0")),
    "no-cache": Service((b"cache-control", b"no-cache")),
    "a cookie": Service((b"Set-Cookie", b"session=1")),
    "an error": Service(status=404),
    "events": Service((b"Content-Type", b"text/event-stream;charset=UTF-8")),
    "more than a cache holds": Service(size=20_000),
}


@pytest.mark.parametrize("service", NOT_KEPT.values(), ids=NOT_KEPT)
async def test_what_must_not_be_kept_passes_untouched(service):
    ask = answers("LocalResponseCache=10s, 10KB")
    replies = [await ask(service) for _ in range(2)]
    assert [reply.body[:1] for reply in replies] == [b"1", b"2"]
    assert replies[0].headers == service.headers


@pytest.mark.parametrize(
    ("headers", "changes"),
    [
        ([], {"method": "HEAD"}),
        ([(b"cache-control", b"max-age=0, no-store")], {}),
        ([], {"body": Stream(Source())}),
        ([], {"tunnel": Stream(Source())}),
    ],
    ids=["no GET", "no-store", "a body", "a websocket"],
)
async def test_a_request_may_go_around_the_cache(headers, changes):
    ask, service = answers(), Service()
    await ask(service)
    await ask(service, *headers, **changes)
    await ask(service, *headers, **changes)
    assert service.asked == 3


@pytest.mark.parametrize(("strategy", "last"), [(None, b"1"), ("update_cache_entry", b"2")])
async def test_who_wants_it_anew_gets_it_anew(strategy, last):
    given = tools(**{"request.no-cache-strategy": strategy} if strategy else {})
    ask, service = answers(given=given), Service()
    await ask(service)
    assert (await ask(service, (b"cache-control", b"no-cache"))).body == b"2"
    assert (await ask(service)).body == last


async def test_a_body_flows_on_while_it_is_kept_and_one_that_breaks_off_is_not():
    class Client:
        def __init__(self, stream):
            self.got, self.ended = b"", None
            stream.attach(self)

        def send(self, data):
            self.got += data

        def finish(self):
            self.ended = True

        def abort(self, error):
            self.ended = error

    streams = []

    async def service(_):
        streams.append(Stream(Source()))
        return Reply(200, [], streams[-1])

    ask = answers()
    broken = Client((await ask(service)).body)
    streams[0].feed(b"half")
    assert broken.got == b"half"
    streams[0].fail(OSError())
    assert isinstance(broken.ended, OSError)
    whole = Client((await ask(service)).body)
    for chunk in (b"one ", b"two"):
        streams[1].feed(chunk)
    streams[1].end()
    assert (whole.got, whole.ended) == (b"one two", True)
    assert (await ask(service)).body == b"one two"
    assert len(streams) == 2


def test_a_cache_holds_no_more_than_it_may_and_forgets_what_nobody_wants():
    now = [0.0]
    cache = Cache(3000, 10, lambda: now[0])
    for key in (b"a", b"b", b"c"):
        cache.keep(key, Reply(200), 700)
    assert cache.find(b"a")
    cache.keep(b"d", Reply(200), 700)
    assert [bool(cache.find(key)) for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.size <= 3000
    now[0] = 11
    assert not any(cache.find(key) for key in (b"a", b"c", b"d"))
    assert cache.size == 0


async def test_workers_share_what_the_instance_may_hold():
    ask, service = answers("LocalResponseCache=10s, 20KB", tools(share=4)), Service(size=8_000)
    await ask(service)
    await ask(service)
    assert service.asked == 2


async def test_all_routes_have_one_cache_when_the_estate_wants_it():
    assert everywhere(tools()) is None
    on = tools(enabled="true", size="1MB")
    off = {"global-filter.local-response-cache.enabled": "false", f"{OPTIONS}.enabled": "true"}
    assert everywhere(replace(on, option=off.get)) is None
    cache, service = everywhere(on), Service()
    assert cache is not None
    for _ in range(2):
        assert (await cache(request(), service)).body == b"1"
    with pytest.raises(ConfigurationError, match="no span"):
        everywhere(tools(enabled="true", **{"time-to-live": "soon"}))


@pytest.mark.parametrize(
    ("text", "on", "reason"),
    [
        ("LocalResponseCache", False, "switched off"),
        ("LocalResponseCache=0s", True, "more than nothing"),
        ("LocalResponseCache=1m,much", True, "no size"),
        ("LocalResponseCache=1m", True, None),
        ("Retry=3,BAD_GATEWAY,GET,soon", True, "no span"),
    ],
)
def test_a_route_tells_why_its_cache_cannot_be(text, on, reason):
    route = {"id": "r", "uri": "http://a", "predicates": ["Path=/**"], "filters": [text]}
    found = refusal(route, Properties.of({f"spring.cloud.gateway.{OPTIONS}.enabled": on}), [])
    assert (found is None) if reason is None else (reason in str(found))
