"""Several Eureka servers, zones, passwords, certificates, old habits: fronts before a real one."""

import base64
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from cloud.config.discovery import AwayError, lookup
from cloud.errors import ConfigurationError, UnavailableError, UpstreamError
from cloud.eureka.registrar import check, connect, fetcher
from cloud.eureka.servers import Rota, ServerSettings
from cloud.testing import properties
from tests.cloud.certificates import Authority
from tests.cloud.eureka import NOW, Voice, settings, status
from tests.cloud.front import Front
from tests.waiting import eventually

ZONE = "eureka.client.service-url"
TWO_ZONES = {f"{ZONE}.east": "http://a/e", f"{ZONE}.west": "http://b/e"}
TLS, PROXY = "eureka.client.tls", "eureka.client.proxy"


@pytest.fixture
def front(eureka_url) -> Iterator[Callable[..., Front]]:
    made: list[Front] = []

    def start(**options: Any) -> Front:
        made.append(Front(urlsplit(eureka_url).netloc, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, [["localhost"]], id="Spring's default"),
        pytest.param({f"{ZONE}.defaultZone": "http://a/e, http://b/e/"}, [["a", "b"]], id="one"),
        pytest.param(TWO_ZONES, [["a"], ["b"]], id="the first zone is ours"),
        pytest.param(
            {**TWO_ZONES, "eureka.instance.metadata-map.zone": "West"},
            [["b"], ["a"]],
            id="metadata says which is",
        ),
        pytest.param(
            {**TWO_ZONES, "eureka.client.prefer-same-zone-eureka": "false"},
            [["b"], ["a"]],
            id="rather another",
        ),
        pytest.param(
            {f"{ZONE}.west": "http://b/e", f"{ZONE}.defaultZone": "http://c/e"},
            [["c"], ["b"]],
            id="a zone without servers has the default's",
        ),
    ],
)
def test_zones(given, expected):
    if f"{ZONE}.defaultZone" not in given or len(given) > 1:
        given = {
            "eureka.client.region": "eu",
            "eureka.client.availability-zones.eu": "east,west",
            **given,
        }
    found = ServerSettings.of(properties("x", given)).zones
    assert [[urlsplit(url).hostname for url in zone] for zone in found] == expected


def test_rota():
    clock = [0.0]
    rota = Rota([["a"], ["b", "c", "d", "e", "f"]], now=lambda: clock[0])
    assert next(iter(rota)) == "a"
    assert len(list(rota)) == 3, "three servers a call, as in Java"
    rota.failed("a")
    rota.worked("d")
    assert next(iter(rota)) == "d", "it stays with who answered"
    assert "a" not in list(rota), "who failed is passed over"
    rota.failed("d")
    assert not {"a", "d"} & set(rota)
    rota.failed("b")
    assert next(iter(rota)) == "a", "when two thirds have failed all are tried again"
    rota.worked("f")
    clock[0] += 30 * 60
    assert next(iter(rota)) == "a", "after a session the own zone comes first again"


def test_servers_of_a_zone_share_the_clients():
    firsts = Counter(next(iter(Rota([["a", "b"]]))) for _ in range(200))
    assert min(firsts["a"], firsts["b"]) > 50


@pytest.mark.estate
def test_the_last_good_server_is_kept_and_left_when_it_fails(eureka_url, app, front):
    one, two = front(), front()
    voice = Voice(settings(app, f"{one.url},{two.url}"))
    voice.registrar.announce("UP")
    for _ in range(5):
        voice.registrar.renew()
    first, other = (one, two) if one.requests else (two, one)
    assert (len(first.requests), len(other.requests)) == (6, 0)
    first.refuse = lambda _: 503
    voice.registrar.renew()
    voice.registrar.renew()
    assert (len(first.requests), len(other.requests)) == (7, 2)
    other.refuse = lambda _: 500
    with pytest.raises(UnavailableError):
        voice.registrar.renew()
    other.refuse = lambda _: 400
    with pytest.raises(UpstreamError):
        voice.registrar.renew()
    other.refuse = first.refuse = lambda _: None
    voice.registrar.leave(lambda: None)
    assert status(eureka_url, app) is None


@pytest.mark.estate
def test_a_server_that_says_nothing_is_left_for_another(eureka_url, app):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        zones = {
            "eureka.client.availability-zones.us-east-1": "near,far",
            f"{ZONE}.near": f"http://127.0.0.1:{silent.getsockname()[1]}/eureka/",
            f"{ZONE}.far": eureka_url,
            "eureka.client.eureka-server-read-timeout-seconds": "200ms",
        }
        voice = Voice(settings(app, eureka_url, **zones))
        voice.registrar.announce("UP")
        assert status(eureka_url, app) == "UP"
        voice.registrar.leave(lambda: None)


@pytest.mark.estate
def test_what_the_server_is_told_beside_the_call(front, app):
    before = front()
    voice = Voice(settings(app, before.url))
    voice.server.applications()
    ((line, headers),) = before.requests
    assert line == "GET /eureka/apps/"
    assert headers["Accept"] == "application/json"
    assert headers["Accept-Encoding"] == "gzip"
    assert headers["DiscoveryIdentity-Name"] == "DefaultClient"
    assert headers["DiscoveryIdentity-Id"] == "127.0.0.1"
    assert headers["X-Discovery-AllowRedirect"] == "false"
    assert before.encodings == ["gzip"]


@pytest.mark.estate
def test_user_and_password_of_the_address(front, app):
    """Percent-encoded, with the characters that py-eureka-client refuses."""
    wanted = f"Basic {base64.b64encode('op:s@cret/ö'.encode()).decode()}"
    before = front(refuse=lambda call: None if call.headers["Authorization"] == wanted else 401)
    good = before.url.replace("://", "://op:s%40cret%2F%C3%B6@")
    assert "apps__hashcode" in Voice(settings(app, good)).server.applications()
    with pytest.raises(UpstreamError, match="401"):
        Voice(settings(app, before.url)).server.applications()


def trusting(ours: Authority) -> dict[str, str]:
    return {
        f"{TLS}.enabled": "true",
        f"{TLS}.trust-store": ours.trust_store("secret"),
        f"{TLS}.trust-store-password": "secret",
    }


@pytest.mark.estate
def test_a_certificate_is_shown_and_only_ours_is_trusted(front, app, tmp_path):
    ours = Authority(tmp_path, "ours")
    before = front(guard=ours.guard())
    tls = trusting(ours) | {
        f"{TLS}.key-store": ours.key_store("client", "secret"),
        f"{TLS}.key-store-password": "secret",
    }
    voice = Voice(settings(app, before.url, **tls))
    voice.registrar.announce("UP")
    voice.registrar.leave(lambda: None)
    for absent in ("trust-store", "key-store"):
        some = {key: value for key, value in tls.items() if absent not in key}
        with pytest.raises(UnavailableError):
            Voice(settings(app, before.url, **some)).registrar.announce("UP")


@pytest.mark.estate
@pytest.mark.parametrize("guarded", [False, True], ids=["http", "https, by CONNECT"])
def test_a_proxy_stands_between(front, app, tmp_path, guarded):
    """Eureka is named by a port at which nobody but the proxy could reach it."""
    between, tls = front(), {}
    url = between.url.replace(f":{between.port}", ":9")  # its requests go on to the real server
    if guarded:
        ours = Authority(tmp_path, "ours")
        url, tls = front(guard=ours.guard(asks=False)).url, trusting(ours)
    proxy = {
        f"{PROXY}-host": "127.0.0.1",
        f"{PROXY}-port": str(between.port),
        f"{PROXY}-user-name": "op",
        f"{PROXY}-password": "s@cr:t",
    }
    voice = Voice(settings(app, url, **tls, **proxy))
    voice.registrar.announce("UP")
    assert voice.registrar.standing()["status"] == "UP"
    voice.registrar.leave(lambda: None)
    target = url.removesuffix("/eureka/")
    line, headers = between.requests[0]
    if guarded:
        assert line == f"CONNECT {target.removeprefix('https://')}"
        assert len(between.requests) == 1
    else:
        assert line == f"POST {target}/eureka/apps/{app.upper()}"
        assert headers["Host"] == target.removeprefix("http://")
    login = base64.b64decode(headers["Proxy-Authorization"].removeprefix("Basic "))
    assert login == b"op:s@cr:t"
    # The way by which the Config Server is looked for.
    first = len(between.requests)
    with pytest.raises(AwayError, match="knows no instance"):
        lookup(settings(app, url, **tls, **proxy), app)()
    assert base64.b64encode(login).decode() in between.requests[first][1]["Proxy-Authorization"]


@pytest.mark.estate
@pytest.mark.parametrize(
    ("more", "asked"),
    [
        pytest.param({}, {"/eureka/apps/delta": 2, "/eureka/apps/": 3}, id="403 for deltas"),
        pytest.param(
            {"eureka.client.disable-delta": "true"}, {"/eureka/apps/": 3}, id="no deltas wanted"
        ),
    ],
)
def test_without_deltas_the_registry_is_read_in_full(front, app, more, asked):
    before = front(refuse=lambda call: 403 if call.path.endswith("delta") else None)
    given = settings(app, before.url, **more)
    voice = Voice(given)
    source = fetcher(voice.server, given, lambda: NOW)
    voice.registrar.announce("UP")
    before.requests.clear()

    def sees() -> bool:
        source.fetch()
        return source.registry.listed((app.upper(), voice.registration.instance_id)) is not None

    for _ in range(3):
        eventually(sees)
    found = Counter(line.split()[1] for line, _ in before.requests)
    extra = found["/eureka/apps/"] - asked["/eureka/apps/"]
    assert found == {path: times + extra for path, times in asked.items()}
    voice.registrar.leave(lambda: None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{ZONE}.defaultZone", "ftp://user:secret@eureka/"),
        (f"{ZONE}.defaultZone", "http://user:secret@eureka:99999/"),
        ("eureka.client.g-zip-content", "secret"),
        ("eureka.client.proxy-port", "secret"),
        ("eureka.instance.initial-status", "secret"),
        ("eureka.instance.instance-id", "a/secret"),
        ("eureka.instance.lease-renewal-interval-in-seconds", "0"),
    ],
)
def test_what_cannot_be_used_is_named_not_shown(key, value):
    with pytest.raises(ConfigurationError) as failure:
        check(properties("x", {"eureka.client.proxy-host": "p", key: value}), NOW)
    assert key in str(failure.value)
    assert "secret" not in str(failure.value)


def test_a_store_that_is_none_stops_the_start(tmp_path):
    file = tmp_path / "trust.p12"
    file.write_bytes(b"no store")
    given = {f"{TLS}.enabled": "true", f"{TLS}.trust-store": str(file)}
    with pytest.raises(ConfigurationError, match=r"eureka\.client\.tls\.trust-store"):
        connect(properties("x", given), "")
