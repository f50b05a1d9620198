"""/actuator/threaddump: what every thread of every process of the instance is at."""

import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from flask import Blueprint, Response, request

from cloud.actuator.answers import KINDS, answer
from cloud.clock import utc_now
from cloud.config import Environment
from cloud.peers import peers

_TOPIC: Final = "threaddump"
_DEEPEST: Final = 200
_TEXT: Final = "text/plain"


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint."""
    asked = peers(environment)
    asked.on(_TOPIC, lambda _: list(_threads()))

    @rooms.get("/threaddump")
    def threaddump() -> Response:
        """Answer JSON, or the text that `jstack` would write to who prefers that."""
        threads = [
            {**thread, "threadName": f"{reply.process}/{thread['threadName']}"}
            for reply in asked.ask(_TOPIC)
            for thread in reply.value or ()
        ]
        if request.accept_mimetypes.best_match((*KINDS, _TEXT)) == _TEXT:
            return Response(_written(threads), content_type=f"{_TEXT};charset=UTF-8")
        return answer({"threads": threads})

    return {"threaddump": "/threaddump"}


def _threads() -> Iterator[dict[str, Any]]:
    """Describe the threads of this process in the words of Java's ThreadInfo."""
    frames = sys._current_frames()  # noqa: SLF001 - the documented way, its name notwithstanding
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        # A fork leaves the main thread the number that it had in the arbiter.
        number = os.getpid() if thread is threading.main_thread() else thread.native_id
        yield {
            "threadName": thread.name,
            # Of the kernel, so that `top -H` and all processes agree on it.
            "threadId": number,
            "blockedTime": -1,
            "blockedCount": 0,
            "waitedTime": -1,
            "waitedCount": 0,
            "lockOwnerId": -1,
            "daemon": thread.daemon,
            "inNative": False,
            "suspended": False,
            "threadState": _state(number),
            "priority": 5,
            "stackTrace": list(_stack(frame)),
            "lockedMonitors": [],
            "lockedSynchronizers": [],
        }


def _state(number: int | None) -> str:
    """Ask the kernel (proc(5)) whether the thread runs, or waits for whatever it may be."""
    try:
        stat = Path(f"/proc/self/task/{number}/stat").read_text()
    except OSError:
        return "TERMINATED"
    return "RUNNABLE" if stat.rpartition(")")[2].split()[0] == "R" else "WAITING"


def _stack(frame: FrameType | None) -> Iterator[dict[str, Any]]:
    depth = 0
    while frame is not None and depth < _DEEPEST:
        code = frame.f_code
        owner, _, method = code.co_qualname.rpartition(".")
        module = frame.f_globals.get("__name__", "?")
        yield {
            "className": f"{module}.{owner}" if owner else module,
            "methodName": method,
            "fileName": Path(code.co_filename).name,
            "lineNumber": frame.f_lineno or -1,
            "nativeMethod": False,
        }
        frame, depth = frame.f_back, depth + 1


def _written(threads: list[dict[str, Any]]) -> str:
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    head = f"{utc_now():%Y-%m-%d %H:%M:%S}\nFull thread dump {implementation}:\n"
    return "\n".join((head, *map(_one_written, threads)))


def _one_written(thread: Mapping[str, Any]) -> str:
    stack = "".join(
        f"\tat {at['className']}.{at['methodName']}({at['fileName']}:{at['lineNumber']})\n"
        for at in thread["stackTrace"]
    )
    return (
        f'"{thread["threadName"]}" - Thread t@{thread["threadId"]}\n'
        f"   java.lang.Thread.State: {thread['threadState']}\n{stack}"
    )
