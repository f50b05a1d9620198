"""/actuator/info: what runs here, since when, and from which source."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, current_app

import cloud
from cloud.actuator.answers import answer
from cloud.actuator.process import memory_bytes, parent, uptime_s
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.envelope import zoned_date_time

# Spring Boot tells these of all that the plugin for Git writes.
_GIT: Final = ("branch", "commit.id", "commit.time")


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint."""

    @rooms.get("/info")
    def info() -> Response:
        """Answer `info.*`, then what is known of build, commit, machine and process."""
        properties = environment.properties
        told: dict[str, Any] = dict(properties.tree("info"))
        build = {
            "artifact": properties.application,
            "group": "nozie",
            "name": properties.application,
            "version": cloud.__version__,
            **dict(_read("build-info.properties", "build.")),
        }
        git = dict(_read("git.properties", "git."))
        git = {"commit.id": git.get("commit.id.abbrev", ""), **git}
        commit = _nested({key: git[key] for key in _GIT if git.get(key)})
        return answer(
            {
                **told,
                "build": {**build, **told.get("build", {})},
                **({"git": commit} if commit else {}),
                "os": {
                    "name": platform.system(),
                    "version": platform.release(),
                    "arch": platform.machine(),
                },
                "process": _process(),
                "python": {
                    "version": platform.python_version(),
                    "implementation": platform.python_implementation(),
                },
            }
        )

    return {"info": "/info"}


def _process() -> dict[str, Any]:
    """Describe the instance by the process that all others of it descend from."""
    up = timedelta(seconds=uptime_s())
    return {
        "pid": parent(),
        "parentPid": _ppid(parent()),
        "owner": _owner(),
        "cpus": os.cpu_count() or 1,
        # Pages that processes share counted once; what Spring Boot tells there are a JVM's pools.
        "memory": {"used": memory_bytes()},
        "uptime": f"PT{up.total_seconds():.3f}S",
        "startTime": zoned_date_time(utc_now() - up),
    }


def _ppid(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _owner() -> str:
    with suppress(KeyError, OSError):  # a container's user may have no name
        return Path("/proc/self").owner()
    return str(os.getuid())


def _read(name: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Read what a build has left beside the house, or where it is started."""
    for folder in (Path(current_app.root_path), Path.cwd()):
        with suppress(OSError, UnicodeDecodeError):
            for line in (folder / name).read_text().splitlines():
                key, equals, value = line.partition("=")
                if equals and key.startswith(prefix):
                    # Java escapes colons there.
                    yield key.removeprefix(prefix).strip(), value.strip().replace("\\:", ":")
            return


def _nested(flat: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        outer, dot, inner = key.partition(".")
        if dot:
            tree.setdefault(outer, {})[inner] = value
        else:
            tree[outer] = value
    return tree
