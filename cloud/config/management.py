"""Where the management endpoints are: for who serves them, and for who tells others of them."""

from collections.abc import Collection
from typing import Final

from cloud.config.properties import Properties

BASE_PATH: Final = "management.endpoints.web.base-path"

_MAPPING: Final = "management.endpoints.web.path-mapping"
_SERVER: Final = "management.server"
_PORT: Final = f"{_SERVER}.port"
_ADDRESS: Final = f"{_SERVER}.address"


def own_port(properties: Properties) -> int | None:
    """Return the port that the endpoints have to themselves, None where they share the house's.

    -1 means that they are not there over HTTP (Spring Boot's ManagementPortType).

    Raises:
        ConfigurationError: it is no port, or any free one, which nobody could be told of in time.
    """
    if not properties.get(_PORT):
        return None
    port = properties.integer(_PORT, minimum=-1, maximum=65535)
    if port == 0:
        raise properties.wrong(_PORT, "must be a fixed port, or -1")
    return None if port == properties.integer("server.port", 8080) else port


def own_address(properties: Properties) -> str | None:
    """Return what that port is bound to, None where it is what the house's own is bound to."""
    return properties.get(_ADDRESS) or None


def ensure_own_port_usable(properties: Properties) -> None:
    """Refuse what has no effect, as Spring Boot does.

    Raises:
        ConfigurationError: an address without a port of its own; TLS that differs from the house's.
    """
    alone = own_port(properties) is not None
    if properties.get(_ADDRESS) and not alone:
        raise properties.wrong(_ADDRESS, f"needs a {_PORT} of its own")
    given = properties.subset(f"{_SERVER}.ssl")
    off = given.get("enabled", "").lower() == "false"
    if given and not (off and not (alone and properties.subset("server.ssl"))):
        raise properties.wrong(
            f"{_SERVER}.ssl.{min(given)}", "has no effect: that port speaks what server.port speaks"
        )


def ensure_own_port_is_open(properties: Properties, ports: Collection[int]) -> None:
    """Refuse to go on without it: who asks gunicorn for addresses himself (`-b`) may forget it.

    Raises:
        ConfigurationError: it is not among the ports that are listened on.
    """
    port = own_port(properties)
    if port is not None and port > 0 and port not in ports:
        raise properties.wrong(_PORT, "is not among the ports that gunicorn was told to bind")


def root_path(properties: Properties) -> str:
    """Return what all paths at that port open with, `management.server.base-path`; else nothing."""
    given = properties.get(f"{_SERVER}.base-path") if own_port(properties) is not None else None
    path = (given or "").strip("/")
    return path and f"/{path}"


def base_path(properties: Properties) -> str:
    """Return the path of the endpoints, `/actuator` when unset; without a slash at its end.

    Raises:
        ConfigurationError: it is the root, where the house's own paths are.
    """
    path = properties.text(BASE_PATH, "/actuator").strip("/")
    if not path:
        raise properties.wrong(BASE_PATH, "must not be /")
    return f"{root_path(properties)}/{path}"


def name_of(properties: Properties, endpoint: str) -> str:
    """Return what an endpoint is called in paths: its id, or `path-mapping.<id>`.

    Raises:
        ConfigurationError: it is more than one segment, or none.
    """
    key = f"{_MAPPING}.{endpoint}"
    name = (properties.get(key) or endpoint).strip("/")
    if not name or "/" in name:
        raise properties.wrong(key, "is not one segment of a path")
    return name
