"""Health component `configServer`, in the shape of Spring's ConfigServerHealthIndicator.

It tells what is in force, and asks no server: one that goes away later harms nobody here.
"""

from datetime import datetime
from typing import Any

from cloud.clock import Clock, utc_now
from cloud.config import snapshot
from cloud.config.properties import Properties
from cloud.config.remote import CLIENT, SOURCE


def component(properties: Properties, now: Clock = utc_now) -> dict[str, Any] | None:
    """Return status and details, None when no Config Server is asked for.

    UP with the names of its sources; UNKNOWN when there are none, or when they are those of a
    snapshot: then with its instant and its age (ISO 8601).
    """
    imported = any("configserver:" in item for item in properties.listing("spring.config.import"))
    if not imported or not all(
        properties.boolean(key, default=True)
        for key in ("spring.cloud.config.enabled", "management.health.config.enabled")
    ):
        return None
    names = [source.name for source in properties.sources if source.name.startswith(SOURCE)]
    if not names:
        return {"status": "UNKNOWN", "details": {"error": "no property sources located"}}
    details: dict[str, Any] = {"propertySources": [CLIENT, *names]}
    if taken := properties.get(snapshot.TAKEN):
        age = now() - datetime.fromisoformat(taken)
        details |= {"snapshot": taken, "age": f"PT{max(0, round(age.total_seconds()))}S"}
        return {"status": "UNKNOWN", "details": details}
    return {"status": "UP", "details": details}
