"""`python -m deploy.local up`: what the Makefile calls."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from deploy import journey
from deploy.local import compose
from deploy.local.estate import Estate, EstateError
from deploy.local.services import SERVICES
from deploy.local.site import Site


def say(line: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def up(estate: Estate, arguments: argparse.Namespace) -> int:
    """Start the estate, show where it is, and pass through it once."""
    began = time.monotonic()
    say(f"Nozie comes up below {estate.site.folder}")
    estate.up()
    _show(estate, estate.core)
    if arguments.journey:
        say("\nA customer's journey through the gateway:")
        code = journey.run(estate.url("gateway"), say)
        if code:
            return code
    say(f"\nup in {time.monotonic() - began:.1f} s.  make status | logs | journey | ops | down")
    return 0


def down(estate: Estate, _arguments: argparse.Namespace) -> int:
    """Stop the estate."""
    began = time.monotonic()
    estate.down()
    say(f"down in {time.monotonic() - began:.1f} s, nothing is left running")
    return 0


def ops(estate: Estate, _arguments: argparse.Namespace) -> int:
    """Start the operator's servers beside the estate."""
    estate.up(with_ops=True)
    _show(estate, estate.ops)
    return 0


def ops_down(estate: Estate, _arguments: argparse.Namespace) -> int:
    """Stop the operator's servers."""
    estate.stop(*estate.ops)
    return 0


def status(estate: Estate, arguments: argparse.Namespace) -> int:
    """Tell what runs; exit with 1 unless the whole estate is ready."""
    states = estate.states()
    if arguments.json:
        say(json.dumps(states))
    else:
        shown = dict(estate.shown(states))
        for name, state in states.items():
            say(f"  {name:<16}{state:<12}{shown.get(name, '')}")
    return 0 if all(states[name] == "ready" for name in estate.core) else 1


def logs(estate: Estate, arguments: argparse.Namespace) -> int:
    """Show the end of the logs, and on a terminal follow them."""
    names = arguments.names or [*estate.core, *estate.ops]
    files = [str(estate.log(name)) for name in names if estate.log(name).exists()]
    if not files:
        raise EstateError(f"no log of {', '.join(names)}")
    follow = ("-F",) if sys.stdout.isatty() else ()
    try:
        command = ("/usr/bin/tail", "-n", "100", *follow, *files)
        return subprocess.run(command, check=False).returncode  # noqa: S603
    except KeyboardInterrupt:
        return 0


def ensure(estate: Estate, arguments: argparse.Namespace) -> int:
    """Start these programs alone."""
    estate.ensure(*arguments.names)
    _show(estate, arguments.names)
    return 0


def restart(estate: Estate, arguments: argparse.Namespace) -> int:
    """Stop these programs, or all services, and start them again with what their code now says."""
    names = arguments.names or SERVICES
    estate.stop(*names)
    estate.ensure(*names)
    return 0


def stop(estate: Estate, arguments: argparse.Namespace) -> int:
    """Stop these programs."""
    estate.stop(*arguments.names)
    return 0


def clean(estate: Estate, _arguments: argparse.Namespace) -> int:
    """Stop the estate and what lies beside it, and remove all data."""
    Estate("test").down()
    estate.clean()
    return 0


def walk(estate: Estate, arguments: argparse.Namespace) -> int:
    """Pass through the running estate once."""
    return journey.run(estate.url("gateway"), say, as_json=arguments.json)


COMMANDS: Final[Mapping[str, Callable[[Estate, argparse.Namespace], int]]] = {
    "up": up,
    "down": down,
    "ops": ops,
    "ops-down": ops_down,
    "status": status,
    "logs": logs,
    "ensure": ensure,
    "restart": restart,
    "stop": stop,
    "journey": walk,
    "clean": clean,
}


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("names", nargs="*", help="programs, where a command takes them")
    parser.add_argument("--estate", default="main")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--no-journey", dest="journey", action="store_false")
    arguments = parser.parse_args()
    try:
        if arguments.estate == "main" and compose.wanted(Site.of()):
            return compose.run(arguments, say)
        return COMMANDS[arguments.command](Estate(arguments.estate, say), arguments)
    except EstateError as error:
        sys.stderr.write(f"\n{arguments.command}: {error}\n")
        return 1


def _show(estate: Estate, names: tuple[str, ...] | list[str]) -> None:
    say("")
    for name, where in estate.shown(names):
        say(f"  {name:<16}{where}")


if __name__ == "__main__":
    sys.exit(main())
