"""The Config Server: the real one, and one that misbehaves on a real socket."""

import base64
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
import structlog

from cloud.config import Environment, Properties, load
from cloud.config.remote import fetch_all
from cloud.errors import ConfigurationError, UnavailableError
from tests.cloud.config_server import NOWHERE, Server, answer


@pytest.fixture
def wayward() -> Iterator[Server]:
    with closing(Server()) as started:
        yield started


@pytest.fixture
def pauses() -> list[float]:
    return []


def fetch(pauses: list[float], imported: str, **more: str) -> Properties:
    given = {
        "spring.config.import": imported,
        **{f"spring.cloud.config.{k}": v for k, v in more.items()},
    }
    local = Properties.of(given, "app", ("dev",))
    answers = fetch_all(local, pause=pauses.append)
    return Properties("app", ("dev",), [source for one in answers for source in one.sources])


LAYERS = {
    "local": None,
    "shared": "file:/c/application.yml",
    "service": "file:/c/app.yml",
    "local of the profile": None,
    "shared of the profile": "file:/c/application-dev.yml",
    "service of the profile": "file:/c/app-dev.yml",
    "overrides": "overrides",
    "environment": None,
    "json": None,
}
"""Lowest precedence first, with the names that the server gives its sources."""


@pytest.mark.parametrize("highest", LAYERS)
def test_each_layer_wins_over_all_below_it(tmp_path: Path, wayward: Server, highest: str):
    """The remote shared file stands between the two local ones (Spring Boot's import order)."""
    present = list(LAYERS)[: list(LAYERS).index(highest) + 1]
    sent = [
        (file, {"k": name}) for name, file in reversed(LAYERS.items()) if file and name in present
    ]
    wayward.reply = lambda _path, _headers: (200, answer(*sent))
    text = "spring: {application: {name: app}, config: {import: 'configserver:%s'}}\nk: local"
    (tmp_path / "application.yml").write_text(text % wayward.url)
    if "local of the profile" in present:
        (tmp_path / "application-dev.yml").write_text("k: local of the profile")
    variables = {"SPRING_PROFILES_ACTIVE": "dev"}
    if "environment" in present:
        variables["K"] = "environment"
    if "json" in present:
        variables["SPRING_APPLICATION_JSON"] = '{"k": "json"}'
    assert load(tmp_path, variables).get("k") == highest
    assert wayward.paths == ["/app/dev"]


def test_state_and_version_of_the_answer_are_properties(wayward: Server, pauses: list[float]):
    wayward.reply = lambda _path, _headers: (200, answer(("a", {}), state="s1", version="v1"))
    found = fetch(pauses, f"configserver:{wayward.url}")
    assert [source.name for source in found.sources] == ["configClient", "configserver:a"]
    assert found.get("config.client.state") == "s1"
    assert found.get("config.client.version") == "v1"


def test_values_of_both_media_types(wayward: Server, pauses: list[float]):
    body = b"""{"propertySources": [{"name": "git/app.yml", "source": {
        "n": {"value": 1.10, "origin": "git/app.yml:3:4"}, "p": {"value": "v", "origin": "7:1"},
        "t": {"value": true}, "z": null, "plain": 12, "list[0].x": "y"}}]}"""
    wayward.reply = lambda _path, _headers: (200, body)
    found = fetch(pauses, f"configserver:{wayward.url}")
    assert [found.get(k) for k in ("n", "t", "z", "plain", "list[0].x")] == [
        "1.10",
        "true",
        "",
        "12",
        "y",
    ]
    assert found.origin("n") == "git/app.yml:3:4"
    assert found.origin("p") == "configserver:git/app.yml:7:1"
    assert wayward.asked[0][1]["accept"] == "application/vnd.spring-cloud.config-server.v2+json"


def test_labels_are_tried_in_order_and_spelled_for_the_path(wayward: Server, pauses: list[float]):
    wayward.reply = lambda path, _headers: (
        (200, answer(("a", {"k": "v"}))) if path.endswith("main") else (404, {})
    )
    found = fetch(
        pauses, f"configserver:{wayward.url}", label="feature/new one, main", name="a,b/c"
    )
    assert found.get("k") == "v"
    assert wayward.paths == ["/a,b(_)c/dev/feature(_)new%20one", "/a,b(_)c/dev/main"]


def test_query_parameters_beat_properties_and_pauses_grow(wayward: Server, pauses: list[float]):
    query = "fail-fast=true&max-attempts=5&initial-interval=100&multiplier=2&max-interval=300"
    with pytest.raises(ConfigurationError, match=r"after 5 attempt\(s\).*Connection refused"):
        fetch(
            pauses,
            f"configserver:{NOWHERE}?{query}",
            **{"fail-fast": "false", "retry.max-attempts": "2"},
        )
    assert pauses == [0.1, 0.2, 0.3, 0.3]


def test_a_server_that_is_late_is_waited_for_with_one_line(wayward: Server, pauses: list[float]):
    statuses = iter([500, 503, 404, 200])
    wayward.reply = lambda _path, _headers: (next(statuses), answer(("a", {"k": "v"})))
    with structlog.testing.capture_logs() as lines:
        found = fetch(pauses, f"configserver:{wayward.url}?fail-fast=true")
    assert found.get("k") == "v"
    assert [line["event"] for line in lines] == [
        "config_snapshots_off",
        "waiting_for",
        "configuration_fetched",
    ]
    assert lines[1]["dependency"] == "config-server"


def test_a_server_that_starts_later_than_we_do_is_found(pauses: list[float]):
    first = Server()
    port = first.port
    first.close()
    late: list[Server] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 60:
            late.append(Server(port))

    imported = f"configserver:http://127.0.0.1:{port}?fail-fast=true&max-attempts=200"
    local = Properties.of({"spring.config.import": imported}, "app")
    with structlog.testing.capture_logs() as lines:
        fetch_all(local, pause=pause)
    late[0].close()
    assert len(pauses) == 60
    assert [line["event"] for line in lines] == [
        "config_snapshots_off",
        "waiting_for",
        "configuration_fetched",
    ]


@pytest.mark.parametrize(
    ("imported", "properties"),
    [
        pytest.param(f"optional:configserver:{NOWHERE}", {}, id="optional"),
        pytest.param("optional:configserver:", {"uri": NOWHERE}, id="address by property"),
        pytest.param("optional:file:/none.yml", {}, id="another kind"),
        pytest.param("configserver:http://x", {"enabled": "false"}, id="disabled"),
        pytest.param("", {}, id="no import"),
    ],
)
def test_without_a_server_that_is_optional_the_start_goes_on(imported, properties, pauses):
    assert fetch(pauses, imported, **properties).sources == ()
    assert pauses == []


@pytest.mark.parametrize(
    ("imported", "properties", "fault"),
    [
        pytest.param(f"configserver:{NOWHERE}", {}, f"from {NOWHERE} after 1", id="required"),
        pytest.param(
            f"optional:configserver:{NOWHERE}", {"fail-fast": "true"}, "after 6", id="fail-fast"
        ),
        pytest.param("file:/x.yml", {}, "an entry that is no configserver:", id="another kind"),
        pytest.param("configserver:ftp://u:hunter2@h/", {}, "no http URL", id="not http"),
        pytest.param("configserver:http://h:x/", {}, "no http URL", id="no port"),
        pytest.param("configserver:http://[hunter2", {}, "no http URL", id="half a bracket"),
        pytest.param(
            "configserver:",
            {"password": "p", "headers.Authorization": "x"},
            "both",
            id="two logins",
        ),
        pytest.param(
            "configserver:", {"multiple-uri-strategy": "x"}, "neither ALWAYS", id="strategy"
        ),
        pytest.param(
            f"configserver:{NOWHERE}?max-attempts=x&fail-fast=true",
            {},
            "max-attempts is not a whole number",
            id="query",
        ),
    ],
)
def test_what_cannot_be_had_stops_the_start_in_one_line(imported, properties, fault, pauses):
    with pytest.raises(ConfigurationError, match=fault) as caught:
        fetch(pauses, imported, **properties)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "first", "goes_on"),
    [
        pytest.param("ALWAYS", None, True, id="silence"),
        pytest.param("ALWAYS", 500, True, id="an error"),
        pytest.param("ALWAYS", 401, True, id="a refusal"),
        pytest.param("ALWAYS", 404, True, id="nothing known"),
        pytest.param("CONNECTION_TIMEOUT_ONLY", None, True, id="silence, timeouts only"),
        pytest.param("CONNECTION_TIMEOUT_ONLY", 500, False, id="an error, timeouts only"),
        pytest.param("connection-timeout-only", 401, False, id="a refusal, timeouts only"),
    ],
)
def test_when_the_next_address_is_asked(wayward: Server, pauses, strategy, first, goes_on):
    """As ConfigServerConfigDataLoader does: silence always moves on, an answer if told so."""
    wayward.reply = lambda path, _headers: (
        (first or 500, {}) if path.startswith("/one") else (200, answer(("a", {"k": "v"})))
    )
    one = f"{wayward.url}/one" if first else NOWHERE
    imported = f"configserver:{one},{wayward.url}/two"
    if goes_on:
        assert fetch(pauses, imported, **{"multiple-uri-strategy": strategy}).get("k") == "v"
        return
    with pytest.raises(ConfigurationError, match=str(first)):
        fetch(pauses, imported, **{"multiple-uri-strategy": strategy})
    assert wayward.paths == ["/one/app/dev"]


def test_only_the_first_address_has_parameters(wayward: Server, pauses: list[float]):
    imported = f"configserver:{NOWHERE},{NOWHERE}?fail-fast=true&uri=http://elsewhere"
    with pytest.raises(ConfigurationError, match="after 1 attempt"):
        fetch(pauses, imported)


def test_pauses_may_be_scattered(pauses: list[float]):
    query = "fail-fast=true&max-attempts=9&initial-interval=100&multiplier=3&max-interval=100"
    with pytest.raises(ConfigurationError):
        fetch(pauses, f"configserver:{NOWHERE}?{query}", **{"retry.use-random-policy": "true"})
    assert len(set(pauses)) > 1
    assert all(0.1 <= pause <= 0.3 for pause in pauses)


def test_further_headers_and_a_token_are_sent(wayward: Server, pauses: list[float]):
    fetch(pauses, f"configserver:{wayward.url}", **{"headers.X-Team": "blue", "token": "t"})
    sent = wayward.asked[0][1]
    assert (sent["x-team"], sent["x-config-token"]) == ("blue", "t")


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        pytest.param(302, b"", "answered 302", id="a redirect is not followed"),
        pytest.param(500, b"", "answered 500", id="server error"),
        pytest.param(404, b"", "knows no such name", id="unknown name"),
        pytest.param(200, b"<html>", "did not answer as a Config Server", id="no JSON"),
        pytest.param(200, b"[]", "did not answer as a Config Server", id="another JSON"),
        pytest.param(401, b"", "refuses our credentials", id="401 at once"),
        pytest.param(403, b"", "refuses our credentials", id="403 at once"),
    ],
)
def test_answers_that_are_none(wayward: Server, pauses, status, body, fault):
    wayward.reply = lambda _path, _headers: (status, body)
    with pytest.raises(ConfigurationError, match=fault):
        fetch(pauses, f"configserver:{wayward.url}?fail-fast=true&max-attempts=2")
    assert len(wayward.asked) == (1 if status in (401, 403) else 2)


def test_a_server_that_never_answers_costs_its_time_out(wayward: Server, pauses):
    waiting = threading.Event()

    def late(_path: str, _headers: dict[str, str]) -> tuple[int, object]:
        waiting.wait(20)
        return 200, answer()

    wayward.reply = late
    with pytest.raises(ConfigurationError, match="no configuration"):
        fetch(pauses, f"configserver:{wayward.url}", **{"request-read-timeout": "100ms"})
    waiting.set()


@pytest.mark.parametrize(
    ("user_info", "properties", "login"),
    [
        pytest.param("ann:hunt%40er2@", {}, "ann:hunt@er2", id="of the URL"),
        pytest.param("ann:hunter2@", {"password": "p"}, "user:p", id="properties win"),
        pytest.param("", {"username": "bob", "password": "é"}, "bob:é", id="properties alone"),
    ],
)
def test_credentials_are_sent_and_never_logged(
    wayward: Server, pauses, user_info, properties, login
):
    statuses = iter([500, 200])
    wayward.reply = lambda _path, _headers: (next(statuses), answer())
    url = wayward.url.replace("//", f"//{user_info}")
    with structlog.testing.capture_logs() as lines:
        fetch(pauses, f"configserver:{url}?fail-fast=true", **properties)
    sent = wayward.asked[0][1]["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == login
    assert "hunt" not in repr(lines)
    assert lines[1]["config_server"] == wayward.url


def test_a_token_is_asked_for_and_shown(wayward: Server, pauses: list[float]):
    """The client credentials grant (RFC 6749, section 4.4), anew with each attempt."""
    statuses = iter([500, 200])
    wayward.reply = lambda path, _headers: (
        (200, {"access_token": "t0ken"})
        if path == "/token"
        else (next(statuses), answer(("a", {"k": "v"})))
    )
    oauth2 = {"token-uri": f"{wayward.url}/token", "client-id": "ann", "client-secret": "hunter2"}
    with structlog.testing.capture_logs() as lines:
        found = fetch(
            pauses,
            f"configserver:{wayward.url}?fail-fast=true",
            **{f"oauth2.{name}": text for name, text in oauth2.items()},
        )
    assert found.get("k") == "v"
    assert wayward.paths == ["/token", "/app/dev"] * 2
    assert wayward.bodies[0] == "grant_type=client_credentials&client_id=ann&client_secret=hunter2"
    assert wayward.asked[1][1]["authorization"] == "Bearer t0ken"
    assert "hunter2" not in repr(lines)
    assert "t0ken" not in repr(lines)


@pytest.mark.parametrize(
    ("status", "body", "grant", "fault"),
    [
        pytest.param(401, {"error": "hunter2"}, "password", r"gives no token \(401\)", id="no"),
        pytest.param(200, {}, "password", "answered without a token", id="nothing in it"),
        pytest.param(200, b"<html>", "password", "answered without a token", id="no JSON"),
        pytest.param(200, {}, "implicit", "grant-type is none of", id="an unknown grant"),
    ],
)
def test_without_a_token_there_is_no_configuration(
    wayward: Server, pauses, status, body, grant, fault
):
    wayward.reply = lambda _path, _headers: (status, body)
    oauth2 = {"oauth2.token-uri": f"{wayward.url}/token", "oauth2.grant-type": grant}
    with pytest.raises(ConfigurationError, match=fault) as caught:
        fetch(pauses, f"configserver:{wayward.url}", **oauth2)
    assert "hunter2" not in str(caught.value)


def test_all_labels_may_be_sent_at_once(wayward: Server, pauses: list[float]):
    given = {"label": "a/b, main", "send-all-labels": "true"}
    fetch(pauses, f"configserver:{wayward.url}", **given)
    assert wayward.paths == ["/app/dev/a(_)b,main"]


def test_later_entries_win(wayward: Server, pauses: list[float]):
    wayward.reply = lambda path, _headers: (200, answer(("a", {"k": path})))
    found = fetch(
        pauses, f"configserver:{wayward.url}/one, optional:configserver:{wayward.url}/two"
    )
    assert found.get("k") == "/two/app/dev"


def test_a_value_the_server_could_not_decrypt_is_an_error(wayward: Server, pauses: list[float]):
    wayward.reply = lambda _path, _headers: (
        200,
        answer(("a.yml", {"invalid.jwt.secret": "<n/a>"})),
    )
    with pytest.raises(
        ConfigurationError, match=r"app: jwt\.secret cannot be decrypted by the Config Server"
    ):
        fetch(pauses, f"optional:configserver:{wayward.url}")


def test_a_source_is_not_ranked_by_the_profile_that_stands_for_none(
    tmp_path: Path, wayward: Server
):
    """Spring's loader leaves `default` out; the local file of that profile wins then."""
    wayward.reply = lambda _path, _headers: (
        200,
        answer(("file:/c/app-default.yml", {"k": "remote"})),
    )
    (tmp_path / "application.yml").write_text(f"spring.config.import: 'configserver:{wayward.url}'")
    (tmp_path / "application-default.yml").write_text("k: local")
    assert load(tmp_path, {}).get("k") == "local"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "a: x${b}\nb: ${c:hunter2}\nc: ${a}",
            "a refers to itself through its placeholders (from application.yml:1:4)",
            id="a ring of placeholders",
        ),
        pytest.param(
            "a: '{cipher}0011hunter2'\nencrypt.key: hunter2",
            "a cannot be decrypted with the key at hand (from application.yml:1:4)",
            id="a cipher that does not open",
        ),
        pytest.param(
            "a: '{cipher}00'",
            "a cannot be decrypted: encrypt.key is not set (from application.yml:1:4)",
            id="a cipher without a key",
        ),
        pytest.param(
            "a: '{cipher}00'\nencrypt.key-store: {location: /none, password: hunter2}",
            "a cannot be decrypted: encrypt.key-store.location cannot be read:"
            " No such file or directory (from application.yml:1:4)",
            id="a key store that cannot be read",
        ),
        pytest.param(
            "spring.cloud.config.tls: {enabled: true, key-store: /none}",
            "spring.cloud.config.tls.key-store cannot be read:"
            " No such file or directory (from application.yml:1:53)",
            id="a key store for TLS that cannot be read",
        ),
        pytest.param(
            "spring.cloud.config.multiple-uri-strategy: hunter2",
            "spring.cloud.config.multiple-uri-strategy is neither ALWAYS nor"
            " CONNECTION_TIMEOUT_ONLY (from application.yml:1:44)",
            id="an unknown strategy",
        ),
        pytest.param(
            "spring.cloud.config.uri: 'http:hunter2'",
            "spring.cloud.config.uri has an address that is no http URL"
            " (from application.yml:1:26)",
            id="an address that is none",
        ),
        pytest.param(
            "spring.cloud.config.discovery.enabled: true\n"
            "eureka.client.service-url.defaultZone: ann:hunter2@eureka",
            "eureka.client.service-url.defaultZone has an address that is no http URL"
            " (from application.yml:2:40)",
            id="an Eureka that is none",
        ),
        pytest.param(
            "spring.cloud.config.request-read-timeout: hunter2",
            "spring.cloud.config.request-read-timeout is not a duration"
            " (from application.yml:1:43)",
            id="a timeout that is none",
        ),
        pytest.param(
            "spring.cloud.bootstrap.enabled: true",
            "spring.cloud.bootstrap.enabled is not offered: name the server in"
            " spring.config.import (from application.yml:1:33)",
            id="what is not offered",
        ),
    ],
)
def test_bad_configuration_stops_the_start_in_one_line(tmp_path: Path, text: str, told: str):
    """Key, reason and source, never the value."""
    head = "spring.application.name: app\nspring.config.import: 'optional:configserver:'"
    (tmp_path / "application.yml").write_text(f"{text}\n{head}")
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, {} if "config.uri" in text else {"SPRING_CLOUD_CONFIG_URI": NOWHERE})
    assert str(caught.value) == f"app: {told}"


@pytest.mark.estate
def test_the_real_server_gives_each_profile_its_own(tmp_path: Path, config_url: str):
    imported = f"configserver:{config_url}?fail-fast=true"
    text = "spring: {application: {name: identity-service}, config: {import: '%s'}}"
    (tmp_path / "application.yml").write_text(text % imported)
    given = {"JWT_SECRET": "x" * 64, "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e/"}
    dev, test, prod = (
        load(tmp_path, {"SPRING_PROFILES_ACTIVE": profile, **given})
        for profile in ("dev", "test", "prod")
    )
    waits = "nozie.server.deregister-wait"
    assert len({found.text(waits) for found in (dev, test, prod)}) == 3
    assert "application-dev.yml:" in (dev.origin(waits) or "")
    assert dev.text("nozie.example.secret") == "a value that only the estate's key opens"
    without = load(tmp_path, {"SPRING_PROFILES_ACTIVE": "prod"})
    needed = {
        "jwt.secret": "JWT_SECRET",
        "spring.rabbitmq.password": "SPRING_RABBITMQ_PASSWORD",
        "spring.datasource.password": "SPRING_DATASOURCE_PASSWORD",
    }
    for key, name in needed.items():
        with pytest.raises(ConfigurationError, match=rf"{key} needs {name}, which is not set"):
            without.text(key)


@pytest.mark.estate
def test_text_of_the_real_server_opens_here(config_url: str):
    plain = "s3cret é ${not.a.placeholder}"
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    hidden = requests.post(
        f"{config_url}/encrypt", plain.encode(), headers=headers, timeout=10
    ).text
    given = {"encrypt.key": "nozie-development-key", "a": "{cipher}" + hidden}
    assert Properties.of(given).get("a") == plain


def test_a_reload_without_the_server_keeps_what_it_said(tmp_path: Path, wayward: Server):
    """An `optional:` import must not make a refresh forget all that the server said."""
    wayward.reply = lambda _path, _headers: (200, answer(("a", {"k": "v"})))
    text = "spring.config.import: 'optional:configserver:%s?fail-fast=true&max-attempts=9'"
    (tmp_path / "application.yml").write_text(text % wayward.url)
    live = Environment(load(tmp_path, {}), lambda held: load(tmp_path, {}, held=held))
    wayward.reply = lambda _path, _headers: (200, answer(("a", {"k": "w"})))
    with structlog.testing.capture_logs() as lines:
        assert live.reload().get("k") == "w"
    assert lines == []
    wayward.reply = lambda _path, _headers: (503, b"")
    with pytest.raises(UnavailableError, match=r"no configuration from .* after 1 attempt"):
        live.reload()
    assert live.properties.get("k") == "v"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        pytest.param("", [None, "s1"], id="as Spring has it"),
        pytest.param("spring.cloud.config.send-state: false", [None, None], id="not sent"),
    ],
)
def test_a_reload_shows_the_state_of_the_answer_before(
    tmp_path: Path, wayward: Server, given: str, sent: list[str | None]
):
    wayward.reply = lambda _path, _headers: (200, answer(("a", {"k": "v"}), state="s1"))
    text = f"spring.config.import: 'configserver:{wayward.url}'\n{given}"
    (tmp_path / "application.yml").write_text(text)
    load(tmp_path, {}, held=load(tmp_path, {}))
    assert [headers.get("x-config-state") for _, headers in wayward.asked] == sent
    assert {headers["accept-charset"] for _, headers in wayward.asked} == {"UTF-8"}


def test_a_reload_is_free_of_a_server_that_never_spoke(tmp_path: Path):
    text = f"spring.config.import: 'optional:configserver:{NOWHERE}'\nk: "
    (tmp_path / "application.yml").write_text(f"{text} old")
    live = Environment(load(tmp_path, {}), lambda held: load(tmp_path, {}, held=held))
    (tmp_path / "application.yml").write_text(f"{text} new")
    assert live.reload().get("k") == "new"
