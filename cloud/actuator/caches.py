"""/actuator/caches: what a house keeps to answer faster, and how an operator makes it forget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Response

from cloud.actuator.answers import answer, done
from cloud.errors import NotFoundError

# Spring Boot tells caches by their managers; ours have one.
_MANAGER: Final = "cacheManager"


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache of all processes of the instance.

    Attributes:
        target: what holds it.
        clear: forgets all of it; raises UnavailableError when that cannot be.
    """

    target: str
    clear: Callable[[], object]


def install(rooms: Blueprint, caches: Mapping[str, Cache]) -> Mapping[str, str]:
    """Add the endpoint, Spring Boot's CachesEndpoint, to a house that has caches."""
    if not caches:
        return {}

    def find(name: str) -> Cache:
        if name not in caches:
            raise NotFoundError("No such cache")
        return caches[name]

    @rooms.get("/caches", endpoint="caches")
    def index() -> Response:
        found = {name: {"target": one.target} for name, one in caches.items()}
        return answer({"cacheManagers": {_MANAGER: {"caches": found}}})

    @rooms.get("/caches/<name>", endpoint="caches-cache")
    def one(name: str) -> Response:
        return answer({"target": find(name).target, "name": name, "cacheManager": _MANAGER})

    @rooms.delete("/caches", endpoint="caches-clear")
    def clear_all() -> Response:
        for cache in caches.values():
            cache.clear()
        return done()

    @rooms.delete("/caches/<name>", endpoint="caches-cache-clear")
    def clear(name: str) -> Response:
        find(name).clear()
        return done()

    return {"caches": "/caches", "caches-cache": "/caches/{cache}"}
