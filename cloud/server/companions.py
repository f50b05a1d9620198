"""Companions: the processes beside the workers, forked and supervised by gunicorn's arbiter.

The arbiter has no threads, so forking it is safe at any time. Its main loop calls
`manage_workers` at least once a second and `stop` on every way out; both are wrapped here.
"""

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

import setproctitle
import structlog
from gunicorn.arbiter import Arbiter
from prometheus_client import multiprocess

from cloud import bus
from cloud.config import Environment, environment
from cloud.eureka import folder
from cloud.peers import peers
from cloud.refresh import refresher
from cloud.server.chores import CHORES_END_S, meanwhile, next_pause_s, repeat
from cloud.server.orders import ORDERS, Orders, Work, guard
from cloud.server.settings import begin_process

log = structlog.get_logger()

REGISTRAR = "registrar"
PREPARE = "prepare"


@dataclass
class Companion:
    """One process beside the workers, and how its restarts are paced; `prepare` has none.

    Attributes:
        handle: a pidfd: it stays ours when gunicorn reaps the process, and a signal sent to it
            can never reach a stranger that got the same pid.
    """

    name: str
    work: Work
    handle: int | None = None
    pid: int = 0
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0

    def alive(self) -> bool:
        """Tell whether the process is still there; give up its handle when it is not."""
        if self.handle is None:
            return False
        if not select.select([self.handle], [], [], 0)[0]:
            return True
        os.close(self.handle)
        self.handle = None
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is still somebody to get it."""
        if self.alive() and self.handle is not None:
            signal.pidfd_send_signal(self.handle, number)


class Companions:
    """The companions of one arbiter, and what the registrar does besides: the house's chores."""

    def __init__(
        self,
        arbiter: Arbiter,
        environment: Environment,
        works: Mapping[str, Work],
        chores: Mapping[str, Work],
    ) -> None:
        self._arbiter = arbiter
        self._environment = environment
        self._chores = chores
        self._all = [Companion(name, work) for name, work in works.items()]
        # Who speaks to the broker anyway has the driver's pages of memory for his own already.
        own = (name for name in works if name not in (PREPARE, REGISTRAR))
        self._on_bus = next(own, REGISTRAR)
        self._manage_workers = arbiter.manage_workers
        self._stop = arbiter.stop
        self._stopping = False
        self._prepared = folder.run_folder(environment.properties) / folder.PREPARED
        wait = environment.properties.duration(
            "nozie.server.deregister-wait", timedelta(seconds=5), unit="s"
        )
        # Time for a call to Eureka that is under way, DOWN, the wait, the DELETE, and the chores.
        self._patience = wait + timedelta(seconds=10 + CHORES_END_S)

    def install(self) -> None:
        """Start all, and hook into the arbiter's loop and its way out."""
        bus.load(self._environment.properties)
        # Replaced on this one object: gunicorn has hooks for neither place.
        vars(self._arbiter).update(manage_workers=self._manage, stop=self.stop)
        self._supervise()

    def _manage(self) -> None:
        self._manage_workers()
        self._supervise()

    def _supervise(self) -> None:
        """Start what does not run, crashed ones after a growing pause."""
        # After USR2 two arbiters serve side by side. The lease and the queues stay with the
        # old one until it is gone.
        if self._stopping or self._arbiter.master_pid:
            return
        now = time.monotonic()
        for companion in self._all:
            if companion.handle is not None and not companion.alive():
                if companion.name == PREPARE and self._prepared.exists():
                    companion.due = math.inf
                    continue
                self._bury(companion, now)
            if companion.handle is None and now >= companion.due:
                self._start(companion, now)

    def _bury(self, companion: Companion, now: float) -> None:
        """Note the death of a companion that should live, and when to try again."""
        companion.pause = next_pause_s(companion.pause, now - companion.started)
        companion.due = now + companion.pause
        multiprocess.mark_process_dead(companion.pid)  # type: ignore[no-untyped-call]
        log.error("companion_died", companion=companion.name, restart_in_s=companion.pause)

    def _start(self, companion: Companion, now: float) -> None:
        # Blocked over the fork: an order that comes early waits for the child's guard, instead
        # of ending in the queue that the child inherits from the arbiter.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
        arbiter_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._live(companion, arbiter_pid)
        companion.pid, companion.started = pid, now
        companion.handle = os.pidfd_open(pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _live(self, companion: Companion, arbiter_pid: int) -> None:
        """Be the companion: everything from here on runs in the child, which never returns."""
        for number in (*self._arbiter.SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C and a hang-up reach the whole process group; companions wait for the arbiter, who
        # tells the registrar alone of a hang-up.
        ignored = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
        for number in ignored - ({signal.SIGHUP} if companion.name == REGISTRAR else set()):
            signal.signal(number, signal.SIG_IGN)
        for listener in self._arbiter.LISTENERS:
            listener.sock.close()
        properties = self._environment.properties
        setproctitle.setproctitle(f"gunicorn: {companion.name} [{properties.application}]")
        orders = Orders()
        told = (orders, arbiter_pid, self._environment)
        threading.Thread(target=guard, args=told, daemon=True).start()
        try:
            # The registrar has no spans of its own, and no need of what sends them.
            traced = companion.name != REGISTRAR or bool(self._chores)
            begin_process(self._environment, companion.name, traced=traced)
            peers(self._environment).begin(companion.name)
            refresher(self._environment).catch_up()
            self._work(companion, orders)
        except Exception:
            log.exception("companion_failed", companion=companion.name)
            sys.exit(1)
        sys.exit(0)

    def _work(self, companion: Companion, orders: Orders) -> None:
        """Do the companion's work; one of them is also the instance's member of the bus."""
        on_bus = companion.name == self._on_bus
        with bus.joined(self._environment, orders) if on_bus else nullcontext():
            if companion.name == PREPARE:
                companion.work(self._environment, orders)
            elif companion.name == REGISTRAR:
                with meanwhile(self._environment, self._chores):
                    companion.work(self._environment, orders)
            else:
                self._environment.subscribe(orders.start_over)
                repeat(self._environment, companion.name, companion.work, orders)

    def refresh(self) -> None:
        """Have one companion load the configuration anew, for all processes."""
        for companion in self._all:
            if companion.name == REGISTRAR:
                companion.send(signal.SIGHUP)

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """End the companions around gunicorn's own stop: the registrar before the workers.

        While the registrar takes the instance out of Eureka and callers learn of it, the workers
        still serve. The others end beside the workers, and may finish what they have in hand.
        """
        first = not self._stopping
        self._stopping = True
        if first:
            self._end_registrar(graceful=graceful)
            for companion in self._all:
                companion.send(signal.SIGTERM if graceful else signal.SIGQUIT)
        try:
            self._stop(graceful)
        finally:
            self._end_others(graceful=graceful)

    def _end_others(self, *, graceful: bool) -> None:
        limit = time.monotonic() + (self._arbiter.cfg.graceful_timeout if graceful else 2.0)
        self._await(self._all, limit)
        for companion in self._all:
            companion.send(signal.SIGKILL)
        self._await(self._all, time.monotonic() + 1.0)
        self._arbiter.reap_workers()

    def _end_registrar(self, *, graceful: bool) -> None:
        registrars = [companion for companion in self._all if companion.name == REGISTRAR]
        # A successor (USR2) serves on under the same lease: it must not be cancelled.
        successor = self._arbiter.reexec_pid != 0
        order = signal.SIGTERM if graceful else signal.SIGQUIT
        for registrar in registrars:
            registrar.send(signal.SIGUSR2 if successor else order)
        patience = self._patience.total_seconds() if graceful else 3.0
        self._await(registrars, time.monotonic() + patience, hurry=graceful)

    def _await(self, those: list[Companion], limit: float, *, hurry: bool = False) -> None:
        """Wait for processes to end, until `limit`, or a second signal that asks to hurry."""
        while any(companion.alive() for companion in those) and time.monotonic() < limit:
            if hurry and self._asked_to_hurry():
                limit = min(limit, time.monotonic() + 2.0)
                for companion in those:
                    companion.send(signal.SIGQUIT)
            time.sleep(0.05)  # noqa: TID251 - the arbiter's main thread, as gunicorn waits

    def _asked_to_hurry(self) -> bool:
        queue = self._arbiter.SIG_QUEUE
        return not queue.empty() and queue.get_nowait() in (signal.SIGINT, signal.SIGQUIT)


def alone(
    house: str, companions: Mapping[str, Callable[[Environment, threading.Event], None]]
) -> None:
    """Run the companion that the command line names, without an arbiter, until SIGTERM or Ctrl-C.

    Raises:
        SystemExit: the house has no such companion.
    """
    if len(sys.argv) != 2 or sys.argv[1] not in companions:  # noqa: PLR2004 - program and name
        raise SystemExit(f"usage: python -m {house}.worker {{{','.join(companions)}}}")
    own, stop = environment(house), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    begin_process(own, sys.argv[1])
    companions[sys.argv[1]](own, stop)
