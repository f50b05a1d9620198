"""The order of work, without sockets: who may pass, who is told what."""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from cloud.config import Properties
from cloud.errors import ThrottledError, UnauthenticatedError, UnavailableError
from cloud.security import sign
from gateway.exchange import Exchange
from gateway.handler import arrival
from gateway.handler.access import AccessRules, Windows
from gateway.handler.arrival import RefusedError, arrive, new_correlation_id
from gateway.handler.cors import CorsRules
from gateway.handler.guard import Guard
from gateway.handler.memory import Memory
from gateway.handler.tokens import Tokens
from gateway.settings import Cors, Settings

ROOT = Path(__file__).parents[2]
PACKAGED = yaml.safe_load((ROOT / "gateway" / "application.yml").read_text())
SERVED = yaml.safe_load((ROOT / "deploy" / "config" / "api-gateway.yml").read_text())
SETTINGS = Settings.of(Properties.of(PACKAGED))
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


def test_the_served_rules_are_the_ones_that_the_gateway_brings_along():
    served = Settings.of(Properties.of(SERVED))
    for name in ("public", "compat", "roles", "limits"):
        assert getattr(served, name) == getattr(SETTINGS, name), name


@pytest.mark.parametrize("profile", ["dev", "test", "prod"])
def test_each_profile_differs_and_can_be_read(profile):
    text = (ROOT / "deploy" / "config" / f"api-gateway-{profile}.yml").read_text()
    assert Settings.of(Properties.of(yaml.safe_load(text) | {"jwt.secret": "x" * 64})) != SETTINGS


@pytest.mark.parametrize(
    ("method", "path", "public"),
    [
        ("POST", "/api/auth/login", True), ("GET", "/api/auth/login", False),
        ("POST", "/api/auth/login/", False), ("POST", "/api/auth/login/x", False),
        ("POST", "/api/auth/register", True), ("POST", "/api/auth/refresh", True),
        ("GET", "/api/auth/validate", True), ("POST", "/api/auth/validate", False),
        ("GET", "/api/auth/me", False), ("POST", "/api/auth/logout", False),
        ("POST", "/api/payments/webhook", True), ("GET", "/api/movies", False),
        ("GET", "/movies/movies", True), ("GET", "/movies/movies/7", True),
        ("GET", "/movies/movies/7/detail", True), ("GET", "/movies/movies/7/links", False),
        ("DELETE", "/movies/movies/7", False), ("GET", "/search/x/y", True),
        ("POST", "/search/x", False), ("GET", "/transaction/1/2", True),
        ("GET", "/transaction/1", False), ("GET", "/fallback/movies", True),
    ],
)  # fmt: skip
def test_what_is_public_is_so_by_method_and_whole_path(method, path, public):
    assert AccessRules(SETTINGS).of(method, path).public is public


@pytest.mark.parametrize(
    ("method", "path", "roles"),
    [
        ("GET", "/api/admin/users", {"ADMIN"}),
        ("PATCH", "/api/admin", {"ADMIN"}),
        ("POST", "/api/movies", {"ADMIN", "MODERATOR"}),
        ("POST", "/api/movies/", {"ADMIN", "MODERATOR"}),
        ("POST", "/api/movies/7/play", None),
        ("GET", "/api/movies", None),
        ("PUT", "/api/movies/7", {"ADMIN", "MODERATOR"}),
        ("DELETE", "/api/movies/7", {"ADMIN"}),
        ("DELETE", "/api/payments/7", {"ADMIN"}),
        ("DELETE", "/api/customers/7", {"ADMIN"}),
        ("PATCH", "/api/customers/7/subscription", {"ADMIN"}),
        ("PATCH", "/api/customers/7", None),
        ("POST", "/api/notifications", {"ADMIN"}),
        ("POST", "/api/notifications/7/read", None),
    ],
)
def test_roles(method, path, roles):
    wanted = AccessRules(SETTINGS).of(method, path).roles
    assert wanted == ((frozenset(roles),) if roles else ())


@pytest.mark.parametrize(
    ("path", "bucket", "limit"),
    [
        ("/api/auth/login", "login", 5),
        ("/api/auth/forgot-password", "recovery", 10),
        ("/api/auth/check-email", "recovery", 10),
        ("/auth/forgot-password/send-otp", "recovery", 10),
        ("/create-payment", "compat", 10),
        ("/transaction/1/2", "compatpoll", 90),
        ("/api/movies", None, None),
        ("/api/auth/register", None, None),
    ],
)
def test_limits_of_their_own(path, bucket, limit):
    rule = AccessRules(SETTINGS).of("POST", path).rule
    assert (rule and rule.bucket, rule and rule.limit) == (bucket, limit)


def test_webhook_and_actuator_are_never_counted():
    rules = AccessRules(SETTINGS)
    assert not rules.of("POST", "/api/payments/webhook").counted
    assert not rules.of("GET", "/actuator/health").counted
    assert rules.of("POST", "/api/payments/webhook/x").counted


def arrived(
    *headers,
    method=b"GET",
    target=b"/api/movies",
    version="1.1",
    peer="9.9.9.9",
    trusted=(),
    **more,
):
    lines = [(b"host", b"api.nozie.app"), *headers]
    return arrive(method, target, version, lines, peer=peer, trusted=trusted, **more)


FORGED = [
    (b"x-user-id", b"1"),
    (b"x-user-roles", b"ADMIN"),
    (b"x-user-name", b"admin"),
    (b"x-user-permissions", b"all"),
    (b"x-user-anything", b"1"),
    (b"x-correlation-id", b"forged"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-host", b"evil"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-port", b"1"),
    (b"x-forwarded-prefix", b"/x"),
    (b"forwarded", b"for=1.2.3.4"),
    (b"x-real-ip", b"1.2.3.4"),
    (b"traceparent", b"00-1-1-01"),
    (b"tracestate", b"a=b"),
    (b"b3", b"1"),
    (b"x-b3-traceid", b"1"),
    (b"te", b"trailers"),
    (b"trailer", b"x-user-id"),
    (b"upgrade", b"h2c"),
    (b"keep-alive", b"9"),
    (b"proxy-authorization", b"Basic x"),
    (b"proxy-connection", b"x"),
    (b"connection", b"close, x-custom"),
    (b"x-application-context", b"x"),
]


@pytest.mark.parametrize("header", FORGED, ids=lambda held: held[0].decode())
def test_what_a_client_may_not_say_goes_no_further(header):
    exchange = arrived(header, (b"x-custom", b"1"), (b"accept", b"*/*"))
    assert header not in exchange.headers
    assert (b"accept", b"*/*") in exchange.headers
    assert exchange.client == "9.9.9.9"


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"content-type", b"x-forwarded-for"])
def test_connection_cannot_strip_what_decides_about_access(name):
    given = [] if name.startswith(b"x-") else [(name, b"v")]
    exchange = arrived(*given, (b"connection", b"close, " + name))
    assert exchange.header(name) == (b"9.9.9.9" if name.startswith(b"x-") else b"v")


def test_connection_strips_other_names():
    exchange = arrived((b"connection", b"X-Hop, close"), (b"x-hop", b"1"))
    assert exchange.header(b"x-hop") is None


def test_fresh_forwarding_headers_speak_of_the_peer():
    headers = dict(arrived((b"x-forwarded-for", b"1.1.1.1")).headers)
    assert headers[b"x-forwarded-for"] == b"9.9.9.9"
    assert headers[b"x-forwarded-host"] == b"api.nozie.app"
    assert (headers[b"x-forwarded-proto"], headers[b"x-forwarded-port"]) == (b"http", b"80")
    assert headers[b"forwarded"] == b'for=9.9.9.9;host="api.nozie.app";proto=http'


def test_a_trusted_proxy_is_continued_to_the_right_most_stranger():
    exchange = arrived(
        (b"x-forwarded-for", b"6.6.6.6, 7.7.7.7, 10.0.0.2"), (b"x-forwarded-proto", b"https"),
        peer="10.0.0.1", trusted=[ip_network("10.0.0.0/8")],
    )  # fmt: skip
    assert exchange.client == "7.7.7.7"
    assert exchange.header(b"x-forwarded-for") == b"6.6.6.6, 7.7.7.7, 10.0.0.2, 10.0.0.1"
    assert exchange.header(b"x-forwarded-proto") == b"https"


def test_a_load_balancer_that_nobody_was_told_of_is_named_once(monkeypatch, capsys):
    monkeypatch.setattr(arrival, "_warned", [])
    given = (b"x-forwarded-for", b"7.7.7.7")
    arrived(given, peer="9.9.9.9")
    arrived(peer="10.0.0.1")
    arrived(given, peer="10.0.0.1", trusted=[ip_network("10.0.0.0/8")])
    assert "forwarded_for_ignored" not in capsys.readouterr().out
    for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        assert arrived(given, peer=peer).client == peer
    told = capsys.readouterr().out
    assert told.count("forwarded_for_ignored") == told.count("nozie.gateway.trusted-proxies") == 1


@pytest.mark.parametrize(
    ("given", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"10.0.0.x, 203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, 10.0.0.2:4711", "203.0.113.9"),
        (b"10.0.0.x", "10.0.0.1"),
        (b"203.0.113.9, 10.0.0.x", "10.0.0.1"),
    ],
)
def test_springs_expression_trusts_addresses_alone(given, client):
    pattern = re.compile(r"10\.0\.0\..*")
    exchange = arrived((b"x-forwarded-for", given), peer="10.0.0.1", pattern=pattern)
    assert exchange.client == client


def test_an_estate_says_what_services_are_told_of_the_way_here():
    unsaid = frozenset({b"x-forwarded-host", b"forwarded"})
    exchange = arrived(
        (b"x-forwarded-for", b"7.7.7.7"), peer="10.0.0.1", trusted=[ip_network("10.0.0.0/8")],
        unsaid=unsaid, appends=False, scheme="https",
    )  # fmt: skip
    told = dict(exchange.headers)
    assert not unsaid & told.keys()
    assert (exchange.client, told[b"x-forwarded-for"]) == ("7.7.7.7", b"10.0.0.1")
    assert (told[b"x-forwarded-proto"], told[b"x-forwarded-port"]) == (b"https", b"443")


def test_springs_switches_of_forwarding_headers():
    prefix = "spring.cloud.gateway.server.webflux"
    switched = {
        "x-forwarded.port-enabled": "false",
        "forwarded.enabled": "false",
        "x-forwarded.for-append": "false",
    }
    found = Settings.of(Properties.of({f"{prefix}.{key}": v for key, v in switched.items()}))
    assert found.unsaid == {b"x-forwarded-port", b"forwarded"}
    assert not found.appends
    none = Settings.of(Properties.of({f"{prefix}.x-forwarded.enabled": "false"}))
    assert len(none.unsaid) == 5


@pytest.mark.parametrize(
    ("changes", "headers", "status"),
    [
        ({"method": b"SOURCE"}, [], 405),
        ({"method": b"CONNECT"}, [], 405),
        ({"method": b"TRACE"}, [], 405),
        ({"target": b"/a//b"}, [], 400),
        ({"target": b"http://x/"}, [], 400),
        ({"target": b"*"}, [], 400),
        ({}, [(b"host", b"two")], 400),
        ({}, [(b"x_user_id", b"1")], 400),
        ({}, [(b"authorization", b"a"), (b"authorization", b"b")], 400),
        ({}, [(b"content-type", b"a"), (b"content-type", b"b")], 400),
        ({"version": "1.0"}, [(b"transfer-encoding", b"chunked")], 400),
        ({}, [(b"expect", b"200-ok")], 417),
        ({}, [(b"a", b"b")] * 101, 431),
    ],
)
def test_what_is_no_request_of_ours_is_refused(changes, headers, status):
    with pytest.raises(RefusedError) as refused:
        arrived(*headers, **changes)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "host",
    [
        b"a" * 256,
        b"[" + b":" * 46 + b"]",
        b"",
        b"a b",
        b"a/b",
        b"a@b",
        b"a,b",
        b"[::1",
        b"a:b",
        b"a\tb",
    ],
)
def test_a_malformed_host_is_refused(host):
    with pytest.raises(RefusedError):
        arrive(b"GET", b"/", "1.1", [(b"host", host)], peer="1.1.1.1", trusted=())


def test_a_request_without_host_is_refused_but_in_http_1_0():
    with pytest.raises(RefusedError):
        arrive(b"GET", b"/", "1.1", [], peer="1.1.1.1", trusted=())
    assert arrive(b"GET", b"/", "1.0", [], peer="1.1.1.1", trusted=()).host == ""


def test_a_correlation_id_is_a_random_uuid():
    ids = {new_correlation_id() for _ in range(100)}
    assert len(ids) == 100
    assert {(UUID(found).version, str(UUID(found)) == found) for found in ids} == {(4, True)}


def token(**changes):
    claims = {"jti": "j1", "sub": "7", "username": "ann\r\nX-Evil: 1", "roles": ["B", "A"],
              "permissions": [], "type": "ACCESS", "iat": 0,
              "exp": int(NOW.timestamp()) + 60}  # fmt: skip
    return b"Bearer " + sign(claims | changes, "s" * 64).encode()


def refused(asked):
    reply = CorsRules(CORS).refusal(asked)
    assert reply is not None
    return reply


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


def test_a_token_is_known_until_it_expires():
    clock = Clock()
    tokens, given = Tokens("s" * 64, clock), token()
    first = tokens.identify(given)
    assert tokens.identify(given) is first
    clock.now += timedelta(seconds=60)
    with pytest.raises(UnauthenticatedError, match="expired"):
        tokens.identify(given)


def test_identity_headers_are_clean_and_ordered():
    headers = dict(Tokens("s" * 64, Clock()).identify(token()).headers)
    assert headers[b"x-user-name"] == b"annX-Evil: 1"
    assert (headers[b"x-user-id"], headers[b"x-user-roles"]) == (b"7", b"A,B")
    assert headers[b"x-user-permissions"] == b""


def test_the_memory_of_tokens_is_bounded():
    tokens = Tokens("s" * 64, Clock(), capacity=2)
    given = [token(jti=f"j{n}") for n in range(3)]
    first = tokens.identify(given[0])
    for one in given[1:]:
        tokens.identify(one)
    assert tokens.identify(given[0]) is not first


def test_the_longest_name_is_a_host():
    host = b"a" * 255 + b":12345"
    found = arrive(b"GET", b"/", "1.1", [(b"host", host)], peer="1.1.1.1", trusted=())
    assert found.host == host.decode()


def test_a_token_is_remembered_once_however_its_header_is_spelled():
    tokens = Tokens("s" * 64, Clock(), capacity=2)
    given, other = token(), token(jti="j2")
    first, second = tokens.identify(given), tokens.identify(other)
    for blanks in range(2, 6):
        spelled = given.replace(b"Bearer ", b"bearer" + b" " * blanks)
        assert tokens.identify(spelled) is first
    assert tokens.identify(other) is second
    with pytest.raises(UnauthenticatedError, match="invalid"):
        tokens.identify(given + b"!!")


def test_what_has_expired_makes_room_first():
    clock = Clock()
    tokens = Tokens("s" * 64, clock, capacity=2)
    first = tokens.identify(token(exp=int(NOW.timestamp()) + 600))
    tokens.identify(token(jti="j2"))
    clock.now += timedelta(seconds=60)
    tokens.identify(token(jti="j3", exp=int(NOW.timestamp()) + 600))
    assert tokens.identify(token(exp=int(NOW.timestamp()) + 600)) is first


def test_rules_of_long_paths_are_the_same_but_not_remembered():
    rules = AccessRules(SETTINGS)
    assert rules.of("GET", "/api/movies") is rules.of("GET", "/api/movies")
    path = "/api/admin/" + "x" * 300
    assert rules.of("GET", path) is not rules.of("GET", path)
    assert rules.of("GET", path).roles == (frozenset({"ADMIN"}),)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "missing"),
        (b"", "missing"),
        (b"Basic abc", "bearer"),
        (b"Bearer", "bearer"),
        (b"Bearer x.y.z", "invalid"),
        (token(type="REFRESH"), "invalid"),
        (token(exp=0), "expired"),
        (b"Bearer " + sign({"jti": "1"}, "t" * 64).encode(), "invalid"),
        (b"Bearer \xff\xfe", "invalid"),
    ],
)
def test_the_causes_of_a_401_are_told_apart(given, reason):
    with pytest.raises(UnauthenticatedError, match=reason):
        Tokens("s" * 64, Clock()).identify(given)


CORS = Cors(frozenset({"https://nozie.app"}), ("GET", "PATCH"), ("*",), ("X-Correlation-Id",), 60)


def browser(origin=b"https://nozie.app", method="GET", **asked):
    headers = [(f"access-control-request-{name}".encode(), value) for name, value in asked.items()]
    return Exchange(
        method, "/api/movies", "/api/movies", headers=headers, origin=origin, host="api"
    )


def test_a_preflight_is_answered_here():
    reply = refused(
        Exchange(
            "OPTIONS",
            "/",
            "/",
            origin=b"https://nozie.app",
            host="api",
            headers=[
                (b"access-control-request-method", b"PATCH"),
                (b"access-control-request-headers", b"a, b"),
            ],
        )
    )
    assert reply.status == 200
    assert dict(reply.headers)[b"Access-Control-Allow-Headers"] == b"a, b"
    assert dict(reply.headers)[b"Access-Control-Max-Age"] == b"60"


@pytest.mark.parametrize(
    ("origin", "method"), [(b"https://evil", b"GET"), (b"https://nozie.app", b"PUT")]
)
def test_a_preflight_can_be_refused(origin, method):
    asked = Exchange("OPTIONS", "/", "/", origin=origin, host="api",
                     headers=[(b"access-control-request-method", method)])  # fmt: skip
    assert refused(asked).status == 403


def test_a_strangers_page_is_refused_and_our_own_is_no_cors():
    rules = CorsRules(CORS)
    assert refused(browser(b"https://evil")).status == 403
    assert rules.refusal(browser(b"http://api")) is None
    assert rules.headers(browser(b"http://api")) == []
    assert (b"Access-Control-Allow-Origin", b"https://nozie.app") in rules.headers(browser())


def test_windows_count_by_bucket_and_forget():
    windows, span = Windows(capacity=2), timedelta(seconds=60)
    assert [windows.count("a", span, 0.0) for _ in range(3)] == [1, 2, 3]
    assert windows.count("a", span, 60.0) == 1
    windows.count("b", span, 60.0)
    windows.count("c", span, 60.0)
    assert windows.count("a", span, 61.0) == 1, "the oldest made room"


class Store:
    """Redis as the guard sees it, answering what it is told."""

    run_id = "run"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def run(self, _script, keys, args):
        self.asked.append((keys, args))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


AWAY = UnavailableError("Redis is away")


class Door:
    """A guard with a clock to move, asked for one user."""

    def __init__(self, *answers, share=1, sid=None, client="1.1.1.1"):
        self.now, self.client = 0.0, client
        self.store = Store(*answers)
        self.guard = Guard(self.store, Memory(None, lambda: self.now), lambda: self.now, share)
        self.identity = Tokens("s" * 64, Clock()).identify(token(sid=sid) if sid else token())
        self.access = AccessRules(SETTINGS)

    async def check(self, method="GET", path="/api/movies", *, known=True):
        identity = self.identity if known else None
        access = self.access.of(method, path)
        return await self.guard.check(method, self.client, identity, access, SETTINGS.limits, 60.0)


async def test_one_round_trip_asks_for_everything():
    door = Door([0, 1, 1])
    await door.check()
    keys, args = door.store.asked[0]
    assert keys == ("nozie:identity:epoch", "token:blacklist:j1", "ratelimit:user:7")
    assert args == ("run", 60, 200)


@pytest.mark.parametrize(
    ("path", "known", "bucket"),
    [
        ("/api/auth/login", True, "ratelimit:login:1.1.1.1"),
        ("/x", False, "ratelimit:ip:1.1.1.1"),
        ("/create-payment", False, "ratelimit:compat:1.1.1.1"),
        ("/api/movies", True, "ratelimit:user:7"),
    ],
)
async def test_each_request_counts_in_one_bucket(path, known, bucket):
    door = Door([0, 1, 1])
    await door.check("POST", path, known=known)
    assert door.store.asked[0][0][2] == bucket


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("9.9.9.9", "9.9.9.9"),
    ],
)
@pytest.mark.parametrize(("path", "bucket"), [("/api/auth/login", "login"), ("/x", "ip")])
async def test_a_limit_per_address_is_one_per_ipv6_network(client, counted, path, bucket):
    door = Door([0, 1, 1], client=client)
    await door.check("POST", path, known=False)
    assert door.store.asked[0][0][2] == f"ratelimit:{bucket}:{counted}"


async def test_the_limit_itself_still_passes():
    door = Door([0, 1, 200], [0, 1, 201])
    await door.check()
    with pytest.raises(ThrottledError) as throttled:
        await door.check()
    assert throttled.value.retry_after == timedelta(seconds=60)


async def test_a_revoked_token_stays_out_when_redis_goes_or_forgets():
    door = Door([1, 1, 0], AWAY)
    for _ in range(2):
        with pytest.raises(UnauthenticatedError, match="revoked"):
            await door.check()
    assert len(door.store.asked) == 1


async def test_while_redis_is_away_limits_are_local_and_shared_out():
    door = Door(AWAY, share=2)
    for _ in range(3):
        await door.check("POST", "/api/auth/login", known=False)
    with pytest.raises(ThrottledError):
        await door.check("POST", "/api/auth/login", known=False)


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/api/movies", True),
        ("POST", "/api/payments", False),
        ("GET", "/api/admin/users", False),
    ],
)
@pytest.mark.parametrize("answer", [AWAY, [0, 0, 1]], ids=["redis away", "redis forgot"])
async def test_after_the_grace_nobody_can_tell(method, path, passes, answer):
    door = Door([0, 1, 1], answer, sid="9")
    await door.check(method, path)
    door.now = 60.0
    await door.check(method, path)
    door.now = 60.1
    if passes:
        await door.check(method, path)
    else:
        with pytest.raises(UnavailableError):
            await door.check(method, path)


async def test_an_issuer_without_sessions_keeps_no_epoch():
    """Tokens of a JVM identity service name no session; absence is all that Redis can tell."""
    door = Door([0, 0, 1])
    door.now = 3600.0
    await door.check("POST", "/api/payments")


async def test_a_token_without_a_session_renews_the_grace_of_no_other():
    """A Redis that restarted empty, and identity is away: only its own like may go by an answer."""
    door = Door([0, 1, 1], [0, 0, 1], AWAY, sid="9")
    await door.check("POST", "/api/payments")
    with_session, door.now = door.identity, 60.1
    door.identity = Tokens("s" * 64, Clock()).identify(token(jti="j2"))
    await door.check("POST", "/api/payments")
    await door.check("POST", "/api/payments")
    door.identity = with_session
    with pytest.raises(UnavailableError):
        await door.check("POST", "/api/payments")


@pytest.mark.parametrize("answer", [AWAY, [0, 0, 1]], ids=["redis away", "redis forgot"])
async def test_after_the_grace_a_token_on_a_public_path_is_none(answer):
    door = Door([0, 1, 1], answer, sid="9")
    assert await door.check("POST", "/api/auth/login") is door.identity
    door.now = 60.1
    assert await door.check("POST", "/api/auth/login") is None
    assert len(door.store.asked) == 2, "and it counts once"
