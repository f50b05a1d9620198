"""Where the management endpoints are: for who serves them, and for who tells others of them."""

from typing import Final

from cloud.config.properties import Properties

BASE_PATH: Final = "management.endpoints.web.base-path"

_MAPPING: Final = "management.endpoints.web.path-mapping"


def base_path(properties: Properties) -> str:
    """Return the path of the endpoints, `/actuator` when unset; without a slash at its end.

    Raises:
        ConfigurationError: it is the root, where the house's own paths are.
    """
    path = properties.text(BASE_PATH, "/actuator").strip("/")
    if not path:
        raise properties.wrong(BASE_PATH, "must not be /")
    return f"/{path}"


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
