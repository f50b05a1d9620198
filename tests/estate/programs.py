"""What runs beside the estate: the JVM neighbour, its stand-ins, further instances."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench.contestants import Running, running
from deploy.local import jvm, probes
from deploy.local.program import Program
from deploy.local.services import SERVICES, service
from deploy.local.site import HOST, Site

NEIGHBOUR: Final = Path(__file__).with_name("neighbour")
GATEWAY: Final = Path(__file__).with_name("stock-gateway")
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@contextmanager
def beside(site: Site, program: Program) -> Iterator[Running]:
    """Run a program below the estate's folder, so that it ends with the estate at the latest."""
    with running([program], site.path("beside")) as found:
        yield found[program.name]


def neighbour(
    site: Site, port: int, name: str = "neighbour", more: Mapping[str, str] = NOTHING
) -> Program:
    """Describe the JVM neighbour; under the id of a service it answers that service's calls."""
    return Program(
        name=f"jvm-{name}",
        tier=5,
        command=_spring(site, NEIGHBOUR, "Neighbour"),
        environment={
            "SPRING_APPLICATION_NAME": name,
            "SPRING_PROFILES_ACTIVE": "dev",
            "SERVER_PORT": str(port),
            "NEIGHBOUR_CONFIG": site.url("config"),
            "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": jvm.eureka_url(site),
            "SPRING_RABBITMQ_HOST": HOST,
            "SPRING_RABBITMQ_PORT": str(site.ports["rabbit"]),
            "JWT_SECRET": site.secrets["jwt"],
            **more,
        },
        ready=lambda: _is_up(site, name, port),
        packages=jvm.JAVA,
        prepare=lambda: jvm.install(NEIGHBOUR.name, NEIGHBOUR.parent),
    )


def stock_gateway(site: Site) -> Program:
    """Describe a stock Spring Cloud Gateway in the place of ours, on its port."""
    port = site.ports["gateway"]
    return Program(
        name="jvm-api-gateway",
        tier=5,
        command=_spring(site, GATEWAY, "StockGateway"),
        environment={
            "SERVER_PORT": str(port),
            "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": jvm.eureka_url(site),
        },
        ready=lambda: _is_up(site, "api-gateway", port),
        packages=jvm.JAVA,
        prepare=lambda: jvm.install(GATEWAY.name, GATEWAY.parent),
    )


def _spring(site: Site, home: Path, main: str) -> tuple[str, ...]:
    return jvm.spring(site, home.name, main, "", heap="160m", home=home.parent)


def another(site: Site, house: str, port: int, settings: Mapping[str, object]) -> Program:
    """Describe one more instance of a house."""
    first = service(site, house, settings)
    name = f"{house}-{port}"
    own = {"SERVER_PORT": str(port), "NOZIE_SERVER_RUN_DIR": str(site.path("run", name))}
    return replace(
        first,
        name=name,
        environment={**first.environment, **own},
        ready=lambda: _is_up(site, SERVICES[house], port),
    )


def _is_up(site: Site, name: str, port: int) -> bool:
    healthy = probes.answers(f"http://{HOST}:{port}/actuator/health")
    return healthy and str(port) in probes.registered(site.url("eureka")).get(name.upper(), ())
