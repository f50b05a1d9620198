"""Talking to supervisord, which keeps an estate's processes; its words are XML-RPC."""

import getpass
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from deploy.local.program import Program
from deploy.local.site import EstateError, Site

COMING: Final = frozenset({"STARTING", "RUNNING"})
GONE: Final = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})

_MARK: Final = "NOZIE_ESTATE"
_LONGEST_SOCKET_PATH: Final = 90
_PARENT: Final = 0
_TERMINAL: Final = 3
# XML-RPC takes arguments by place: answer at once, do not wait for the process.
_AT_ONCE: Final = False


def wait_until(holds: Callable[[], bool], seconds: float, pause: float = 0.1) -> bool:
    """Poll until something holds, at most for that long; tell whether it does."""
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            return False
        time.sleep(pause)  # noqa: TID251 - the one place where the runner waits
    return True


class Supervisor:
    """The supervisord of one estate."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._socket = site.path("supervisor.sock")
        self._config = site.path("supervisor.conf")

    def alive(self) -> bool:
        """Tell whether it answers."""
        try:
            self._call("getState")
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def states(self) -> dict[str, str]:
        """Give the state of each program, in supervisord's words; empty when it is not there."""
        try:
            return {entry["name"]: entry["statename"] for entry in self._call("getAllProcessInfo")}
        except (OSError, xmlrpc.client.Error):
            return {}

    def pid(self, name: str) -> int:
        """Give the process id of a program; 0 when it does not run."""
        return int(self._call("getProcessInfo", name)["pid"])

    def load(self, programs: Iterable[Program]) -> None:
        """Make supervisord know these programs; one whose definition changed is stopped."""
        self._write(list(programs))
        if not self.alive():
            self._launch()
            return
        ((added, changed, removed),) = self._call("reloadConfig")
        for group in (*changed, *removed):
            self._call("stopProcessGroup", group)
            self._call("removeProcessGroup", group)
        for group in (*added, *changed):
            self._call("addProcessGroup", group)

    def start(self, name: str) -> None:
        """Start a program that does not run."""
        self._call("startProcess", name, _AT_ONCE)

    def stop(self, names: Iterable[str], seconds: float = 60) -> None:
        """Stop programs side by side, and wait until they are gone."""
        asked = [name for name in names if self.states().get(name) not in (*GONE, None)]
        for name in asked:
            with suppress(xmlrpc.client.Fault):
                self._call("stopProcess", name, _AT_ONCE)
        wait_until(lambda: not {self.states().get(name) for name in asked} - GONE - {None}, seconds)

    def signal(self, name: str, what: str) -> None:
        """Send a program a signal by its name, `TERM` for one."""
        self._call("signalProcess", name, what)

    def shutdown(self) -> None:
        """End supervisord and whatever of its estate is still there."""
        with suppress(OSError, xmlrpc.client.Error):
            self._call("shutdown")
        wait_until(lambda: not self.alive(), 20)
        wait_until(lambda: not list(survivors(self._site)), 5)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in survivors(self._site):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if wait_until(lambda: not list(survivors(self._site)), 8):
                break
        self._socket.unlink(missing_ok=True)

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _launch(self) -> None:
        if len(str(self._socket)) > _LONGEST_SOCKET_PATH:
            raise EstateError(f"the checkout lies too deep for a socket: {self._socket}")
        self.shutdown()
        self._site.path("run", "tmp").mkdir(parents=True, exist_ok=True)
        environment = {
            **self._site.environment,
            "TZ": "UTC",
            "TMPDIR": str(self._site.path("run", "tmp")),
            _MARK: str(self._site.folder),
        }
        command = (sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config))
        subprocess.run(  # noqa: S603
            command, env=environment, check=True, stdin=subprocess.DEVNULL, cwd=self._site.folder
        )
        if not wait_until(self.alive, 10):
            raise EstateError(f"supervisord did not start; see {self._site.path('log')}")

    def _write(self, programs: list[Program]) -> None:
        log = self._site.path("log")
        log.mkdir(parents=True, exist_ok=True)
        head = _section(
            "supervisord",
            {
                "logfile": log / "supervisor.log",
                "pidfile": self._site.path("supervisor.pid"),
                "childlogdir": log,
                "directory": self._site.folder,
                "loglevel": "warn",
                "identifier": f"nozie-{self._site.name}",
                "user": getpass.getuser(),
            },
        )
        rpc = "supervisor.rpcinterface:make_main_rpcinterface"
        text = [
            _section("unix_http_server", {"file": self._socket, "chmod": "0700"}),
            head,
            _section("rpcinterface:supervisor", {"supervisor.rpcinterface_factory": rpc}),
            *(_section(f"program:{program.name}", self._entry(program)) for program in programs),
        ]
        # Secrets are passed as environment variables, so the file is for our eyes only.
        draft = self._config.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text("\n".join(text))
        draft.rename(self._config)

    def _entry(self, program: Program) -> Mapping[str, object]:
        folder = self._site.path("run", program.name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        variables = {"HOME": str(folder), **program.environment}
        return {
            "command": " ".join(_quoted(word) for word in program.command),
            "environment": ",".join(f"{k}={_quoted(v)}" for k, v in variables.items()),
            # By its working folder a process is known as ours, even when it lost its parent.
            "directory": folder,
            "autostart": "false",
            # Asked to end, it stays away; killed or failed, it comes back.
            "autorestart": "unexpected",
            "exitcodes": program.exit_codes,
            "startsecs": "1",
            "startretries": "5",
            "stopsignal": program.stop_signal,
            "stopwaitsecs": program.stop_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": self._site.path("log", f"{program.name}.log"),
            "stdout_logfile_maxbytes": "50MB",
            "stdout_logfile_backups": "3",
        }


def survivors(site: Site) -> Iterator[int]:
    """Find the processes of an estate, whoever is their parent now.

    They are known by the mark they inherited; where a server has written its title over its
    environment, by its working folder. People who look around there sit at a terminal.
    """
    mark = f"{_MARK}={site.folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
            if marked or (_inside(site, entry) and not _stat(entry)[_TERMINAL]):
                yield int(entry.name)


def _inside(site: Site, process: Path) -> bool:
    """Tell whether a process works in the folder of this estate, not of one below it."""
    place = (process / "cwd").readlink()
    if not place.is_relative_to(site.folder):
        return False
    part = place.relative_to(site.folder).parts[:1]
    return not part or not (part == ("log",) or site.path(*part, "supervisor.conf").exists())


def _stat(process: Path) -> list[int]:
    """Read the numbers of /proc/PID/stat from the parent's id on (proc(5))."""
    words = (process / "stat").read_text().rpartition(")")[2].split()
    return [int(word) for word in words[1:]]


def family(pid: int) -> list[int]:
    """List a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                children.setdefault(_stat(entry)[_PARENT], []).append(int(entry.name))
    found, ahead = [], [pid]
    while ahead:
        found.append(ahead.pop())
        ahead += children.get(found[-1], [])
    return found


def memory(pids: Iterable[int]) -> int:
    """Sum the proportional set size (PSS) of processes, in bytes."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def _section(name: str, values: Mapping[str, object]) -> str:
    lines = [f"{key}={str(value).replace('%', '%%')}\n" for key, value in values.items()]
    return f"[{name}]\n{''.join(lines)}"


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
