"""`server.ssl` at gunicorn's own workers, before a real Eureka and called by our own client."""

import http.client
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from cloud.client import ServiceClient
from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError
from cloud.testing import properties
from cloud.tls import serving
from tests.cloud.certificates import Authority
from tests.cloud.conftest import QUICK
from tests.cloud.eureka import listed, status
from tests.cloud.house import ROOT, FreshHouse
from tests.waiting import eventually

pytestmark = pytest.mark.estate

HEALTHY = ROOT / "deploy/healthy.py"
STREAMING = "cloud.server.streaming.Worker"
PASSWORD = "changeit"
BY_TLS_ALONE = {
    "eureka.instance.secure-port-enabled": True,
    "eureka.instance.non-secure-port-enabled": False,
}


class SealedHouse(FreshHouse):
    """Speaks TLS; whoever asks trusts what the environment names."""

    scheme = "https"

    def threads(self) -> int:
        return max(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.pids("worker"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Iterator[Authority]:
    """An authority that this process trusts, as if it were the system's."""
    made = Authority(tmp_path_factory.mktemp("tls"), "ours")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            patch.setenv(name, made.trust_pem())
        yield made


@pytest.fixture
def sealed(begin, app, authority, eureka_url) -> Callable[..., SealedHouse]:
    def start(**more: Any) -> SealedHouse:
        own = {
            "spring.application.name": app,
            "eureka.client.service-url.defaultZone": eureka_url,
            "server.ssl.key-store": authority.key_store("house", PASSWORD),
            "server.ssl.key-store-password": PASSWORD,
        }
        house: SealedHouse = begin(SealedHouse, {**QUICK, **BY_TLS_ALONE, **own, **more})
        return house

    return start


def up(house: SealedHouse, url: str) -> bool:
    assert house.process.poll() is None, house.log.read_text()
    return status(url, house.name) == "UP"


@pytest.mark.parametrize("kind", ["gthread", STREAMING])
def test_a_house_that_speaks_tls_is_up_and_called_by_its_secure_port(kind, sealed, eureka_url):
    house = sealed(**{"nozie.server.worker-class": kind})
    eventually(lambda: up(house, eureka_url))
    told = listed(eureka_url, house.name)
    assert told is not None
    assert told["port"]["@enabled"] == "false"
    assert told["securePort"] == {"$": house.port, "@enabled": "true"}
    assert told["healthCheckUrl"].startswith(f"https://127.0.0.1:{house.port}/"), told
    values = {"eureka.client.service-url.defaultZone": eureka_url}
    client = ServiceClient(house.name, Environment(properties("caller", values)))
    assert eventually(lambda: client.get("/settings").json())["greeting"] == "hello"
    asks = {"SERVER_PORT": str(house.port), "SERVER_SSL_KEYSTORE": "/of/the/container.p12"}
    container = subprocess.run([sys.executable, HEALTHY], env=asks, check=False)  # noqa: S603 - ours
    assert container.returncode == 0
    with socket.create_connection(("127.0.0.1", house.port), 10) as plain:
        plain.sendall(b"GET /settings HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " not in plain.recv(4096)
    assert house.answers("/settings"), "after somebody who spoke no TLS"
    assert not house.said("Socket error processing request.")


def shown_by(house: SealedHouse) -> bytes | None:
    address = urlsplit(house.base)
    with (
        socket.create_connection((address.hostname, address.port), 10) as plain,
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        return tls.getpeercert(binary_form=True)


def test_a_certificate_renewed_on_disk_is_shown_after_a_reload_and_a_broken_one_is_not(
    sealed, authority
):
    store = authority.key_store("renewed", PASSWORD)
    off = {"eureka.client.enabled": False, "server.ssl.key-store": store}
    house = sealed(**off, **{"nozie.server.workers": 1})
    eventually(lambda: house.answers("/settings"))
    first = shown_by(house)
    authority.key_store("renewed", PASSWORD)
    house.process.send_signal(signal.SIGHUP)
    second = eventually(lambda: (now := shown_by(house)) != first and now)
    Path(store).write_bytes(b"no store")
    (worker,) = house.by_worker("/settings", "greeting", 1)
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: worker not in house.by_worker("/settings", "greeting", 1))
    assert shown_by(house) == second
    assert house.said("tls_store_not_renewed")


def test_a_client_without_a_certificate_stays_out_and_the_registrar_has_one(
    sealed, authority, eureka_url
):
    asks = {
        "server.ssl.client-auth": "need",
        "server.ssl.trust-store": authority.trust_store(PASSWORD),
        "server.ssl.trust-store-password": PASSWORD,
    }
    house = sealed(**asks)
    eventually(lambda: up(house, eureka_url))
    with pytest.raises(requests.ConnectionError):
        house.get("/settings")
    own = authority.key_pem("client")
    assert requests.get(f"{house.base}/settings", cert=own, timeout=10).ok


@pytest.fixture
def read() -> Iterator[Callable[..., http.client.HTTPResponse]]:
    """Open a stream."""
    with ExitStack() as opened:

        def open_one(house: SealedHouse, query: str = "") -> http.client.HTTPResponse:
            tls = ssl.create_default_context()
            line = http.client.HTTPSConnection("127.0.0.1", house.port, timeout=20, context=tls)
            opened.enter_context(closing(line)).request("GET", f"/stream{query}")
            return opened.enter_context(closing(line.getresponse()))

        yield open_one


def test_streams_over_tls_hold_no_thread_either(sealed, read):
    """More of them than threads; what a socket cannot take waits; all end with the worker."""
    more = {
        "eureka.client.enabled": False,
        "nozie.server.worker-class": STREAMING,
        "nozie.server.workers": 1,
        "nozie.server.threads": 2,
    }
    house = sealed(**more)
    eventually(lambda: house.answers("/settings"))
    before = house.threads()
    answers = [read(house) for _ in range(20)]
    assert house.answers("/settings")
    assert house.threads() <= before + 2, "the second of two threads, and the writer"
    much = read(house, "?times=200")
    assert much.read(13) == b"data: first\n\n"
    assert much.read(12 * 4096 * 200) == b"data: more\n\n" * 4096 * 200, "more than sockets hold"
    assert much.readline() == b": heartbeat\n"
    for answer in answers:
        assert answer.read(13) == b"data: first\n\n"
        assert answer.readline() == b": heartbeat\n"
    house.process.send_signal(signal.SIGTERM)
    for answer in (*answers, much):
        assert set(answer.read().split(b"\n")) <= {b"", b": heartbeat"}
    assert house.process.wait(20) == 0
    assert not [said for said in house.log.read_text().splitlines() if '"ERROR"' in said]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"bundle": "web"}, "server.ssl.bundle is not followed here"),
        ({"ciphers": "x", "certificate": "/x"}, "server.ssl.ciphers is not followed here"),
        ({"client-auth": "need"}, "key-store is not set, nor is certificate"),
    ],
    ids=["a bundle", "ciphers", "nothing to show"],
)
def test_what_cannot_be_followed_is_refused_with_its_name(given, reason):
    read = Properties.of({f"server.ssl.{key}": value for key, value in given.items()})
    with pytest.raises(ConfigurationError, match=reason):
        serving(read)
    off = Properties.of({"server.ssl.enabled": "false", "server.ssl.bundle": "web"})
    assert serving(off) is None


def test_a_start_that_cannot_show_a_certificate_ends_in_one_line(sealed):
    house = sealed(**{"server.ssl.key-store": "/no/such.p12"})
    assert house.process.wait(30) != 0
    (line,) = house.log.read_text().strip().splitlines()
    assert "server.ssl.key-store cannot be read: No such file or directory" in line
    assert "SPRING_APPLICATION_JSON" in line
    assert PASSWORD not in line
