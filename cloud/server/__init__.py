"""How a house is served: `gunicorn -c python:cloud.server identity.wsgi:app`.

gunicorn takes every name in this module that is one of its settings. They follow the house's
properties; an option on gunicorn's command line still wins over them.
"""

import gc
import signal
import sys
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from prometheus_client import multiprocess

from cloud.config import environment
from cloud.config.management import ensure_own_port_is_open
from cloud.peers import peers
from cloud.refresh import refresher
from cloud.server.companions import Companions
from cloud.server.registrar import companions_of
from cloud.server.settings import (
    Logger,
    begin_process,
    clear_run_folder,
    house_of,
    settings,
    stop_in_one_line,
)

__all__ = ["Logger"]

HOUSE = house_of(sys.argv)
if HOUSE:
    sys.excepthook = stop_in_one_line
    ENVIRONMENT = environment(HOUSE)
    globals().update(settings(ENVIRONMENT.properties))
    refresher(ENVIRONMENT)  # for all that fork from here to have it
    COMPANIONS: list[Companions] = []


def on_starting(arbiter: Arbiter) -> None:
    """Begin with a clean run folder, unless another arbiter still serves from it."""
    if not arbiter.master_pid:
        clear_run_folder(ENVIRONMENT.properties)
        refresher(ENVIRONMENT).begin()


def when_ready(arbiter: Arbiter) -> None:
    """Start the companions: the socket listens, no worker is there yet."""
    # What was loaded so far is never garbage. Frozen, no collection in a worker touches its
    # pages, and they stay shared between all processes of the instance.
    gc.collect()
    gc.freeze()
    ports = [listener.sock.getsockname()[1] for listener in arbiter.LISTENERS]
    ensure_own_port_is_open(ENVIRONMENT.properties, ports)
    works, chores = companions_of(str(HOUSE), ENVIRONMENT, ports[0])
    companions = Companions(arbiter, ENVIRONMENT, works, chores)
    companions.install()
    COMPANIONS.append(companions)


def on_reload(arbiter: Arbiter) -> None:
    """Follow SIGHUP, which replaces the workers, with a refresh for them and the companions.

    A certificate that was renewed on disk is what the new workers show.
    """
    if renew := getattr(arbiter.cfg.ssl_context, "renew", None):
        renew()
    for companions in COMPANIONS:
        companions.refresh()


def post_fork(_arbiter: Arbiter, worker: Worker) -> None:
    """Give the worker what does not survive a fork."""
    process = f"worker-{worker.age}"
    begin_process(ENVIRONMENT, process)
    peers(ENVIRONMENT).begin(process)
    refresher(ENVIRONMENT).catch_up()


def post_worker_init(worker: Worker) -> None:
    """Tell answers that stay open when the worker begins to drain."""
    # Looked up, not imported: a house that does not stand on it has its own metrics and drain.
    web = sys.modules.get("cloud.web")
    if web is None:
        return
    drain = worker.handle_exit

    def handle(number: int, frame: FrameType | None) -> None:
        web.stopping.set()
        drain(number, frame)

    signal.signal(signal.SIGTERM, handle)


def child_exit(_arbiter: Arbiter, worker: Worker) -> None:
    """Take a gone worker's live gauges out of the metrics."""
    forget: Any = multiprocess.mark_process_dead
    forget(worker.pid)
