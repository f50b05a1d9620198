"""What all measurements do at a terminal: read the command line, tell, end with 0 or 1."""

import argparse
import os
import sys
from collections.abc import Callable

from deploy.local import EstateError


def say(line: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def machine() -> str:
    """Name what figures depend on beside the code."""
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"


def parser(name: str, purpose: str | None) -> argparse.ArgumentParser:
    """Read the command line of a measurement called so."""
    return argparse.ArgumentParser(prog=f"python -m {name}", description=purpose)


def run(read: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], int]) -> None:
    """Measure, and end the process; an estate that does not come up ends it with 1."""
    given = read.parse_args()
    try:
        code = measure(given)
    except EstateError as error:
        sys.stderr.write(f"\n{read.prog}: {error}\n")
        code = 1
    sys.exit(code)
