"""Management endpoints, in the shapes that Spring Boot Admin and Prometheus read."""

import logging
import threading
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

import cloud
from cloud import actuator, web
from cloud.actuator import health
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.eureka import folder
from cloud.testing import properties

V3 = "application/vnd.spring-boot.actuator.v3+json"
INSIDE = {"REMOTE_ADDR": "10.1.2.3"}
OUTSIDE = {"REMOTE_ADDR": "203.0.113.9"}


class Store:
    """A check whose outcome a test decides."""

    def __init__(self):
        self.failure: Exception | None = None
        self.calls = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self):
        self.calls += 1
        self.go_on.wait(30)
        if self.failure:
            raise self.failure
        return {"version": "7"}


@pytest.fixture
def db():
    store = Store()
    yield store
    store.go_on.set()


@pytest.fixture
def redis():
    store = Store()
    yield store
    store.go_on.set()


@pytest.fixture
def client(db, redis, monkeypatch):
    monkeypatch.setattr(health, "_KEEP", health._KEEP * 0)  # noqa: SLF001
    environment = Environment(properties("sample-service", {"info.team": "films"}))
    app = Flask("sample")
    web.install(app, environment)
    actuator.install(app, environment, checks={"db": db, "redis": redis}, essential={"db"})

    @app.get("/things/<int:id>")
    def thing(id):  # noqa: A002
        return web.ok(id)

    return app.test_client()


def get(client, path="", peer=INSIDE, **headers):
    return client.get(f"/actuator{path}", environ_overrides=peer, headers=headers)


def test_the_index_links_to_what_there_is(client):
    answer = get(client)
    assert answer.content_type == V3
    links = answer.json["_links"]
    assert links["self"] == {"href": "http://localhost/actuator", "templated": False}
    assert links["health-path"] == {
        "href": "http://localhost/actuator/health/{*path}",
        "templated": True,
    }
    for link in links.values():
        if not link["templated"]:
            path = link["href"].removeprefix("http://localhost/actuator")
            # Some can only be written to, `refresh` for one.
            assert get(client, path).status_code in {200, 405}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", V3),
        ("application/json", "application/json"),
        (V3.replace("v3", "v2"), V3.replace("v3", "v2")),
        (f"{V3}, {V3.replace('v3', 'v2')}, application/json", V3),
        ("text/html", V3),
    ],
)
def test_the_media_type_is_the_one_asked_for(client, accept, kind):
    assert get(client, "/health", Accept=accept).content_type == kind


def test_health_has_components_and_groups(client):
    told = get(client, "/health").json
    assert (told["status"], told["groups"]) == ("UP", ["liveness", "readiness"])
    assert told["components"]["db"] == {"status": "UP", "details": {"version": "7"}}
    assert {"diskSpace", "ping", "redis", "refreshScope"} <= set(told["components"])
    assert set(told["components"]["diskSpace"]["details"]) == {
        "total",
        "free",
        "threshold",
        "path",
        "exists",
    }


def test_details_are_for_allowed_networks(client, db):
    db.failure = UnavailableError("the database is not reachable")
    outside = get(client, "/health", OUTSIDE)
    assert outside.status_code == 503
    assert outside.json == {"status": "DOWN", "groups": ["liveness", "readiness"]}
    assert get(client, "/health/db", OUTSIDE).json == {"status": "DOWN"}
    inside = get(client, "/health/db")
    assert inside.json["details"] == {"error": "the database is not reachable"}


@pytest.mark.parametrize(
    "path", ["", "/info", "/metrics", "/metrics/process.uptime", "/prometheus"]
)
def test_all_but_health_is_for_allowed_networks(client, path):
    assert get(client, path).status_code == 200
    assert get(client, path, OUTSIDE).status_code == 403


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        pytest.param("203.0.113.9", "127.0.0.1", 403, id="a stranger's header"),
        pytest.param("127.0.0.1", "203.0.113.9", 403, id="a stranger through our proxy"),
        pytest.param("127.0.0.1", "10.0.0.1", 200, id="a colleague through our proxy"),
    ],
)
def test_the_clients_address_counts_not_what_its_headers_claim(client, peer, forwarded, status):
    headers = {"X-Forwarded-For": forwarded}
    answer = client.get(
        "/actuator/prometheus", headers=headers, environ_overrides={"REMOTE_ADDR": peer}
    )
    assert answer.status_code == status


def test_a_store_that_is_not_essential_does_not_stop_the_service(client, redis):
    redis.failure = ConnectionError("redis://:hunter2@localhost")
    assert get(client, "/health").status_code == 503
    assert get(client, "/health/readiness").json["status"] == "UP"
    assert get(client, "/health/redis").json["details"] == {"error": "ConnectionError"}


def test_an_essential_store_takes_it_out_of_rotation_but_not_down(client, db):
    db.failure = UnavailableError("away")
    ready = get(client, "/health/readiness")
    assert (ready.status_code, ready.json["components"]["db"]["status"]) == (503, "DOWN")
    alive = get(client, "/health/liveness")
    assert (alive.status_code, alive.json) == (
        200,
        {"status": "UP", "components": {"livenessState": {"status": "UP"}}},
    )
    db.failure = None
    assert get(client, "/health/readiness").status_code == 200


def test_a_store_that_hangs_is_down_and_asked_once(client, db, monkeypatch):
    db.go_on.clear()
    for probe in list_probes(client):
        monkeypatch.setattr(probe, "_limit_s", 0.05)
    answers = [get(client, "/health/db") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert answers[0].json["details"] == {"error": "no answer within 0.05 s"}
    assert db.calls == 1


def list_probes(client):
    view = client.application.view_functions["actuator.health"]
    return view.__self__._health._probes.values()  # noqa: SLF001


def test_a_result_is_kept_a_moment(client, db, monkeypatch):
    monkeypatch.setattr(health, "_KEEP", health._LIMIT * 100)  # noqa: SLF001
    for _ in range(3):
        get(client, "/health")
    assert db.calls == 1


@pytest.mark.parametrize("path", ["/health/nothing", "/health/db/more", "/metrics/none", "/nope"])
def test_what_is_not_there_is_a_404(client, path):
    assert get(client, path).status_code == 404


def test_a_component_may_have_components(client):
    assert get(client, "/health/discoveryComposite/discoveryClient").json["status"] == "UNKNOWN"


def test_the_instance_is_ready_when_it_is_prepared(client, tmp_path, monkeypatch, db):
    monkeypatch.setattr(health, "served", lambda: True)
    monkeypatch.setattr(folder, "run_folder", lambda _: tmp_path)
    before = get(client, "/health/readiness")
    assert (before.status_code, before.json["status"]) == (503, "OUT_OF_SERVICE")
    Path(tmp_path / folder.PREPARED).touch()
    assert get(client, "/health/readiness").status_code == 200


def test_info_tells_the_build(client):
    told = get(client, "/info").json
    assert told["build"]["version"] == cloud.__version__
    assert told["build"]["name"] == "sample-service"
    assert (told["team"], "version" in told["python"]) == ("films", True)


def samples(client):
    text = get(client, "/prometheus").text
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples]


def test_requests_are_counted_under_micrometers_names(client):
    for path in ("/things/1", "/things/2", "/things/x", "/nowhere/at/all"):
        client.get(path)
    found = [one for one in samples(client) if one.name == "http_server_requests_seconds_count"]
    labels = {"error", "exception", "method", "outcome", "status", "uri"}
    assert all(set(one.labels) == labels for one in found)
    told = {(one.labels["uri"], one.labels["status"], one.labels["outcome"]) for one in found}
    assert {
        ("/things/{id}", "200", "SUCCESS"),
        ("/things/{id}", "400", "CLIENT_ERROR"),
        ("NOT_FOUND", "404", "CLIENT_ERROR"),
    } <= told


def test_the_series_that_dashboards_ask_for_are_there(client):
    client.get("/things/1")
    names = {one.name for one in samples(client)}
    assert {
        "http_server_requests_seconds_count",
        "http_server_requests_seconds_sum",
        "http_server_requests_seconds_max",
        "process_cpu_usage",
        "process_uptime_seconds",
    } <= names


def test_an_unknown_method_adds_no_series(client):
    client.open("/things/1", method="BREW")
    assert "BREW" not in get(client, "/prometheus").text


def test_lines_are_counted_by_level(client):
    def warnings():
        return sum(
            one.value
            for one in samples(client)
            if one.name == "logback_events_total" and one.labels == {"level": "warn"}
        )

    before = warnings()
    logging.getLogger("sample").warning("odd")
    assert warnings() == before + 1


def test_one_metric_in_springs_shape(client):
    client.get("/things/1")
    told = get(client, "/metrics/http.server.requests?tag=uri:/things/{id}&tag=status:200").json
    assert told["baseUnit"] == "seconds"
    statistics = {one["statistic"]: one["value"] for one in told["measurements"]}
    assert set(statistics) == {"COUNT", "TOTAL_TIME", "MAX"}
    assert statistics["COUNT"] >= 1
    tags = {one["tag"] for one in told["availableTags"]}
    assert tags == {"error", "exception", "method", "outcome"}


def test_metrics_are_listed(client):
    client.get("/things/1")
    names = get(client, "/metrics").json["names"]
    assert {"http.server.requests", "process.cpu.usage", "process.uptime"} <= set(names)
