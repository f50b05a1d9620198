"""TLS on the gateway's own port, by Spring's names."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.config import Properties
from cloud.errors import ConfigurationError
from cloud.tls import serving
from tests.cloud.certificates import Authority
from tests.gateway.conftest import WAIT_S, Answer, Gateway, everything, settings
from tests.ports import free_port
from tests.waiting import eventually

SIMPLE = "spring.cloud.discovery.client.simple.instances"


class Sealed(Gateway):
    """Speaks TLS, so its clients do."""

    def __init__(
        self, authority: Authority, changes: dict[str, object], *options: str, own: str = ""
    ) -> None:
        self.client = ssl.create_default_context(cafile=authority.trust_pem())
        if own:
            self.client.load_cert_chain(own)
        super().__init__(changes, *options, workers=1)

    def open(self, source: str = "127.0.0.1", port: int = 0) -> socket.socket:
        return self.client.wrap_socket(super().open(source, port), server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


def in_files(authority: Authority, folder: Path) -> dict[str, object]:
    """Certificate and key as the two PEM files that Spring Boot names."""
    both = Path(authority.key_pem("gateway")).read_bytes()
    key = serialization.load_pem_private_key(both, None)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    shown = x509.load_pem_x509_certificates(both)
    (folder / "tls.pem").write_bytes(
        b"".join(one.public_bytes(serialization.Encoding.PEM) for one in shown)
    )
    return {
        "server.ssl.certificate": f"file:{folder}/tls.pem",
        "server.ssl.certificate-private-key": str(folder / "key.pem"),
    }


@pytest.mark.parametrize("kind", ["PKCS12", "PEM files"])
def test_clients_speak_tls_and_services_are_told_so(kind, authority, upstream, store, tmp_path):
    shown = (
        in_files(authority, tmp_path)
        if kind == "PEM files"
        else {
            "server.ssl.key-store": authority.key_store("gateway", "changeit"),
            "server.ssl.key-store-password": "changeit",
        }
    )
    changes = {**settings(store), f"{SIMPLE}.movie-service[0].uri": upstream_of(upstream)}
    door = Sealed(authority, {**changes, **shown})
    try:
        assert door.ask("/search/x").status == 200
        head = upstream.heads[-1].lower()
        assert b"x-forwarded-proto: https\r\n" in head
        assert b"x-forwarded-port: 443\r\n" in head
        assert b"proto=https" in head
        assert door.ask("/search/page").body == b"x" * 102400, "a body larger than a record"
        with socket.create_connection(("127.0.0.1", door.port), WAIT_S) as plain:
            plain.sendall(b"GET /search/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " not in everything(plain)
        assert door.ask("/search/x").status == 200
        assert not [line for line in door.lines if "background_task_failed" in line]
    finally:
        door.stop()


def test_a_client_without_a_certificate_stays_out_where_one_is_needed(
    authority, upstream, store, tmp_path
):
    door = Sealed(
        authority,
        {
            **settings(store),
            **in_files(authority, tmp_path),
            f"{SIMPLE}.movie-service[0].uri": upstream_of(upstream),
            "server.ssl.client-auth": "need",
            "server.ssl.trust-certificate": authority.trust_pem(),
        },
        own=authority.key_pem("client"),
    )
    try:
        assert door.ask("/search/x").status == 200
        door.client = ssl.create_default_context(cafile=authority.trust_pem())
        with suppress(ssl.SSLError, ConnectionError):
            assert not door.say(b"GET /search/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    finally:
        door.stop()


def test_an_instance_that_speaks_tls_and_wants_certificates_knows_that_it_is_ready(
    authority, store, tmp_path
):
    """Its registrar asks by the same port; whether a registry hears of it does not matter here."""
    door = Sealed(
        authority,
        {
            **settings(store),
            **in_files(authority, tmp_path),
            "server.ssl.client-auth": "need",
            "server.ssl.trust-certificate": authority.trust_pem(),
            "server.address": "127.0.0.1",
            "eureka.client.enabled": True,
            "eureka.client.service-url.defaultZone": f"http://127.0.0.1:{free_port()}/eureka/",
        },
        *("-c", "python:cloud.server"),
        own=authority.key_pem("client"),
    )
    try:
        eventually(lambda: any("readiness_changed" in line and "UP" in line for line in door.lines))
    finally:
        door.stop()


def upstream_of(upstream) -> str:
    return f"http://127.0.0.1:{upstream.port}"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"enabled": "true"}, "key-store is not set"),
        ({"certificate": "/no/such.pem"}, "cannot be read"),
        ({"key-store": "/no/such.p12"}, "cannot be read"),
    ],
    ids=["nothing to show", "no such file", "no such store"],
)
def test_what_cannot_be_shown_stops_the_start(given, reason):
    with pytest.raises(ConfigurationError, match=reason):
        serving(Properties.of({f"server.ssl.{key}": value for key, value in given.items()}))


def test_without_a_word_of_tls_the_port_is_plain():
    assert serving(Properties.of({})) is None


@pytest.fixture(scope="module")
def door(authority, upstream, store, tmp_path_factory):
    running = Sealed(
        authority,
        {
            **settings(store),
            **in_files(authority, tmp_path_factory.mktemp("door")),
            f"{SIMPLE}.movie-service[0].uri": upstream_of(upstream),
            f"{SIMPLE}.identity-service[0].uri": upstream_of(upstream),
        },
    )
    yield running
    running.stop()


LARGE_HEAD = b"GET /search/x HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 40_000


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (LARGE_HEAD, 431),
        (b"POST /api/movies HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nhalf", 401),
        (b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\nhalf", 413),
    ],
    ids=["too large a head", "without a token", "too large a body"],
)
def test_a_refusal_arrives_over_tls_while_the_client_still_sends(door, sent, status):
    with door.open() as client:
        client.sendall(sent)
        answer = Answer(everything(client))
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert answer.json()["success"] is False
    assert not [line for line in door.lines if "NotImplementedError" in line or "Fatal" in line]
