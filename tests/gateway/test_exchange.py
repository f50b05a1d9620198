"""Paths that can be read in two ways, and bodies that are never held whole."""

import pytest

from cloud.errors import InvalidError
from gateway.exchange import Stream, TooLargeError, canonical, expand, status_of


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        pytest.param(b"/api/movies", "/api/movies", None, id="plain"),
        pytest.param(b"/", "/", None, id="root"),
        pytest.param(b"/api/movies/", "/api/movies/", None, id="trailing slash stays"),
        pytest.param(b"/a?x=1&y=%2f;..//", "/a", "x=1&y=%2f;..//", id="the query is not a path"),
        pytest.param(b"/a?", "/a", "", id="empty query"),
        pytest.param(b"/phim/%E1%BB%9D", "/phim/ờ", None, id="UTF-8"),
        pytest.param(b"/%61pi/movies", "/api/movies", None, id="encoded letter"),
        pytest.param(b"/a.b/..c/d..", "/a.b/..c/d..", None, id="dots inside a segment"),
        pytest.param(b"/a%20b", "/a b", None, id="encoded blank"),
    ],
)
def test_a_path_is_decoded_once(target, path, query):
    decoded, raw, found = canonical(target)
    assert (decoded, found) == (path, query)
    assert raw == target.decode().partition("?")[0]


@pytest.mark.parametrize(
    "target",
    [
        b"", b"*", b"api", b"http://evil/api/movies", b"//api", b"/api//admin", b"/api/", b"/.",
        b"/..", b"/api/./x", b"/api/../admin", b"/api/movies/..", b"/api;x=1/movies",
        b"/api/movies;jsessionid=1", b"/api\\admin", b"/api/%2e%2e/admin", b"/api/%2E/x",
        b"/api%2fadmin", b"/api%2Fadmin", b"/api%5cadmin", b"/api%5Cadmin", b"/api/%3bx",
        b"/api/%252e", b"/api/%00", b"/api/%0d%0aX:1", b"/api/%7f", b"/api/%c2%85", b"/api/%ff",
        b"/api/%c0%af", b"/api/%", b"/api/%2", b"/api/%zz", b"/api/#x", b"/a b",
    ],
)  # fmt: skip
def test_an_ambiguous_path_is_refused(target):
    if target == b"/api/":  # the one in this table that is fine
        assert canonical(target)[0] == "/api/"
        return
    with pytest.raises(InvalidError):
        canonical(target)


class End:
    """Source and sink at once; remembers what was asked of it."""

    def __init__(self):
        self.got, self.calls = b"", []

    def __getattr__(self, name):
        return lambda *_: self.calls.append(name)

    def send(self, data):
        self.got += data


def test_a_stream_without_a_sink_pauses_its_source():
    source, sink = End(), End()
    stream = Stream(source)
    stream.feed(b"x" * Stream.HIGH)
    assert source.calls == []
    stream.feed(b"y")
    assert source.calls == ["pause_reading"]
    stream.attach(sink)
    assert source.calls == ["pause_reading", "resume_reading"]
    stream.feed(b"z")
    stream.end()
    assert sink.got[-2:] == b"yz"
    assert sink.calls == ["finish"]


def test_a_stream_over_its_limit_fails_and_takes_nothing_more():
    source, sink = End(), End()
    stream = Stream(source, limit=10)
    stream.attach(sink)
    stream.feed(b"12345678")
    stream.feed(b"123")
    stream.feed(b"4")
    assert sink.got == b"12345678"
    assert sink.calls == ["abort"]
    assert isinstance(stream.failure, TooLargeError)


def test_a_stream_that_is_whole_is_taken_at_once_and_only_then():
    stream = Stream(End())
    stream.feed(b"a")
    stream.feed(b"b")
    assert stream.taken() is None
    stream.end()
    assert stream.taken() == b"ab"


def test_cancelling_tells_the_source_once():
    source = End()
    stream = Stream(source)
    stream.cancel()
    stream.cancel()
    stream.feed(b"late")
    assert source.calls == ["abandon"]


def test_variables_cannot_break_out_of_a_header_or_a_path():
    assert expand("x-{a}", {"a": "1\r\nX-User-Id: 1"}) == "x-1X-User-Id: 1"
    assert expand("/x/{a}", {"a": "b c?d#e"}, path=True) == "/x/b%20c%3Fd%23e"
    assert expand("{missing}", {}) == ""


@pytest.mark.parametrize(("text", "status"), [("401", 401), ("BAD_REQUEST", 400), (" 503 ", 503)])
def test_a_status_has_a_number_or_a_name(text, status):
    assert status_of(text) == status


@pytest.mark.parametrize("text", ["", "999", "NOPE", "-1"])
def test_what_is_no_status_is_refused(text):
    with pytest.raises(ValueError, match="status"):
        status_of(text)
