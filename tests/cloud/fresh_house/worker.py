"""One companion, which tells what it was begun with, every time that it is."""

import threading

from cloud.config import Environment
from cloud.eureka.folder import run_folder
from tests.cloud.fresh_house.settings import Settings


def greeter(environment: Environment, stop: threading.Event) -> None:
    with (run_folder(environment.properties) / "greeter").open("a") as file:
        file.write(f"{Settings.of(environment.properties).greeting}\n")
    stop.wait()


COMPANIONS = {"greeter": greeter}
