"""The judge itself: what it must not let pass."""

import json
import threading
from functools import partial

import pytest
from flask import Flask, Response
from werkzeug.serving import make_server

from tests.contract.client import CheckedSession, checked
from tests.contract.openapi import (
    OF_THE_GATEWAY,
    ContractError,
    Received,
    document,
    ensure_agrees,
    ensure_parameters,
    ensure_request,
)

TIME = "2026-01-30T16:48:39.123456"


def enveloped(data: object, **changes: object) -> bytes:
    body = {"success": True, "message": "Success", "data": data, "timestamp": TIME} | changes
    return json.dumps(body).encode()


def failure(**changes: object) -> bytes:
    return enveloped(None, success=False, message="No", **changes)


def judge(body: bytes, status: int = 200, kind: str = "application/json", **more: str) -> None:
    received = Received("GET", more.get("path", "/api/years"), status, kind, body)
    ensure_agrees([document("movie")], received)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        pytest.param(enveloped([2024]), 200, "application/json", id="as declared"),
        pytest.param(enveloped([]), 200, "application/json; charset=utf-8", id="with a parameter"),
        pytest.param(failure(), 503, "application/json", id="what any operation may answer"),
    ],
)
def test_what_agrees(body, status, kind):
    judge(body, status, kind)


@pytest.mark.parametrize(
    ("body", "status", "kind", "reason"),
    [
        pytest.param(enveloped(["2024"]), 200, "application/json", "not of type", id="a text"),
        pytest.param(b'{"success": true}', 200, "application/json", "required", id="keys missing"),
        pytest.param(
            enveloped([], timestamp=TIME + "Z"), 200, "application/json", "match", id="an offset"
        ),
        pytest.param(enveloped([2024]), 200, "text/html", "text/html", id="the wrong type"),
        pytest.param(b"<html>", 200, "application/json", "no JSON", id="no JSON"),
        pytest.param(enveloped([]), 201, "application/json", "declares", id="another success"),
        pytest.param(failure(), 404, "application/json", "declares", id="an undeclared failure"),
        pytest.param(failure(), 500, "application/json", "declares", id="a fault of the server"),
        pytest.param(b"<html>", 503, "text/html", "text/html", id="a failure in HTML"),
        pytest.param(enveloped(None), 503, "application/json", "False", id="a cheerful failure"),
        pytest.param(
            failure(trace="at x"), 503, "application/json", "Additional", id="a failure that tells"
        ),
    ],
)
def test_what_does_not(body, status, kind, reason):
    with pytest.raises(ContractError, match=reason):
        judge(body, status, kind)


def test_a_path_outside_the_document_is_unknown_or_management():
    judge(failure(), 404, path="/api/elsewhere")
    judge(b"up 1", 200, "text/plain", path="/actuator/prometheus")
    with pytest.raises(ContractError, match="no document"):
        judge(enveloped(None), 200, path="/api/elsewhere")


def test_a_literal_path_goes_before_a_templated_one():
    found = [document("movie").find("GET", f"/api/movies/{end}") for end in ("trending", "x")]
    assert [operation and operation.id for operation in found] == ["trendingMovies", "getMovieById"]


def test_the_gateways_short_form_is_a_failure_too():
    body = b'{"success": false, "message": "No", "status": 503}'
    for path in ("/api/years", "/api/elsewhere"):
        received = Received("GET", path, 503, "application/json", body)
        ensure_agrees([document("movie")], received, general=OF_THE_GATEWAY)


def test_an_accepted_body_must_be_documented():
    ensure_request(document("movie"), "POST", "/api/movies", {"name": "x", "slug": "x"})
    with pytest.raises(ContractError, match="createMovie"):
        ensure_request(document("movie"), "POST", "/api/movies", {"name": "x"})


def test_an_accepted_query_must_be_documented():
    search = ("GET", "/api/movies/search")
    ensure_parameters(document("movie"), *search, {"q": "rain", "page": "2", "beside": "x"})
    with pytest.raises(ContractError, match="searchMovies accepted page"):
        ensure_parameters(document("movie"), *search, {"q": "rain", "page": "two"})
    with pytest.raises(ContractError, match="searchMovies was content without q"):
        ensure_parameters(document("movie"), *search, {})


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param({}, "without Retry-After", id="missing"),
        pytest.param({"retry-after": "soon"}, "with Retry-After", id="of another type"),
    ],
)
def test_declared_headers_must_come(headers, reason):
    known = {"x-correlation-id": "7eac2639-b439-4105-97ca-64bf30efa6b8"}
    body = b'{"success": false, "message": "No"}'
    received = Received("GET", "/docs", 429, "application/json", body, known | headers)
    with pytest.raises(ContractError, match=reason):
        ensure_agrees([document("gateway")], received)


@pytest.fixture
def liar() -> Flask:
    """An honest list of genres, and years as texts."""
    app = Flask("liar")
    for name, data in (("years", ["soon"]), ("genres", [])):
        answer = partial(Response, enveloped(data), mimetype="application/json")
        app.add_url_rule(f"/api/{name}", name, answer)
    return app


def test_flasks_client_raises_where_the_test_stands(liar):
    with pytest.raises(ContractError, match="GET /api/years answered 200"):
        checked(liar, "movie").get("/api/years")


def test_the_session_does_so_over_the_wire(liar):
    server = make_server("127.0.0.1", 0, liar)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with CheckedSession(f"http://127.0.0.1:{server.server_port}", ["movie"]) as session:
            assert session.get("/api/genres").json()["data"] == []
            with pytest.raises(ContractError, match="GET /api/years answered 200"):
                session.get("/api/years")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
