"""What is said to a real Eureka and what is made of its answers."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
import requests

from cloud.config import Environment
from cloud.errors import ConfigurationError, UnavailableError, UpstreamError
from cloud.eureka import Instance, RegistryView
from cloud.eureka.registrar import Registrar, fetcher
from cloud.eureka.registry import Fetcher, Registry
from cloud.eureka.rest import EurekaServer
from cloud.testing import properties
from tests.cloud.eureka import NOW, Voice, listed, registration, settings, status
from tests.waiting import eventually


@pytest.mark.estate
def test_registration_as_the_wire_has_it(eureka_url, app):
    read = settings(app, eureka_url)
    voice = Voice(read)
    voice.registrar.announce("UP")
    found = listed(eureka_url, app)
    assert found is not None
    ip, id_ = voice.registration.ip, voice.registration.instance_id
    assert id_.endswith(f":{app}:8085")
    lease = found.pop("leaseInfo")
    assert (lease["renewalIntervalInSecs"], lease["durationInSecs"]) == (30, 90)
    found.pop("lastUpdatedTimestamp")
    assert found == {
        "instanceId": id_,
        "app": app.upper(),
        "hostName": ip,
        "ipAddr": ip,
        "status": "UP",
        "overriddenStatus": "UNKNOWN",
        "port": {"$": 8085, "@enabled": "true"},
        "securePort": {"$": 443, "@enabled": "false"},
        "vipAddress": app,
        "secureVipAddress": app,
        "countryId": 1,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "metadata": {
            "management.port": "8085",
            "management.context-path": "/actuator",
            "startup": "2026-01-01T00:00:00.000000Z",
            "tags.team": "films",
        },
        "homePageUrl": f"http://{ip}:8085/",
        "statusPageUrl": f"http://{ip}:8085/actuator/info",
        "healthCheckUrl": f"http://{ip}:8085/actuator/health",
        "secureHealthCheckUrl": "",
        "isCoordinatingDiscoveryServer": "false",
        "lastDirtyTimestamp": str(int(NOW.timestamp() * 1000) + 1),
        "actionType": "ADDED",
    }
    voice.registrar.leave(lambda: None)


@pytest.mark.estate
def test_farewell_says_down_then_leaves_and_nothing_brings_it_back(eureka_url, app, door):
    voice = Voice(settings(app, f"http://127.0.0.1:{door.port}/eureka/"))
    voice.registrar.announce("UP")
    seen: list[str | None] = []
    voice.registrar.leave(lambda: seen.append(status(eureka_url, app)))
    said = len(door.requests)
    voice.registrar.renew()
    voice.registrar.announce("UP")
    voice.registrar.leave(lambda: None)
    assert seen == ["DOWN"]
    assert status(eureka_url, app) is None
    assert len(door.requests) == said


@pytest.mark.estate
def test_a_lease_the_server_forgot_is_opened_again_with_the_current_status(eureka_url, app):
    voice = Voice(settings(app, eureka_url))
    voice.registrar.announce("UP")
    voice.registrar.announce("DOWN")
    voice.server.cancel(voice.registration)
    voice.registrar.renew()
    assert status(eureka_url, app) == "DOWN"
    voice.registrar.announce("UP")
    assert status(eureka_url, app) == "UP"
    voice.registrar.leave(lambda: None)


@pytest.mark.estate
def test_an_operators_order_survives_renewals_and_a_server_that_forgot(eureka_url, app):
    read = settings(app, eureka_url)
    voice = Voice(read)
    source = fetcher(voice.server, read, voice.now)
    key = (voice.registration.app, voice.registration.instance_id)
    voice.registrar.announce("UP")
    voice.server.override(voice.registration, "OUT_OF_SERVICE", 0)
    voice.registrar.renew()
    assert status(eureka_url, app) == "OUT_OF_SERVICE"

    def ordered() -> bool:
        source.fetch()
        found = source.registry.listed(key)
        voice.registrar.observe(found)
        return found is not None and found.override == "OUT_OF_SERVICE"

    eventually(ordered)
    voice.server.cancel(voice.registration)
    voice.registrar.renew()
    assert status(eureka_url, app) == "OUT_OF_SERVICE"
    requests.delete(
        f"{eureka_url}apps/{app.upper()}/{voice.registration.instance_id}/status?value=UP",
        timeout=5,
    ).raise_for_status()
    voice.registrar.renew()
    eventually(lambda: status(eureka_url, app) == "UP")
    voice.registrar.leave(lambda: None)


@pytest.mark.estate
def test_contact_lost_and_found(eureka_url, app, door):
    voice = Voice(settings(app, f"http://127.0.0.1:{door.port}/eureka/"))
    voice.registrar.announce("UP")
    door.cut()
    with pytest.raises(UnavailableError):
        voice.registrar.renew()
    assert voice.server.reached is False
    assert status(eureka_url, app) == "UP"
    door.mend()
    voice.registrar.renew()
    assert voice.server.reached is True
    voice.registrar.leave(lambda: None)


@pytest.mark.estate
def test_others_stay_listed_while_a_server_that_lost_its_memory_learns_of_them(
    eureka_url, app, door
):
    """Whether it was seen to be away or not, and whatever it has answered meanwhile."""
    read = settings(app, f"http://127.0.0.1:{door.port}/eureka/")
    ours, other = Voice(read, 8085), Voice(settings(app, eureka_url), 8086)
    source = fetcher(ours.server, read, ours.now)
    other_key = (other.registration.app, other.registration.instance_id)

    def known() -> set[int]:
        source.fetch()
        return {one.port for one in source.offered() if one.app == app.upper()}

    for voice in (ours, other):
        voice.registrar.announce("UP")
    eventually(lambda: known() == {8085, 8086})
    for seen in (True, False):
        if seen:
            door.cut()
            with pytest.raises(UnavailableError):
                ours.registrar.renew()
        for voice in (ours, other):
            other.server.cancel(voice.registration)
        door.mend()
        ours.registrar.renew()
        assert status(eureka_url, app) == "UP"
        assert known() == {8085, 8086}
        other.registrar.renew()
        eventually(lambda: known() and source.registry.listed(other_key))
    other.registrar.leave(lambda: None)
    eventually(lambda: known() == {8085})
    ours.registrar.leave(lambda: None)


@pytest.mark.estate
def test_the_next_server_is_called_when_one_is_away(eureka_url, app):
    read = settings(app, f"http://127.0.0.1:1/eureka/,{eureka_url}")
    voice = Voice(read)
    voice.registrar.announce("UP")
    assert status(eureka_url, app) == "UP"
    voice.registrar.leave(lambda: None)


@pytest.mark.estate
def test_a_refused_registration_is_not_repeated(eureka_url, app, door):
    voice = Voice(settings(app, f"http://127.0.0.1:{door.port}/eureka/"))
    nameless = replace(voice.registration, host="")
    with pytest.raises(UpstreamError):
        voice.server.register(nameless, "UP", 1)
    assert len(door.requests) == 1


@pytest.mark.estate
def test_hash_equals_the_servers_after_churn(eureka_url, app):
    """Deltas are applied and checked against the server's own hash; nothing is lost or left."""
    read = settings(app, eureka_url)
    voices = [Voice(read, port) for port in range(9000, 9012)]
    source = fetcher(voices[0].server, read, voices[0].now)
    chance = random.Random(7)  # noqa: S311 - a reproducible order
    for _ in range(8):
        for voice in chance.sample(voices, 5):
            if chance.random() < 0.3:
                voice.registrar.leave(lambda: None)
                voice.registrar = Registrar(voice.server, voice.registration, voice.now)
            else:
                voice.registrar.announce(chance.choice(["UP", "DOWN"]))
        eventually(lambda: agrees(source, voices[0].server))
    for voice in voices:
        voice.registrar.leave(lambda: None)
    eventually(lambda: agrees(source, voices[0].server))
    assert not any(one.app == app.upper() for one in source.registry.instances(NOW))


def agrees(source: Fetcher, server: EurekaServer) -> bool:
    source.fetch()
    return bool(source.registry.hashcode() == server.applications()["apps__hashcode"])


def record(name: str, **more: Any) -> dict[str, Any]:
    return {
        "instanceId": name,
        "app": "S",
        "hostName": "10.0.0.1",
        "port": {"$": 80, "@enabled": "true"},
        "securePort": {"$": 443, "@enabled": "false"},
        "vipAddress": "s",
        "status": "UP",
        **more,
    }


def document(*records: dict[str, Any], code: str = "") -> dict[str, Any]:
    return {"apps__hashcode": code, "application": [{"name": "S", "instance": list(records)}]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({"application": []}, [], id="nobody"),
        pytest.param({}, [], id="no applications at all"),
        pytest.param(document(record("a"), record("b")), ["a", "b"], id="lists"),
        pytest.param(
            {"application": {"name": "S", "instance": record("a")}}, ["a"], id="one without a list"
        ),
        pytest.param(document(record("a"), {"instanceId": "b"}), ["a"], id="one of no use"),
        pytest.param(
            document(record("a", port={"$": 80, "@enabled": "false"})), [], id="no port enabled"
        ),
    ],
)
def test_reading_a_registry(found, expected):
    registry = Registry(timedelta(0))
    registry.replace(found, NOW, hold=False, own=None)
    assert [one.instance_id for one in registry.instances(NOW)] == expected


def test_an_instance_that_offers_tls_alone_is_called_by_tls():
    found = Instance.parse(
        record("a", port={"$": 80, "@enabled": "false"}, securePort={"$": 8443, "@enabled": "true"})
    )
    assert found.url == "https://10.0.0.1:8443"


def test_delta():
    registry = Registry(timedelta(0))
    registry.replace(document(record("a"), record("b")), NOW, hold=False, own=None)
    changes = document(
        record("a", actionType="DELETED"),
        record("b", actionType="MODIFIED", status="DOWN"),
        record("c", actionType="ADDED"),
        code="DOWN_1_UP_1_",
    )
    assert registry.apply(changes)
    assert [(one.instance_id, one.status) for one in registry.instances(NOW)] == [
        ("b", "DOWN"),
        ("c", "UP"),
    ]
    assert not registry.apply(document(code="UP_3_"))


@pytest.mark.parametrize(
    ("hold", "own", "kept"),
    [
        pytest.param(False, None, ["c"], id="who is gone is gone"),
        pytest.param(True, None, ["a", "b", "c"], id="a server that was away may have forgotten"),
        pytest.param(False, ("S", "a"), ["a", "b", "c"], id="one that forgot us forgot others"),
        pytest.param(False, ("S", "x"), ["c"], id="it never knew us"),
    ],
)
def test_instances_of_a_forgetful_server_are_held_for_a_while(hold, own, kept):
    registry = Registry(timedelta(seconds=90))
    registry.replace(document(record("a"), record("b")), NOW, hold=False, own=None)
    registry.replace(document(record("c")), NOW, hold=hold, own=own)
    assert [one.instance_id for one in registry.instances(NOW)] == kept
    registry.apply(document(record("b", actionType="DELETED")))
    assert "b" not in [one.instance_id for one in registry.instances(NOW)]
    later = NOW + timedelta(seconds=90)
    assert [one.instance_id for one in registry.instances(later)] == ["c"]


def test_view_follows_the_file_and_outlives_a_broken_one(tmp_path):
    path = tmp_path / "registry.json"
    view = RegistryView(path, Environment(properties("x", {})))
    assert view.instances("s") == ()

    def write(*names: str) -> None:
        instances = [Instance.parse(record(name)).dump() for name in names]
        fresh = tmp_path / "fresh"
        fresh.write_bytes(orjson.dumps(instances))
        fresh.replace(path)

    write("a", "b")
    assert view.poll()
    assert [one.instance_id for one in view.instances("S")] == ["a", "b"]
    assert (view.names(), view.services()) == (("S",), ("s",))
    assert not view.poll()
    path.write_text("{")
    assert not view.poll()
    path.unlink()
    assert not view.poll()
    assert len(view.instances("s")) == 2
    write("c")
    eventually(lambda: [one.instance_id for one in view.instances("s")] == ["c"])


def test_fixed_lists_follow_the_properties():
    simple = "spring.cloud.discovery.client.simple.instances.movie-service"
    environment = Environment(
        properties(
            "x",
            {
                f"{simple}[0].uri": "http://10.0.0.1:8081",
                f"{simple}[0].metadata.zone": "a",
                f"{simple}[1].uri": "https://films.example",
            },
        )
    )
    view = RegistryView(None, environment)
    assert [one.url for one in view.instances("movie-service")] == [
        "http://10.0.0.1:8081",
        "https://films.example:443",
    ]
    assert view.instances("movie-service")[0].metadata == {"zone": "a"}
    assert view.names() == ("movie-service",)
    environment.replace(properties("x", {f"{simple}[0].uri": "http://10.0.0.9:1"}))
    assert [one.host for one in view.instances("movie-service")] == ["10.0.0.9"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eureka.instance.instance-id", "a/b"),
        ("eureka.instance.secure-port", "99999"),
        ("eureka.instance.lease-renewal-interval-in-seconds", "0"),
    ],
)
def test_a_registration_that_cannot_work_names_its_key(key, value):
    with pytest.raises(ConfigurationError, match=key):
        registration(settings("x", "http://127.0.0.1:1/eureka/", **{key: value}))
