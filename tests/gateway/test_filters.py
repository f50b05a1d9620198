"""Route filters by Spring's names: what the upstream sees, what the client gets."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cloud.breaker import CircuitBreaker, CircuitBreakerSettings
from cloud.errors import DeadlineError, InvalidError, UnavailableError, UpstreamError
from gateway.body import read
from gateway.exchange import BusyError, Exchange, Reply, Stream, Tools
from gateway.filters import FILTERS, build
from gateway.route import define

NOBODY: Any = None


class Upstream:
    """A handler that remembers what it saw and answers, or fails, as told."""

    def __init__(self, *outcomes):
        self.seen, self.outcomes = [], list(outcomes) or [Reply(200, [(b"X-Up", b"1")], b"ok")]

    async def __call__(self, exchange):
        self.seen.append(exchange)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def forward(exchange, path):
    return Reply(503, [], f"{exchange.method} {path}".encode())


def tools(script=None, **rules):
    settings = CircuitBreakerSettings(**{"window_size": 4, "minimum_calls": 4} | rules)
    breakers: dict[str, CircuitBreaker] = {}
    return Tools(
        lambda name: breakers.setdefault(name, CircuitBreaker(name, settings)), forward, script
    )


def request(**changes):
    base = {"method": "GET", "path": "/red/blue", "raw_path": "/red/blue", "route": "r"}
    return Exchange(**base | changes)


async def through(text, exchange=None, upstream=None, given=None):
    upstream = upstream or Upstream()
    reply = await build(define(text), given or tools())(exchange or request(), upstream)
    return reply, upstream.seen


@pytest.mark.parametrize(
    ("text", "path", "variables", "expected"),
    [
        ("StripPrefix=1", "/red/blue", {}, "/blue"),
        ("StripPrefix=2", "/name/blue/red", {}, "/red"),
        ("StripPrefix=2", "/api/movies/7/", {}, "/7/"),
        ("StripPrefix=0", "/api/movies", {}, "/api/movies"),
        ("StripPrefix=9", "/a/b", {}, "/"),
        ("StripPrefix=1", "/a/b%20c", {}, "/b%20c"),
        ("PrefixPath=/mypath", "/hello", {}, "/mypath/hello"),
        ("PrefixPath=/{tenant}", "/hello", {"tenant": "a b"}, "/a%20b/hello"),
        ("SetPath=/{segment}", "/red/blue", {"segment": "blue"}, "/blue"),
        ("RewritePath=/red/?(?<segment>.*), /$\\{segment}", "/red/blue", {}, "/blue"),
        ("RewritePath=/a/(\\d+), /b/$1", "/a/7", {}, "/b/7"),
        ("RewritePath=/nothing, /x", "/red", {}, "/red"),
    ],
)
async def test_the_path_seen_by_the_upstream(text, path, variables, expected):
    _, seen = await through(text, request(path=path, raw_path=path, variables=variables))
    assert [exchange.raw_path for exchange in seen] == [expected]


async def test_a_rewriting_that_leads_astray_is_refused():
    with pytest.raises(InvalidError):
        await through("RewritePath=/red/(?<rest>.*), /..$\\{rest}", request(raw_path="/red/;x"))


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("AddRequestHeader=X-A, b", [(b"x-a", b"a")], [(b"x-a", b"a"), (b"x-a", b"b")]),
        ("SetRequestHeader=X-A, b-{s}", [(b"x-a", b"a")], [(b"x-a", b"b-1")]),
        ("RemoveRequestHeader=X-A", [(b"x-a", b"a"), (b"x-b", b"b")], [(b"x-b", b"b")]),
        ("SetRequestHeader=Host, x", [(b"x-a", b"a")], [(b"x-a", b"a")]),
        ("AddRequestHeader=Host, x", [(b"x-a", b"a")], [(b"x-a", b"a")]),
        ("AddRequestHeadersIfNotPresent=Host:x", [(b"x-a", b"a")], [(b"x-a", b"a")]),
        ("MapRequestHeader=X-A, Host", [(b"x-a", b"a")], [(b"x-a", b"a")]),
    ],
)
async def test_headers_seen_by_the_upstream(text, before, after):
    exchange = request(headers=list(before), variables={"s": "1"})
    _, seen = await through(text, exchange)
    assert seen[0].headers == after
    assert exchange.headers == before, "a retry must start from the request as it came"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AddResponseHeader=X-Up, 2", [(b"X-Up", b"1"), (b"X-Up", b"2")]),
        ("AddResponseHeader=X-Up, 2, false", [(b"X-Up", b"1")]),
        ("AddResponseHeader=X-New, 2, false", [(b"X-Up", b"1"), (b"X-New", b"2")]),
        ("SetResponseHeader=x-up, 2", [(b"x-up", b"2")]),
        ("RemoveResponseHeader=x-UP", []),
    ],
)
async def test_headers_that_the_client_gets(text, expected):
    reply, _ = await through(text)
    assert reply.headers == expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("", [b"1"]), (",RETAIN_LAST", [b"2"]), (",RETAIN_UNIQUE", [b"1", b"2"])],
)
async def test_doubled_answers_become_one(strategy, expected):
    headers = [(b"X-A", b"1"), (b"x-a", b"1"), (b"X-A", b"2")]
    reply, _ = await through(
        f"DedupeResponseHeader=X-A{strategy}", None, Upstream(Reply(200, headers))
    )
    assert [value for _, value in reply.headers] == expected


async def test_add_request_parameter():
    _, seen = await through(
        "AddRequestParameter=a b, {v}", request(query="x=1", variables={"v": "&"})
    )
    assert seen[0].query == "x=1&a+b=%26"


async def test_set_status_and_preserve_host_header():
    reply, _ = await through("SetStatus=UNAUTHORIZED")
    assert reply.status == 401
    _, seen = await through("PreserveHostHeader", request(host="a.org"))
    assert seen[0].preserve_host == b"a.org"
    _, seen = await through("SetRequestHeader=Host, {v}", replace(seen[0], variables={"v": "b"}))
    assert seen[0].preserve_host == b"b"


async def test_redirect_to_never_asks_the_upstream():
    reply, seen = await through("RedirectTo=302, https://acme.org, true", request(query="a=1"))
    assert (reply.status, reply.headers, seen) == (
        302,
        [(b"Location", b"https://acme.org?a=1")],
        [],
    )


async def test_request_size_refuses_what_declares_too_much():
    body = Stream(NOBODY, length=11)
    reply, seen = await through("RequestSize=10", request(body=body))
    assert (reply.status, seen) == (413, [])
    assert dict(reply.headers)[b"errorMessage"] == (
        b"Request size is larger than permissible limit."
        b" Request size is 11 B where permissible limit is 10 B"
    )
    assert (await through("RequestSize=1MB", request(body=Stream(NOBODY, length=11))))[
        0
    ].status == 200


def _retry(**args):
    return {"name": "Retry", "args": args}


@pytest.mark.parametrize(
    ("text", "method", "outcomes", "status", "calls"),
    [
        ("Retry=3", "GET", [Reply(500), Reply(502), Reply(200)], 200, 3),
        ("Retry=1", "GET", [Reply(500), Reply(500), Reply(200)], 500, 2),
        ("Retry=3", "POST", [Reply(500), Reply(200)], 500, 1),
        ("Retry=3,BAD_GATEWAY,POST", "POST", [Reply(500), Reply(200)], 200, 2),
        ("Retry=3", "GET", [Reply(404)], 404, 1),
        ("Retry=3,BAD_GATEWAY,GET,1ms,2ms,2,true,0.5", "GET", [Reply(502), Reply(200)], 200, 2),
        ("Retry=3,BAD_GATEWAY,GET,1ms,2ms,2,true,0.5,0s", "GET", [Reply(502)], 502, 1),
        ("Retry=2", "GET", [UnavailableError("away"), Reply(200)], 200, 2),
        (_retry(series=["CLIENT_ERROR", "SERVER_ERROR"]), "GET", [Reply(404), Reply(200)], 200, 2),
        (_retry(series=["CLIENT_ERROR"]), "GET", [Reply(500), Reply(200)], 500, 1),
        (_retry(series=""), "GET", [Reply(500), Reply(200)], 500, 1),
        (_retry(series="", statuses="500"), "GET", [Reply(500), Reply(200)], 200, 2),
        (
            _retry(exceptions="java.net.ConnectException"),
            "GET",
            [UnavailableError("away"), Reply(200)],
            200,
            2,
        ),
    ],
)
async def test_retry(text, method, outcomes, status, calls):
    reply, seen = await through(text, request(method=method), Upstream(*outcomes))
    assert (reply.status, len(seen)) == (status, calls)


@pytest.mark.parametrize("names", [["java.io.IOException"], "java.net.ConnectException", "a.B", ""])
async def test_retry_takes_the_exceptions_that_it_is_told(names):
    upstream = Upstream(DeadlineError("late"), Reply(200))
    with pytest.raises(DeadlineError):
        await through(_retry(exceptions=names), None, upstream)
    assert len(upstream.seen) == 1


async def test_retry_gives_the_last_failure():
    with pytest.raises(DeadlineError):
        await through("Retry=1", None, Upstream(DeadlineError("late")))


FAILURES = [UnavailableError("gone"), UpstreamError("garbage"), DeadlineError("late"), Reply(503)]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_a_breaker_opens_and_falls_back_for_every_method(failure):
    given = tools()
    definition = define(
        {"name": "CircuitBreaker", "args": {"name": "b", "fallbackUri": "forward:/fallback/{x}"}}
    )
    apply, upstream = build(definition, given), Upstream(failure)
    for _ in range(4):
        await apply(request(method="PATCH", variables={"x": "y"}), upstream)
    reply = await apply(request(method="PATCH", variables={"x": "y"}), upstream)
    assert len(upstream.seen) == 4, "an open breaker sends nothing"
    assert reply.body == b"PATCH /fallback/y"


@pytest.mark.parametrize("status", [200, 404, 500, 501])
async def test_an_answer_is_no_failure(status):
    given, upstream = tools(), Upstream(Reply(status))
    apply = build(define("CircuitBreaker=b"), given)
    for _ in range(9):
        assert (await apply(request(), upstream)).status == status


async def test_status_codes_are_replaced_by_the_fallback():
    args = {"name": "b", "fallbackUri": "forward:/f", "statusCodes": ["500", "NOT_FOUND"]}
    apply = build(define({"name": "CircuitBreaker", "args": args}), tools())
    assert (await apply(request(), Upstream(Reply(404)))).body == b"GET /f"


@pytest.mark.parametrize(
    ("failure", "status"), [(DeadlineError("late"), 504), (UnavailableError("gone"), 503)]
)
async def test_without_a_fallback_a_breaker_answers_itself(failure, status):
    reply, _ = await through("CircuitBreaker=b", None, Upstream(failure))
    assert reply.status == status


async def test_an_answer_that_does_not_begin_in_time_is_a_failure():
    given, cancelled = tools(time_limit=timedelta(milliseconds=1)), []

    async def hangs(_):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    apply = build(define("CircuitBreaker=b"), given)
    assert [(await apply(request(), hangs)).status for _ in range(5)] == [504] * 4 + [503]
    assert len(cancelled) == 4, "nobody waits for it any more"


async def test_a_client_that_goes_away_is_no_failure_of_the_upstream():
    given, upstream = tools(), Upstream(InvalidError("client went away"))
    apply = build(define("CircuitBreaker=b"), given)
    for _ in range(9):
        with pytest.raises(InvalidError):
            await apply(request(), upstream)


LIMITER: dict[str, Any] = {
    "name": "RequestRateLimiter",
    "args": {
        "redis-rate-limiter.replenishRate": "1",
        "redis-rate-limiter.burstCapacity": "2",
        "key-resolver": "#{@ipKeyResolver}",
    },
}


@pytest.mark.parametrize(("allowed", "status"), [(1, 200), (0, 429)])
async def test_a_rate_limiter_tells_what_is_left(allowed, status):
    calls = []

    async def script(_script, keys, args):
        calls.append((keys, args))
        return allowed, 0

    reply, seen = await through(LIMITER, request(client="10.0.0.1"), None, tools(script))
    assert (reply.status, len(seen)) == (status, allowed)
    bucket = "request_rate_limiter.{r.10.0.0.1}"
    assert calls == [((f"{bucket}.tokens", f"{bucket}.timestamp"), (1, 2, 1))]
    assert dict(reply.headers)[b"X-RateLimit-Burst-Capacity"] == b"2"


async def test_a_rate_limiter_fails_open_as_spring_does():
    async def script(*_):
        raise UnavailableError("Redis is away")

    reply, _ = await through(LIMITER, request(client="10.0.0.1"), None, tools(script))
    assert (reply.status, dict(reply.headers)[b"X-RateLimit-Remaining"]) == (200, b"-1")


def limiter(**args):
    args = {key.replace("_", "-"): value for key, value in args.items()}
    return {"name": "RequestRateLimiter", "args": {**LIMITER["args"], **args}}


async def test_a_period_longer_than_a_second_is_a_bucket_that_spring_can_share():
    """5 a minute, 10 at once: rate 5, capacity 600, each request 60, as its users write it."""
    calls = []

    async def script(_script, _keys, args):
        calls.append(args)
        return 0, 30

    slow = limiter()
    slow["args"] |= {
        "redis-rate-limiter": {"replenishRate": "5", "burstCapacity": "10",
                               "replenishPeriod": "1m"},
    }  # fmt: skip
    slow["args"] = {
        k: v for k, v in slow["args"].items() if not k.startswith("redis-rate-limiter.")
    }
    reply, _ = await through(slow, request(client="10.0.0.1"), None, tools(script))
    assert calls == [(5, 600, 60)]
    headers = dict(reply.headers)
    assert reply.status == 429
    assert headers[b"X-RateLimit-Remaining"] == b"0"
    assert headers[b"X-RateLimit-Burst-Capacity"] == b"10"
    assert headers[b"Retry-After"] == b"6", "30 more are wanted, 5 come a second"


async def test_a_bucket_of_bucket4j_is_one_in_redis():
    calls = []

    async def script(_script, _keys, args):
        calls.append(args)
        return 1, 19 * 60

    four = {
        "bucket4j-rate-limiter": {"capacity": 20, "refillTokens": 30, "refillPeriod": "1m"},
        "key-resolver": "#{@remoteAddrKeyResolver}",
        "rate-limiter": "#{@bucket4jRateLimiter}",
    }
    limited = {"name": "RequestRateLimiter", "args": four}
    reply, _ = await through(limited, request(client="10.0.0.1"), None, tools(script))
    assert calls == [(30, 20 * 60, 60)]
    assert dict(reply.headers)[b"X-RateLimit-Remaining"] == b"19"


@pytest.mark.parametrize(
    ("options", "given", "status"),
    [
        ({}, {}, 403),
        ({"empty-key-status-code": "401"}, {}, 401),
        ({"empty-key-status-code": "401"}, {"empty_key_status_code": "BAD_REQUEST"}, 400),
        ({"deny-empty-key": "false"}, {}, 200),
        ({"deny-empty-key": "false"}, {"denyEmptyKey": "true"}, 403),
    ],
)
async def test_who_has_no_key_is_treated_as_the_route_or_the_estate_says(options, given, status):
    known = {f"filter.request-rate-limiter.{name}": text for name, text in options.items()}
    limited = limiter(key_resolver="#{@principalNameKeyResolver}", **given)
    reply, _ = await through(limited, None, None, replace(tools(), option=known.get))
    assert reply.status == status


async def test_a_rate_limiter_may_deny_while_redis_is_away():
    async def script(*_):
        raise UnavailableError("Redis is away")

    with pytest.raises(BusyError):
        await through(limiter(when_redis_is_away="deny"), request(client="10.0.0.1"), None,
                      tools(script))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"redis-rate-limiter.include-headers": "false"}, set()),
        (
            {"redis-rate-limiter.remaining-header": "X-Left"},
            {
                b"X-Left",
                b"X-RateLimit-Requested-Tokens",
                b"X-RateLimit-Burst-Capacity",
                b"X-RateLimit-Replenish-Rate",
            },
        ),
    ],
)
async def test_the_headers_of_a_limit_bear_the_names_of_the_estate(options, names):
    async def script(*_):
        return 1, 1

    given = replace(tools(script), option=options.get)
    reply, _ = await through(LIMITER, request(client="10.0.0.1"), None, given)
    assert {name for name, _ in reply.headers} - {b"X-Up"} == names


@pytest.mark.parametrize(
    "text",
    ["Nope", "StripPrefix=x", "SetPath", "RedirectTo=200,http://x", "SetStatus=1000",
     "RewritePath=/a", "AddRequestHeader=X", "RequestRateLimiter=1",
     {"name": "CircuitBreaker", "args": {"name": "b", "fallbackUri": "http://evil/"}},
     {"name": "RequestRateLimiter", "args": {"redis-rate-limiter.replenishRate": "1",
                                             "key-resolver": "#{T(java.lang.Runtime)}"}},
     limiter(when_redis_is_away="maybe"),
     limiter(rate_limiter="#{@ofMyOwn}"),
     limiter(**{"bucket4j-rate-limiter.refillStyle": "INTERVALLY",
                "bucket4j-rate-limiter.refillTokens": 1}),
     limiter(**{"bucket4j-rate-limiter.capacity": 4, "bucket4j-rate-limiter.refillTokens": 10}),
     {"name": "RequestRateLimiter", "args": {"redis-rate-limiter.replenishRate": "1",
                                             "redis-rate-limiter.replenishPeriod": "1500ms"}}],
    ids=str,
)  # fmt: skip
def test_a_filter_that_cannot_be_built_says_so(text):
    with pytest.raises(ValueError, match=r"."):
        build(define(text), tools())


def test_a_filter_file_bears_its_yaml_name():
    assert all(FILTERS[name].__name__.replace("_", "") == name.lower() for name in FILTERS)


SECRET = b'{"id":1,"token":"x","items":[{"id":2,"token":"y"}],"owner":{"token":"z"}}'


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("token", b'{"id":1,"items":[{"id":2,"token":"y"}],"owner":{"token":"z"}}'),
        ("token,true", b'{"id":1,"items":[{"id":2}],"owner":{}}'),
        ("token,items,false", b'{"id":1,"owner":{"token":"z"}}'),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_attributes_of_json_are_taken_out(names, expected, streamed):
    body: Any = SECRET
    if streamed:
        body = Stream(NOBODY)
        body.feed(SECRET[:20])
        body.feed(SECRET[20:])
        body.end()
    answer = Reply(200, [(b"Content-Type", b"application/json;charset=UTF-8")], body)
    asked = request(headers=[(b"accept-encoding", b"gzip"), (b"accept", b"*/*")])
    reply, seen = await through(
        f"RemoveJsonAttributesResponseBody={names}", asked, Upstream(answer)
    )
    assert reply.body == expected
    assert seen[0].headers == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"Content-Encoding", b"gzip")], b"\x1f\x8b"),
        ([], b'{"token":'),
        ([], b"[" * 100_000),
        ([], b'"' + b"x" * (1024 * 1024 + 1) + b'"'),
    ],
    ids=["encoded", "no JSON", "too deep", "too large"],
)
async def test_what_cannot_be_looked_into_is_not_passed_on(headers, body):
    stream = Stream(Quiet(), len(body))
    stream.feed(body)
    stream.end()
    answer = Reply(200, [(b"Content-Type", b"application/json"), *headers], stream)
    with pytest.raises(UpstreamError):
        await through("RemoveJsonAttributesResponseBody=token", None, Upstream(answer))


class Quiet:
    """The other end of a connection that does as it is told."""

    def pause_reading(self):
        pass

    resume_reading = abandon = pause_reading


async def test_what_is_no_json_passes_and_a_session_is_none():
    answer = Reply(200, [(b"Content-Type", b"text/html")], b'{"token":1}')
    reply, _ = await through("RemoveJsonAttributesResponseBody=token", None, Upstream(answer))
    assert reply.body == b'{"token":1}'
    reply, _ = await through("SaveSession")
    assert reply.status == 200


async def test_the_status_of_the_upstream_is_told_where_a_name_is_given_for_it():
    options = {"set-status.original-status-header-name": "X-Original"}
    given = replace(tools(), option=options.get)
    reply, _ = await through("SetStatus=401", given=given)
    assert (reply.status, (b"X-Original", b"200") in reply.headers) == (401, True)


async def test_whoever_leaves_while_an_answer_is_looked_into_gives_its_connection_back():
    class Source:
        left = False

        def pause_reading(self): ...
        def resume_reading(self): ...
        def abandon(self):
            self.left = True

    source = Source()
    reading = asyncio.create_task(read(Stream(source), 1000))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.left
