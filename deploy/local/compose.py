"""The estate as containers, where a Docker engine answers: the same verbs over compose.yaml."""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

from deploy import journey
from deploy.local.services import SERVICES, environment, snapshot_key
from deploy.local.site import CHECKOUT, EstateError, Site

_LOOK_S: Final = 10
_PAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "up": ("gateway", "eureka", "rabbit-api"),
    "ops": ("zipkin", "prometheus", "elasticsearch", "admin", "grafana", "kibana"),
}

_CONTAINERS: Final[Mapping[str, str]] = {
    **SERVICES,
    "eureka": "discovery-server",
    "config": "config-server",
    "admin": "admin-server",
    "mongo": "mongodb",
    "rabbit": "rabbitmq",
}
"""Names of compose.yaml by our own, where they differ: there they are host names too."""


def wanted(site: Site) -> bool:
    """Tell whether the estate runs as containers: NOZIE_RUNTIME says so, or an engine answers."""
    runtime = site.environment.get("NOZIE_RUNTIME", "")
    if runtime not in {"", "local", "docker"}:
        raise EstateError("NOZIE_RUNTIME is neither local nor docker")
    if runtime:
        return runtime == "docker"
    return _answers("docker", "info") and _answers("docker", "compose", "version")


def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Do what a command asks, with `docker compose`."""
    site = Site.of()
    names = [_CONTAINERS.get(name, name) for name in arguments.names]
    pages = [_CONTAINERS.get(name, name) for name in _PAGES["ops"]]
    again = ("up", "--detach", "--build", "--force-recreate", "--no-deps", "--wait")
    verbs: Mapping[str, tuple[str, ...]] = {
        "up": ("up", "--detach", "--build", "--wait", "--wait-timeout", "900"),
        "ops": ("--profile", "ops", "up", "--detach", "--wait", "--wait-timeout", "900"),
        "ops-down": ("--profile", "ops", "stop", *pages, "logstash"),
        "down": ("--profile", "ops", "down", "--remove-orphans"),
        "clean": ("--profile", "ops", "down", "--remove-orphans", "--volumes"),
        "status": ("ps", "--all"),
        "logs": ("logs", "--tail", "100", *names),
        "restart": (*again, *(names or SERVICES.values())),
        "stop": ("stop", *names),
        "ensure": ("up", "--detach", "--wait", *names),
    }
    verb = arguments.command
    if verb == "journey":
        return journey.run(site.url("gateway"), say, as_json=arguments.json)
    if verb == "status" and arguments.json:
        states = _states(site)
        say(json.dumps(states))
        return _told(states)
    code = _compose(site, *verbs[verb]).returncode
    if code:
        return code
    if verb == "status":
        return _told(_states(site))
    for name in _PAGES.get(verb, ()):
        say(f"  {name:<16}{site.url(name)}/")
    if verb == "up" and arguments.journey:
        say("\nA customer's journey through the gateway:")
        return journey.run(site.url("gateway"), say)
    return 0


def _states(site: Site) -> dict[str, str]:
    """Tell the state of what the estate consists of, `ready` where it can be used."""
    asked = [
        _compose(site, *words, quiet=True).stdout
        for words in (("config", "--services"), ("ps", "--all", "--format", "json"))
    ]
    found = {row["Service"]: row for row in map(json.loads, asked[1].splitlines())}
    return {name: _state(found.get(name, {})) for name in sorted(asked[0].split())}


def _state(row: Mapping[str, str]) -> str:
    state = row.get("Health") or row.get("State", "stopped")
    return "ready" if state in {"healthy", "running"} else state


def _told(states: Mapping[str, str]) -> int:
    """Give the exit code: 0 only when the whole estate is ready, as for local processes."""
    return 0 if states and set(states.values()) == {"ready"} else 1


def _compose(site: Site, *words: str, quiet: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run docker compose with the estate's secrets and ports as variables of compose.yaml."""
    site.folder.mkdir(parents=True, exist_ok=True)
    _write_settings(site)
    given = os.environ  # noqa: TID251 - the engine's own settings are passed on as they are
    ports = {
        f"NOZIE_{name.upper().replace('-', '_')}_PORT": str(number)
        for name, number in site.ports.items()
    }
    secrets = {
        "JWT_SECRET": site.secrets["jwt"],
        "NOZIE_DATASOURCE_PASSWORD": site.secrets["datasource"],
        "NOZIE_POSTGRES_PASSWORD": site.secrets["postgres"],
        "NOZIE_CONFIG_SNAPSHOT_KEY": snapshot_key(site),
    }
    command = ("docker", "compose", "--file", str(CHECKOUT / "compose.yaml"), *words)
    return subprocess.run(  # noqa: S603
        command,
        env={**secrets, **given, **ports},
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )


def _write_settings(site: Site) -> None:
    """Write what the user has set for the services to the env_file of compose.yaml."""
    # What the estate decides itself is no setting: folders of this machine, for one.
    decided = {name for house in SERVICES for name in environment(site, house)}
    settings = {name: value for name, value in site.settings.items() if name not in decided}
    # In single quotes nothing is taken for a variable, nor a backslash for more than itself.
    quoted = {name: value.replace("'", r"\'") for name, value in settings.items()}
    draft = site.path("settings.new")
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{name}='{value}'\n" for name, value in sorted(quoted.items())))
    draft.rename(site.path("settings.env"))


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, timeout=_LOOK_S
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
