"""Who takes part: the backend and Redis that all share, and the three gateways before them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloud.security import DEFAULT_SECRET, sign
from deploy.local import jvm, packages, probes
from deploy.local.probes import holds
from deploy.local.program import Program
from deploy.local.site import CHECKOUT, HOST, SHARED, EstateError
from deploy.local.supervisor import family, memory, wait_until

FOLDER: Final = SHARED / "bench"
PORTS: Final = {"backend": 7081, "redis": 7379, "nozie": 7080, "spring": 7082, "nginx": 7083}
GATEWAYS: Final = ("nozie", "spring", "nginx")

_SOURCES: Final = CHECKOUT / "bench"
_CLASSES: Final = FOLDER / "classes"
_SERVICE: Final = "movie-service"
_ROUTE: Final = "spring.cloud.gateway.routes[0]"
_POOL: Final = "spring.cloud.gateway.httpclient.pool"
_BREAKER: Final = "movieServiceCircuitBreaker"
_INSTANCE: Final = f"spring.cloud.discovery.client.simple.instances.{_SERVICE}[0].uri"
_TICKS_S: Final = os.sysconf("SC_CLK_TCK")
_NEVER: Final = 10**9
# A service says goodbye before it ends, and that may take its time.
_FAREWELL_S: Final = 90
_SMALL: Final = {
    "success": True,
    "message": "Success",
    "data": {
        "id": "65b9c0ffee65b9c0ffee65b9",
        "name": "A film",
        "slug": "a-film",
        "year": 2024,
        "genres": [{"id": "1", "name": "Drama", "slug": "drama"}],
        "countries": [{"id": "2", "name": "Viet Nam", "slug": "viet-nam"}],
        "price": 0,
    },
    "timestamp": "2026-01-30T16:48:39.123456",
}


def token() -> str:
    """Make the access token of the one user who asks; it outlives the run."""
    now = int(time.time())
    claims = {
        "jti": "bench", "sub": "7", "username": "bench", "roles": ["USER"], "permissions": [],
        "type": "ACCESS", "iat": now, "exp": now + 86_400,
    }  # fmt: skip
    return f"Bearer {sign(claims, DEFAULT_SECRET)}"


@dataclass(slots=True)
class Running:
    """A process with all that descends from it."""

    process: subprocess.Popen[bytes] = field(repr=False)

    def cpu_s(self) -> float:
        """Give the processor time used so far."""
        total = 0
        for pid in family(self.process.pid):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(words[11]) + int(words[12])
        return total / _TICKS_S

    def memory_mib(self) -> float:
        """Give the proportional set size of all processes together."""
        return memory(family(self.process.pid)) / 2**20


@contextmanager
def running(programs: Sequence[Program], folder: Path = FOLDER) -> Iterator[Mapping[str, Running]]:
    """Start programs in their order, each when the one before it is ready; end them all.

    Args:
        programs: what to start.
        folder: where they work and leave their logs.

    Raises:
        EstateError: a package is missing and cannot be installed, or a program does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = packages.missing(programs)
    if wanted:
        packages.install(wanted, print)
    started: dict[str, Running] = {}
    try:
        for program in programs:
            program.prepare()
            started[program.name] = _start(program, folder)
        yield started
    finally:
        for one in reversed(started.values()):
            _end(one.process)


def _start(program: Program, folder: Path) -> Running:
    log = folder / f"{program.name}.log"
    machine = {name: os.environ[name] for name in ("PATH", "HOME")}  # noqa: TID251 - a child's own
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            program.command,
            env={**machine, **program.environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if not wait_until(lambda: process.poll() is None and holds(program.ready), 60):
        _end(process)
        raise EstateError(f"{program.name} does not come up; see {log}")
    return Running(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_FAREWELL_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(name: str, path: str = "/api/movies/small") -> bool:
    headers = {"Authorization": token()}
    return probes.fetch(f"http://{HOST}:{PORTS[name]}{path}", headers=headers).status_code == 200  # noqa: PLR2004


def contestants() -> list[Program]:
    """Describe everything that runs, in the order in which it starts."""
    return [_backend(), _redis(), _nozie(), _spring(), _nginx()]


def alone(changes: Mapping[str, object]) -> list[Program]:
    """Describe our gateway with what it needs, and properties beside the bench's."""
    return [_backend(), _redis(), _nozie(changes)]


def _nginx_of(name: str, http: str) -> Program:
    text = f"""
        daemon off; worker_processes auto; pid {name}.pid; error_log {name}.error.log;
        events {{ worker_connections 2048; }}
        http {{
          access_log off; keepalive_requests 1000000000; client_body_temp_path {name}.tmp;
          proxy_temp_path {name}.tmp; fastcgi_temp_path {name}.tmp; uwsgi_temp_path {name}.tmp;
          scgi_temp_path {name}.tmp;
          {http}
        }}"""

    def prepare() -> None:
        (FOLDER / f"{name}.conf").write_text(text)

    return Program(
        name=name,
        tier=1,
        command=("nginx", "-p", str(FOLDER), "-e", f"{name}.error.log", "-c", f"{name}.conf"),
        ready=lambda: _answers(name),
        packages={"nginx-light": "nginx", "wrk": "wrk"},
        prepare=prepare,
    )


def _backend() -> Program:
    small, large = FOLDER / "small.json", FOLDER / "large.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    small.write_text(json.dumps(_SMALL))
    large.write_text(json.dumps({"data": "x" * (100 * 1024 - 12)}))
    return _nginx_of(
        "backend",
        f"""
          default_type application/json; open_file_cache max=10;
          server {{
            listen {HOST}:{PORTS["backend"]};
            location = /api/movies/small {{ alias {small}; error_page 405 =200 $uri; }}
            location = /api/movies/large {{ alias {large}; }}
          }}""",
    )


def _nginx() -> Program:
    return _nginx_of(
        "nginx",
        f"""
          upstream movies {{ server {HOST}:{PORTS["backend"]}; keepalive 256; }}
          server {{
            listen {HOST}:{PORTS["nginx"]};
            access_log nginx.access.log combined buffer=32k flush=1s;
            location / {{
              proxy_pass http://movies; proxy_http_version 1.1; proxy_set_header Connection "";
            }}
          }}""",
    )


def _redis() -> Program:
    words = ("--port", str(PORTS["redis"]), "--bind", HOST, "--save", "", "--dir", str(FOLDER))
    return Program(
        name="redis",
        tier=1,
        command=("redis-server", *words),
        ready=lambda: probes.redis_pings(PORTS["redis"]),
        packages={"redis-server": "redis-server"},
    )


def _route() -> dict[str, object]:
    """Give the one route, in the words that both gateways read."""
    return {
        f"{_ROUTE}.id": _SERVICE,
        f"{_ROUTE}.uri": f"lb://{_SERVICE}",
        f"{_ROUTE}.predicates[0]": "Path=/api/movies/**",
        f"{_ROUTE}.filters[0].name": "CircuitBreaker",
        f"{_ROUTE}.filters[0].args.name": _BREAKER,
        f"{_ROUTE}.filters[0].args.fallbackUri": "forward:/fallback/movies",
        # Spring's own default has no limit; with one, all the load fits in.
        f"{_POOL}.type": "FIXED",
        f"{_POOL}.max-connections": 1024,
        _INSTANCE: f"http://{HOST}:{PORTS['backend']}",
        "spring.data.redis.host": HOST,
        "spring.data.redis.port": PORTS["redis"],
        "server.address": HOST,
        "jwt.secret": DEFAULT_SECRET,
    }


def _nozie(changes: Mapping[str, object] | None = None) -> Program:
    settings = {
        **_route(),
        "server.port": PORTS["nozie"],
        "spring.config.import": "",
        "eureka.client.enabled": False,
        "management.tracing.sampling.probability": 0,
        "nozie.server.run-dir": str(FOLDER / "run"),
        "nozie.server.deregister-wait": "0s",
        "nozie.gateway.limits.user": _NEVER,
        **(changes or {}),
    }
    return Program(
        name="nozie",
        tier=2,
        command=(
            sys.executable, "-m", "gunicorn", "-c", "python:cloud.server", "gateway.wsgi:app",
        ),
        environment={
            "SPRING_APPLICATION_JSON": json.dumps(settings),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
        },
        ready=lambda: _answers("nozie"),
    )  # fmt: skip


def _spring() -> Program:
    path = f"{_CLASSES}:{jvm.class_path('gateway')}"
    limiter = f"{_ROUTE}.filters[1].args"
    settings = {
        **_route(),
        f"{_ROUTE}.filters[1].name": "RequestRateLimiter",
        f"{limiter}.redis-rate-limiter.replenishRate": _NEVER,
        f"{limiter}.redis-rate-limiter.burstCapacity": _NEVER,
        "server.port": PORTS["spring"],
        "spring.main.banner-mode": "off",
        "spring.application.name": "api-gateway",
    }

    def prepare() -> None:
        jvm.install("gateway")
        _CLASSES.mkdir(exist_ok=True)
        source = str(_SOURCES / "spring" / "BenchGateway.java")
        subprocess.run(["javac", "-cp", path, "-d", str(_CLASSES), source], check=True)  # noqa: S603, S607

    return Program(
        name="spring",
        tier=2,
        # As stock as can be: the JVM chooses collector and heap by itself.
        command=(
            "java", "-Dreactor.netty.http.server.accessLogEnabled=true", "-cp", path, "BenchGateway"
        ),
        environment={"SPRING_APPLICATION_JSON": json.dumps(settings)},
        ready=lambda: _answers("spring"),
        packages=jvm.JAVA,
        prepare=prepare,
    )  # fmt: skip
