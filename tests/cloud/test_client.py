"""Calls to a service by its id, against real sockets that answer, refuse, break, stall and drip."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from cloud import tracing
from cloud.client import Answer, ServiceClient, caller_token
from cloud.config import Environment
from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from cloud.eureka import view
from cloud.testing import properties
from tests.ports import free_port
from tests.waiting import eventually

SIMPLE = "spring.cloud.discovery.client.simple.instances.movie-service"
BREAKER = "resilience4j.circuitbreaker.configs.default"

Talk = Callable[[socket.socket, bytes], None]


def reply(status: int, body: bytes = b"{}", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        size,
        body,
    )


def answering(status: int, body: bytes = b"{}", *, length: int | None = None) -> Talk:
    return lambda peer, _: peer.sendall(reply(status, body, length=length))


def echo(peer: socket.socket, request: bytes) -> None:
    """Answer with the request's lines."""
    peer.sendall(reply(200, json.dumps(request.decode().split("\r\n")).encode()))


def breaking(peer: socket.socket, _: bytes) -> None:
    peer.close()


def stalling(peer: socket.socket, _: bytes) -> None:
    peer.recv(1)


def dripping(peer: socket.socket, _: bytes) -> None:
    """Send a byte whenever the client would otherwise lose patience, and never end."""
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    peer.settimeout(0.05)
    while True:
        peer.sendall(b"x")
        try:
            if not peer.recv(1):
                return
        except TimeoutError:
            continue


class Upstream:
    """One instance: a listening socket and what it does with each request."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while request := self._read(peer):
                    self.requests.append(request)
                    self.talk(peer, request)
            except OSError:
                return

    @staticmethod
    def _read(peer: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = peer.recv(65536)
            if not piece:
                return b""
            request += piece
        head, _, body = request.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                while len(body) < int(line.partition(b":")[2]):
                    body += peer.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        # Wakes the thread in accept, which would keep the port open.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def upstream() -> Iterator[Callable[[Talk], Upstream]]:
    made: list[Upstream] = []

    def make(talk: Talk) -> Upstream:
        made.append(Upstream(talk))
        return made[-1]

    yield make
    for one in made:
        if one.listener.fileno() != -1:
            one.close()


def client(
    *uris: str,
    timeout_s: float = 5,
    settings: Mapping[str, str] | None = None,
    pause: Callable[[float], None] = time.sleep,  # noqa: TID251 - as it is
) -> ServiceClient:
    values = {f"{SIMPLE}[{index}].uri": uri for index, uri in enumerate(uris)}
    values |= {"eureka.client.enabled": "false", **(settings or {})}
    environment = Environment(properties("payment-service", values))
    assert len(view(environment).instances("movie-service")) == len(uris)
    timeout = timedelta(seconds=timeout_s)
    return ServiceClient("movie-service", environment, timeout=timeout, pause=pause)


@pytest.fixture
def caller() -> Iterator[None]:
    """A request is under way: it brought a token and a correlation id."""
    token = caller_token.set("the-callers-token")
    correlation = tracing.correlation_id.set("0a0b0c0d-0000-4000-8000-000000000001")
    yield
    caller_token.reset(token)
    tracing.correlation_id.reset(correlation)


@pytest.fixture
def closed_port() -> str:
    """An address that refuses: nobody listens there."""
    return f"http://127.0.0.1:{free_port()}"


def test_what_is_sent(upstream, caller):
    service = client(upstream(echo).uri)
    answer = service.request(
        "POST",
        "/api/movies/{id}/plays",
        values={"id": "a/../b?c"},
        params={"page": 1, "tag": ["x y", "z"], "none": None},
        json={"price": 5},
    )
    lines = answer.json()
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    assert lines[0] == "POST /api/movies/a%2F..%2Fb%3Fc/plays?page=1&tag=x+y&tag=z HTTP/1.1"
    assert lines[-1] == '{"price":5}'
    assert headers["authorization"] == "bearer the-callers-token"
    assert headers["x-correlation-id"] == "0a0b0c0d-0000-4000-8000-000000000001"
    assert headers["traceparent"].startswith("00-")
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("token", "sent"),
    [
        pytest.param(None, [], id="none at all"),
        pytest.param("other", ["Authorization: Bearer other"], id="another one"),
    ],
)
def test_token_by_argument(upstream, caller, token, sent):
    answer = client(upstream(echo).uri).get("/x", token=token)
    assert [line for line in answer.json() if line.startswith("Authorization")] == sent


def test_connections_are_kept_and_paths_go_out_as_given(upstream):
    instance = upstream(echo)
    service = client(instance.uri)
    paths = ["/a/../b", "/a/%2e%2e/b", "/a//b"]
    sent = [service.get(path).json()[0].split(" ")[1].lower() for path in paths]
    assert sent == paths
    assert instance.connections == 1


@pytest.mark.parametrize(
    ("talk", "expected"),
    [
        pytest.param(answering(200, b'{"data":1}'), 200, id="200 is an answer"),
        pytest.param(answering(404), 404, id="404 is an answer"),
        pytest.param(answering(409), 409, id="409 is an answer"),
        pytest.param(answering(500), UpstreamError, id="500"),
        pytest.param(answering(503), UnavailableError, id="503"),
        pytest.param(answering(504), DeadlineError, id="504"),
        pytest.param(breaking, UnavailableError, id="broken connection"),
        pytest.param(stalling, DeadlineError, id="silence"),
        pytest.param(dripping, DeadlineError, id="a body that never ends"),
        pytest.param(answering(200, b"{}", length=9), DeadlineError, id="half a body"),
        pytest.param(lambda peer, _: peer.sendall(b"?\r\n\r\n"), UnavailableError, id="no HTTP"),
    ],
)
def test_every_outcome_has_its_meaning(upstream, talk, expected):
    service = client(upstream(talk).uri, timeout_s=0.4)
    if isinstance(expected, int):
        assert service.get("/x").status == expected
        return
    with pytest.raises(expected, match="movie-service"):
        service.get("/x")


def test_an_answer_that_is_no_json(upstream):
    answer = client(upstream(answering(200, b"<html>")).uri).get("/x")
    with pytest.raises(UpstreamError, match="no JSON"):
        answer.json()


def test_an_answer_without_end_is_cut(upstream):
    service = client(
        upstream(answering(200, b"x" * 5000)).uri, settings={"nozie.client.max-answer": "4KB"}
    )
    with pytest.raises(UpstreamError, match="too long"):
        service.get("/x")


def test_nobody_registered(closed_port):
    with pytest.raises(UnavailableError, match="movie-service has no instance"):
        client().get("/x")


def test_a_deadline_in_the_past_calls_nobody(upstream):
    instance = upstream(echo)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(DeadlineError):
        client(instance.uri).get("/x", deadline=past)
    assert instance.requests == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_is_tried_on_the_next_instance(upstream, closed_port, method):
    alive = upstream(echo)
    service = client(closed_port, alive.uri)
    assert [service.request(method, "/x").status for _ in range(6)] == [200] * 6
    assert len(alive.requests) == 6


@pytest.mark.parametrize(
    ("method", "failures"),
    [
        pytest.param("GET", 0, id="a safe one is repeated"),
        pytest.param("POST", 3, id="an unsafe one may have taken effect"),
    ],
)
def test_a_call_that_broke(upstream, method, failures):
    """Until the broken instance is ejected, by its third failure."""
    broken, alive = upstream(breaking), upstream(echo)
    service = client(broken.uri, alive.uri)

    def call() -> Answer | None:
        try:
            return service.request(method, "/x")
        except UnavailableError:
            return None

    assert [call() for _ in range(12)].count(None) == failures
    assert len(broken.requests) == 3


def test_retries_end_with_their_budget(upstream):
    broken = [upstream(breaking), upstream(breaking)]
    service = client(
        *(one.uri for one in broken), settings={f"{BREAKER}.minimum-number-of-calls": "1000"}
    )
    for _ in range(50):
        with pytest.raises(UnavailableError):
            service.get("/x")
    assert sum(len(one.requests) for one in broken) <= 50 * 1.5


RETRY = "spring.cloud.loadbalancer.retry"


@pytest.mark.parametrize(
    ("same", "following", "expected"),
    [
        pytest.param(0, 0, [1], id="no retry at all"),
        pytest.param(0, 1, [1, 1], id="the next one once"),
        pytest.param(1, 0, [2], id="the same one once more"),
        pytest.param(1, 1, [2, 2], id="twice the same, twice the next"),
        pytest.param(0, 2, [1, 1, 1], id="two others"),
    ],
)
def test_tries_of_a_call_that_breaks_everywhere(upstream, same, following, expected):
    """As Spring's RetryableLoadBalancer counts them."""
    broken = [upstream(breaking) for _ in range(3)]
    service = client(
        *(one.uri for one in broken),
        settings={
            f"{RETRY}.max-retries-on-same-service-instance": str(same),
            f"{RETRY}.max-retries-on-next-service-instance": str(following),
        },
    )
    with pytest.raises(UnavailableError):
        service.get("/x")
    assert sorted(len(one.requests) for one in broken if one.requests) == expected


@pytest.mark.parametrize(
    ("exceptions", "asked"),
    [
        pytest.param("", 2, id="as Spring has it"),
        pytest.param("java.io.IOException, java.util.concurrent.TimeoutException", 2, id="I/O"),
        pytest.param("java.net.ConnectException", 1, id="what broke was connected"),
        pytest.param("com.acme.UnheardOfException", 1, id="nothing of ours"),
    ],
)
def test_exceptions_that_are_retried(upstream, exceptions, asked):
    broken = [upstream(breaking) for _ in range(2)]
    settings = {f"{RETRY}.retryable-exceptions": exceptions}
    service = client(*(one.uri for one in broken), settings=settings)
    with pytest.raises(UnavailableError):
        service.get("/x")
    assert sum(len(one.requests) for one in broken) == asked


def test_a_status_may_count_as_no_answer(upstream):
    sick, well = upstream(answering(429)), upstream(echo)
    settings = {f"{RETRY}.retryable-status-codes": "429"}
    service = client(sick.uri, well.uri, settings=settings)
    assert {service.get("/x").status for _ in range(4)} == {200}
    assert sick.requests
    with pytest.raises(UnavailableError, match="answered 429"):
        client(sick.uri, settings=settings).get("/x")


def test_pauses_between_tries_grow_within_the_deadline(upstream):
    pauses: list[float] = []
    broken = [upstream(breaking) for _ in range(4)]
    service = client(
        *(one.uri for one in broken),
        pause=pauses.append,
        settings={
            f"{RETRY}.max-retries-on-next-service-instance": "3",
            f"{RETRY}.backoff.enabled": "true",
            f"{RETRY}.backoff.min-backoff": "10ms",
            f"{RETRY}.backoff.max-backoff": "25ms",
            f"{RETRY}.backoff.jitter": "0",
        },
    )
    with pytest.raises(UnavailableError):
        service.get("/x")
    assert pauses == [0.01, 0.02, 0.025]


def test_settings_of_retries_follow_a_refresh(upstream):
    broken = [upstream(breaking), upstream(breaking)]
    values = {f"{SIMPLE}[{index}].uri": one.uri for index, one in enumerate(broken)}
    values["eureka.client.enabled"] = "false"
    environment = Environment(properties("payment-service", values))
    service = ServiceClient("movie-service", environment)
    environment.replace(properties("payment-service", {**values, f"{RETRY}.enabled": "false"}))
    with pytest.raises(UnavailableError):
        service.get("/x")
    assert sum(len(one.requests) for one in broken) == 1


def test_a_hint_goes_to_who_has_it_and_the_cookie_tells_it_its_id(upstream):
    plain, canary = upstream(echo), upstream(echo)
    balancing = "spring.cloud.loadbalancer.clients.movie-service"
    service = client(
        plain.uri,
        canary.uri,
        settings={
            f"{SIMPLE}[1].metadata.hint": "canary",
            f"{balancing}.sticky-session.add-service-instance-cookie": "true",
        },
    )
    headers = {"X-SC-LB-Hint": "canary", "cookie": "a=b"}
    for _ in range(4):
        lines = service.request("GET", "/x", headers=headers).json()
    assert (len(plain.requests), len(canary.requests)) == (0, 4)
    id_ = f"127.0.0.1:movie-service:{canary.port}"
    cookies = [line for line in lines if line.lower().startswith("cookie")]
    assert cookies == [f"Cookie: a=b; sc-lb-instance-id={id_}"]


def test_breaker_opens_around_a_service_that_fails_and_closes_when_it_is_back(upstream):
    instance = upstream(answering(503))
    service = client(
        instance.uri,
        settings={
            f"{BREAKER}.minimum-number-of-calls": "4",
            f"{BREAKER}.wait-duration-in-open-state": "50ms",
            f"{BREAKER}.permitted-number-of-calls-in-half-open-state": "1",
        },
    )
    for _ in range(6):
        with pytest.raises(UnavailableError):
            service.get("/x")
    assert len(instance.requests) == 4
    instance.talk = echo

    def answer() -> Answer | None:
        with suppress(UnavailableError):
            return service.get("/x")
        return None

    assert eventually(answer).status == 200


def test_the_only_instance_gets_a_second_chance_after_a_broken_connection(upstream):
    """A kept connection may break under a call for reasons that are over with it."""
    instance = upstream(echo)

    def break_once(peer: socket.socket, _: bytes) -> None:
        instance.talk = echo
        peer.close()

    instance.talk = break_once
    assert client(instance.uri).get("/x").status == 200


def test_an_instance_that_closed_its_kept_connection_is_called_anew(upstream):
    def once(peer: socket.socket, _: bytes) -> None:
        peer.sendall(reply(200))
        peer.shutdown(socket.SHUT_RDWR)

    service = client(upstream(once).uri)
    assert [service.get("/x").status for _ in range(3)] == [200] * 3
