"""An estate: its programs started in order of need, kept by supervisord, and stopped again."""

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.local import jvm, packages, servers
from deploy.local.ops import ops
from deploy.local.probes import holds
from deploy.local.program import Program
from deploy.local.services import services
from deploy.local.site import SHARED, EstateError, Site, locked, setting_of, taken
from deploy.local.supervisor import COMING, GONE, Supervisor, family, memory, survivors, wait_until

__all__ = ["Estate", "EstateError"]

Say = Callable[[str], None]
Settings = Mapping[str, Mapping[str, object]]

_PATIENCE_S: Final = 120
_TAIL_LINES: Final = 15
_LINE_LENGTH: Final = 600
_NO_SETTINGS: Final[Settings] = {}


def _quiet(_line: str) -> None:
    pass


class Estate:
    """The estate of one data folder.

    Args:
        name: `main` is what `make up` starts; any other lies beside it, on ports of its own.
        say: told each step, one line at a time.
        shift: of all ports, for an estate that runs beside the tests' own.
        settings: by house, Spring properties that win over all others.
    """

    def __init__(
        self,
        name: str = "main",
        say: Say = _quiet,
        *,
        shift: int | None = None,
        settings: Settings = _NO_SETTINGS,
    ) -> None:
        self.site = Site.of(name, shift)
        self.site.folder.mkdir(parents=True, exist_ok=True)
        self._say = say
        self._supervisor = Supervisor(self.site)
        core = [*servers.stores(self.site), jvm.eureka(self.site), jvm.config(self.site)]
        self._programs = {
            program.name: program
            for program in (
                *core,
                *services(self.site, settings),
                *ops(self.site),
                jvm.gateway(self.site),
            )
        }
        self.ops: Final = tuple(program.name for program in ops(self.site))
        compared = jvm.gateway(self.site).name
        self.core: Final = tuple(
            name for name in self._programs if name not in (*self.ops, compared)
        )

    def address(self, name: str) -> str:
        """Give the `host:port` of a server or a service."""
        return self.site.address(name)

    def url(self, name: str, path: str = "") -> str:
        """Give the URL of a server or a service."""
        return self.site.url(name, path)

    def up(self, *, with_ops: bool = False) -> None:
        """Start everything; what runs is left alone."""
        self.ensure(*self.core, *(self.ops if with_ops else ()))

    def ensure(self, *names: str) -> None:
        """Start these programs, tier by tier, and wait until they are ready.

        Raises:
            EstateError: a package is missing, a port is taken, or a program does not come up.
        """
        unknown = set(names) - set(self._programs)
        if unknown:
            raise EstateError(f"no such program: {', '.join(sorted(unknown))}")
        wanted = [self._programs[name] for name in self._with_company(names)]
        with self._alone():
            if all(self._runs(program) for program in wanted):
                self._say(f"  {len(wanted)} programs run already and are left alone")
                return
            self._install(wanted)
            self._supervisor.load(self._programs.values())
            self._check_ports(wanted)
            for tier in sorted({program.tier for program in wanted}):
                self._raise_tier([program for program in wanted if program.tier == tier])

    def start(self, *names: str) -> None:
        """Start programs without waiting until they are ready."""
        for name in names:
            if self._supervisor.states().get(name) in GONE:
                self._supervisor.start(name)

    def stop(self, *names: str) -> None:
        """Stop programs, and wait until they are gone."""
        self._supervisor.stop(names)

    def signal(self, name: str, what: str) -> None:
        """Send the first process of a program a signal, `TERM` for one."""
        self._supervisor.signal(name, what)

    def states(self) -> dict[str, str]:
        """Tell of each program whether it is `ready`, or what the supervisor says of it."""
        states = self._supervisor.states()
        return {
            name: "ready" if self._runs(program) else states.get(name, "STOPPED").lower()
            for name, program in self._programs.items()
        }

    def down(self) -> None:
        """Stop everything, callers before those they call, and leave no process behind."""
        with self._alone():
            for tier in sorted({program.tier for program in self._programs.values()}, reverse=True):
                tiered = [name for name, program in self._programs.items() if program.tier == tier]
                self._supervisor.stop(tiered)
            self._supervisor.shutdown()
        left = list(survivors(self.site))
        if left:
            raise EstateError(f"processes that do not end: {left}")

    def clean(self) -> None:
        """Stop everything and remove the data folder, downloads included."""
        self.down()
        shutil.rmtree(self.site.folder, ignore_errors=True)

    def memory(self, *names: str) -> int:
        """Sum the memory (PSS, bytes) of programs with all their processes."""
        return memory(pid for name in names for pid in family(self._supervisor.pid(name)))

    def log(self, name: str) -> Path:
        """Name the file that a program's output goes to."""
        return self.site.path("log", f"{name}.log")

    def shown(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """List where a person looks at programs."""
        return [(name, self._programs[name].shows) for name in names if self._programs[name].shows]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one runner at a time start or stop this estate."""
        with locked(self.site.path("estate.lock")):
            yield

    def _with_company(self, names: Iterable[str]) -> list[str]:
        """Add what a program cannot start without, in the order of definition."""
        wanted = set(names) | ({"epmd"} if "rabbit" in names else set())
        return [name for name in self._programs if name in wanted]

    def _runs(self, program: Program) -> bool:
        alive = self._supervisor.states().get(program.name) in COMING
        return alive and holds(program.ready)

    def _install(self, programs: list[Program]) -> None:
        """Put on this machine what programs come from; one runner of the checkout at a time."""
        with locked(SHARED / "install.lock"):
            names = packages.missing(programs)
            if names:
                began = time.monotonic()
                packages.install(names, lambda line: self._say(f"  {line} …"))
                self._say(_line("packages", "installed", began))

    def _raise_tier(self, programs: list[Program]) -> None:
        """Start programs side by side; the first that fails ends the wait for the others."""
        failed = threading.Event()
        with ThreadPoolExecutor(max_workers=len(programs)) as pool:
            works = [pool.submit(self._raise, program, failed) for program in programs]
            try:
                for work in as_completed(works):
                    work.result()
            except BaseException:
                failed.set()
                raise

    def _raise(self, program: Program, failed: threading.Event) -> None:
        """Start one program and wait until it is ready."""
        began = time.monotonic()
        if self._supervisor.states().get(program.name) in GONE:
            with locked(SHARED / "locks" / program.name):
                program.prepare()
            self._supervisor.start(program.name)

        def look() -> bool:
            if self._supervisor.states().get(program.name) in GONE:
                raise EstateError(self._reason(program, "does not start"))
            return failed.is_set() or holds(program.ready)

        if not wait_until(look, _PATIENCE_S):
            raise EstateError(self._reason(program, f"is not ready after {_PATIENCE_S} s"))
        if not failed.is_set():
            program.settle()
            self._say(_line(program.name, "ready", began))

    def _reason(self, program: Program, what: str) -> str:
        file = self.log(program.name)
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        told = [line for line in lines if '"log.level":"debug"' not in line]
        tail = "\n".join(f"    {line[:_LINE_LENGTH]}" for line in told[-_TAIL_LINES:])
        return f"{program.name} {what}; the end of {file}:\n{tail}"

    def _check_ports(self, programs: list[Program]) -> None:
        """Refuse to start beside a stranger on one of our ports, before anything has begun."""
        states = self._supervisor.states()
        coming = [program for program in programs if states.get(program.name) not in COMING]
        wanted = [(program.name, port) for program in coming for port in program.ports]
        for name, port in wanted:
            number = self.site.ports[port]
            if taken(number):
                one = setting_of(port) if self.site.name == "main" else "NOZIE_TEST_PORT_SHIFT"
                every = "; NOZIE_PORT_SHIFT moves all ports" if self.site.name == "main" else ""
                raise EstateError(
                    f"port {number}, wanted by {name}, is taken by another process. "
                    f"Stop that process, or set {one} to another number{every}."
                )


def _line(name: str, what: str, began: float) -> str:
    return f"  {name:<16}{what:<12}{time.monotonic() - began:6.1f} s"
