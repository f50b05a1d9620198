"""Spring Cloud Bus over RabbitMQ: an instance tells others of a change, and hears of theirs.

One member an instance, in one of its companions. `events` holds what is said, `member` who says it.
"""

import importlib
import threading
from contextlib import AbstractContextManager, nullcontext

from cloud.config import Environment, Properties


def is_enabled(properties: Properties) -> bool:
    """Tell whether this instance belongs to the bus; in Spring, whether its starter is there."""
    return properties.boolean("spring.cloud.bus.enabled", default=False)


def load(properties: Properties) -> None:
    """Load the driver, for members alone, and before they fork: so they share it."""
    if is_enabled(properties):
        importlib.import_module("cloud.bus.member")


def joined(environment: Environment, stop: threading.Event) -> AbstractContextManager[None]:
    """Be the instance's member of the bus until `stop`, or the end of the block, if it is one."""
    if not is_enabled(environment.properties):
        return nullcontext()
    from cloud.bus import member  # noqa: PLC0415 - loaded already

    return member.joined(environment, stop)
