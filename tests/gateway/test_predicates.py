"""Spring Cloud Gateway's predicates; the cases follow its reference documentation."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from cloud.config import Properties
from gateway.exchange import Exchange, Stream
from gateway.predicates import Pattern, build, version
from gateway.route import define

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
NOBODY: Any = None


def exchange(**changes):
    return Exchange(**{"method": "GET", "path": "/", "raw_path": "/"} | changes)


@pytest.mark.parametrize(
    ("pattern", "path", "variables"),
    [
        ("/api/movies/**", "/api/movies/7", {}),
        ("/api/movies/**", "/api/movies", {}),
        ("/api/movies/**", "/api/movies/", {}),
        ("/api/movies/**", "/api/moviesx", None),
        ("/api/movies/**", "/API/movies", None),
        ("/api/genres", "/api/genres", {}),
        ("/api/genres", "/api/genres/", {}),
        ("/api/genres", "/api/genres/x", None),
        ("/red/{segment}", "/red/1", {"segment": "1"}),
        ("/red/{segment}", "/red/1/", {"segment": "1"}),
        ("/red/{segment}", "/red/1/2", None),
        ("/red/{segment}", "/red/", None),
        ("/red/{segment}/**", "/red/1/2/3", {"segment": "1"}),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}),
        ("/{id:\\d+}", "/42", {"id": "42"}),
        ("/{id:\\d{2}}", "/42", {"id": "42"}),
        ("/{id:(a|b)c}/{z}", "/ac/9", {"id": "ac", "z": "9"}),
        ("/{id:\\d+}", "/x", None),
        ("/files/{*rest}", "/files/a/b", {"rest": "/a/b"}),
        ("/a/*/c", "/a/b/c", {}),
        ("/a/*/c", "/a/b/b/c", None),
        ("/a?c", "/abc", {}),
        ("/a?c", "/a/c", None),
        ("/**", "/anything/at/all", {}),
        ("/a.c", "/abc", None),
    ],
)
def test_a_path_pattern(pattern, path, variables):
    assert Pattern(pattern).match(path) == variables


def test_a_trailing_slash_can_be_made_to_count():
    held = build(define("Path=/a/b,/c/**,false"))
    assert held(exchange(path="/a/b")) == {}
    assert held(exchange(path="/a/b/")) is None
    assert held(exchange(path="/c/d")) == {}


@pytest.mark.parametrize(
    ("text", "changes", "held"),
    [
        ("Method=GET,POST", {"method": "POST"}, True),
        ("Method=get", {"method": "GET"}, True),
        ("Method=GET,POST", {"method": "PUT"}, False),
        ("Host=**.somehost.org,**.anotherhost.org", {"host": "www.somehost.org"}, True),
        ("Host=**.somehost.org", {"host": "a.b.somehost.org"}, True),
        ("Host=**.somehost.org", {"host": "a.b.somehost.org:8080"}, False),
        ("Host=**.somehost.org", {"host": "somehost.org"}, True),
        ("Host=**.somehost.org", {"host": "evilsomehost.org"}, False),
        ("Host=a.org:8080", {"host": "a.org:8080"}, True),
        ("Header=X-Request-Id, \\d+", {"headers": [(b"x-request-id", b"12")]}, True),
        ("Header=X-Request-Id, \\d+", {"headers": [(b"x-request-id", b"a12")]}, False),
        ("Header=X-Request-Id", {"headers": [(b"x-request-id", b"")]}, True),
        ("Header=X-Request-Id", {}, False),
        ("Header=Host, api[.]nozie[.]app", {"host": "api.nozie.app"}, True),
        ("Header=Host, other", {"host": "api.nozie.app"}, False),
        ("Header=Host", {}, False),
        ("Header=Upgrade, websocket", {"tunnel": Stream(NOBODY)}, True),
        ("Header=Connection, Upgrade", {"tunnel": Stream(NOBODY)}, True),
        ("Header=Upgrade", {}, False),
        ("Query=green", {"query": "a=1&green="}, True),
        ("Query=green", {"query": "greener=1"}, False),
        ("Query=red, gree.", {"query": "red=green"}, True),
        ("Query=red, gree.", {"query": "red=greet1"}, False),
        ("Cookie=chocolate, ch.p", {"headers": [(b"cookie", b"a=1; chocolate=chip")]}, True),
        ("Cookie=chocolate, ch.p", {"headers": [(b"cookie", b"chocolate=no")]}, False),
        ("RemoteAddr=192.168.1.1/24", {"peer": "192.168.1.77"}, True),
        ("RemoteAddr=192.168.1.1/24", {"peer": "192.168.2.1"}, False),
        ("XForwardedRemoteAddr=10.0.0.0/8", {"client": "10.1.2.3"}, True),
        ("After=2017-01-20T17:42:47.789-07:00[America/Denver]", {}, True),
        ("After=2030-01-20T17:42:47.789-07:00[America/Denver]", {}, False),
        ("Before=1500000000000", {}, False),
        ("Between=2017-01-20T17:42:47Z, 2030-01-21T17:42:47.789-07:00", {}, True),
    ],
)
def test_a_predicate(text, changes, held):
    found = build(define(text), lambda: NOW)(exchange(**changes))
    assert (found is not None) is held


def test_a_host_gives_variables():
    held = build(define("Host={sub}.myhost.org"))
    assert held(exchange(host="www.myhost.org")) == {"sub": "www"}


@pytest.mark.parametrize(
    "text",
    ["Nonsense=1", "Header=X,(", "Between=2030-01-01T00:00Z,2020-01-01T00:00Z", "Path=",
     "RemoteAddr=300.1.1.1", "After=yesterday", "Cookie=a"],
)  # fmt: skip
def test_a_predicate_that_cannot_be_built_says_so(text):
    with pytest.raises((ValueError, re.error)):
        build(define(text))


def test_the_port_of_a_host_can_be_left_out():
    """As `predicate.host.include-port: false` does in Spring."""
    option = {"predicate.host.include-port": "false"}.get
    held = build(define("Host=**.somehost.org"), option=option)
    assert held(exchange(host="a.somehost.org:8080")) == {}
    assert held(exchange(host="a.somehost.org")) == {}


VERSIONS = "spring.webflux.apiversion"


@pytest.mark.parametrize(
    ("wanted", "told", "held"),
    [
        ("1.3", "1.3.0", True),
        ("1.3", "v1.3", True),
        ("1.3", "1.4", False),
        ("1.1+", "1.1", True),
        ("1.1+", "1.10", True),
        ("1.9+", "1.10", True),
        ("1.1+", "1.0.9", False),
        ("1.1+", "latest", False),
        ("1.1+", None, True),
    ],
)
def test_a_version_of_the_api(wanted, told, held):
    """Who names none has the default, 1.2."""
    given = {f"{VERSIONS}.use.header": "X-API-Version", f"{VERSIONS}.default": "1.2"}
    found = version({"_0": wanted}, Properties.of(given))
    headers = [(b"x-api-version", told.encode())] if told else []
    assert (found(exchange(headers=headers)) is not None) is held


@pytest.mark.parametrize(
    ("use", "changes"),
    [
        ({"query-parameter": "v"}, {"query": "a=1&v=2"}),
        ({"path-segment": "1"}, {"raw_path": "/api/v2/x"}),
        (
            {"media-type-parameter": {"application/json": "version"}},
            {"headers": [(b"accept", b"text/html, application/json;version=2")]},
        ),
    ],
)
def test_a_version_may_stand_elsewhere(use, changes):
    found = version({"version": "2"}, Properties.of({f"{VERSIONS}.use": use}))
    assert found(exchange(**changes)) == {}
    assert found(exchange()) is None


def test_a_version_that_nothing_tells_is_refused():
    with pytest.raises(ValueError, match=r"apiversion\.use"):
        version({"_0": "1"}, Properties.of({}))
