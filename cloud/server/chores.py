"""Work that goes on until it is told to end, beside other such work of the same process."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from cloud.config import Environment
from cloud.eureka import folder
from cloud.server.orders import Orders, Work

log = structlog.get_logger()

CHORES_END_S = 10.0

_LOOK_AROUND_S = 0.5
_STEADY_S = 60.0
_LONGEST_PAUSE_S = 30.0


@contextmanager
def meanwhile(environment: Environment, chores: Mapping[str, Work]) -> Iterator[None]:
    """Do the chores meanwhile, a thread each; they end when the block does, after the lease."""
    given = {name: Orders() for name in chores}
    threads = [
        threading.Thread(
            target=_keep_at, args=(environment, name, chores[name], orders), name=name, daemon=True
        )
        for name, orders in given.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for orders in given.values():
            orders.set()
        limit = time.monotonic() + CHORES_END_S
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))


def _keep_at(environment: Environment, name: str, work: Work, orders: Orders) -> None:
    """Do one chore until told to end; one that fails, or just ends, begins anew after a pause."""
    environment.subscribe(orders.start_over)
    prepared = folder.run_folder(environment.properties) / folder.PREPARED
    while not (prepared.exists() or orders.wait(_LOOK_AROUND_S)):
        pass  # what it needs of tables is not there yet, and `prepare` says why
    pause = 0.0
    while not orders.is_set():
        started = time.monotonic()
        try:
            repeat(environment, name, work, orders)
            trace = None
        except Exception as error:  # noqa: BLE001 - told below, as is a chore that ends unasked
            trace = error
        if not orders.is_set():
            pause = next_pause_s(pause, time.monotonic() - started)
            log.error("companion_died", companion=name, restart_in_s=pause, exc_info=trace)
            orders.wait(pause)


def repeat(environment: Environment, name: str, work: Work, orders: Orders) -> None:
    """Do the work; again from the start when what it was built from has changed."""
    while True:
        work(environment, orders.begin_round())
        if orders.is_set() or not orders.again:
            return
        log.info("companion_starts_over", companion=name)


def next_pause_s(last: float, lived: float) -> float:
    """Tell how long to wait before what has just failed is tried again."""
    return 0.0 if lived > _STEADY_S else min(last * 2 or 1.0, _LONGEST_PAUSE_S)
