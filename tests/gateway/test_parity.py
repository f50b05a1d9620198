"""A stock Spring Cloud Gateway and ours, side by side: one YAML, one upstream that writes it down.

Whatever the client sends, the upstream must see the same and the client must get the same, but for
what our edge does more safely on purpose: those cases say so, and why.
"""

import fcntl
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import pytest
import yaml

from gateway.handler.cors import VARY
from tests.gateway.conftest import WAIT_S, Answer, Gateway, everything, settings
from tests.gateway.parity import CASES, LOCATOR, SERVICES, STORIES, Case, marked, routes

SIMPLE = "spring.cloud.discovery.client.simple.instances"

LIMITED = {
    "id": "limited",
    "predicates": ["Path=/limited"],
    "filters": [
        {
            "name": "RequestRateLimiter",
            "args": {
                "redis-rate-limiter.replenishRate": 1,
                "redis-rate-limiter.burstCapacity": 60,
                "redis-rate-limiter.requestedTokens": 10,
                "key-resolver": "#{@remoteAddrKeyResolver}",
                "across-routes": True,  # theirs, being older than 4.2, knows nothing else
            },
        }
    ],
}

LIMIT_HEADERS = (
    "x-ratelimit-requested-tokens",
    "x-ratelimit-burst-capacity",
    "x-ratelimit-replenish-rate",
)

# Ours says more to an upstream: who calls, from where, in which trace. How a body is framed is
# each client's own affair; the body itself is compared.
_ADDED = re.compile(
    r"x-correlation-id|traceparent|x-user-.*|x-forwarded-.*|forwarded|connection|x-answer"
    r"|content-length|transfer-encoding"
)
# And to a client: which trace to ask for, and whether the connection stays.
_TOLD = {"x-correlation-id", "date", "connection", "server"}
# Ours has CORS rules without being told of any; so has theirs in an estate, not in this one.
_VARY = ("vary", VARY[1].decode())


@dataclass(frozen=True)
class Asked:
    """A request as the upstream saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


class Recorder:
    """An upstream that writes down what it is asked, and answers as the request itself says."""

    def __init__(self) -> None:
        self.seen: list[Asked] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader, suppress(OSError, ValueError):
            while line := reader.readline().decode("latin-1"):
                method, target, _ = line.split(" ", 2)
                headers = []
                while (line := reader.readline().decode("latin-1").rstrip("\r\n")) != "":
                    name, _, value = line.partition(":")
                    headers.append((name.lower(), value.strip()))
                fields = dict(headers)
                asked = Asked(method, target, headers, _body(fields, reader))
                self.seen.append(asked)
                client.sendall(_told(method, fields))


def _body(fields: Mapping[str, str], reader: BinaryIO) -> bytes:
    if "content-length" in fields:
        return reader.read(int(fields["content-length"]))
    body = b""
    if fields.get("transfer-encoding") == "chunked":
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    return body


def _told(method: str, fields: Mapping[str, str]) -> bytes:
    threading.Event().wait(float(fields.get("x-slow", "0")))
    status, headers, text = json.loads(fields.get("x-answer", '[200, {}, "ok"]'))
    lines = [f"HTTP/1.1 {status} Told"]
    lines += [f"{name}: {value}" for name, held in headers.items() for value in held.split("\n")]
    if status != 204:
        lines.append(f"Content-Length: {len(text)}")
    body = "" if method == "HEAD" else text
    return "\r\n".join([*lines, "", body]).encode("latin-1")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    found = Recorder()
    yield found
    found.close()


@pytest.fixture(scope="module")
def tree(recorder: Recorder, store) -> dict[str, Any]:
    """The one configuration that both read."""
    instances = {f"{SIMPLE}.{name}[0].uri": recorder.url for name in SERVICES}
    gateway = {
        "routes": [LIMITED | {"uri": recorder.url}, *routes(recorder.url)],
        "discovery.locator": LOCATOR,
        "filter.local-response-cache.enabled": True,
        "global-filter.local-response-cache.enabled": False,
        "default-filters": ["AddResponseHeader=X-Response-Default-Red, Default-Blue"],
    }
    return {"spring.cloud.gateway": gateway, **instances, **settings(store)}


@pytest.fixture(scope="module")
def theirs(request: pytest.FixtureRequest, tree: dict[str, Any]) -> Iterator[int]:
    """The stock gateway's port; one run of these tests at a time has it to itself."""
    estate = request.getfixturevalue("estate")
    folder = estate.site.path("spring-gateway")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        (folder / "routes.yml").write_text(yaml.safe_dump(tree))
        if estate.states().get("spring-gateway") in {"ready", "running", "starting"}:
            estate.stop("spring-gateway")
        estate.ensure("spring-gateway")
        yield estate.site.ports["spring-gateway"]
        estate.stop("spring-gateway")


@pytest.fixture(scope="module")
def ours(tree: dict[str, Any], store) -> Iterator[int]:
    changes = {**settings(store), "nozie.gateway.public": ["ANY /**"]}
    running = Gateway(changes, workers=1, tree=tree)
    yield running.port
    running.stop()


def ask(port: int, mark: str, case: Case) -> Answer:
    fields = {"Host": "api.local", "Connection": "close", "X-Case": mark}
    # Else their client names itself to the upstream.
    fields |= {"User-Agent": "parity", "Accept": "*/*", **case.headers}
    if "Connection" in case.headers:
        fields["Connection"] = f"close, {case.headers['Connection']}"
    if case.answer != (200, {}, "ok"):
        fields["X-Answer"] = json.dumps(case.answer)
    if case.body:
        fields["Content-Length"] = str(len(case.body))
    lines = [f"{case.method} {case.target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + case.body)
        return Answer(everything(client))


def at_upstream(asked: Asked) -> tuple[str, str, list[tuple[str, str]], bytes]:
    kept = sorted(held for held in asked.headers if not _ADDED.fullmatch(held[0]))
    return asked.method, asked.target, kept, asked.body


def at_client(answer: Answer) -> list[tuple[str, str]]:
    fields = ((name.lower(), value) for name, *rest in answer.fields for value in rest)
    kept = (held for held in fields if held[0] not in _TOLD and held != _VARY)
    # A second may pass between two requests.
    return sorted((name, re.sub("max-age=(30|29|28)", "max-age=30", value)) for name, value in kept)


@pytest.mark.estate
@pytest.mark.parametrize(
    ("number", "case"), [pytest.param(n, case, id=case.name) for n, case in enumerate(CASES)]
)
def test_both_gateways_do_the_same(number, case, theirs, ours, recorder):
    recorder.seen.clear()
    their_answer = ask(theirs, marked(number), case)
    their_calls = list(recorder.seen)
    recorder.seen.clear()
    our_answer = ask(ours, marked(number), case)
    our_calls = list(recorder.seen)

    if case.differs:
        assert (our_answer.status, target(our_calls)) == case.ours
        assert (their_answer.status, target(their_calls)) == case.theirs
        assert (
            {name for name, _ in our_calls[0].headers}
            != {name for name, _ in their_calls[0].headers}
            if our_calls and their_calls
            else True
        )
        return
    assert our_answer.status == their_answer.status
    assert list(map(at_upstream, our_calls)) == list(map(at_upstream, their_calls))
    if our_calls and our_answer.status != 504:  # else the gateways speak for themselves
        assert at_client(our_answer) == at_client(their_answer)
        assert our_answer.body == their_answer.body


@pytest.mark.estate
@pytest.mark.parametrize(
    ("number", "story"), [pytest.param(n, story, id=story.name) for n, story in enumerate(STORIES)]
)
def test_both_gateways_keep_the_same(number, story, theirs, ours, recorder):
    told = []
    for port in (theirs, ours):
        recorder.seen.clear()
        answers = [ask(port, marked(number, "s"), step) for step in story.steps]
        told.append((answers, list(map(at_upstream, recorder.seen))))
    (their_answers, their_calls), (our_answers, our_calls) = told
    if story.differs:
        assert (len(our_calls), len(their_calls)) == (story.ours, story.theirs)
        return
    assert our_calls == their_calls
    assert [one.status for one in our_answers] == [one.status for one in their_answers]
    assert [one.body for one in our_answers] == [one.body for one in their_answers]
    assert list(map(at_client, our_answers)) == list(map(at_client, their_answers))


@pytest.mark.estate
def test_both_gateways_take_from_one_bucket(theirs, ours, store):
    """60 tokens, 10 a request: six are let through, whichever of the two is asked."""
    store.delete(*(store.keys("request_rate_limiter.*") or ["none"]))
    answers = [
        ask(port, marked(0), Case("limited", target="/limited")) for port in (theirs, ours) * 4
    ]
    assert [answer.status for answer in answers] == [200] * 6 + [429] * 2
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers[:6]]
    # A second that passes meanwhile gives one token back.
    assert all(before - 10 <= after <= before - 7 for before, after in pairwise(left)), left
    told = [{name: answer.headers[name] for name in LIMIT_HEADERS} for answer in answers]
    assert all(each == told[0] for each in told)
    assert "retry-after" in answers[7].headers, "ours says when; Spring's never does"


def target(calls: list[Asked]) -> str | None:
    return calls[-1].target if calls else None


def test_there_are_enough_cases_and_each_difference_says_why():
    assert len(CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(bool(case.differs) for case in CASES) <= 8
