"""The Config Server's client (first version: see fetch_all)."""

from collections.abc import Sequence

from cloud.config.properties import Properties
from cloud.config.sources import PropertySource

ON_TOP = ("configClient", "configserver:overrides")


def fetch_all(local: Properties) -> Sequence[PropertySource]:
    """Fetch what every `configserver:` entry of `spring.config.import` names."""
    return ()
