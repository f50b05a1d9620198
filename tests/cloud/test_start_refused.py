"""Two of the services as they are really started, with a configuration that cannot be used."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"
JSON = "SPRING_APPLICATION_JSON"
ZONE = "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE"

CASES = [
    pytest.param(
        {"spring.cloud.loadbalancer.configurations": SECRET},
        {},
        "spring.cloud.loadbalancer.configurations is none of default,",
        JSON,
        id="an unknown strategy",
    ),
    pytest.param(
        {
            "spring.config.import": "configserver:",
            "spring.cloud.config.multiple-uri-strategy": SECRET,
        },
        {},
        "spring.cloud.config.multiple-uri-strategy is neither ALWAYS nor CONNECTION_TIMEOUT_ONLY",
        JSON,
        id="an unknown strategy for the Config Server",
    ),
    pytest.param(
        {"eureka.client.tls": {"enabled": True, "key-store": f"/{SECRET}"}},
        {"EUREKA_CLIENT_TLS_KEYSTOREPASSWORD": SECRET},
        "eureka.client.tls.key-store cannot be read: No such file or directory",
        JSON,
        id="a key store that cannot be read",
    ),
    pytest.param(
        {"a": "{cipher}00", "encrypt.key-store.location": __file__},
        {"ENCRYPT_KEYSTORE_PASSWORD": SECRET},
        "a cannot be decrypted: encrypt.key-store.location is no PKCS",
        JSON,
        id="a key store that is none",
    ),
    pytest.param(
        {"a": f"{SECRET}${{b}}", "b": "${c}", "c": "${a}"},
        {},
        "a refers to itself through its placeholders",
        JSON,
        id="a ring of placeholders",
    ),
    pytest.param(
        {"encrypt.key": SECRET},
        {"SPRING_DATA_REDIS_PASSWORD": f"{{cipher}}00{SECRET}"},
        "cannot be decrypted with the key at hand",
        "environment variable SPRING_DATA_REDIS_PASSWORD",
        id="a cipher that does not open",
    ),
    pytest.param(
        {},
        {ZONE: f"ftp://ann:{SECRET}@eureka/"},
        "eureka.client.service-url.defaultZone is no http(s) address",
        f"environment variable {ZONE}",
        id="an address that is none",
    ),
    pytest.param(
        {"spring.config.import": f"configserver:http:{SECRET}"},
        {},
        "spring.config.import has an address that is no http URL",
        JSON,
        id="an address of the Config Server that is none",
    ),
    pytest.param(
        {"eureka.client.registry-fetch-interval-seconds": SECRET},
        {},
        "eureka.client.registry-fetch-interval-seconds is not a duration",
        JSON,
        id="a duration that is none",
    ),
    pytest.param(
        {"nozie.client.connect-timeout": SECRET, "nozie.gateway.connect-timeout": SECRET},
        {},
        "connect-timeout is not a duration",
        JSON,
        id="a duration that only the service itself reads",
    ),
]


@pytest.mark.parametrize("house", ["payment", "gateway"])
@pytest.mark.parametrize(("given", "variables", "told", "source"), CASES)
def test_the_start_stops_with_one_line(
    tmp_path: Path,
    house: str,
    given: dict[str, Any],
    variables: dict[str, str],
    told: str,
    source: str,
):
    """Application, key, reason and source; never the value."""
    alone = {
        "spring.config.import": "",
        "eureka.client.enabled": False,
        "server.port": free_port(),
        "nozie.server.run-dir": str(tmp_path / "run"),
        "jwt.secret": "0123456789abcdef" * 4,
    }
    if variables.get(ZONE) or any(key.startswith("eureka.") for key in given):
        alone["eureka.client.enabled"] = True
    ended = subprocess.run(  # noqa: S603 - our own command
        [
            str(Path(sys.executable).with_name("gunicorn")),
            "-c",
            "python:cloud.server",
            f"{house}.wsgi:app",
        ],
        cwd=ROOT,
        env={**os.environ, **variables, JSON: json.dumps(alone | given)},  # noqa: TID251
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "Traceback" not in said
    assert SECRET not in said
    (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert told in line
    assert line.endswith(f"(from {source})")
