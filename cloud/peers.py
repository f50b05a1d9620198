"""What the processes of one instance ask of each other, over sockets in the run folder.

A request reaches one worker of an instance; what it asks may be known, or have to be done, in all
of them. Each worker and companion listens on a Unix socket of its own. Whoever asks sends the
question to every socket that is there, itself included, and collects the answers. The folder is
readable by the instance's user alone, so nobody else can ask.
"""

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from cloud.config import Environment
from cloud.eureka import folder

log = structlog.get_logger()

Handler = Callable[[Any], Any]

FOLDER: Final = "peers"
"""Of the sockets, in the run folder."""

_UNHEARD: Final = "."
_BACKLOG: Final = 64
_CHUNK: Final = 1 << 16
_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one process answered.

    Attributes:
        process: its name in the log, `worker-1` or a companion's.
        value: what its handler returned, as JSON knows it; None when it failed.
        error: why it failed, None when it did not.
    """

    process: str
    pid: int
    value: Any
    error: str | None = None


class Peers:
    """One process's end: what it answers, and how it asks. Any thread may use it.

    Handlers are kept over a fork; the socket is not, `begin` opens each process's own.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._handlers: dict[str, Handler] = {}
        self._at_begin: list[Callable[[], object]] = []
        self._process = "alone"
        self._listening_in = 0

    @property
    def process(self) -> str:
        """Name this process: `worker-1`, or a companion's; `alone` without `begin`."""
        return self._process

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions about `topic` with what `handler` makes of what was sent along.

        It runs in a thread of its own process, one question at a time.
        """
        self._handlers[topic] = handler

    def at_begin(self, work: Callable[[], object]) -> None:
        """Have `work` done whenever a process begins: it asks the others for what it missed.

        Who changes something in all processes does so in its own before it asks the others: then
        no process that is just born can miss it.
        """
        self._at_begin.append(work)

    def begin(self, process: str) -> None:
        """Listen, under this name, until the process ends; call after the fork."""
        self._process, self._listening_in = process, os.getpid()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short(self._folder) as short:
            own = f"{process}.{os.getpid()}"
            fresh = Path(f"{short}/{_UNHEARD}{own}")
            fresh.unlink(missing_ok=True)
            listener.bind(str(fresh))
            listener.listen(_BACKLOG)
            # Found before it listens, it would be taken for a dead one's, and removed.
            fresh.rename(f"{short}/{own}")
        threading.Thread(target=self._serve, args=(listener,), name="peers", daemon=True).start()
        for work in self._at_begin:
            work()

    def ask(self, topic: str, what: Any = None, *, limit_s: float = _LIMIT_S) -> list[Reply]:
        """Ask all processes of the instance that answer `topic`, this one included.

        Returns:
            One reply each, by process; a process that did not answer in time is one with an error.
            Without `begin` (a test, a tool) this process is all there is.
        """
        if self._listening_in != os.getpid():
            alone = self._answer(topic, what)
            return [alone] if alone else []
        found = (path.name for path in self._folder.iterdir())
        names = sorted(name for name in found if not name.startswith(_UNHEARD))
        question = orjson.dumps({"topic": topic, "what": what})
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            replies = pool.map(lambda name: self._ask_one(name, question, limit_s), names)
            return [reply for reply in replies if reply]

    def _ask_one(self, name: str, question: bytes, limit_s: float) -> Reply | None:
        process, _, pid = name.rpartition(".")
        deadline = time.monotonic() + limit_s
        try:
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as line:
                line.settimeout(limit_s)
                with _short(self._folder) as short:
                    line.connect(f"{short}/{name}")
                line.sendall(question)
                line.shutdown(socket.SHUT_WR)
                told = _all_of(line, deadline)
            # Who hangs up without a word ends just now.
            answer = orjson.loads(told) if told else None
        except ConnectionResetError:
            return None
        except (ConnectionRefusedError, FileNotFoundError):
            # Its process is gone.
            with suppress(FileNotFoundError):
                (self._folder / name).unlink()
            return None
        except (OSError, ValueError) as error:
            return Reply(process, int(pid), None, str(error) or type(error).__name__)
        return Reply(**answer) if answer else None

    def _serve(self, listener: socket.socket) -> None:
        while True:
            line, _ = listener.accept()
            with closing(line), suppress(OSError, ValueError):
                line.settimeout(_LIMIT_S)
                question = orjson.loads(_all_of(line, time.monotonic() + _LIMIT_S))
                found = self._answer(question["topic"], question["what"])
                line.sendall(orjson.dumps(found, default=str, option=orjson.OPT_NON_STR_KEYS))

    def _answer(self, topic: str, what: Any) -> Reply | None:
        handler = self._handlers.get(topic)
        if handler is None:
            return None
        try:
            return Reply(self._process, os.getpid(), handler(what))
        except Exception as error:
            log.exception("peer_not_answered", topic=topic)
            return Reply(self._process, os.getpid(), None, str(error) or type(error).__name__)


_known: "weakref.WeakKeyDictionary[Environment, Peers]" = weakref.WeakKeyDictionary()


def peers(environment: Environment) -> Peers:
    """Give the process's one end for an instance."""
    return _known.setdefault(environment, Peers(folder.run_folder(environment.properties)))


def values(replies: list[Reply]) -> Mapping[int, Any]:
    """Pick the answers of those that did answer, by process id."""
    return {reply.pid: reply.value for reply in replies if reply.error is None}


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Name a folder in few characters: a socket's address has room for 107 (unix(7))."""
    number = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _all_of(line: socket.socket, deadline: float) -> bytes:
    pieces: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        line.settimeout(left)
        if not (piece := line.recv(_CHUNK)):
            return b"".join(pieces)
        pieces.append(piece)
