"""A service starts while the Config Server is away, by what the estate has kept sealed."""

from typing import Any

import pytest

from deploy.local import Estate, probes
from tests.estate import programs
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

HOUSE = "movie"


def config_health(port: int) -> dict[str, Any]:
    found = probes.fetch(f"http://127.0.0.1:{port}/actuator/health/configServer").json()
    return dict(found)


def test_an_instance_starts_without_the_config_server_and_follows_it_when_it_is_back(
    platform: Estate,
):
    (kept,) = platform.site.path("snapshots").glob(f"{HOUSE}-service-*")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert b"nozie" not in kept.read_bytes()

    platform.stop("config")
    port = free_port()
    settings = {"nozie.config.snapshot.wait": "1s"}
    program = programs.another(platform.site, HOUSE, port, settings)
    try:
        # Ready is: healthy, and listed by Eureka.
        with programs.beside(platform.site, program):
            found = config_health(port)
            assert found["status"] == "UNKNOWN"
            assert found["details"]["snapshot"]
            platform.ensure("config")
            eventually(lambda: config_health(port)["status"] == "UP", within_s=60)
            assert "snapshot" not in config_health(port)["details"]
    finally:
        platform.ensure("config")
