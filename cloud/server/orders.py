"""What a companion is told: to end, how, and to begin anew with other settings."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog

from cloud.config import Environment, Properties
from cloud.errors import CloudError
from cloud.refresh import refresher

log = structlog.get_logger()

Manner = Literal["drain", "now", "hand over"]
Work = Callable[[Environment, Any], None]

_MANNERS: dict[int, Manner] = {
    signal.SIGTERM: "drain",
    signal.SIGQUIT: "now",
    signal.SIGUSR2: "hand over",
}
ORDERS = frozenset({*_MANNERS, signal.SIGHUP})

_LOOK_AROUND_S = 0.5
_ORPHAN_S = 30.0

# What a companion is not built from, or follows by itself.
_NO_CONCERN = ("logging.", "management.", "eureka.", "info.", "spring.cloud.", "nozie.web.")


class Orders(threading.Event):
    """Set when the companion must end.

    Attributes:
        manner: how: after a drain, at once, or handing its role to a successor.
        round: set when what the companion is at must end, which then begins anew unless the
            companion itself must end.
    """

    manner: Manner = "drain"
    again = False

    def __init__(self) -> None:
        super().__init__()
        self.round = threading.Event()

    def set(self) -> None:
        super().set()
        self.round.set()

    def begin_round(self) -> threading.Event:
        """Give the event of a new round."""
        self.again, self.round = False, threading.Event()
        if self.is_set():
            self.round.set()
        return self.round

    def start_over(self, _properties: Properties, changed: frozenset[str]) -> None:
        """End the round, to begin anew with other settings."""
        if not all(key.startswith(_NO_CONCERN) for key in changed):
            self.again = True
            self.round.set()


def guard(orders: Orders, arbiter_pid: int, environment: Environment) -> None:
    """Turn signals into orders, and end the process when it has lost its arbiter."""
    orphaned_at: float | None = None
    while True:
        received = signal.sigtimedwait(ORDERS, _LOOK_AROUND_S)
        if received is not None and received.si_signo == signal.SIGHUP:
            _refresh(environment)
        elif received is not None:
            orders.manner = _MANNERS[received.si_signo]
            orders.set()
        if os.getppid() == arbiter_pid:
            continue
        if orphaned_at is None:
            orphaned_at = time.monotonic()
            orders.manner = "now"
            orders.set()
        elif time.monotonic() - orphaned_at > _ORPHAN_S:
            os._exit(1)


def _refresh(environment: Environment) -> None:
    """Refresh, in a thread of its own; the log tells how it went."""

    def work() -> None:
        try:
            refresher(environment).refresh()
        except CloudError as error:
            log.error("refresh_failed", reason=str(error))  # noqa: TRY400 - says it all

    threading.Thread(target=work, name="refresh", daemon=True).start()
