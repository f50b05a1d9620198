"""Configuration among real servers: found by Eureka, over mutual TLS, encrypted by a key store."""

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog
from flask import Flask

from cloud import actuator, tls, web
from cloud.config import Environment, Properties, load
from cloud.config.snapshot import TAKEN
from cloud.errors import ConfigurationError
from deploy.local.jvm import class_path, install
from tests.cloud.certificates import Authority
from tests.cloud.config_server import Server, answer
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.estate

PASSWORD = "hunter2"
CLIENT = "spring.cloud.config"


@dataclass
class Guarded:
    """A Config Server with a git repository, a prefix, mutual TLS and an RSA key store."""

    folder: Path
    port: int
    eureka: str
    settings: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/cfg"

    def ask(self, path: str, text: str | None = None) -> requests.Response:
        with requests.Session() as session:
            session.mount("https://", tls.Adapter(Properties.of(self.settings), f"{CLIENT}.tls"))
            headers = {"Content-Type": "text/plain; charset=utf-8"}
            data = text.encode() if text is not None else None
            method = "POST" if data else "GET"
            return session.request(method, self.url + path, data=data, headers=headers, timeout=20)

    def commit(self, branch: str, **files: str) -> None:
        repository = self.folder / "repository"
        git(repository, "checkout", "-q", "-B", branch)
        for name, text in files.items():
            (repository / f"{name.replace('_', '-')}.yml").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", "change")


def git(repository: Path, *words: str) -> None:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *names, "-C", str(repository), *words], check=True)  # noqa: S603, S607


def keytool(*words: str) -> None:
    end = ("-storepass", PASSWORD, "-storetype", "PKCS12")
    subprocess.run(["keytool", *words, *end], check=True, capture_output=True)  # noqa: S603, S607


@pytest.fixture(scope="module")
def guarded(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    eureka = f"http://{server('NOZIE_TEST_EUREKA', 'eureka')}/eureka/"
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    authority, keys, trust = Authority(folder, "ca"), folder / "keys.p12", folder / "trust.p12"
    for alias in ("first", "Second"):
        pair = ("-alias", alias, "-keyalg", "RSA", "-keysize", "2048", "-dname", f"CN={alias}")
        keytool("-genkeypair", *pair, "-keystore", str(keys))
    keytool("-importcert", "-noprompt", "-file", authority.trust_pem(), "-keystore", str(trust))
    (folder / "repository").mkdir()
    git(folder / "repository", "init", "-q", "-b", "main")
    spring: dict[str, Any] = {
        "spring.application.name": "guarded-config",
        "spring.profiles.active": "git",
        "spring.cloud.bus.enabled": False,
        "spring.cloud.config.server": {
            "prefix": "/cfg",
            "encrypt.enabled": False,
            "git": {"uri": f"file://{folder}/repository", "basedir": f"{folder}/clone"},
            "git.default-label": "main",
        },
        "encrypt.key-store": {"location": f"file:{keys}", "password": PASSWORD, "alias": "first"},
        "encrypt.rsa": {"algorithm": "OAEP", "strong": True},
        "server": {"port": port},
        "server.ssl": {
            "key-store": authority.key_store("server", PASSWORD),
            "key-store-password": PASSWORD,
            "client-auth": "need",
            "trust-store": str(trust),
            "trust-store-password": PASSWORD,
        },
        "eureka.client.service-url.defaultZone": eureka,
        "eureka.instance": {
            "secure-port": port,
            "secure-port-enabled": True,
            "non-secure-port-enabled": False,
            "metadata-map.configPath": "/cfg",
        },
    }
    settings = {
        f"{CLIENT}.tls.enabled": "true",
        f"{CLIENT}.tls.key-store": authority.key_store("client", PASSWORD),
        f"{CLIENT}.tls.key-store-password": PASSWORD,
        f"{CLIENT}.tls.trust-store": f"file:{trust}",
        f"{CLIENT}.tls.trust-store-password": PASSWORD,
        "encrypt.key-store.location": f"file:{keys}",
        "encrypt.key-store.password": PASSWORD,
        "encrypt.key-store.alias": "first",
        "encrypt.rsa.algorithm": "OAEP",
        "encrypt.rsa.strong": "true",
    }
    install("config-server")
    main = "org.springframework.cloud.config.server.ConfigServerApplication"
    source = Path(__file__).parents[2] / "deploy/jvm/config-server/configserver.yml"
    flags = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")
    words = (main, f"--spring.config.location=file:{source}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            ["java", *flags, "-cp", class_path("config-server"), *words],  # noqa: S607
            env={**os.environ, "SPRING_APPLICATION_JSON": json.dumps(spring)},  # noqa: TID251
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    made = Guarded(folder, port, eureka, settings, process)
    made.commit("main", application="shared: of main")

    def serves() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return made.ask("/app/default").ok
        except requests.ConnectionError:
            return False

    try:
        eventually(serves, within_s=90)
        yield made
    finally:
        process.terminate()
        process.wait(20)


Start = Callable[..., Properties]


@pytest.fixture
def start(guarded: Guarded, tmp_path: Path) -> Start:
    def properties(**given: str) -> Properties:
        settings = {
            "spring.application.name": "app",
            "spring.config.import": f"configserver:{guarded.url}",
            **guarded.settings,
            **{name.replace("__", ".").replace("_", "-"): text for name, text in given.items()},
        }
        text = json.dumps(settings)  # is YAML too
        (tmp_path / "application.yml").write_text(text)
        return load(tmp_path, {"SPRING_PROFILES_ACTIVE": "dev"})

    return properties


def test_ciphers_of_the_real_servers_key_store_open_here(guarded: Guarded, start: Start):
    texts = {"a": "s3cret é ${not.a.placeholder}", "b": "{key:second}of the other key"}
    hidden = {name: guarded.ask("/encrypt", text).text for name, text in texts.items()}
    assert hidden["b"].startswith("{key:second}")
    lines = [f"{name}: '{{cipher}}{text}'" for name, text in hidden.items()]
    guarded.commit("main", app="\n".join(lines))
    found = start()
    assert (found.get("a"), found.get("b")) == (texts["a"], "of the other key")
    assert (found.origin("a") or "").endswith("/app.yml:1:4")


@pytest.mark.parametrize(
    ("settings", "key", "fault"),
    [
        pytest.param(
            {"encrypt__key_store__password": "wrong"},
            "x",
            "encrypt.key-store.location is no PKCS12 store that the password opens",
            id="password",
        ),
        pytest.param(
            {"encrypt__key_store__alias": "none"},
            "x",
            "encrypt.key-store.location holds no key of alias 'none'",
            id="alias",
        ),
        pytest.param(
            {"encrypt__rsa__algorithm": "DEFAULT"},
            "x",
            "cannot be decrypted with the key at hand",
            id="algorithm",
        ),
    ],
)
def test_a_cipher_that_does_not_open_stops_the_start(
    guarded: Guarded, start: Start, settings, key, fault
):
    hidden = guarded.ask("/encrypt", "plain text").text
    guarded.commit("broken", app=f"x: '{{cipher}}{hidden}'")
    with pytest.raises(ConfigurationError) as caught:
        start(spring__cloud__config__label="broken", **settings)
    told = str(caught.value)
    assert told.startswith(f"app: {key} cannot be decrypted")
    assert fault in told
    assert "/app.yml:1:4)" in told
    assert hidden[:20] not in told
    assert "\n" not in told


def test_a_cipher_that_need_not_open_is_empty_and_told(guarded: Guarded, start: Start):
    guarded.commit("optional", app="x: '{cipher}nonsense'\ny: '1'")
    settings = {"spring__cloud__config__label": "optional", "encrypt__fail_on_error": "false"}
    with structlog.testing.capture_logs() as lines:
        found = start(**settings)
    assert (found.get("x"), found.get("y")) == ("", "1")
    (line,) = [line for line in lines if line["event"] == "cipher_not_opened"]
    assert (line["key"], line["source"].rpartition("/")[2]) == ("x", "app.yml:1:4")


def test_labels_are_tried_in_order_by_the_real_server(guarded: Guarded, start: Start):
    guarded.commit("feature/one", app="k: of the feature")
    found = start(spring__cloud__config__label="gone, feature/one, main")
    assert found.get("k") == "of the feature"
    assert len(found.text("config.client.version")) == 40
    with pytest.raises(ConfigurationError, match="knows no such name, profile or label"):
        start(spring__cloud__config__label="gone")


def test_the_server_is_found_by_eureka_and_reached_by_its_secure_port(
    guarded: Guarded, start: Start
):
    discovery = {
        "spring.config.import": "configserver:",
        "spring.cloud.config.discovery.enabled": "true",
        "spring.cloud.config.discovery.service-id": "guarded-config",
        "eureka.client.service-url.defaultZone": f"http://127.0.0.1:1/,{guarded.eureka}",
    }
    eventually(lambda: requests.get(f"{guarded.eureka}apps/GUARDED-CONFIG", timeout=5).ok)
    found = start(**{key.replace(".", "__"): text for key, text in discovery.items()})
    assert found.get("shared") == "of main"
    assert "GUARDED-CONFIG" not in repr(found.sources)


def test_without_a_certificate_nobody_is_served(guarded: Guarded, start: Start):
    with pytest.raises(ConfigurationError, match=r"https://127\.0\.0\.1:\d+/cfg: "):
        start(**{"spring__cloud__config__tls__key-store": ""})
    with pytest.raises(ConfigurationError, match="self-signed certificate in certificate chain"):
        start(**{"spring__cloud__config__tls__trust-store": ""})


def test_metadata_of_an_instance_names_its_user_password_and_path(eureka_url: str, tmp_path: Path):
    """As "Discovery First Bootstrap" of the Spring Cloud Config reference; DOWN ones are left."""
    server = Server()
    server.reply = lambda _path, _headers: (200, answer(("a", {"k": "v"})))
    service = f"config-{server.port}"
    instances = {"down": "/wrong", "up": "/deep/cfg"}
    for state, path in instances.items():
        metadata = {"user": "ann", "password": "hunt@er2", "configPath": path}
        instance = {
            "instanceId": state,
            "app": service.upper(),
            "hostName": "127.0.0.1",
            "ipAddr": "127.0.0.1",
            "status": state.upper(),
            "port": {"$": server.port, "@enabled": "true"},
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "metadata": metadata,
        }
        url = f"{eureka_url}apps/{service.upper()}"
        requests.post(url, json={"instance": instance}, timeout=10).raise_for_status()
    settings = {
        "spring.config.import": "configserver:",
        "spring.cloud.config.discovery": {"enabled": True, "service-id": service},
        "spring.cloud.config.password": "of nobody: what Eureka says comes first",
        "eureka.client.service-url.defaultZone": eureka_url,
    }
    (tmp_path / "application.yml").write_text(json.dumps(settings))
    try:
        assert load(tmp_path, {}).get("k") == "v"
        ((path, headers),) = server.asked
        assert path == "/deep/cfg/application/default"
        login = base64.b64decode(headers["authorization"].removeprefix("Basic "))
        assert login == b"ann:hunt@er2"
        requests.delete(f"{url}/up", timeout=10).raise_for_status()
        fault = f"Eureka after 1 attempt.*knows no instance of {service} that is UP"
        with pytest.raises(ConfigurationError, match=fault):
            eventually(lambda: load(tmp_path, {}) and False)
    finally:
        requests.delete(f"{url}/down", timeout=10)
        server.close()


def test_an_instance_starts_while_the_real_server_is_down(
    guarded: Guarded, start: Start, tmp_path: Path
):
    """The last test of this server: it is killed."""
    settings = {
        "nozie__config__snapshot__key": "a key of the instance",
        "nozie__config__snapshot__folder": str(tmp_path / "state"),
        "spring__config__import": f"configserver:{guarded.url}?fail-fast=true",
        "nozie__config__snapshot__wait": "0",
    }
    before = start(**settings)
    guarded.process.kill()
    guarded.process.wait(10)
    with structlog.testing.capture_logs() as lines:
        held = start(**settings)
    assert [line["event"] for line in lines] == ["config_snapshot_in_force"]
    assert held.keys() == before.keys() | {TAKEN}
    assert held.get("shared") == "of main"
    app = Flask("app")
    environment = Environment(held)
    web.install(app, environment)
    actuator.install(app, environment, checks={}, essential=())
    told = app.test_client().get("/actuator/health")
    component = told.get_json()["components"]["configServer"]
    assert (told.status_code, component["status"]) == (200, "UNKNOWN")
    assert component["details"]["snapshot"] == held.get(TAKEN)
