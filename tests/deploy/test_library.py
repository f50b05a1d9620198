"""`cloud` alone: installed from its wheel, it carries the service of docs/estate.md."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.local import probes
from deploy.local.site import CHECKOUT
from deploy.local.supervisor import wait_until
from tests.ports import free_port

pytestmark = pytest.mark.estate


def pip(*words: str) -> None:
    subprocess.run(  # noqa: S603 - our own command
        (sys.executable, "-m", "pip", "--disable-pip-version-check", *words),
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the service that the guide shows, word for word."""
    guide = (CHECKOUT / "docs" / "estate.md").read_text()
    code = re.search(r"## Ten lines\n\n```python\n(.*?)```", guide, re.DOTALL)
    assert code is not None
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in re.findall(r"# shop/(\S+)\n(.*?)(?=\n# shop/|\Z)", code[1], re.DOTALL):
        (folder / name).write_text(text)
    (folder / "application.yml").write_text("spring.application.name: shop-service\n")
    return tmp_path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with nothing but what the wheel holds."""
    source, wheels, found = (tmp_path / name for name in ("source", "wheels", "site"))
    # From a copy: a build leaves its traces beside the sources.
    tracked = subprocess.run(
        ("git", "ls-files", "cloud", "pyproject.toml", "requirements/cloud.in"),  # noqa: S607
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in tracked.stdout.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source))
    (wheel,) = wheels.glob("nozie_cloud-*.whl")
    pip("install", "--no-deps", "--target", str(found), str(wheel))
    return found


@pytest.fixture
def port(shop: Path, library: Path, eureka_url: str) -> Iterator[int]:
    chosen = free_port()
    settings = {
        "server.port": chosen,
        "server.address": "127.0.0.1",
        "eureka.client.service-url.defaultZone": eureka_url,
        "eureka.instance.ip-address": "127.0.0.1",
        "nozie.server.run-dir": str(shop / "run"),
        "nozie.server.deregister-wait": "0s",
        "spring.profiles.active": "test",
        "management.tracing.sampling.probability": 0,
    }
    words = ("-m", "gunicorn", "-c", "python:cloud.server", "shop.wsgi:app")
    with (shop / "log").open("wb") as log:
        served = subprocess.Popen(  # noqa: S603 - our own command
            (sys.executable, *words),
            cwd=shop,
            env={
                "PATH": os.environ["PATH"],  # noqa: TID251 - a process of its own
                "PYTHONPATH": str(library),
                "SPRING_APPLICATION_JSON": json.dumps(settings),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield chosen
    served.terminate()
    assert served.wait(30) == 0


def test_the_guides_service_stands_on_the_installed_library(port, eureka_url, shop):
    eureka = eureka_url.removesuffix("/eureka/")
    listed = wait_until(lambda: str(port) in probes.registered(eureka).get("SHOP-SERVICE", ()), 30)
    assert listed, (shop / "log").read_text()
    answer = requests.get(f"http://127.0.0.1:{port}/api/greeting", timeout=5)
    assert (answer.status_code, answer.json()["data"]) == (200, "hello")
    health = requests.get(f"http://127.0.0.1:{port}/actuator/health", timeout=5)
    assert health.json()["status"] == "UP"
