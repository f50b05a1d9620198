"""The endpoints of one process: Spring Boot's shapes, and who may see and do what."""

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from cloud import actuator, exchanges, schedule, web
from cloud.actuator import health
from cloud.config import Environment
from cloud.errors import ConfigurationError
from cloud.stores import postgres
from cloud.testing import bearer, properties
from tests.waiting import eventually

INSIDE = {"REMOTE_ADDR": "10.1.2.3"}
OUTSIDE = {"REMOTE_ADDR": "203.0.113.9"}
# Of a Spring Boot 3.2 application, cut to one of each kind; `*` stands for any name, `?` marks
# what may be absent.
SPRING = json.loads(Path(__file__).with_name("spring_boot_answers.json").read_text())
OWN = "management.endpoint"

Make = Callable[..., FlaskClient]


@pytest.fixture(autouse=True)
def _calm(monkeypatch):
    monkeypatch.setattr(health, "_KEEP", health._KEEP * 0)  # noqa: SLF001
    monkeypatch.setattr(exchanges.recent, "_kept", type(exchanges.recent._kept)(maxlen=100))  # noqa: SLF001
    yield
    logging.getLogger("films").setLevel(logging.NOTSET)


@pytest.fixture
def make() -> Make:
    def made(profile: str = "test", **settings: str) -> FlaskClient:
        given = {key.replace("__", "."): value for key, value in settings.items()}
        given = {key.replace("_", "-"): value for key, value in given.items()}
        environment = Environment(properties("sample-service", given, profile))
        app = Flask("sample")
        app.extensions["environment"] = environment
        web.install(app, environment)

        @app.get("/things/<int:id>")
        def thing(id):  # noqa: A002
            return web.ok(id)

        @app.post("/things")
        def add():
            return web.ok(request.get_json())

        checks = {"db": lambda: {"version": "7"}, "redis": dict}
        actuator.install(app, environment, checks=checks, essential={"db"})
        return app.test_client()

    return made


def get(client, path="", peer=INSIDE, **headers):
    return client.get(f"/actuator{path}", environ_overrides=peer, headers=headers)


def post(client, path, body, peer=INSIDE, kind="application/json", **headers):
    return client.post(
        f"/actuator{path}", data=body, content_type=kind, environ_overrides=peer, headers=headers
    )


def misfits(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Tell where an answer of ours has another shape than the one of Spring."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict):
            return [f"{path} is no object"]
        if "*" in theirs:
            return [one for key in ours for one in misfits(ours[key], theirs["*"], f"{path}.{key}")]
        kinds = {key.rstrip("?"): value for key, value in theirs.items()}
        found = [f"{path}.{key} is missing" for key in {*theirs} - {*ours} if key in kinds]
        found += [f"{path}.{key} is unknown" for key in {*ours} - {*kinds} if theirs]
        same = [key for key in ours if key in kinds]
        return found + [one for key in same for one in misfits(ours[key], kinds[key], key)]
    if isinstance(theirs, list):
        if not isinstance(ours, list):
            return [f"{path} is no list"]
        return [one for item in ours if theirs for one in misfits(item, theirs[0], f"{path}[]")]
    return [] if isinstance(ours, type(theirs)) else [f"{path} is {ours!r}, not like {theirs!r}"]


@pytest.mark.parametrize(
    ("path", "like"),
    [
        ("", ""),
        ("/health", "/health"),
        ("/metrics", "/metrics"),
        ("/metrics/http.server.requests", "/metrics/{name}"),
        ("/env", "/env"),
        ("/env/info.team", "/env/{toMatch}"),
        ("/configprops", "/configprops"),
        ("/configprops/nozie.web", "/configprops"),
        ("/loggers", "/loggers"),
        ("/loggers/ROOT", "/loggers/{name}"),
        ("/httpexchanges", "/httpexchanges"),
        ("/threaddump", "/threaddump"),
        ("/mappings", "/mappings"),
        ("/scheduledtasks", "/scheduledtasks"),
    ],
)
def test_an_answer_has_the_shape_of_spring_boots(make, path, like):
    client = make(info__team="films", logging__level__films="DEBUG")
    schedule.repeats(make, timedelta(seconds=5))
    client.post("/things", json={"a": 1}, headers=bearer(7))
    told = get(client, path)
    assert told.status_code == 200
    assert told.json
    assert misfits(told.json, SPRING[like]) == []


def test_misfits_are_found():
    theirs = {"a": 1, "b?": [{"c": "x"}], "d": {"*": {"e": True}}}
    assert misfits({"a": 2, "d": {"any": {"e": False}}}, theirs) == []
    ours = {"b": [{"c": 3}], "d": {"any": {}}, "f": 1}
    assert len(misfits(ours, theirs)) == 4


# --- exposure and access


@pytest.mark.parametrize(
    ("settings", "profile", "there"),
    [
        pytest.param({}, "prod", {"health", "info", "metrics", "prometheus"}, id="safe list"),
        pytest.param({"include": "info,env"}, "test", {"health", "info", "env"}, id="include"),
        pytest.param({"include": "*"}, "prod", None, id="all"),
        pytest.param({"exclude": "*"}, "test", {"health"}, id="exclude goes before"),
        pytest.param({"include": "http-exchanges"}, "prod", {"health", "httpexchanges"}, id="dash"),
    ],
)
def test_only_exposed_endpoints_are_there(make, settings, profile, there):
    base = "management.endpoints.web.exposure"
    client = make(profile, **{f"{base}.{key}": value for key, value in settings.items()})
    links = {
        link["href"].partition("/actuator")[2].split("/")[1]
        for name, link in get(client).json["_links"].items()
        if name != "self"
    }
    everything = {"env", "configprops", "loggers", "threaddump", "mappings", "httpexchanges"}
    if there is None:
        assert everything < links
    else:
        assert links == there
        for name in everything - there:
            assert get(client, f"/{name}").status_code == 404


@pytest.mark.parametrize(
    ("settings", "read", "written"),
    [
        pytest.param({}, 200, 204, id="unrestricted"),
        pytest.param({f"{OWN}.loggers.access": "READ_ONLY"}, 200, 405, id="read-only"),
        pytest.param({f"{OWN}.loggers.access": "none"}, 404, 404, id="none"),
        pytest.param({f"{OWN}.loggers.enabled": "false"}, 404, 404, id="the older key"),
        pytest.param({f"{OWN}s.access.default": "none"}, 404, 404, id="default"),
        pytest.param({f"{OWN}s.access.max-permitted": "read-only"}, 200, 405, id="at most"),
    ],
)
def test_access_decides_what_may_be_done(make, settings, read, written):
    client = make(**settings)
    assert get(client, "/loggers").status_code == read
    assert post(client, "/loggers/films", '{"configuredLevel": null}').status_code == written


def test_what_changes_traffic_is_off_until_it_is_switched_on(make):
    """There is only what reads then: nothing at all at a path that can but be written to."""
    update = '{"updateState": "FORCE_OPEN"}'
    client = make()
    assert post(client, "/circuitbreakers/x", update).status_code == 404
    refused = post(client, "/circuitbreakers", update)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    allowed = make(**{f"{OWN}.circuitbreakers.access": "unrestricted"})
    assert "No such circuit breaker" in post(allowed, "/circuitbreakers/x", update).text


def test_an_access_that_does_not_exist_stops_the_start(make):
    with pytest.raises(ConfigurationError, match=r"management\.endpoint\.loggers\.access is none"):
        make(**{f"{OWN}.loggers.access": "some"})


@pytest.mark.parametrize(
    "path", ["/env", "/loggers", "/configprops", "/httpexchanges", "/threaddump", "/mappings"]
)
def test_a_stranger_sees_nothing_of_it(make, path):
    client = make()
    assert get(client, path, OUTSIDE).status_code == 403
    assert post(client, "/loggers/films", '{"configuredLevel": "OFF"}', OUTSIDE).status_code == 403


def test_a_page_of_another_site_changes_nothing(make):
    """It could make an operator's browser send what needs no preflight."""
    client = make()
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert post(client, "/loggers/films", "", **headers).status_code == 403


def test_cors_is_off_until_an_origin_is_allowed(make):
    origin = "https://admin.example.org"
    assert "Access-Control-Allow-Origin" not in get(make(), Origin=origin).headers
    client = make(**{"management.endpoints.web.cors.allowed-origins": origin})
    assert get(client, Origin=origin).headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Origin" not in get(client, Origin="https://x.example").headers


def test_another_base_path(make):
    client = make(**{"management.endpoints.web.base-path": "/manage/"})
    assert client.get("/manage/info", environ_overrides=OUTSIDE).status_code == 403
    links = client.get("/manage", environ_overrides=INSIDE).json["_links"]
    assert links["info"]["href"] == "http://localhost/manage/info"
    assert get(client, "/info").status_code == 404


def test_an_endpoint_by_another_name(make):
    base = "management.endpoints.web.path-mapping"
    client = make(**{f"{base}.health": "healthcheck", f"{base}.env": "/settings"})
    assert client.get("/actuator/healthcheck/readiness").json["status"] == "UP"
    assert get(client, "/health").status_code == get(client, "/env").status_code == 404
    assert get(client, "/settings").status_code == 200
    assert get(client, "/settings", OUTSIDE).status_code == 403
    links = get(client).json["_links"]
    assert links["env-toMatch"]["href"] == "http://localhost/actuator/settings/{toMatch}"
    closed = make(**{f"{base}.env": "settings", f"{OWN}.env.access": "none"})
    assert get(closed, "/settings").status_code == 404
    assert "env" not in get(closed).json["_links"]


# --- health


def test_groups_are_made_by_properties(make):
    group = f"{OWN}.health.group"
    client = make(
        **{
            f"{group}.mine.include": "db,ping",
            f"{group}.mine.show-details": "never",
            f"{group}.mine.show-components": "always",
            f"{group}.rest.include": "*",
            f"{group}.rest.exclude": "db,redis",
            f"{group}.rest.additional-path": "server:/restz",
        }
    )
    assert get(client, "/health").json["groups"] == ["liveness", "mine", "readiness", "rest"]
    mine = get(client, "/health/mine").json
    assert mine == {
        "status": "UP",
        "components": {"db": {"status": "UP"}, "ping": {"status": "UP"}},
    }
    assert get(client, "/health/mine/db").json == {"status": "UP"}
    rest = client.get("/restz", environ_overrides=INSIDE).json
    assert "ping" in rest["components"]
    assert not {"db", "redis"} & rest["components"].keys()
    assert client.get("/restz", environ_overrides=OUTSIDE).json == {"status": "UP"}


def test_probes_on_the_main_port(make):
    client = make(**{f"{OWN}.health.probes.add-additional-paths": "true"})
    for path in ("/livez", "/readyz"):
        assert client.get(path, environ_overrides=OUTSIDE).json == {"status": "UP"}
    assert make().get("/livez").status_code == 404


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({f"{OWN}.health.group.x.include": "db,nobody"}, "members that do not exist: nobody"),
        ({f"{OWN}.health.group.x.additional-path": "/healthz"}, "is not server:/<segment>"),
        ({"management.endpoints.web.base-path": "/"}, "must not be /"),
        ({"management.endpoints.web.path-mapping.env": "a/b"}, "is not one segment of a path"),
    ],
)
def test_settings_that_cannot_be_used_stop_the_start(make, settings, text):
    with pytest.raises(ConfigurationError, match=text):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        pytest.param({}, "DOWN", 503, id="Spring's order"),
        pytest.param({"status.order": "up,down"}, "UP", 200, id="another order"),
        pytest.param({"status.http-mapping.down": "500"}, "DOWN", 500, id="another code"),
    ],
)
def test_order_and_codes_of_statuses(make, settings, status, code):
    client = make(**{f"{OWN}.health.{key}": value for key, value in settings.items()})
    (probe,) = (p for p in _health(client)._probes.values() if p._name == "db")  # noqa: SLF001
    probe._check = lambda: 1 / 0  # noqa: SLF001
    answer = get(client, "/health")
    assert (answer.json["status"], answer.status_code) == (status, code)


def _health(client):
    return client.application.view_functions["actuator.health"].__self__._health  # noqa: SLF001


@pytest.mark.parametrize(
    ("shown", "headers", "seen"),
    [
        pytest.param("never", {}, False, id="never"),
        pytest.param("always", {}, True, id="always"),
        pytest.param("when-authorized", {}, False, id="nobody"),
        pytest.param("when-authorized", bearer(7), False, id="a user"),
        pytest.param("WHEN_AUTHORIZED", bearer(7, "ADMIN"), True, id="an admin"),
    ],
)
def test_details_are_shown_as_set(make, shown, headers, seen):
    client = make(**{f"{OWN}.health.show-details": shown})
    told = get(client, "/health", **headers).json
    assert ("components" in told) is seen
    assert "components" not in get(client, "/health", OUTSIDE, **headers).json


def test_version_2_calls_components_details(make):
    told = get(make(), "/health", Accept="application/vnd.spring-boot.actuator.v2+json").json
    assert told["details"]["db"]["details"] == {"version": "7"}
    assert "components" not in told


# --- env and configprops

SECRETS = {
    "spring.datasource.password": "hunter2",
    "films.api-key": "hunter2",
    "films.url": "amqp://ann:hunter2@broker/",
    "films.link": "${spring.datasource.password}!",
    "films.sealed": "{cipher}hunter2",
    "films.name": "open",
}


def test_values_are_hidden_unless_it_is_said_that_they_are_not(make):
    client = make(**SECRETS)
    text = get(client, "/env").text + get(client, "/configprops").text
    assert "hunter2" not in text
    assert "open" not in get(client, "/env").text
    shown = make(**SECRETS, **{f"{OWN}.env.show-values": "always"})
    assert "hunter2" not in get(shown, "/env").text
    listed = get(shown, "/env?pattern=films").json["propertySources"]
    (source,) = (one for one in listed if one["properties"])
    assert source["properties"]["films.name"] == {"value": "open", "origin": "test"}
    assert {key for key, one in source["properties"].items() if one["value"] == "******"} == {
        "films.api-key",
        "films.link",
        "films.sealed",
    }
    assert get(shown, "/env/films.api-key").json["property"]["value"] == "******"
    assert get(shown, "/env/Films.Name").json["property"] == {"source": "test", "value": "open"}


def test_what_nobody_has_set_is_a_404(make):
    assert get(make(), "/env/no.such").status_code == 404
    assert get(make(), "/env?pattern=(").status_code == 400
    assert get(make(), "/configprops/no").status_code == 404


def test_settings_are_told_with_their_defaults_and_origins(make):
    settings = {f"{OWN}.configprops.show-values": "always", "nozie.web.max-body-size": "2KB"}
    client = make(**settings)
    beans = get(client, "/configprops/nozie.web").json["contexts"]["sample-service"]["beans"]
    assert set(beans) == {"nozie.web"}
    assert beans["nozie.web"]["properties"]["max-body-size"] == "2KB"
    assert beans["nozie.web"]["properties"]["trusted-proxies"] == "127.0.0.0/8,::1/128"
    assert beans["nozie.web"]["inputs"]["max-body-size"] == {"value": "2KB", "origin": "test"}
    assert beans["nozie.web"]["inputs"]["trusted-proxies"] == {}
    jwt = get(client, "/configprops/jwt").json["contexts"]["sample-service"]["beans"]["jwt"]
    assert jwt["properties"]["secret"] == "******"


def test_the_process_is_told_as_by_a_boot_application(make):
    """Spring Boot Admin asks for it by this name."""
    client = make(**{f"{OWN}.env.show-values": "always"})
    told = get(client, "/env/PID").json
    assert told["property"] == {"source": "systemProperties", "value": str(os.getpid())}
    assert get(make(), "/env/PID").json["property"]["value"] == "******"
    assert get(client, "/env/PPID").status_code == 404


def test_properties_are_set_and_taken_back_where_that_is_switched_on(make):
    client = make(**{f"{OWN}.env.post.enabled": "true", f"{OWN}.env.show-values": "always"})

    def value():
        answer = get(client, "/env/films.size")
        return answer.json["property"] if answer.status_code == 200 else None

    assert post(client, "/env", '{"name": "films.size", "value": 7}').json == {"films.size": "7"}
    assert value() == {"source": "manager", "value": "7"}
    assert post(client, "/env", '{"name": "films.size"}').status_code == 400
    taken = client.delete("/actuator/env", environ_overrides=INSIDE)
    assert (taken.status_code, taken.json) == (200, {"films.size": "7"})
    assert value() is None
    assert post(make(), "/env", '{"name": "films.size", "value": 7}').status_code == 405


# --- loggers


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ('{"configuredLevel": "debug"}', "application/json", 204),
        ('{"configuredLevel": null}', "application/vnd.spring-boot.actuator.v3+json", 204),
        ("{}", "application/json", 204),
        ("", None, 204),
        ('{"configuredLevel": "LOUD"}', "application/json", 400),
        ('{"configuredLevel": 7}', "application/json", 400),
        ("[1]", "application/json", 400),
        ("x", "application/json", 400),
        ('{"configuredLevel": "DEBUG"}', "text/plain", 415),
    ],
)
def test_what_may_be_said_about_a_logger(make, body, kind, status):
    assert post(make(), "/loggers/films.some", body, kind=kind).status_code == status


def test_a_level_is_set_shown_and_reset(make):
    client = make(logging__level__films="ERROR")

    def level(name):
        return get(client, f"/loggers/{name}").json

    assert post(client, "/loggers/films.new", '{"configuredLevel": "TRACE"}').status_code == 204
    assert level("films.new") == {"configuredLevel": "TRACE", "effectiveLevel": "TRACE"}
    post(client, "/loggers/films.new", "{}")
    assert "configuredLevel" not in level("films.new")
    assert get(client, "/loggers/nobody.has.it").status_code == 404
    root = level("root")
    post(client, "/loggers/ROOT", '{"configuredLevel": "OFF"}')
    assert not logging.getLogger().isEnabledFor(logging.CRITICAL)
    post(client, "/loggers/ROOT", "{}")
    assert level("ROOT") == root


def test_a_group_is_set_as_one(make):
    client = make(logging__group__cinema="films.a, films.b")
    post(client, "/loggers/cinema", '{"configuredLevel": "WARN"}')
    told = get(client, "/loggers/cinema").json
    assert told == {"configuredLevel": "WARN", "members": ["films.a", "films.b"]}
    assert logging.getLogger("films.b").level == logging.WARNING
    assert {"web", "sql", "cinema"} <= get(client, "/loggers").json["groups"].keys()
    post(client, "/loggers/cinema", "")
    assert logging.getLogger("films.b").level == logging.NOTSET
    assert get(client, "/loggers/cinema").json == {"members": ["films.a", "films.b"]}


def test_names_are_not_without_end(make):
    assert post(make(), f"/loggers/{'x' * 300}", '{"configuredLevel": "WARN"}').status_code == 400


# --- exchanges


def test_an_exchange_tells_no_secret(make):
    client = make()
    headers = {**bearer(7), "Cookie": "a=hunter2", "X-Api-Key": "hunter2", "X-Kind": "plain"}
    client.get("/things/7?token=hunter2&q=a", headers=headers)
    (told,) = get(client, "/httpexchanges").json["exchanges"]
    assert "hunter2" not in json.dumps(told)
    assert told["request"]["uri"] == "http://localhost/things/7?token=******&q=a"
    assert told["request"]["headers"]["Authorization"] == ["******"]
    assert told["request"]["headers"]["X-Kind"] == ["plain"]
    assert told["timeTaken"].startswith("PT0.")
    assert told["response"]["status"] == 200
    assert "remoteAddress" not in told["request"]


def test_what_is_recorded_can_be_chosen(make):
    recording = "management.httpexchanges.recording"
    client = make(**{f"{recording}.include": "REMOTE_ADDRESS"})
    client.get("/things/7", environ_overrides=INSIDE)
    (told,) = get(client, "/httpexchanges").json["exchanges"]
    assert told["request"]["remoteAddress"] == "10.1.2.3"
    assert told["request"]["headers"] == told["response"]["headers"] == {}
    assert "timeTaken" not in told
    assert get(make(**{f"{recording}.enabled": "false"}), "/httpexchanges").status_code == 404


def test_a_storm_of_requests_costs_neither_memory_nor_time(clock):
    """A hundred are kept of a burst, then a few a second, each cut to a bounded size."""
    recent = exchanges.Recent(clock=clock)
    admitted = [recent.admits() for _ in range(1000)]
    assert sum(admitted) == 100
    clock.now += 1
    assert sum(recent.admits() for _ in range(1000)) == 20
    fields = [("X-Long", "x" * 10_000)] * 1000
    for number in range(300):
        recent.keep(
            "GET", f"/{number}/{'x' * 9000}", 200, at=0, took_s=0, remote="", principal=None,
            request=fields, response=(),
        )  # fmt: skip
    kept = recent.list()
    assert (len(kept), len(kept[0].uri), len(kept[0].request)) == (100, 2000, 50)
    assert len(kept[0].request[0][1]) == 200


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- answers that are kept


def test_an_answer_is_given_again_for_as_long_as_is_set(make):
    """Info tells for how long the process runs, so no two of its answers are alike."""
    settings = {f"{OWN}.{name}.cache.time-to-live": "1h" for name in ("health", "info")}
    client = make(**settings)
    first = get(client, "/info")
    eventually(lambda: get(client, "/info?fresh").data != first.data)
    eventually(lambda: get(client, "/info", **bearer(7)).data != first.data)
    assert get(client, "/info").data == first.data
    other = get(client, "/info", Accept="application/json")
    assert (other.content_type, other.data != first.data) == ("application/json", True)
    assert get(client, "/info", OUTSIDE).status_code == 403
    assert "components" in get(client, "/health").json
    assert "components" not in get(client, "/health", OUTSIDE).json
    assert get(client, "/health/db").json["status"] == "UP"
    plain = make()
    eventually(lambda: get(plain, "/info").data != get(plain, "/info").data)


# --- threads and mappings


def test_a_dump_in_words(make):
    answer = get(make(), "/threaddump", Accept="text/plain")
    assert answer.content_type.startswith("text/plain")
    assert '"alone/MainThread" - Thread t@' in answer.text
    assert "\tat cloud.actuator.threads._threads(threads.py:" in answer.text


def test_mappings_name_path_method_and_function(make):
    told = get(make(), "/mappings").json["contexts"]["sample-service"]["mappings"]
    rules = {one["predicate"]: one for one in told["dispatcherServlets"]["dispatcherServlet"]}
    method = rules["{GET [/things/{id}]}"]["details"]["handlerMethod"]
    assert (method["name"], method["descriptor"]) == ("thing", "(id)")
    assert any(name.startswith("{POST [/actuator/loggers/{name}], produces") for name in rules)


# --- info


def test_info_tells_what_a_build_has_left(make, tmp_path):
    client = make(**{"info.build.time": "today", "info.team": "films"})
    client.application.root_path = str(tmp_path)
    (tmp_path / "git.properties").write_text(
        "#by git\ngit.branch=main\ngit.commit.id=0123abc\ngit.commit.time=2026-01-02T03\\:04\nx=y\n"
    )
    (tmp_path / "build-info.properties").write_text("build.version=7.1\n")
    told = get(client, "/info").json
    assert told["git"] == {
        "branch": "main",
        "commit": {"id": "0123abc", "time": "2026-01-02T03:04"},
    }
    assert (told["build"]["version"], told["build"]["time"], told["team"]) == (
        "7.1",
        "today",
        "films",
    )
    known = {"pid", "parentPid", "owner", "cpus", "memory", "uptime", "startTime"}
    assert set(told["process"]) == known
    assert told["process"]["memory"]["used"] > 10 * 2**20
    assert told["process"]["pid"] == os.getpid()
    assert set(told["os"]) == {"name", "version", "arch"}


# --- meters


def lines(client, query=""):
    return [one for one in get(client, f"/prometheus{query}").text.splitlines() if one[0] != "#"]


def test_common_tags_stand_at_every_meter(make):
    client = make(**{"management.metrics.tags.application": "${spring.application.name}"})
    client.get("/things/7")
    assert all('application="sample-service"' in line for line in lines(client))
    make()
    assert not any("application=" in line for line in lines(make()))


def test_only_the_meters_that_are_asked_for(make):
    found = lines(make(), "?includedNames=process_uptime_seconds,logback_events_total")
    assert {line.partition("{")[0].partition(" ")[0] for line in found} <= {
        "process_uptime_seconds",
        "logback_events_total",
    }
    assert found


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("process.uptime", "seconds"),
        ("process.start.time", "seconds"),
        ("process.cpu.usage", None),
        ("process.cpu.time", "ns"),
        ("process.files.open", "files"),
        ("process.files.max", "files"),
        ("system.cpu.count", None),
        ("system.cpu.usage", None),
        ("system.load.average.1m", None),
        ("disk.free", "bytes"),
        ("disk.total", "bytes"),
        ("logback.events", None),
        ("http.server.requests", "seconds"),
    ],
)
def test_meters_have_micrometers_names_and_units(make, name, unit):
    client = make()
    logging.getLogger("films").error("counted")
    client.get("/things/7")
    assert name in get(client, "/metrics").json["names"]
    told = get(client, f"/metrics/{name}").json
    assert (told["name"], told.get("baseUnit")) == (name, unit)
    assert told["description"]
    assert all(one["value"] >= 0 for one in told["measurements"])


def test_every_name_is_there_once(make):
    """Alone, the library has meters of the process as well."""
    text = get(make(), "/prometheus").text
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


TIMED = """
from cloud import metrics
from cloud.actuator import meters
from cloud.config import Environment, Properties
prefix = "management.metrics.distribution."
values = {prefix + key: value for key, value in {%s}.items()}
timer = metrics.Timer("films_shown_seconds", "Films", ("hall",))
meters.install(Environment(Properties.of(values)))
timer.add(("1",), 3, 0.6, 0.4, (0.08, 0.12, 0.4))
for family in meters.registry(["films_shown_seconds"]).collect():
    for sample in family.samples:
        part = sample.name.removeprefix("films_shown_seconds")
        print(part, sample.labels.get("le"), sample.value)
"""


@pytest.mark.parametrize(
    ("given", "buckets"),
    [
        pytest.param("", {}, id="none unless asked"),
        pytest.param('"slo.films": "100ms, 1s"', {"0.1": 1, "1.0": 3, "+Inf": 3}, id="bounds"),
        pytest.param('"slo.[films.shown]": "PT0.2S"', {"0.2": 2, "+Inf": 3}, id="in brackets"),
        pytest.param('"percentiles-histogram.all": "true"', {"0.1": 1, "0.25": 2}, id="histogram"),
        pytest.param('"percentiles-histogram.books": "true"', {}, id="of another meter"),
    ],
)
def test_a_timer_has_the_buckets_that_are_asked_for(given, buckets):
    """In a process of its own: a meter is made once, with its first observation."""
    done = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", TIMED % given], capture_output=True, text=True, check=True
    )
    told = [line.split() for line in done.stdout.splitlines()]
    found = {bound: float(value) for name, bound, value in told if name == "_bucket"}
    assert buckets.items() <= found.items()
    assert bool(found) is bool(buckets)
    assert {name: float(value) for name, _, value in told if name in {"_count", "_sum"}} == {
        "_count": 3,
        "_sum": pytest.approx(0.6),
    }


def test_a_bound_that_is_no_duration_stops_the_start(make):
    with pytest.raises(ConfigurationError, match="is not a list of durations"):
        make(**{"management.metrics.distribution.slo.http": "soon"})


@pytest.mark.estate
def test_pools_have_the_names_that_boards_know(make, database):
    client = make(**database)
    before = pooled(client)
    engine = postgres.engine(client.application.extensions["environment"].properties)
    with engine.connect():
        during = pooled(client)
        engine.connect().close()
        after = pooled(client)
    engine.dispose()
    more = {name: during[name] - before.get(name, 0) for name in during}
    assert (more["active"], more["idle"], more["max"]) == (1, 0, 8)
    assert after["idle"] - before.get("idle", 0) == 1
    assert get(client, "/metrics/hikaricp.connections").json["availableTags"] == [
        {"tag": "pool", "values": ["dataSource"]}
    ]


def pooled(client) -> dict[str, float]:
    """Read the gauges; pools of other tests may still be among them."""
    gc.collect()
    lead = "hikaricp_connections_"
    found = (line.removeprefix(lead).split() for line in lines(client) if line.startswith(lead))
    return {name.partition("{")[0]: float(value) for name, value in found}
