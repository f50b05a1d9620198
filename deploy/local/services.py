"""Our six services: one set of environment variables for local processes and for Compose."""

import re
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from deploy.local import jvm, probes, servers
from deploy.local.program import Program
from deploy.local.site import CHECKOUT, HOST, SHARED, Site

SERVICES: Final[Mapping[str, str]] = {
    "identity": "identity-service",
    "movie": "movie-service",
    "customer": "customer-service",
    "payment": "payment-service",
    "notification": "notification-service",
    "gateway": "api-gateway",
}
"""Service ids by house."""

_BYTECODE: Final = SHARED / "bytecode"
_RELATIONAL: Final = ("identity", "customer", "payment")
_DOCUMENTS: Final = ("movie", "notification")


def services(
    site: Site, settings: Mapping[str, Mapping[str, object]] = MappingProxyType({})
) -> list[Program]:
    """Describe the five services, and behind them in time the gateway."""
    return [service(site, house, settings.get(house, {})) for house in SERVICES]


def service(
    site: Site, house: str, settings: Mapping[str, object] = MappingProxyType({})
) -> Program:
    """Describe one service: gunicorn with its workers and companions."""
    command = (sys.executable, "-m", "gunicorn", "-c", "python:cloud.server", f"{house}.wsgi:app")
    own = {re.sub("[.-]", "_", key).upper(): str(value) for key, value in settings.items()}
    return Program(
        name=house,
        tier=4 if house == "gateway" else 3,
        command=command,
        environment=environment(site, house) | own,
        prepare=lambda: _compile(site, house),
        ready=lambda: _serves(site, house),
        ports=("gateway", "gateway-compat") if house == "gateway" else (house,),
        stop_seconds=40,
        shows=site.url(house, "/actuator/health"),
    )


def _compile(site: Site, house: str) -> None:
    """Compile what a service loads, the first time; later only what has changed is compiled."""
    done = _BYTECODE / f"{house}.done"
    if done.exists():
        return
    modules = [
        f"{house}.{room}"
        for room in ("app", "worker")
        if (CHECKOUT / house / f"{room}.py").exists()
    ]
    program = (
        f"import gunicorn.app.wsgiapp, gunicorn.workers.gthread, cloud.server, {', '.join(modules)}"
    )
    # A service that cannot be loaded tells so itself when it is started.
    loaded = subprocess.run(  # noqa: S603 - our own program
        (sys.executable, "-c", program),
        env={**site.environment, **environment(site, house)},
        capture_output=True,
        check=False,
    )
    if loaded.returncode == 0:
        done.touch()


def environment(site: Site, house: str) -> dict[str, str]:
    """Tell a service what Spring's names call the servers that it leans on."""
    settings = {
        "SPRING_PROFILES_ACTIVE": "dev",
        # Whatever comes up first: a service waits minutes for the Config Server, not seconds.
        "SPRING_CONFIG_IMPORT": f"configserver:{site.url('config')}"
        "?fail-fast=true&max-attempts=200&max-interval=1000",
        "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": jvm.eureka_url(site),
        "EUREKA_INSTANCE_IP_ADDRESS": HOST,
        "SERVER_ADDRESS": HOST,
        "SERVER_PORT": str(site.ports[house]),
        "SPRING_RABBITMQ_HOST": HOST,
        "SPRING_RABBITMQ_PORT": str(site.ports["rabbit"]),
        "SPRING_DATA_REDIS_HOST": HOST,
        "SPRING_DATA_REDIS_PORT": str(site.ports["redis"]),
        "MANAGEMENT_ZIPKIN_TRACING_ENDPOINT": site.url("zipkin", "/api/v2/spans"),
        "JWT_SECRET": site.environment.get("JWT_SECRET") or site.secrets["jwt"],
        "NOZIE_CONFIG_SNAPSHOT_KEY": snapshot_key(site),
        "NOZIE_CONFIG_SNAPSHOT_FOLDER": str(site.path("snapshots")),
        "NOZIE_SERVER_RUN_DIR": str(site.path("run", house)),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        # The checkout stays as it was cloned, and yet no start but the first compiles: it would
        # take seconds, and leave megabytes of holes.
        "PYTHONPYCACHEPREFIX": str(_BYTECODE),
        # No docstrings and columns of tracebacks in memory (docs/adr/0024-memory.md).
        "PYTHONOPTIMIZE": "2",
        "PYTHONNODEBUGRANGES": "1",
    }
    if house == "gateway":
        settings["NOZIE_GATEWAY_COMPAT_PORT"] = str(site.ports["gateway-compat"])
        # Tests sign in more often in a minute than any person.
        settings |= {} if site.name == "main" else {"NOZIE_GATEWAY_LOGIN_LIMIT": "1000"}
    if house in _RELATIONAL:
        settings["SPRING_DATASOURCE_URL"] = (
            f"jdbc:postgresql://{site.address('postgres')}/{house}db"
        )
        settings["SPRING_DATASOURCE_USERNAME"] = "nozie"
        settings["SPRING_DATASOURCE_PASSWORD"] = site.secrets["datasource"]
    if house in _DOCUMENTS:
        settings["SPRING_DATA_MONGODB_URI"] = servers.mongo_uri(site, f"{house}db")
    return settings


def snapshot_key(site: Site) -> str:
    """Give what seals the last good configuration: the user's key, else the data folder's own."""
    return site.environment.get("NOZIE_CONFIG_SNAPSHOT_KEY") or site.secrets["snapshot"]


def _serves(site: Site, house: str) -> bool:
    """Tell whether a service answers and Eureka sends callers to it; the gateway is the last."""
    if not probes.answers(site.url(house, "/actuator/health/readiness")):
        return False
    if house == "gateway":
        return _all_know_all(site)
    return bool(probes.registered(site.url("eureka")).get(SERVICES[house].upper()))


def _all_know_all(site: Site) -> bool:
    """Tell whether every service can call every other, as a customer's journey makes them do."""
    # Each worker of the gateway has a view of its own, and each connection may meet another.
    asked = [*SERVICES, *["gateway"] * 9]
    return all(_known_to(site, house) >= set(SERVICES.values()) for house in asked)


def _known_to(site: Site, house: str) -> set[str]:
    view = site.url(house, "/actuator/health/discoveryComposite/discoveryClient")
    return set(probes.fetch(view).json().get("details", {}).get("services", ()))
