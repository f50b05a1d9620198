"""The door of a house, on a small application with one route per question."""

import json
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import structlog
from flask import Flask, request
from gunicorn.http.errors import InvalidChunkSize, NoMoreData
from werkzeug.serving import WSGIRequestHandler, make_server

import customer
from cloud import errors, security, tracing, web
from cloud.config import Environment
from cloud.testing import SECRET, bearer, properties, token

UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
KEYS = ["success", "message", "data", "timestamp"]


class DriverError(Exception):
    """As a store's driver raises it."""


class SpecialDriverError(DriverError):
    pass


class SoldOutError(errors.ConflictError):
    pass


FAILURES = {
    "invalid": errors.InvalidError("Not so", {"a": "b"}),
    "conflict": SoldOutError("Sold out"),
    "denied": errors.DeniedError("Not you"),
    "declined": errors.DeclinedError("No funds"),
    "missing": errors.NotFoundError("Not here"),
    "throttled": errors.ThrottledError("Slower", timedelta(seconds=30)),
    "different": errors.UnprocessableError("Another body"),
    "unconfigured": errors.NotConfiguredError("No provider"),
    "upstream": errors.UpstreamError(),
    "unavailable": errors.UnavailableError("The store is away"),
    "late": errors.DeadlineError("Too late"),
    "driver": SpecialDriverError("password=hunter2"),
    "settings": errors.ConfigurationError("jwt.secret is short"),
    "chunk": InvalidChunkSize(b"zz"),
    "cut": NoMoreData(b""),
    "bug": ZeroDivisionError("password=hunter2"),
}


@pytest.fixture
def environment() -> Environment:
    values = {
        "nozie.web.max-body-size": "1KB",
        "nozie.web.allowed-origins": "https://app.example",
        "nozie.web.trusted-proxies": "10.0.0.0/8",
    }
    return Environment(properties("sample-service", values))


@pytest.fixture
def app(environment) -> Flask:
    app = Flask("sample")
    web.install(
        app,
        environment,
        revoked=lambda principal: principal.jti == "revoked",
        translations={DriverError: errors.UnavailableError},
    )

    answering(app)
    asking(app)
    return app


def answering(app):
    @app.get("/fail/<name>")
    def fail(name):
        raise FAILURES[name]

    @app.get("/things/<int:id>")
    def thing(id):  # noqa: A002
        return web.ok({"id": id})

    @app.post("/echo")
    def echo():
        return web.ok(web.json_body())

    @app.get("/shape")
    def shape():
        moment = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001
        return web.plain({"price": Decimal("10.00"), "at": moment, "on": date(2026, 1, 2)})

    @app.get("/query")
    def query():
        return web.plain(
            {
                "page": web.query_int("page", 1, 1, 50),
                "size": web.query_int("size", 24, 1, 50, clamp=True),
                "flag": web.query_bool("flag"),
                "text": web.query_text("text", "none", 5),
            }
        )


def asking(app):
    @app.get("/me")
    @web.authenticated
    def me():
        return web.ok(web.principal().user_id)

    @app.get("/admin")
    @web.roles("ADMIN", "EDITOR")
    def admin():
        return web.ok()

    @app.get("/public")
    def public():
        known = web.caller()
        return web.ok(known and known.user_id)

    @app.get("/users/<int:id>")
    def user(id):  # noqa: A002
        return web.ok(web.owner_or_admin(id).user_id)

    @app.put("/users/<int:id>")
    def write(id):  # noqa: A002
        return web.ok(web.owner(id).user_id)

    @app.get("/client")
    def client():
        return web.ok(
            {
                "ip": web.client_ip(),
                "user": request.headers.get("X-User-Id"),
                "correlation": tracing.correlation_id.get(),
                "trace": tracing.current_trace_id(),
            }
        )


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("invalid", 400, "Not so"),
        ("conflict", 409, "Sold out"),
        ("denied", 403, "Not you"),
        ("declined", 402, "No funds"),
        ("missing", 404, "Not here"),
        ("throttled", 429, "Slower"),
        ("different", 422, "Another body"),
        ("unconfigured", 501, "No provider"),
        ("upstream", 502, "Upstream answered something unusable"),
        ("unavailable", 503, "The store is away"),
        ("late", 504, "Too late"),
        ("driver", 503, "Service is temporarily unavailable"),
        ("settings", 500, "Internal server error"),
        ("chunk", 400, "Request cannot be accepted"),
        ("cut", 400, "Request cannot be accepted"),
        ("bug", 500, "Internal server error"),
    ],
)
def test_an_error_answers_with_the_status_of_its_nearest_kind(client, name, status, message):
    answer = client.get(f"/fail/{name}")
    assert (answer.status_code, answer.json["message"]) == (status, message)
    assert list(answer.json) == KEYS
    assert answer.json["success"] is False
    assert answer.json["data"] == ({"a": "b"} if name == "invalid" else None)
    assert answer.content_type == "application/json"
    assert "hunter2" not in answer.text


def test_who_must_wait_is_told_how_long(client):
    assert client.get("/fail/throttled").headers["Retry-After"] == "30"


def test_no_path_and_no_method_are_envelopes_too(client):
    assert (client.get("/nowhere").status_code, client.get("//echo").status_code) == (404, 404)
    wrong = client.delete("/echo")
    assert (wrong.status_code, list(wrong.json)) == (405, KEYS)
    assert set(wrong.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert client.open("/echo", method="TRACE").status_code == 405
    assert client.open("/echo", method="NONSENSE").status_code == 405


def test_head_and_options_have_no_body(client):
    head = client.head("/things/1")
    assert (head.status_code, head.data) == (200, b"")
    options = client.options("/things/1")
    assert (options.status_code, options.data) == (200, b"")
    assert "Content-Type" not in options.headers
    assert set(options.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("id", ["x", "1.5", "9223372036854775808", "-", "%00", "1 ", "\u0661"])
def test_an_ill_typed_path_value_is_a_400(client, id):  # noqa: A002
    answer = client.get(f"/things/{id}")
    assert (answer.status_code, answer.json["data"]) == (400, {"id": "must be a whole number"})


@pytest.mark.parametrize("id", [0, -1, 2**63 - 1, -(2**63)])
def test_an_id_has_64_bits(client, id):  # noqa: A002
    assert client.get(f"/things/{id}").json["data"] == {"id": id}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        pytest.param(b'{"a":[1,{"b":null}]}', "application/json", 200, id="JSON"),
        pytest.param(b"{}", "application/json; charset=utf-8", 200, id="with a charset"),
        pytest.param(b"{}", "application/merge-patch+json", 200, id="a kind of JSON"),
        pytest.param(b"{}", "text/plain", 415, id="text"),
        pytest.param(b"a=b", "application/x-www-form-urlencoded", 415, id="a form"),
        pytest.param(b"{}", None, 415, id="of no kind"),
        pytest.param(b"", "application/json", 400, id="empty"),
        pytest.param(b"{", "application/json", 400, id="cut off"),
        pytest.param(b"[NaN]", "application/json", 400, id="NaN"),
        pytest.param(b'{"a":1,"a":2}', "application/json", 400, id="a key twice"),
        pytest.param(b"[" * 1000, "application/json", 400, id="nested too deep"),
        pytest.param(b'"' + b"x" * 1024 + b'"', "application/json", 413, id="too large"),
        pytest.param(b'"' + b"x" * 1022 + b'"', "application/json", 200, id="just not too large"),
    ],
)
def test_a_body_is_strict_json_within_the_limit(client, body, kind, status):
    assert client.post("/echo", data=body, content_type=kind).status_code == status


def test_numbers_keep_their_scale(client):
    body = '{"a":10.00,"b":0.1000000000000000055511151231257827}'
    answer = client.post("/echo", data=body, content_type="application/json")
    assert f'"data":{body}' in answer.text


def test_a_plain_answer_has_no_envelope(client):
    expected = b'{"price":10.00,"at":"2026-01-02T03:04:05.000000","on":"2026-01-02"}'
    assert client.get("/shape").data == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"page": 1, "size": 24, "flag": None, "text": "none"}),
        ("page=&size=&flag=&text=", {"page": 1, "size": 24, "flag": None, "text": "none"}),
        ("page=2&size=0&flag=ON&text=ab", {"page": 2, "size": 1, "flag": True, "text": "ab"}),
        ("size=99&flag=no", {"page": 1, "size": 50, "flag": False, "text": "none"}),
        ("page=+3", {"page": "400"}),
        ("page=%2B3", {"page": 3, "size": 24, "flag": None, "text": "none"}),
        ("page=0", {"page": "400"}),
        ("page=51", {"page": "400"}),
        ("page=x", {"page": "400"}),
        ("size=x", {"size": "400"}),
        ("flag=maybe", {"flag": "400"}),
        ("text=toolong", {"text": "400"}),
        ("text=%00", {"text": "400"}),
    ],
)
def test_query_values_are_typed(client, query, expected):
    answer = client.get(f"/query?{query}")
    if "400" in expected.values():
        assert answer.status_code == 400
        assert set(answer.json["data"]) == set(expected)
    else:
        assert answer.json == expected


OTHER_SECRET = "another-secret-of-64-bytes-another-secret-of-64-bytes-another-secr"
CLAIMS = {"jti": "1", "sub": "7", "username": "ann", "type": "ACCESS", "exp": 2**31}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        pytest.param(None, "Authorization header is missing", id="none"),
        pytest.param("Basic YTpi", "Authorization scheme must be Bearer", id="another scheme"),
        pytest.param("", "Authorization scheme must be Bearer", id="empty"),
        pytest.param(",", "Authorization scheme must be Bearer", id="a comma"),
        pytest.param("Bearer", "Authorization scheme must be Bearer", id="no token"),
        pytest.param("Bearer a b", "Token is invalid", id="two words"),
        pytest.param("Bearer a.b.c", "Token is invalid", id="nonsense"),
        pytest.param(f"Bearer {token(7, exp=1)}", "Token has expired", id="expired"),
        pytest.param(f"Bearer {token(7, jti='revoked')}", "Token has been revoked", id="revoked"),
        pytest.param(f"Bearer {token(7, type='REFRESH')}", "Token is invalid", id="refresh token"),
        pytest.param(f"Bearer {token(7, sub='x')}", "Token is invalid", id="no subject"),
        pytest.param(
            f"Bearer {security.sign(CLAIMS, OTHER_SECRET)}", "Token is invalid", id="forged"
        ),
    ],
)
def test_why_a_caller_is_not_known_is_told_apart(client, header, message):
    headers = {} if header is None else {"Authorization": header}
    answer = client.get("/me", headers=headers)
    assert (answer.status_code, answer.json["message"]) == (401, message)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    public = client.get("/public", headers=headers)
    assert (public.status_code, public.json["data"]) == (200, None)


def test_a_known_caller_is_known_on_public_operations_too(client):
    assert client.get("/me", headers=bearer(7)).json["data"] == 7
    assert client.get("/public", headers=bearer(7)).json["data"] == 7


def test_a_token_of_a_clock_ahead_of_ours_is_good(client):
    ahead = bearer(7, iat=int(time.time()) + 30)
    assert client.get("/me", headers=ahead).status_code == 200


@pytest.mark.parametrize(
    ("headers", "admin", "read", "write"),
    [
        pytest.param(bearer(7), 403, 200, 200, id="the user himself"),
        pytest.param(bearer(8), 403, 403, 403, id="another"),
        pytest.param(bearer(8, "ADMIN"), 200, 200, 403, id="an admin"),
        pytest.param(bearer(8, "EDITOR"), 200, 403, 403, id="another role"),
        pytest.param({"X-User-Id": "7", "X-User-Roles": "ADMIN"}, 401, 401, 401, id="his word"),
    ],
)
def test_roles_and_owners(client, headers, admin, read, write):
    found = [
        client.get("/admin", headers=headers),
        client.get("/users/7", headers=headers),
        client.put("/users/7", headers=headers),
    ]
    assert [answer.status_code for answer in found] == [admin, read, write]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("01890a5d-ac96-774b-bcce-b302099a8057", True, id="a UUID"),
        pytest.param("01890A5D-AC96-774B-BCCE-B302099A8057", True, id="in capitals"),
        pytest.param("x", False, id="anything"),
        pytest.param("01890a5dac96774bbcceb302099a8057", False, id="without hyphens"),
        pytest.param("00000000-0000-0000-0000-000000000000", False, id="zeros"),
        pytest.param(None, False, id="none"),
    ],
)
def test_a_correlation_id_is_a_uuid(client, given, kept):
    headers = {"X-Correlation-Id": given} if given else {}
    answer = client.get("/client", headers=headers)
    returned = answer.headers["X-Correlation-Id"]
    assert (returned == given) is kept
    assert UUID.fullmatch(returned.lower())
    assert answer.json["data"]["correlation"] == returned
    # Without a trace from outside, either finds the other.
    assert answer.json["data"]["trace"] == returned.replace("-", "").lower()


def test_a_trace_from_outside_goes_on(client):
    trace = uuid4().hex
    answer = client.get("/client", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert answer.json["data"]["trace"] == trace


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        pytest.param("203.0.113.9", "198.51.100.1", "203.0.113.9", id="a stranger's word"),
        pytest.param("10.0.0.1", "198.51.100.1", "198.51.100.1", id="our proxy's word"),
        pytest.param("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1", id="the last entry"),
        pytest.param("10.0.0.1", None, "10.0.0.1", id="no entry"),
    ],
)
def test_the_clients_address(client, peer, forwarded, address):
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    answer = client.get("/client", headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert answer.json["data"]["ip"] == address


@pytest.mark.parametrize("path", ["/shape", "/nowhere", "/fail/bug"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        pytest.param({"Origin": "https://app.example"}, "https://app.example", id="called itself"),
        pytest.param({"Origin": "https://evil.example"}, None, id="another origin"),
        pytest.param({"Origin": "null"}, None, id="null"),
        pytest.param({}, None, id="no browser"),
        pytest.param(
            {"Origin": "https://app.example", "X-Forwarded-For": "1.2.3.4"},
            None,
            id="through the gateway",
        ),
    ],
)
def test_cors_is_the_gateways_business(client, headers, allowed):
    assert client.get("/shape", headers=headers).headers.get("Access-Control-Allow-Origin") == (
        allowed
    )
    asked = {**headers, "Access-Control-Request-Method": "GET"}
    preflight = client.options("/shape", headers=asked).headers
    assert ("Access-Control-Allow-Methods" in preflight) is (allowed is not None)


def test_one_line_a_request_that_names_route_and_caller_but_no_path(client, caplog):
    lines: list[Any] = []
    with caplog.at_level(logging.INFO), structlog_lines(lines):
        client.get("/users/7", headers=bearer(8, "ADMIN"))
        client.get("/nowhere/ann@example.org")
    found = [line for line in lines if line["event"] == "request"]
    assert [(one["route"], one["status"], one["principal"]) for one in found] == [
        ("/users/{id}", 200, 8),
        ("NOT_FOUND", 404, None),
    ]
    assert all(one["took_ms"] >= 0 for one in found)
    assert "ann@example.org" not in json.dumps(lines)


def test_what_went_wrong_is_in_the_log_only(client):
    lines: list[Any] = []
    with structlog_lines(lines):
        client.get("/fail/bug")
        client.get("/fail/driver")
    failed = next(line for line in lines if line["event"] == "request_failed")
    assert isinstance(failed["exc_info"], ZeroDivisionError)
    away = next(line for line in lines if line["event"] == "request_not_served")
    assert away["reason"] == "SpecialDriverError: password=hunter2"


@contextmanager
def structlog_lines(lines):
    with structlog.testing.capture_logs() as found:
        yield
    lines.extend(found)


def test_a_refresh_takes_effect_with_the_next_request(client, environment):
    body = {"a": "x" * 2000}
    assert client.post("/echo", json=body).status_code == 413
    environment.replace(properties("sample-service", {"nozie.web.max-body-size": "1MB"}))
    assert client.post("/echo", json=body).status_code == 200
    environment.replace(properties("sample-service", {"nozie.web.max-body-size": "huge"}))
    assert client.post("/echo", json=body).status_code == 200


def test_a_setting_that_cannot_be_used_names_its_key():
    environment = Environment(properties("x", {"nozie.web.trusted-proxies": "everybody"}))
    with pytest.raises(errors.ConfigurationError, match=r"nozie\.web\.trusted-proxies"):
        web.install(Flask("x"), environment)


def test_the_house_serves_its_document(environment):
    app = Flask(customer.__name__)
    web.install(app, environment)
    answer = app.test_client().get("/openapi.json")
    assert answer.status_code == 200
    assert answer.get_json()["openapi"] == "3.1.0"


def test_a_house_without_a_document_says_so(client):
    assert client.get("/openapi.json").status_code == 404


class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass


@pytest.fixture
def address(app):
    server = make_server("127.0.0.1", 0, app, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("size", "status"), [(1000, b"200"), (1100, b"413"), (5000, b"413")])
def test_a_chunked_body_has_the_same_limit(address, size, status):
    chunk = b'"' + b"x" * (size - 2) + b'"'
    with socket.create_connection(address, timeout=10) as wire:
        wire.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%s\r\n0\r\n\r\n"
            % (len(chunk), chunk)
        )
        assert wire.recv(4096).split()[1] == status


def test_spaces_beyond_the_limit_do_not_hide_a_body(address):
    """What is left after the limit must not be cut off in silence."""
    body = b"{}" + b" " * 4000
    with socket.create_connection(address, timeout=10) as wire:
        wire.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%s\r\n0\r\n\r\n"
            % (len(body), body)
        )
        assert wire.recv(4096).split()[1] == b"413"


def test_the_tests_secret_is_no_default():
    assert security.DEFAULT_SECRET != SECRET
