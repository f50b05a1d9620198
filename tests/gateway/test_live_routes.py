"""Routes that change while the gateway serves: by configuration, registry or operator."""

import asyncio
import json
import os
import socket
import threading
from contextlib import suppress

import pytest

from cloud.config import Environment, Properties
from gateway.edge.worker import Edge
from gateway.exchange import Exchange
from gateway.handler import refusal
from gateway.route import load, spelled
from tests.gateway.conftest import Answer, Gateway, Upstream, bearer, settings
from tests.waiting import eventually

SIMPLE = "spring.cloud.discovery.client.simple.instances"
ROUTES = "spring.cloud.gateway.routes"
ADMIN = bearer(1, "ADMIN")


@pytest.fixture(scope="module")
def open_gateway(upstream, store, tmp_path_factory):
    live = f"http://127.0.0.1:{upstream.port}"
    running = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": live,
            f"{SIMPLE}.identity-service[0].uri": live,
            "nozie.server.run-dir": str(tmp_path_factory.mktemp("run") / "it"),
            "management.endpoint.gateway.access": "unrestricted",
            "spring.cloud.gateway.discovery.locator.enabled": True,
            "spring.cloud.gateway.server.webflux.discovery.locator.enabled": True,
            "spring.cloud.gateway.filter.remove-hop-by-hop.headers": ["X-Up", "X-Hop"],
            "nozie.gateway.max-in-flight": 1000,
            "nozie.gateway.timeouts.websocket": "2s",
        }
    )
    yield running
    running.stop()


def put(gateway, name, definition, **headers):
    body = json.dumps(definition).encode()
    return gateway.ask(f"/actuator/gateway/routes/{name}", "POST", body, **headers)


def everywhere(gateway, path, status, **headers):
    """All workers agree; a new connection may meet any of them."""
    eventually(lambda: {gateway.ask(path, **headers).status for _ in range(12)} == {status})


def test_an_operator_adds_changes_and_removes_a_route_in_all_workers(open_gateway, upstream):
    door = open_gateway
    definition = {
        "uri": f"http://127.0.0.1:{upstream.port}",
        "predicates": [{"name": "Path", "args": {"_genkey_0": "/added/**"}}],
        "filters": [{"name": "PrefixPath", "args": {"prefix": "/one"}}],
    }
    assert door.ask("/added/x", Authorization=ADMIN).status == 404
    created = put(door, "added", definition, Authorization=ADMIN)
    assert (created.status, created.headers["location"]) == (201, "/routes/added")
    everywhere(door, "/added/x", 200, Authorization=ADMIN)
    assert upstream.heads[-1].startswith(b"GET /one/added/x ")

    definition["filters"] = ["PrefixPath=/two"]
    assert put(door, "added", definition, Authorization=ADMIN).status == 201
    eventually(
        lambda: (
            door.ask("/added/x", Authorization=ADMIN)
            and upstream.heads[-1].startswith(b"GET /two/added/x ")
        )
    )
    shown = [route["route_id"] for route in door.ask("/actuator/gateway/routes").json()]
    assert shown.count("added") == 1, "a second POST changes, it does not double"

    assert door.ask("/actuator/gateway/routes/added", "DELETE", Authorization=ADMIN).status == 200
    everywhere(door, "/added/x", 404, Authorization=ADMIN)
    assert door.ask("/actuator/gateway/routes/added", "DELETE", Authorization=ADMIN).status == 404


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"uri": "lb://x", "predicates": ["Path=/a"], "filters": ["NoSuch"]}, "no filter NoSuch"),
        ({"uri": "lb://x", "predicates": []}, "a route needs a predicate"),
        ({"uri": "ftp://x", "predicates": ["Path=/a"]}, "none of lb://"),
        ([1], "not a JSON object"),
    ],
)
def test_a_route_that_cannot_be_used_is_refused_with_its_reason(open_gateway, definition, reason):
    answer = put(open_gateway, "bad", definition, Authorization=ADMIN)
    assert answer.status == 400
    assert reason in answer.json()["message"]
    assert open_gateway.ask("/actuator/gateway/routes/bad").status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": bearer(7, "USER")}, 403), ({"Authorization": "Bearer x"}, 401)],
)
def test_only_an_admin_changes_routes(open_gateway, headers, status):
    assert put(open_gateway, "mine", {}, **headers).status == status


def test_several_routes_come_together_or_not_at_all(open_gateway):
    path = "/actuator/gateway/routes"
    many = [
        {"id": f"many-{n}", "uri": "lb://movie-service", "predicates": [f"Path=/many/{n}"]}
        for n in range(2)
    ]

    def shown() -> set[str]:
        return {route["route_id"] for route in open_gateway.ask(path).json()}

    for given, status in (([*many, "x"], 400), (many, 200)):
        body = json.dumps(given).encode()
        assert open_gateway.ask(path, "POST", body, Authorization=ADMIN).status == status
        assert ({"many-0", "many-1"} <= shown()) is (status == 200)
    for one in many:
        gone = open_gateway.ask(f"{path}/{one['id']}", "DELETE", Authorization=ADMIN)
        assert gone.status == 200


def test_writing_is_off_unless_it_is_asked_for(gateway):
    answer = put(gateway, "mine", {}, Authorization=ADMIN)
    assert (answer.status, answer.json()["success"]) == (405, False)
    assert gateway.ask("/actuator/gateway/routes").status == 200


def test_routes_are_told_in_springs_shapes(open_gateway):
    routes = open_gateway.ask("/actuator/gateway/routes").json()
    movie = next(route for route in routes if route["route_id"] == "movie-service")
    assert set(movie) == {"predicate", "route_id", "filters", "uri", "order", "metadata"}
    assert (movie["uri"], movie["order"]) == ("lb://movie-service", 0)
    assert movie["predicate"].startswith("Path: [/api/movies/**")
    one = open_gateway.ask("/actuator/gateway/routes/movie-service").json()
    assert one == movie
    combined = open_gateway.ask("/actuator/gateway/routes/movie-service/combinedfilters").json()
    ((text, order),) = combined.items()
    assert text.startswith("Route{id='movie-service', uri=lb://movie-service, order=0, predicate=")
    assert ", ".join(movie["filters"]) in text
    assert order == 0
    given = open_gateway.ask("/actuator/gateway/routedefinitions").json()
    first = next(item for item in given if item["id"] == "movie-service")
    assert first["predicates"][0]["name"] == "Path"
    assert first["predicates"][0]["args"]["_genkey_0"] == "/api/movies/**"
    assert (
        "[StripPrefixGatewayFilterFactory]"
        in open_gateway.ask("/actuator/gateway/routefilters").json()
    )
    assert (
        "[PathRoutePredicateFactory]"
        in open_gateway.ask("/actuator/gateway/routepredicates").json()
    )
    orders = open_gateway.ask("/actuator/gateway/globalfilters").json()
    assert orders["org.springframework.cloud.gateway.filter.NettyWriteResponseFilter"] == -1


@pytest.mark.parametrize(
    ("path", "method", "roles", "status"),
    [
        ("/movie-service/api/movies", "GET", ("USER",), 200),
        ("/movie-service/api/movies", "POST", ("USER",), 403),
        ("/movie-service/api/movies", "POST", ("ADMIN",), 200),
        ("/identity-service/api/admin/users", "GET", ("USER",), 403),
        ("/identity-service/api/admin/users", "GET", (), 401),
        ("/movie-service/actuator/env", "GET", ("ADMIN",), 404),
        ("/movie-service/api/movies", "GET", (), 401),
    ],
)
def test_discovery_routes_lead_around_no_rule(open_gateway, upstream, path, method, roles, status):
    headers = {"Authorization": bearer(7, *roles)} if roles else {}
    eventually(lambda: open_gateway.ask("/movie-service/x", Authorization=ADMIN).status == 200)
    everywhere(open_gateway, "/movie-service/x", 200, Authorization=ADMIN)
    assert open_gateway.ask(path, method, **headers).status == status
    if status == 200:
        head = upstream.heads[-1].decode()
        assert head.startswith(f"{method} /api/movies ")
        assert "\r\nx-forwarded-prefix: /movie-service\r\n" in head


def test_the_estate_may_count_more_headers_among_a_connections_own(open_gateway, upstream):
    answer = open_gateway.ask("/api/movies", Authorization=ADMIN, X_Hop="1", X_Kept="1")
    assert answer.status == 200
    assert "x-up" not in answer.headers
    head = upstream.heads[-1].lower()
    assert b"x-kept" in head
    assert b"x-hop" not in head


def test_the_login_limit_holds_behind_a_discovery_route(open_gateway):
    everywhere(open_gateway, "/identity-service/x", 200, Authorization=ADMIN)
    asked = [
        open_gateway.ask("/identity-service/api/auth/login", "POST", b"{}", "127.0.9.1").status
        for _ in range(7)
    ]
    assert asked == [200] * 5 + [429] * 2


def test_routes_that_move_the_path_lead_around_no_limit_and_to_no_actuator(upstream, store):
    moved = {
        "v1": ("Path=/v1/**", "StripPrefix=1"),
        "old": ("Path=/old/**", "RewritePath=/old/(?<rest>.*), /api/auth/$\\{rest}"),
        "deep": ("Path=/actual/**", "RewritePath=/actual/(?<rest>.*), /actuator/$\\{rest}"),
    }
    running = Gateway(
        {
            **settings(store),
            "nozie.gateway.public": ["ANY /v1/**", "ANY /old/**", "ANY /actual/**"],
            ROUTES: [
                {
                    "id": name,
                    "uri": f"http://127.0.0.1:{upstream.port}",
                    "predicates": [path],
                    "filters": [moves],
                }
                for name, (path, moves) in moved.items()
            ],
        },
        workers=1,
        tree={},
    )

    def statuses(path: str, source: str) -> list[int]:
        return [running.ask(path, "POST", b"{}", source).status for _ in range(7)]

    try:
        assert statuses("/v1/api/auth/login", "127.0.9.2") == [200] * 5 + [429] * 2
        assert statuses("/old/login", "127.0.9.3") == [200] * 5 + [429] * 2
        assert statuses("/v1/api/auth/other", "127.0.9.3") == [200] * 7
        for path in ("/v1/actuator/env", "/v1/actuator", "/actual/env", "/v1/%61ctuator/env"):
            assert running.ask(path).status == 404, path
        assert running.ask("/v1/actuators").status == 200
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("expression", "found"),
    [("'lb://'+serviceId", "lb://a"), ("'/' + serviceId + '/?(?<x>.*)'", "/a/?(?<x>.*)")],
)
def test_an_expression_of_the_locator_is_read(expression, found):
    assert spelled(expression, "a") == found


@pytest.mark.parametrize("bad", ["T(java.lang.Runtime).getRuntime()", "'a'.concat(serviceId)", "x"])
def test_an_expression_is_never_evaluated(bad):
    with pytest.raises(ValueError, match="more than texts"):
        spelled(bad, "a")


async def test_a_new_configuration_takes_the_place_of_the_old_at_once(upstream):
    """What `Environment.replace` brings holds for the next request; a bad one changes nothing."""
    live = f"http://127.0.0.1:{upstream.port}"

    def configured(**routes):
        listed = [
            {"id": name, "uri": live, "predicates": [f"Path={path}"]}
            for name, path in routes.items()
        ]
        return Properties.of({ROUTES: listed, "nozie.gateway.public": ["ANY /**"]})

    environment = Environment(configured(one="/one"))
    edge = Edge(lambda environ, start: (start("404 None", []), [b""])[1], environment)

    async def status(path):
        exchange = Exchange("GET", path, path, correlation_id="0" * 36, host="api")
        reply = await edge.handle(exchange)
        reply.discard()
        return reply.status

    assert (await status("/one"), await status("/two")) == (200, 404)
    thread = threading.Thread(target=environment.replace, args=(configured(two="/two"),))
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)
    assert (await status("/one"), await status("/two")) == (404, 200)
    environment.replace(Properties.of({"nozie.gateway.max-head-size": "huge"}))
    await asyncio.sleep(0)
    assert await status("/two") == 200
    await edge.drain(0)
    for _ in range(3):  # sockets close in the loop's next turns
        await asyncio.sleep(0)


def test_all_old_prefixes_work_and_are_named_once(capsys):
    async def never(_exchange):
        raise AssertionError

    tree = {
        "spring.cloud.gateway.mvc.routes-map": {"a": {"uri": "lb://a", "predicates": ["Path=/a"]}}
    }
    found = load(Properties.of(tree), lambda _route: never)
    assert [route.id for route, _ in found.bound] == ["a"]
    assert capsys.readouterr().out.count("old_prefix") == 1


@pytest.mark.parametrize("throws", [True, False])
def test_an_argument_that_changes_nothing_is_named(capsys, throws):
    limiter = {"name": "RequestRateLimiter", "args": {"throwOnLimit": throws}}
    route = {"id": "a", "uri": "lb://a", "predicates": ["Path=/a"], "filters": [limiter]}
    tree = {"spring.cloud.gateway.routes": [route]}
    assert load(Properties.of(tree), lambda _route: _never).bound
    assert capsys.readouterr().out.count("RequestRateLimiter.throwOnLimit") == throws


async def _never(_exchange):
    raise AssertionError


@pytest.mark.parametrize("kind", ["filter.prefix-path", "predicate.path"])
def test_a_factory_that_is_switched_off_refuses_its_routes(kind):
    tree = {f"spring.cloud.gateway.{kind}.enabled": "false"}
    route = {"id": "a", "uri": "lb://a", "predicates": ["Path=/a"], "filters": ["PrefixPath=/x"]}
    assert "switched off" in str(refusal(route, Properties.of(tree), []))
    assert refusal(route, Properties.of({}), []) is None


# --- WebSocket

HANDSHAKE = (
    b"GET /search/socket HTTP/1.1\r\nHost: api\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\n"
)


class Echo:
    """An upstream that agrees to a WebSocket, sends back every byte, and hangs up when told."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.ended = threading.Event()
        self.last = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        except OSError:
            return

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.heads.append(head)
            if b"/refused" in head:
                client.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
                return
            if b"/events" in head:
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
                )
                with suppress(ConnectionError):
                    client.recv(1)
                self.ended.set()
                return
            client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                b"Sec-WebSocket-Protocol: chat\r\n\r\nhello"
            )
            # Whoever went while an echo was on its way ends this connection with a reset.
            with suppress(ConnectionError):
                while data := client.recv(65536):
                    self.last = data
                    if data == b"hang up":
                        return
                    client.sendall(data)
            self.ended.set()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def echo():
    found = Echo()
    yield found
    found.close()


@pytest.fixture(scope="module")
def socket_gateway(echo, store):
    running = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{echo.port}",
            "nozie.gateway.timeouts.websocket": "1s",
        },
        workers=1,
    )
    yield running
    running.stop()


def opened(gateway, handshake=HANDSHAKE):
    client = gateway.open()
    client.sendall(handshake)
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += client.recv(4096)
    return client, raw


def read(client, wanted):
    found = b""
    while len(found) < wanted and (data := client.recv(65536)):
        found += data
    return found


def test_a_websocket_passes_both_ways_whatever_its_bytes(socket_gateway, echo):
    client, raw = opened(socket_gateway)
    with client:
        head, _, rest = raw.partition(b"\r\n\r\n")
        answer = Answer(head + b"\r\n\r\n")
        assert answer.status == 101
        assert answer.headers["sec-websocket-protocol"] == "chat"
        assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade")
        assert "x-correlation-id" in answer.headers
        assert b"Sec-WebSocket-Protocol: chat, superchat".lower() in echo.heads[-1].lower()
        assert rest + read(client, 5 - len(rest)) == b"hello"
        data = os.urandom(2**20)
        threading.Thread(target=client.sendall, args=(data,)).start()
        assert read(client, len(data)) == data


def test_each_side_learns_that_the_other_went(socket_gateway, echo):
    client, _ = opened(socket_gateway)
    with client:
        client.sendall(b"hang up")
        while client.recv(100):
            pass
    echo.ended.clear()
    client, raw = opened(socket_gateway)
    # A socket closed with bytes unread sends a reset, which overtakes what was sent before.
    read(client, len(b"hello") - len(raw.partition(b"\r\n\r\n")[2]))
    client.sendall(b"my last words")
    client.close()
    assert echo.ended.wait(5)
    assert echo.last.endswith(b"my last words")


def test_a_websocket_without_a_byte_is_ended(socket_gateway):
    client, _ = opened(socket_gateway)
    with client:
        client.settimeout(10)
        while client.recv(100):
            pass


def test_a_service_may_refuse_the_handshake(socket_gateway):
    raw = socket_gateway.say(HANDSHAKE.replace(b"/socket", b"/refused") + b"\x81\x05frame")
    assert (Answer(raw).status, raw.count(b"HTTP/1.1")) == (403, 1)


def test_a_handshake_that_became_a_stream_ends_with_its_client(socket_gateway, echo):
    """There is no tunnel then by which its end would be noticed."""
    echo.ended.clear()
    client, raw = opened(socket_gateway, HANDSHAKE.replace(b"/socket", b"/events"))
    with client:
        assert Answer(raw).status == 200
        while b"data: 1" not in raw:
            raw += client.recv(4096)
        client.sendall(b"\x81\x05frame")
    assert echo.ended.wait(5)


def test_a_handshake_from_a_strangers_page_is_refused(store, echo):
    running = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{echo.port}",
            "nozie.cors.allowed-origins": "https://nozie.app",
        },
        workers=1,
    )
    try:
        seen = len(echo.heads)
        stranger = HANDSHAKE.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n")
        assert Answer(running.say(stranger)).status == 403
        assert len(echo.heads) == seen
    finally:
        running.stop()


# --- a cap on what waits


def test_so_many_requests_of_a_route_may_wait_and_no_more(store):
    slow = Upstream()
    running = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{slow.port}",
            f"{SIMPLE}.identity-service[0].uri": f"http://127.0.0.1:{slow.port}",
            "nozie.gateway.max-in-flight": 3,
        },
        workers=1,
    )
    held = [running.open() for _ in range(3)]
    try:
        for number, client in enumerate(held):
            client.sendall(b"GET /search/%d/stall HTTP/1.1\r\nHost: api\r\n\r\n" % number)
        eventually(lambda: len(slow.heads) >= 3)
        answer = running.ask("/search/x")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["success"] is False
        assert running.ask("/api/auth/validate").status == 200, "other routes do not notice"
        for client in held:
            client.close()
        eventually(lambda: running.ask("/search/x").status == 200)
    finally:
        for client in held:
            client.close()
        running.stop()
        slow.close()
