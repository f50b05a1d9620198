"""Health: what the registrar knows of our standing at Eureka, told to the other processes.

The registrar writes the remote status into the run folder and touches that file whenever the
server has answered; its age is how long we have been without Eureka.
"""

import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cloud.config import Environment
from cloud.eureka.folder import run_folder
from cloud.eureka.servers import fetch_interval
from cloud.eureka.view import view

FILE: Final = "eureka"
TOPIC: Final = "serviceregistry"
READINESS: Final = "readiness"
"""What the registrar asks the workers when they do not tell it over HTTP."""
"""Of questions to the registrar: an order as Spring's endpoint spells it, or None."""
CANCEL_OVERRIDE: Final = "CANCEL_OVERRIDE"

_PATIENCE = 2


def note(run: Path, status: str) -> None:
    """Note that Eureka answered just now, and which status it lists for us."""
    file = run / FILE
    try:
        if file.read_text() == status:
            os.utime(file)
            return
    except FileNotFoundError:
        pass
    fresh = file.with_suffix(".fresh")
    fresh.write_text(status)
    fresh.replace(file)


def forget(run: Path) -> None:
    """Forget what an earlier life noted."""
    (run / FILE).unlink(missing_ok=True)


def component(environment: Environment) -> Mapping[str, Any] | None:
    """Return Spring's health component `eureka`, None when Eureka is not used.

    As its EurekaHealthIndicator: the status that the server lists, the instances of each
    application, and when the server has not answered for two intervals, since how many. But for
    a server that has never answered the status is UNKNOWN; Spring's is UP.
    """
    properties = environment.properties
    if not properties.boolean("eureka.client.enabled", default=True):
        return None
    registry = view(environment)
    applications = {name.upper(): len(registry.instances(name)) for name in registry.services()}
    try:
        file = run_folder(properties) / FILE
        status, age_s = file.read_text(), max(0.0, time.time() - file.stat().st_mtime)
    except FileNotFoundError:
        return {
            "status": "UNKNOWN",
            "description": "No Eureka server has answered yet",
            "details": {"applications": applications},
        }
    details: dict[str, Any] = {"applications": applications}
    description = "The status that Eureka lists"
    interval_s = fetch_interval(properties).total_seconds()
    if age_s > _PATIENCE * interval_s:
        # We live on by the last registry: that is no illness of ours.
        description = "Eureka does not answer, the last registry is in use"
        renewal = properties.duration(
            "eureka.instance.lease-renewal-interval-in-seconds", timedelta(seconds=30), unit="s"
        )
        details |= {
            "renewalPeriod": round(renewal.total_seconds()),
            "failCount": int(age_s / interval_s),
        }
    return {"status": status, "description": description, "details": details}
