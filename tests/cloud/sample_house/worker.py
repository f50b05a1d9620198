"""Prepares by writing a file; a companion and a chore note their starts, the chore fails once."""

import threading

from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.eureka.folder import run_folder


def prepare(environment: Environment) -> None:
    if (run_folder(environment.properties) / "not-yet").exists():
        raise UnavailableError("the sample database is not reachable")


def ticker(environment: Environment, stop: threading.Event) -> None:
    with (run_folder(environment.properties) / "ticker").open("a") as file:
        file.write("started\n")
        file.flush()
        stop.wait()
        file.write("stopped\n")


def tally(environment: Environment, stop: threading.Event) -> None:
    with (run_folder(environment.properties) / "tally").open("a+") as file:
        file.write("started\n")
        file.flush()
        file.seek(0)
        starts = len(file.readlines())
        if starts == 1:
            raise UnavailableError("failed once")
        if starts == 2:
            return
        stop.wait()
        file.write("stopped\n")


COMPANIONS = {"ticker": ticker}
CHORES = {"tally": tally}
