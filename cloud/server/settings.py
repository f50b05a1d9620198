"""gunicorn's settings, read from a house's properties."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from gunicorn import glogging
from gunicorn.config import Config

from cloud import balancer, logging, tracing
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.config.management import own_address, own_port
from cloud.errors import ConfigurationError
from cloud.eureka import folder, registrar
from cloud.eureka.view import share
from cloud.peers import FOLDER

_MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn writes heartbeats there, in an unlinked file
_TRACING = ("management.tracing", "management.zipkin.tracing")
_APP = re.compile(r"([A-Za-z_][\w.]*)\.wsgi(?::\w+)?")


class Logger(glogging.Logger):
    """gunicorn's own words, through the handlers of `cloud.logging`; requests log themselves."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        self.error_log.setLevel(cfg.loglevel.upper())
        self.error_log.propagate = True
        self._access_log_enabled = False


def house_of(arguments: Sequence[str]) -> str | None:
    """Name the house that a command line serves: the package of `identity.wsgi:app`."""
    found = (_APP.fullmatch(argument) for argument in reversed(arguments))
    return next((match[1] for match in found if match), None)


def stop_in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Report a setting that cannot be used in one line; anything else with its traceback."""
    if isinstance(error, ConfigurationError):
        print(f"\nError: {error}", file=sys.stderr)  # noqa: T201 - as gunicorn reports its own
        return
    sys.__excepthook__(kind, error, trace)


def settings(properties: Properties) -> dict[str, Any]:
    """Read what gunicorn needs to know; make the run folder and configure this process's log."""
    run = folder.create_run_folder(properties)
    balancer.check(properties)
    registrar.check(properties, utc_now())
    _collect_metrics_in(run / folder.METRICS)
    share(run / folder.REGISTRY)
    logging.configure(properties, "arbiter")
    address = properties.text("server.address", "0.0.0.0")  # noqa: S104 - as Spring Boot does
    port = properties.integer("server.port", 8080, minimum=0, maximum=65535)
    managed = own_port(properties)
    own = own_address(properties) or address
    beside = [_bind(own, managed)] if managed and managed > 0 else []
    recycle = properties.integer("nozie.server.max-requests", 0, minimum=0)
    return {
        # The house's first: who asks for the port of this instance means that one.
        "bind": [_bind(address, port), *beside],
        "workers": properties.integer("nozie.server.workers", 2, minimum=1),
        "threads": properties.integer("nozie.server.threads", 8, minimum=1),
        "worker_class": properties.text("nozie.server.worker-class", "gthread"),
        "worker_connections": properties.integer("nozie.server.connections", 1000, minimum=1),
        "max_requests": recycle,
        # Without jitter all workers, started together, would also be replaced together.
        "max_requests_jitter": recycle // 10,
        "timeout": _seconds(properties, "nozie.server.worker-timeout", 30),
        "graceful_timeout": _seconds(properties, "nozie.server.graceful-timeout", 20),
        # Longer than callers keep an idle connection: the caller closes first, and no request
        # is sent into a connection that is just being closed.
        "keepalive": _seconds(properties, "nozie.server.keep-alive", 75),
        "backlog": properties.integer("nozie.server.backlog", 2048, minimum=1),
        "limit_request_line": 8190,
        "limit_request_fields": 100,
        "limit_request_field_size": 16384,
        # No peer may rewrite where a request came from or which path it means (SCRIPT_NAME).
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "proxy_allow_ips": "",
        "header_map": "refuse",
        # A socket under the home folder, the same for every service of this user.
        "control_socket_disable": True,
        "preload_app": True,
        "worker_tmp_dir": str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None,
        "proc_name": properties.application,
        "logger_class": Logger,
        "accesslog": None,
        **_tls(properties),
    }


def _tls(properties: Properties) -> dict[str, Any]:
    """Have all ports speak TLS where `server.ssl` asks for it."""
    if not properties.subset("server.ssl"):
        return {}
    from cloud import tls  # noqa: PLC0415 - most instances need nothing of it

    shown = tls.Shown.of(properties)
    return {"certfile": shown.file, "ssl_context": shown} if shown else {}


def _bind(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def begin_process(environment: Environment, process: str, *, traced: bool = True) -> None:
    """Set up what does not survive a fork, in a worker or a companion; it follows refreshes."""

    def follow(properties: Properties, changed: frozenset[str]) -> None:
        if any(key.startswith("logging.") for key in changed):
            logging.configure(properties, process)
        if traced and any(key.startswith(_TRACING) for key in changed):
            tracing.configure(properties)

    logging.configure(environment.properties, process)
    environment.require(logging.levels_of)
    # Spans are sent by a thread, which a fork does not take along.
    if traced:
        tracing.configure(environment.properties)
    environment.subscribe(follow)


def clear_run_folder(properties: Properties) -> None:
    """Remove what an earlier life of this instance left: metrics, sockets, the prepared marker."""
    run = folder.run_folder(properties)
    shutil.rmtree(run / folder.METRICS, ignore_errors=True)
    (run / folder.METRICS).mkdir(mode=0o700)
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    (run / folder.PREPARED).unlink(missing_ok=True)


def _collect_metrics_in(path: Path) -> None:
    """Make prometheus_client keep its values in files that all processes can read."""
    path.mkdir(mode=0o700, exist_ok=True)
    # The library knows no other way to be told.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)  # noqa: TID251
    from prometheus_client import values  # noqa: PLC0415 - must follow the line above

    # It may have been imported already, and have decided for one process.
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def _seconds(properties: Properties, key: str, default: int) -> int:
    """Read a duration in whole seconds, which is all that gunicorn takes."""
    span = properties.duration(key, timedelta(seconds=default), unit="s")
    return max(1, round(span.total_seconds()))
