"""The last good configuration: kept sealed, used while the server is away, refused when touched."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from cloud.config import Environment, Properties, health, load
from cloud.config.snapshot import TAKEN
from cloud.errors import ConfigurationError
from tests.cloud.config_server import Server, answer

SECRET = "hunter2 of the datasource"
AWAY = "no configuration from"


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    started.reply = lambda _path, _headers: (
        200,
        answer(("file:/c/app.yml", {"k": "v", "db.password": SECRET}), version="7"),
    )
    yield started
    started.close()


Start = Callable[..., Properties]


@pytest.fixture
def start(tmp_path: Path, server: Server) -> Start:
    """Start an instance as `environment` does; keywords are its settings."""

    def properties(**given: str) -> Properties:
        settings = {
            "spring.application.name": "app",
            "spring.config.import": f"configserver:{server.url}",
            "nozie.config.snapshot.key": "k",
            "nozie.config.snapshot.folder": str(tmp_path / "state"),
            "nozie.config.snapshot.wait": "0",
            **{name.replace("__", ".").replace("_", "-"): text for name, text in given.items()},
        }
        lines = [f"{name}: '{text}'" for name, text in settings.items() if text]
        (tmp_path / "application.yml").write_text("\n".join(lines))
        return load(tmp_path, {"SPRING_PROFILES_ACTIVE": settings.get("profile", "dev")})

    return properties


def kept(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "state").iterdir()
    return file


def away(server: Server, status: int = 503) -> None:
    server.reply = lambda _path, _headers: (status, b"")


def test_an_instance_starts_with_what_the_server_last_said(start: Start, server: Server):
    first = start()
    away(server)
    with structlog.testing.capture_logs() as lines:
        second = start()
    assert [second.get(key) for key in ("k", "db.password", "config.client.version")] == [
        "v",
        SECRET,
        "7",
    ]
    assert second.keys() == first.keys() | {TAKEN}
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("config_snapshot_in_force", "warning")
    assert line["config_server"] == server.url
    assert line["taken"] == second.get(TAKEN)
    assert "answered 503" in line["reason"]


def test_health_tells_what_is_in_force(start: Start, server: Server):
    assert health.component(start()) == {
        "status": "UP",
        "details": {"propertySources": ["configClient", "configserver:file:/c/app.yml"]},
    }
    away(server)
    properties = start()
    taken = datetime.fromisoformat(properties.text(TAKEN))
    told = health.component(properties, now=lambda: taken + timedelta(hours=2))
    assert told == {
        "status": "UNKNOWN",
        "details": {
            "propertySources": ["configClient", "configserver:file:/c/app.yml"],
            "snapshot": properties.text(TAKEN),
            "age": "PT7200S",
        },
    }
    assert taken.tzinfo == UTC
    none = Properties.of({"spring.config.import": "optional:configserver:"})
    assert health.component(none) == {
        "status": "UNKNOWN",
        "details": {"error": "no property sources located"},
    }
    assert health.component(Properties.of({})) is None


def test_the_first_answer_ends_the_time_of_the_snapshot(start: Start, server: Server, tmp_path):
    said = server.reply
    start()
    away(server)
    held = start()
    live = Environment(
        held, lambda held: load(tmp_path, {"SPRING_PROFILES_ACTIVE": "dev"}, held=held)
    )
    server.reply = said
    assert live.replace(live.reload()) == {TAKEN}
    assert (health.component(live.properties) or {})["status"] == "UP"


def test_the_file_is_readable_by_nobody_else_and_holds_no_plain_text(start: Start, tmp_path: Path):
    start()
    file = kept(tmp_path)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"hunter2" not in file.read_bytes()
    assert b"propert" not in file.read_bytes()


def turned(sealed: bytes) -> bytes:
    """The same but for one bit."""
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


@pytest.mark.parametrize(
    ("harm", "settings", "reason"),
    [
        pytest.param(
            lambda f: None,
            {"nozie__config__snapshot__key": "other"},
            "made with another key",
            id="another key",
        ),
        pytest.param(
            lambda f: f.write_bytes(turned(f.read_bytes())), {}, "or changed", id="changed"
        ),
        pytest.param(lambda f: f.write_bytes(f.read_bytes()[:40]), {}, "or changed", id="cut off"),
        pytest.param(lambda f: f.write_bytes(b""), {}, "or changed", id="empty"),
        pytest.param(lambda f: (f.unlink(), f.mkdir()), {}, "Is a directory", id="not to be read"),
    ],
)
@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
def test_a_snapshot_that_cannot_be_trusted_is_refused(
    start: Start, server: Server, tmp_path: Path, harm, settings, reason, optional
):
    place = f"optional:configserver:{server.url}" if optional else f"configserver:{server.url}"
    start()
    harm(kept(tmp_path))
    away(server)
    if optional:
        with structlog.testing.capture_logs() as lines:
            assert start(spring__config__import=place, **settings).get("k") is None
        told = lines[-1]["reason"]
    else:
        with pytest.raises(ConfigurationError) as caught:
            start(spring__config__import=place, **settings)
        told = str(caught.value)
        assert AWAY in told
    assert f"the snapshot {kept(tmp_path)} cannot be used" in told
    assert reason in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        pytest.param({"profile": "prod"}, 503, id="of another profile"),
        pytest.param({"spring__cloud__config__label": "next"}, 503, id="of another label"),
        pytest.param({"nozie__config__snapshot__enabled": "false"}, 503, id="switched off"),
        pytest.param({"nozie__config__snapshot__key": ""}, 503, id="no key any more"),
        pytest.param({}, 404, id="a server that knows nothing of us"),
        pytest.param({}, 401, id="a server that refuses us"),
    ],
)
def test_when_no_snapshot_is_used(start: Start, server: Server, settings, status):
    start()
    away(server, status)
    with pytest.raises(ConfigurationError) as caught:
        start(**settings)
    assert "snapshot" not in str(caught.value)


def test_without_a_key_nothing_is_kept_and_the_log_says_so_once(start: Start, tmp_path: Path):
    with structlog.testing.capture_logs() as lines:
        start(nozie__config__snapshot__key="")
    assert not (tmp_path / "state").exists()
    (line,) = [line for line in lines if line["event"] == "config_snapshots_off"]
    assert line["reason"] == "neither nozie.config.snapshot.key nor encrypt.key is set"
    start(nozie__config__snapshot__key="", encrypt__key="k")
    assert kept(tmp_path).exists()


def test_a_server_that_is_only_late_is_waited_for(start: Start, server: Server):
    said = server.reply
    start()
    imported = f"configserver:{server.url}?fail-fast=true&initial-interval=50&max-attempts=50"
    replies = iter([(503, b"")] * 3)
    server.reply = lambda path, headers: next(replies, None) or said(path, headers)
    settings = {"spring__config__import": imported, "nozie__config__snapshot__wait": "20s"}
    assert start(**settings).get(TAKEN) is None
    away(server)
    settings["nozie__config__snapshot__wait"] = "200ms"
    assert start(**settings).get(TAKEN) is not None
    # The rest of the fifty attempts was not waited for.
    assert len(server.asked) < 15


def test_what_did_not_prove_good_is_not_kept(start: Start, server: Server):
    start()
    server.reply = lambda _path, _headers: (200, answer(("a", {"k": "${k}"})))
    with pytest.raises(ConfigurationError, match="app: k refers to itself"):
        start()
    away(server)
    assert start().get("k") == "v"


def test_a_folder_that_cannot_be_written_stops_nobody(start: Start, tmp_path: Path):
    (tmp_path / "state").write_text("a file")
    with structlog.testing.capture_logs() as lines:
        assert start().get("k") == "v"
    told = [line for line in lines if line["event"] == "config_snapshot_not_kept"]
    assert [line["reason"] for line in told] == ["File exists"]


def test_the_library_that_seals_never_enters_the_instance(start: Start, server: Server, tmp_path):
    start()
    away(server)
    start()
    program = (
        "import sys, pathlib; from cloud.config import load;"
        f"found = load(pathlib.Path({str(tmp_path)!r}), {{'SPRING_PROFILES_ACTIVE': 'dev'}});"
        f"print(found.get({TAKEN!r}) is not None, 'cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)  # noqa: S603
    assert done.stdout.splitlines()[-1] == b"True False"
