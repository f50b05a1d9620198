"""Spring's `httpclient.*`: what is followed, what is refused, and what says nothing here."""

import ssl
from collections.abc import Iterator
from contextlib import closing

import pytest

from cloud.config import Properties
from cloud.errors import ConfigurationError
from gateway.settings import Settings, ignored
from tests.cloud.certificates import Authority
from tests.gateway.conftest import ROUTES, Gateway
from tests.serving import Handler, Serving

PREFIX = "spring.cloud.gateway.httpclient"


def told(**options: object) -> Settings:
    keys = {f"{PREFIX}.{name.replace('_', '-')}": value for name, value in options.items()}
    return Settings.of(Properties.of(keys))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"proxy.host": "proxy.example"}, "through no proxy"),
        ({"ssl.ssl-bundle": "mine"}, "trusted-x509-certificates"),
        ({"ssl.trusted-x509-certificates": ["/nowhere.pem"]}, "cannot be read"),
        ({"ssl.key-store": "/nowhere.p12"}, "cannot be read"),
        ({"ssl.key-store": "/nowhere.jks", "ssl.key-store-type": "JKS"}, "PKCS12 nor PEM"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_followed_is_refused_in_one_line(option, reason):
    with pytest.raises(ConfigurationError, match=reason) as refused:
        told(**option)
    assert next(iter(option)) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_says_nothing_here_is_named_with_the_reason():
    told = {"wiretap": True, "compression": "true", "websocket.proxy-ping": True}
    found = ignored(Properties.of({f"{PREFIX}.{name}": value for name, value in told.items()}))
    assert found == {
        f"{PREFIX}.compression": "bodies pass as they are",
        f"{PREFIX}.wiretap": "nothing of a body is logged",
    }
    appended = f"{PREFIX.removesuffix('.httpclient')}.x-forwarded.host-append"
    assert appended in ignored(Properties.of({appended: "false"}))
    assert not ignored(Properties.of({f"{PREFIX}.pool.max-connections": 5}))


def test_a_pool_can_be_bounded_or_switched_off():
    bounded = told(**{"pool.max-life-time": "1m", "pool.max-idle-time": "5s"})
    assert (bounded.pool_life_s, bounded.pool_idle_s) == (60, 5)
    assert told(**{"pool.type": "disabled", "pool.max-life-time": "1m"}).pool_life_s == 0


def test_an_mvc_gateways_time_limits_are_spring_boots():
    boot = {"spring.http.client.connect-timeout": "1s", "spring.http.client.read-timeout": "3s"}
    found = Settings.of(Properties.of({**boot, f"{PREFIX}.response-timeout": "4s"}))
    assert (found.connect_timeout_s, found.answer_timeout_s) == (1, 4)


def test_the_same_words_are_the_same_settings():
    """Else connections would be made anew with each change of the configuration."""
    words = {"ssl.use-insecure-trust-manager": True}
    assert told(**words) == told(**words)
    assert told(**words) != told()
    assert "context" not in repr(told(**words))


class _Service(Handler):
    protocol_version = "HTTP/1.1"
    connections: set[tuple[str, int]] = set()  # noqa: RUF012 - one service at a time

    def reply(self) -> None:
        self.connections.add(self.client_address)
        assert isinstance(self.connection, ssl.SSLSocket)
        self.answer(200, str(self.connection.getpeercert()).encode())


@pytest.fixture
def careful(authority: Authority) -> Iterator[int]:
    """A service that speaks to nobody without a certificate; its port."""
    _Service.connections.clear()
    with closing(Serving(_Service, guard=authority.guard())) as service:
        yield service.port


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


def test_a_gateway_shows_a_service_who_it_is(careful, authority):
    routes = [{"id": "a", "uri": f"https://127.0.0.1:{careful}", "predicates": ["Path=/**"]}]
    running = Gateway(
        {
            ROUTES: routes,
            "nozie.gateway.public": ["ANY /**"],
            f"{PREFIX}.ssl.trusted-x509-certificates": [authority.trust_pem()],
            f"{PREFIX}.ssl.key-store": f"file:{authority.key_store('api-gateway', 'secret')}",
            f"{PREFIX}.ssl.key-store-password": "secret",
            f"{PREFIX}.pool.type": "DISABLED",
        },
        workers=1,
    )
    try:
        answers = [running.ask("/a") for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        assert all(b"api-gateway" in answer.body for answer in answers)
        assert len(_Service.connections) == 3, "a pool that is off keeps no connection"
    finally:
        running.stop()
