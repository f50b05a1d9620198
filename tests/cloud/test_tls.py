"""Certificates by Spring's names, against a server that asks for one."""

import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog

from cloud.config import Properties, PropertySource, PropertyValue
from cloud.errors import ConfigurationError
from cloud.tls import Adapter, adapter, context
from tests.cloud.certificates import Authority
from tests.serving import Handler, Serving

PREFIX = "eureka.client.tls"


class Greeter(Handler):
    """Answers with the name in the client's certificate."""

    def reply(self) -> None:
        assert isinstance(self.connection, ssl.SSLSocket)
        shown: Any = self.connection.getpeercert()
        name = dict(part[0] for part in shown["subject"])["commonName"]
        self.answer(200, name.encode())


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


@pytest.fixture(scope="module")
def url(ours: Authority) -> Iterator[str]:
    """A server of our authority, which wants to see a certificate of it too."""
    with closing(Serving(Greeter, guard=ours.guard())) as server:
        yield f"{server.url}/"


def settings(**given: str) -> Properties:
    values = {"enabled": "true", **{name.replace("_", "-"): text for name, text in given.items()}}
    held = {
        f"{PREFIX}.{name}": PropertyValue(text, f"f.yml:{name}") for name, text in values.items()
    }
    return Properties("app", (), [PropertySource("f.yml", held)])


def ask(url: str, given: Properties) -> str:
    with requests.Session() as session:
        session.mount("https://", Adapter(given, PREFIX))
        return session.get(url, timeout=10).text


@pytest.mark.parametrize("kind", ["PKCS12", "PEM", "PEM with a password"])
def test_both_sides_show_who_they_are(url: str, ours: Authority, kind: str):
    if kind == "PKCS12":
        given = settings(
            key_store="file:" + ours.key_store("ann", "pass"),
            key_store_password="pass",
            trust_store=ours.trust_store("trust"),
            trust_store_password="trust",
        )
    else:
        password = "secret" if "password" in kind else None
        given = settings(
            key_store=ours.key_pem("ann", password),
            key_store_type="PEM",
            key_password=password or "",
            trust_store=ours.trust_pem(),
            trust_store_type="pem",
        )
    assert ask(url, given) == "ann"


def test_a_server_of_another_authority_is_not_believed(
    url: str, ours: Authority, theirs: Authority
):
    mine = {"key_store": ours.key_pem("ann"), "key_store_type": "PEM"}
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(url, settings(**mine, trust_store=theirs.trust_pem(), trust_store_type="PEM"))
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(url, settings(**mine))


def test_nobody_is_anonymous_to_a_server_that_asks(url: str, ours: Authority, theirs: Authority):
    trust = {"trust_store": ours.trust_pem(), "trust_store_type": "PEM"}
    with pytest.raises(requests.ConnectionError):
        ask(url, settings(**trust))
    with pytest.raises(requests.ConnectionError):
        ask(url, settings(**trust, key_store=theirs.key_pem("eve"), key_store_type="PEM"))


def test_a_store_that_is_renewed_on_disk_is_used_and_a_broken_one_is_not(
    url: str, ours: Authority, tmp_path: Path
):
    store = Path(ours.key_store("old", "pass"))
    given = settings(
        key_store=str(store),
        key_store_password="pass",
        trust_store=ours.trust_pem(),
        trust_store_type="PEM",
    )
    with requests.Session() as session, structlog.testing.capture_logs() as lines:
        session.mount("https://", Adapter(given, PREFIX))
        heard = [session.get(url, timeout=10).text]
        Path(ours.key_store("new", "pass")).rename(store)
        heard += [session.get(url, timeout=10).text]
        store.write_bytes(b"half a store")
        heard += [session.get(url, timeout=10).text for _ in range(2)]
    assert heard == ["old", "new", "new", "new"]
    assert [line["event"] for line in lines] == ["tls_store_renewed", "tls_store_not_renewed"]
    assert lines[1]["reason"].startswith(f"app: {PREFIX}.key-store cannot be read: is no PKCS12")


@pytest.mark.parametrize(
    ("given", "key", "fault"),
    [
        pytest.param({"key_store": "/none.p12"}, "key-store", "No such file", id="absent"),
        pytest.param({"trust_store": "/"}, "trust-store", "Is a directory", id="a folder"),
        pytest.param(
            {"key_store": "{p12}", "key_store_password": "hunter2"},
            "key-store",
            "is no PKCS12 store that the password opens",
            id="wrong password",
        ),
        pytest.param(
            {"trust_store": "{p12}", "trust_store_password": "hunter2"},
            "trust-store",
            "is no PKCS12 store that the password opens",
            id="wrong password of the trust store",
        ),
        pytest.param(
            {"key_store": "{trust}", "key_store_password": "trust"},
            "key-store",
            "holds no private key with its certificate",
            id="no key in it",
        ),
        pytest.param(
            {"key_store": "{jks}"}, "key-store", "is a JKS store; keytool", id="an old store"
        ),
        pytest.param(
            {"key_store": "{sealed}", "key_store_type": "PEM", "key_password": "hunter2"},
            "key-store",
            "no certificates, no key, or a password",
            id="wrong password of a PEM",
        ),
        pytest.param(
            {"key_store": "{sealed}", "key_store_type": "PEM"},
            "key-store",
            "no certificates, no key, or a password",
            id="no password for a PEM that has one",
        ),
        pytest.param(
            {"trust_store": "{p12}", "trust_store_type": "PEM"},
            "trust-store",
            "no certificates, no key, or a password",
            id="PKCS12 called PEM",
        ),
        pytest.param(
            {"trust_store": "x", "trust_store_type": "hunter2"},
            "trust-store-type",
            "is neither PKCS12 nor PEM",
            id="unknown type",
        ),
    ],
)
def test_a_store_that_cannot_be_used_stops_the_start_in_one_line(
    ours: Authority, tmp_path: Path, given: dict[str, str], key: str, fault: str
):
    (tmp_path / "s.jks").write_bytes(bytes.fromhex("feedfeed00000002"))
    files = {
        "{p12}": lambda: ours.key_store("ann", "pass"),
        "{trust}": lambda: ours.trust_store("trust"),
        "{sealed}": lambda: ours.key_pem("ann", "secret"),
        "{jks}": lambda: str(tmp_path / "s.jks"),
    }
    spelled = {name: files[text]() if text in files else text for name, text in given.items()}
    with pytest.raises(ConfigurationError) as caught:
        context(settings(**spelled), PREFIX)
    told = str(caught.value)
    assert told.startswith(f"app: {PREFIX}.{key} ")
    assert fault in told
    assert told.endswith(f" (from f.yml:{key})")
    assert "\n" not in told
    assert "hunter2" not in told


def test_what_is_not_enabled_is_not_even_read():
    given = Properties.of({f"{PREFIX}.key-store": "/none"})
    assert context(given, PREFIX) is None
    assert adapter(given, PREFIX) is None
