"""How much is said: levels by configuration, and by an operator above it."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from cloud.errors import ConfigurationError

if TYPE_CHECKING:
    from cloud.config import Properties

LEVELS: Final = {
    "OFF": logging.CRITICAL + 1,
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": 5,
}
"""Spring's names, the quietest first."""

ROOT: Final = "ROOT"

# `com.nozie` in an estate's shared YAML means the JVM services' own code.
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "com.nozie": ("cloud", "gateway", "identity", "movie", "customer", "payment", "notification"),
    "sql": ("sqlalchemy.engine", "sqlalchemy.pool", "alembic", "pymongo.command"),
    "web": ("cloud.web", "cloud.actuator", "gateway.access", "gateway.edge", "gunicorn", "flask"),
}
# `off` without quotes is false in YAML, which Spring takes for a level all the same.
_ALIASES: Final = {"WARNING": "WARN", "FALSE": "OFF"}
_QUIET = {
    "opentelemetry": "ERROR",
    # Tells of one lost connection in a dozen lines; `cloud.messaging` tells it in one.
    "pika": "FATAL",
    "urllib3": "WARN",
    "alembic": "WARN",
    "pymongo": "WARN",
    # SQLAlchemy names a pool's logger by its class: under ours, but as chatty as theirs.
    "cloud.stores.postgres._Pool": "WARN",
}


class _Once:
    """What this process's loggers are set to, as levels by logger, `root` among them.

    Attributes:
        given: by configuration.
        set: by an operator, above it.
        before: what loggers that have a level because of us had without it.
    """

    given: Mapping[str, int] = MappingProxyType({})
    set: Mapping[str, int] = MappingProxyType({})
    before: ClassVar[dict[str, int]] = {}


def give_levels(levels: Mapping[str, int]) -> None:
    """Put configuration's levels in force."""
    _Once.given = levels
    _apply()


def set_levels(levels: Mapping[str, str]) -> None:
    """Put an operator's levels above configuration's; a logger that is not named has its own back.

    Args:
        levels: Spring's level names by logger, `ROOT` for the root.
    """
    _Once.set = {_own_name(name): LEVELS[level] for name, level in levels.items()}
    _apply()


def loggers() -> dict[str, dict[str, str]]:
    """Describe every logger there is: `effectiveLevel`, `configuredLevel` where it has its own."""
    root = logging.getLogger()
    known = dict(root.manager.loggerDict)
    found = {ROOT: _described(root)}
    found |= {
        name: _described(logger)
        for name, logger in sorted(known.items())
        if isinstance(logger, logging.Logger)
    }
    return found


def groups(properties: "Properties") -> dict[str, tuple[str, ...]]:
    """List the loggers of each group: Spring's and ours, then `logging.group.<name>`."""
    given = {key.partition("[")[0] for key in properties.subset("logging.group")}
    own = {name: properties.listing(f"logging.group.{name}") for name in sorted(given)}
    return {**_GROUPS, **own}


def _described(logger: logging.Logger) -> dict[str, str]:
    own = {"configuredLevel": _level_name(logger.level)} if logger.level else {}
    return {**own, "effectiveLevel": _level_name(logger.getEffectiveLevel())}


def _level_name(level: int) -> str:
    return next((name for name, bound in LEVELS.items() if level >= bound), "TRACE")


def _own_name(name: str) -> str:
    return "root" if name.upper() == ROOT else name


def _apply() -> None:
    levels = {**_Once.given, **_Once.set}
    for name in _Once.before.keys() - levels.keys():
        logging.getLogger(name).setLevel(_Once.before.pop(name))
    for name, level in levels.items():
        logger = logging.getLogger(name)
        _Once.before.setdefault(name, logger.level)
        logger.setLevel(level)


def levels_of(properties: "Properties") -> dict[str, int]:
    """Read `logging.level`; a logger that is named itself goes before the groups it is in.

    Raises:
        ConfigurationError: a level that does not exist.
    """
    given = properties.subset("logging.level")
    known = groups(properties)
    members = {member: given[name] for name in known if name in given for member in known[name]}
    named = {_own_name(name): level for name, level in given.items() if name not in known}
    levels = {}
    for name, level in ({"root": "INFO"} | _QUIET | members | named).items():
        spelled = _ALIASES.get(level.upper(), level.upper())
        if spelled not in LEVELS:
            raise ConfigurationError(
                f"{properties.application}: logging.level.{name} is not a level"
                f" (from {properties.origin(f'logging.level.{name}')})"
            )
        levels[name] = LEVELS[spelled]
    return levels
