"""/actuator/scheduledtasks: what the processes of the instance do again and again."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from flask import Blueprint, Response

from cloud import schedule
from cloud.actuator.answers import answer
from cloud.config import Environment
from cloud.peers import peers, values

_TOPIC: Final = "scheduledtasks"
_MS: Final = timedelta(milliseconds=1)


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint, Spring Boot's ScheduledTasksEndpoint; all of ours wait after each turn."""
    asked = peers(environment)
    asked.on(_TOPIC, lambda _: list(map(_told, list(schedule.tasks.values()))))

    @rooms.get("/scheduledtasks")
    def scheduledtasks() -> Response:
        found = [task for told in values(asked.ask(_TOPIC)).values() for task in told]
        found.sort(key=lambda task: task["runnable"]["target"])
        return answer({"cron": [], "fixedDelay": found, "fixedRate": [], "custom": []})

    return {"scheduledtasks": "/scheduledtasks"}


def _told(task: schedule.Task) -> dict[str, Any]:
    return {
        "runnable": {"target": task.target},
        "initialDelay": 0,
        "interval": task.interval // _MS,
    }
