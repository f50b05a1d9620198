"""The gunicorn worker: uvloop in place of threads, gunicorn for processes and signals."""

import asyncio
import ctypes
import errno
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import structlog
import uvloop
from gunicorn.workers.base import Worker
from opentelemetry.trace import SpanKind

from cloud import eureka, tls, tracing
from cloud.balancer import Balancer
from cloud.breaker import Breakers
from cloud.config import Environment, Properties
from cloud.config.management import base_path
from cloud.errors import CloudError, ConfigurationError, UnavailableError
from cloud.eureka import folder
from cloud.retry import RetryBudget
from gateway.edge.crew import Crew
from gateway.edge.local import Local, Wsgi
from gateway.edge.observed import Observed
from gateway.edge.protocol import Connection, tune
from gateway.edge.redis import Redis
from gateway.exchange import Exchange, Reply, Tools
from gateway.handler import Gateway, Rules
from gateway.handler.added import Added
from gateway.handler.arrival import Familiar
from gateway.handler.guard import Guard
from gateway.handler.memory import Memory
from gateway.proxy import Proxy
from gateway.route import locates
from gateway.settings import Settings, spring_option

log = structlog.get_logger(__name__)

_TICK_S = 0.1
_LEARN_S = 0.2
# A worker without a connection for so long looks this seldom; who signs out has been one's client.
_LINGER_S, _IDLE_S = 2.0, 1.0
_LOOK_S = 0.5
_SETTLED_S = 0.5
_RANDOM_BITS = 56
_RETRY_ACCEPT_S = 0.2
_AT_ONCE = 16
# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# More than one turn of the loop holds at once: a hundred answers of 100 KiB, read and cut.
_KEPT, _NOT_MAPPED = 32 * 1024 * 1024, 2 * 1024 * 1024
_HAND_OVER_S = 5.0
_GLANCE_S = 0.02
_ASIDE_S = 0.002
_ASIDE_TIMES = 4
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Application(Protocol):
    """The Flask application, as far as the edge knows it."""

    extensions: dict[str, Any]
    wsgi_app: Wsgi


class Edge:
    """One worker's data plane: everything that its connections share."""

    def __init__(
        self,
        application: Wsgi,
        environment: Environment,
        workers: int = 1,
        crew: Crew | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.endless: set[Connection] = set()
        self.familiar = Familiar()
        self.observed = Observed(base_path(environment.properties))
        self._environment = environment
        self._tls = tls.serving(environment.properties)
        self._local = Local(application, base_path(environment.properties))
        settings = Settings.of(environment.properties)
        self._redis = Redis(settings.redis)
        self._view = eureka.view(environment)
        self._budget = RetryBudget()
        balancer = Balancer(self._view, environment)
        self._proxy = Proxy(lambda: self.settings, balancer, self._budget)
        self._workers = workers
        self._added = Added(environment.properties)
        self._services: tuple[str, ...] = ()
        memory = Memory(folder.run_folder(environment.properties), time.time)
        self._guard = Guard(self._redis, memory, self.loop.time, workers)
        rules = self._compile(environment.properties, settings)
        self._gateway = Gateway(rules, self._guard, self._local.handle)
        self._listeners: list[socket.socket] = []
        self._crew = crew or Crew()
        self._asides = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._served = 0
        self._arriving = 0
        self.draining = False
        self._compiling = threading.Lock()
        self._apply(rules, locates_services=locates(environment.properties))
        environment.subscribe(self._changed)

    @property
    def scheme(self) -> str:
        """What clients speak that nobody vouches for."""
        return "http" if self._tls is None else "https"

    @property
    def served(self) -> int:
        """Connections accepted so far."""
        return self._served

    # --- rules

    def _compile(self, properties: Properties, settings: Settings) -> Rules:
        def tools(breakers: Breakers) -> Tools:
            return Tools(
                breakers.get,
                self._forward,
                self._redis.run,
                lambda name: spring_option(properties, name),
                self._budget.permits,
            )

        return Rules.of(
            settings,
            properties,
            self._proxy,
            tools,
            self._guard,
            added=self._added.read(),
            services=self._services,
            share=self._workers,
        )

    async def _forward(self, exchange: Exchange, path: str) -> Reply:
        return await self._gateway.forward(exchange, path)

    def _apply(self, rules: Rules, *, locates_services: bool) -> None:
        self._gateway.rules = rules
        self.settings = rules.settings
        self._redis.follow(rules.settings.redis)
        self._uris = {route.id: route.uri for route, _ in rules.table.bound}
        self._locates = locates_services
        self._sampled_below = round(rules.settings.sampling * (1 << _RANDOM_BITS))
        log.info("routes_loaded", count=len(self._uris), routes=sorted(self._uris))

    def _changed(self, _: Properties, _keys: frozenset[str]) -> None:
        """Take over a new configuration, whichever thread brings it; a bad one changes nothing.

        Rules are compiled in the thread that brings them and put in force in the loop, whole. One
        at a time, of what holds by then: of two changes the later one stays.
        """
        with self._compiling:
            properties = self._environment.properties
            try:
                rules = self._compile(properties, Settings.of(properties))
            except CloudError as error:
                log.error("routes_unchanged", reason=str(error))  # noqa: TRY400 - says it all
                return
            self.loop.call_soon_threadsafe(
                partial(self._apply, rules, locates_services=locates(properties))
            )

    def look_around(self) -> None:
        """Take over routes that an operator added, and services that came or went."""
        added = self._added.changed()
        services = self._view.names() if self._locates else ()
        if added or services != self._services:
            self._services = services
            self._changed(self._environment.properties, frozenset())

    # --- requests

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, Reply]:
        """Answer one exchange within its trace; unsampled ones pay nothing for it."""
        digits = exchange.correlation_id.replace("-", "")
        exchange.headers.append((b"x-correlation-id", exchange.correlation_id.encode()))
        # The low bits decide, as they do in `cloud.tracing`.
        if int(digits[-14:], 16) >= self._sampled_below:
            parent = f"00-{digits}-{random.getrandbits(64) | 1:016x}-00"
            exchange.headers.append((b"traceparent", parent.encode()))
            return self._gateway.handle(exchange)
        return self._traced(exchange, digits)

    async def _traced(self, exchange: Exchange, digits: str) -> Reply:
        tracing.correlation_id.set(exchange.correlation_id)
        with tracing.span(exchange.method, SpanKind.SERVER, trace_id=digits) as span:
            context: dict[str, str] = {}
            tracing.inject(context)
            exchange.headers.append((b"traceparent", context["traceparent"].encode()))
            reply = await self._gateway.handle(exchange)
            span.update_name(f"{exchange.method} {exchange.route or 'UNKNOWN'}")
            span.set_attributes(
                {
                    "http.request.method": exchange.method,
                    "http.response.status_code": reply.status,
                    "http.route": exchange.route or "UNKNOWN",
                }
            )
            return reply

    # --- life

    def listen(self, sock: socket.socket, *, compat: bool = False) -> None:
        """Accept from a listening socket, some a turn, whichever worker holds fewest."""
        sock.setblocking(False)  # noqa: FBT003 - its only parameter
        self._listeners.append(sock)
        self.loop.add_reader(sock, self._accept, sock, compat)

    def _accept(self, sock: socket.socket, compat: bool) -> None:  # noqa: FBT001 - a callback
        # Several a turn: under load a turn is long, and whoever waits here waits for many.
        for _ in range(_AT_ONCE):
            if not self._accept_one(sock, compat):
                return

    def _accept_one(self, sock: socket.socket, compat: bool) -> bool:  # noqa: FBT001
        """Accept a connection; False when there is none, or another worker should have it."""
        holds = len(self.connections) + self._arriving
        if self._asides < _ASIDE_TIMES and not self._crew.has_turn(holds):
            # For a moment only: the one whose turn it is may be busy, or about to end.
            self._asides += 1
            self._pause(_ASIDE_S, sock, compat)
            return False
        self._asides = 0
        try:
            client, _ = sock.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # Out of descriptors: serve those who are here, and look again shortly.
            self._pause(_RETRY_ACCEPT_S, sock, compat)
            return False
        tune(client)
        self._served += 1
        self._arriving += 1
        self._crew.tell(holds + 1)
        factory: Callable[[], Connection] = lambda: Connection(self, compat=compat)  # noqa: E731
        self._spawn(self._connect(client, factory))
        return True

    def _pause(self, seconds: float, sock: socket.socket, compat: bool) -> None:  # noqa: FBT001
        """Leave a listening socket to others for a while."""
        self.loop.remove_reader(sock)
        self.loop.call_later(seconds, self._resume, sock, compat)

    def _resume(self, sock: socket.socket, compat: bool) -> None:  # noqa: FBT001 - a callback
        if sock in self._listeners:
            self.loop.add_reader(sock, self._accept, sock, compat)

    async def _connect(self, client: socket.socket, factory: Callable[[], Connection]) -> None:
        try:
            await self.loop.connect_accepted_socket(
                factory,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self.settings.head_timeout_s if self._tls else None,
            )
        finally:
            self._arriving -= 1

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):
            log.error("background_task_failed", exc_info=error)

    def start(self) -> None:
        """Begin what runs beside the requests."""
        self._spawn(self._redis.stay_connected())
        self._spawn(self._keep_time())

    async def settled(self) -> None:
        """Wait for Redis, but not long: the first requests are checked as all others are."""
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(_SETTLED_S):
                await self._redis.connected.wait()
                await self._guard.learn()

    async def _learn(self) -> None:
        with suppress(UnavailableError):
            await self._guard.learn()

    async def _keep_time(self) -> None:
        """Do in one turn what is due: an idle worker wakes up as seldom as it must learn."""
        learning: asyncio.Task[Any] | None = None
        now = learned = looked = busy = self.loop.time()
        while True:
            if self.connections or self._arriving:
                busy = now
            idle = _IDLE_S if now - busy > _LINGER_S else _LEARN_S
            await asyncio.sleep(_TICK_S if busy == now else idle)
            now = self.loop.time()
            _tried(self._redis.sweep, now)
            _tried(self._proxy.sweep, now)
            if self._listeners:
                _tried(self._crew.tell, len(self.connections) + self._arriving)
            if now - learned > _LEARN_S - _TICK_S / 2 and (learning is None or learning.done()):
                learned, learning = now, self._spawn(self._learn())
            if now - looked > _LOOK_S:
                looked = now
                for connection in [c for c in self.connections if c.deadline < now]:
                    _tried(connection.expire)
                _tried(self.look_around)
                _tried(self.flush)

    def flush(self) -> None:
        self.observed.flush(self._uris, self._gateway.rules.breakers)

    def stop_accepting(self) -> None:
        for sock in self._listeners:
            self.loop.remove_reader(sock)
        self._listeners.clear()
        self._crew.leave()

    async def drain(self, patience_s: float) -> None:
        """Close idle connections, finish busy ones, end event streams; what is left is cut."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        until = self.loop.time() + patience_s
        # Each connection leaves in its own way; a look now and then is all that is needed. Streams
        # may still begin, with requests that were on their way.
        while (self.connections or self._arriving) and self.loop.time() < until:
            for connection in list(self.endless):
                connection.end_events()
            await asyncio.sleep(0.02)
        self.flush()
        for task in list(self._tasks):
            task.cancel()
        self._proxy.close()
        self._local.close()


class EdgeWorker(Worker):
    """gunicorn's `worker_class`: `gateway.edge.EdgeWorker`."""

    # The arbiter loads this class before it forks.
    crew: ClassVar = Crew()

    def __init__(self, age: int, *rest: Any) -> None:
        super().__init__(age, *rest)
        self.crew.expect(age)

    def init_signals(self) -> None:
        """Leave the signals to the loop; only those of gunicorn's own bookkeeping are set here."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until told to stop; the arbiter's `graceful_timeout` bounds the end."""
        _keep_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, stopped.set)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        application = cast("Application", self.wsgi)
        environment: Environment = application.extensions["environment"]
        edge = Edge(application.wsgi_app, environment, self.cfg.workers, self.crew)
        edge.start()
        await edge.settled()
        self.crew.join(self.age)
        for listener in self.sockets:
            edge.listen(_plain(listener))
        port = edge.settings.compat_port
        if port:
            beside = _plain(self.sockets[0])
            edge.listen(_second_listener(beside, port, self.cfg.backlog), compat=True)
        while not stopped.is_set() and self.ppid == _parent() and edge.served < self.max_requests:
            self.notify()
            await _within(stopped, 1.0)
        if stopped.is_set():
            await self._hand_over()
        edge.stop_accepting()
        drain = asyncio.create_task(edge.drain(self.cfg.graceful_timeout))
        while not drain.done():
            self.notify()
            await asyncio.wait([drain], timeout=1.0)

    async def _hand_over(self) -> None:
        """On a reload go on until one of those who take over accepts: nobody has to wait for it."""
        until = time.monotonic() + _HAND_OVER_S
        while self.crew.awaits_younger(self.age) and time.monotonic() < until:
            self.notify()
            await asyncio.sleep(_GLANCE_S)


def _keep_memory() -> None:
    """Let glibc keep some freed memory, and take large pieces from it, too.

    By default it gives back to the kernel what a body of 100 KiB was in, and fetches it again for
    the next one: page by page, which costs far more than to copy the body.
    """
    with suppress(AttributeError, OSError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _NOT_MAPPED)


def _tried(act: Callable[..., object], *arguments: object) -> None:
    """Do one of the things that are due: whatever is wrong with it, the others must go on."""
    try:
        act(*arguments)
    except Exception:
        log.exception("upkeep_failed", what=getattr(act, "__qualname__", repr(act)))


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _parent() -> int:
    return os.getppid()


def _plain(listener: Any) -> socket.socket:
    """Take the socket out of gunicorn's wrapper."""
    sock: socket.socket = getattr(listener, "sock", listener)
    return sock


def _second_listener(beside: socket.socket, port: int, backlog: int) -> socket.socket:
    """Open the compatibility port in every worker; the kernel shares connections out.

    It is as public as the main port, which listens `beside` it.
    """
    sock = socket.socket(beside.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((beside.getsockname()[0], port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConfigurationError(f"nozie.gateway.compat-port: {port}: {error.strerror}") from error
    return sock
