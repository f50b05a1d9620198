"""/actuator/env and /actuator/configprops: what is configured, by whom, and what it comes to.

Values are hidden unless `management.endpoint.<id>.show-values` says otherwise; those of secrets are
hidden even then. With `management.endpoint.env.post.enabled` an operator may set properties here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from flask import Blueprint, Response, request

from cloud.actuator.access import Access
from cloud.actuator.answers import answer
from cloud.actuator.process import parent
from cloud.actuator.refresh import setting, told
from cloud.config import Environment, Properties, PropertySource, PropertyValue, names
from cloud.config.placeholders import resolve
from cloud.config.sources import ENVIRONMENT
from cloud.errors import ConfigurationError, InvalidError, NotFoundError
from cloud.logging import mask
from cloud.refresh import refresher

HIDDEN: Final = "******"

# Whole objects of properties stand in one variable; its name tells nothing of what is in there.
_SECRET: Final = re.compile(
    r"password|passwd|secret|token|credential|(private|access|api|encrypt|store)[._-]?key"
    r"|keystore|vcap_services|application[._-]json|cookie|authorization",
    re.IGNORECASE,
)
_CIPHER: Final = "{cipher}"
# Below these names stand families of their own: `spring.data.redis`, not `spring.data`.
_FAMILIES: Final = {
    "spring.cloud": 3,
    "spring.data": 3,
    "spring": 2,
    "nozie": 2,
    "management": 2,
    "eureka": 2,
    "resilience4j": 2,
}

Show = Callable[[str, str], str]


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoints."""
    endpoint = _Endpoint(environment)
    rooms.get("/env", endpoint="env")(endpoint.sources)
    rooms.get("/env/<path:key>", endpoint="env-toMatch")(endpoint.one)
    if environment.properties.boolean("management.endpoint.env.post.enabled", default=False):
        rooms.post("/env", endpoint="env-write")(endpoint.write)
        rooms.delete("/env", endpoint="env-reset")(endpoint.reset)
    rooms.get("/configprops", endpoint="configprops")(endpoint.typed)
    rooms.get("/configprops/<prefix>", endpoint="configprops-prefix")(endpoint.typed)
    return {
        "env": "/env",
        "env-toMatch": "/env/{toMatch}",
        "configprops": "/configprops",
        "configprops-prefix": "/configprops/{prefix}",
    }


class _Endpoint:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._access = Access(environment)
        self._asked = environment.properties.asked
        environment.subscribe(self._keep_asked)

    def _keep_asked(self, fresh: Properties, _changed: frozenset[str]) -> None:
        # Who read a setting once and for all does not read it again.
        self._asked = fresh.asked = {**self._asked, **fresh.asked}

    def sources(self) -> Response:
        """List all sources; `?pattern=` keeps the properties whose names it is found in."""
        properties, show = self._environment.properties, self._show("env")
        pattern = _pattern(request.args.get("pattern", ""))
        listed = [
            {
                "name": source.name,
                "properties": {
                    key: _described(held, show(key, _spelled(held, properties)))
                    for key, held in source.values.items()
                    if pattern.search(key)
                },
            }
            for source in _sources(properties)
        ]
        return answer({**_profiles(properties), "propertySources": listed})

    def one(self, key: str) -> Response:
        """Tell one property, and which sources have it."""
        properties, show = self._environment.properties, self._show("env")
        held = {source.name: _held(source, key) for source in _sources(properties)}
        having = ((name, found) for name, (_, found) in held.items() if found)
        winner, first = next(having, ("", None))
        if first is None:
            raise NotFoundError("No such property")
        value = show(key, _spelled(first, properties))
        listed: list[dict[str, Any]] = []
        for name, (spelled, found) in held.items():
            shown = _described(found, show(spelled, _spelled(found, properties))) if found else None
            listed.append({"name": name, "property": shown} if shown else {"name": name})
        return answer(
            {
                "property": {"source": winner, "value": value},
                **_profiles(properties),
                "propertySources": listed,
            }
        )

    def write(self) -> Response:
        """Set a property above all others, in every process, until the instance ends."""
        name, value = setting()

        def work() -> Response:
            refresher(self._environment).manage({name: value})
            return answer({name: value})

        return told(work)

    def reset(self) -> Response:
        """Take back what was set so; answers it."""
        own, show = refresher(self._environment), self._show("env")

        def work() -> Response:
            managed = own.managed()
            own.manage(dict.fromkeys(managed))
            return answer({name: show(name, value) for name, value in managed.items()})

        return told(work)

    def typed(self, prefix: str = "") -> Response:
        """List what the house reads, with its defaults, in one bean for each prefix."""
        properties, show = self._environment.properties, self._show("configprops")
        beans: dict[str, dict[str, Any]] = {}
        for key, default in sorted(dict(self._asked).items()):
            family = _family(key)
            if prefix and not f"{family}.".startswith(f"{prefix}."):
                continue
            bean = beans.setdefault(family, {"prefix": family, "properties": {}, "inputs": {}})
            value = show(key, _value(properties, key, default))
            origin = properties.origin(key)
            path = names.elements(key)[len(names.elements(family)) :]
            _put(bean["properties"], path, value)
            _put(bean["inputs"], path, {"value": value, "origin": origin} if origin else {})
        if prefix and not beans:
            raise NotFoundError("No such prefix")
        return answer({"contexts": {properties.application: {"beans": beans}}})

    def _show(self, endpoint: str) -> Show:
        """Give what spells a value for this client."""
        if not self._access.shows("values", "never", endpoint):
            return lambda _key, _text: HIDDEN
        return lambda key, text: HIDDEN if _SECRET.search(key) else mask(text)


def _sources(properties: Properties) -> Sequence[PropertySource]:
    """List the sources, and among them what a Boot application adds: the number of its process."""
    system = PropertySource("systemProperties", {"PID": PropertyValue(str(parent()), "")})
    given = properties.sources
    at = next((n for n, source in enumerate(given) if source.name == ENVIRONMENT), 0)
    return [*given[:at], system, *given[at:]]


def _profiles(properties: Properties) -> dict[str, Any]:
    active = [name for name in properties.profiles if name != "default"]
    return {"activeProfiles": active, "defaultProfiles": ["default"]}


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error:
        raise InvalidError("pattern is no regular expression") from None


def _described(held: PropertyValue, shown: str) -> dict[str, str]:
    return {"value": shown, "origin": held.origin} if held.origin else {"value": shown}


def _held(source: PropertySource, key: str) -> tuple[str, PropertyValue | None]:
    """Find a property by any of its spellings in one source."""
    wanted, variables = names.uniform(key), names.variables(key)
    found = (
        (spelled, held)
        for spelled, held in source.values.items()
        if names.uniform(spelled) == wanted or spelled.upper() in variables
    )
    return next(found, (key, None))


def _spelled(held: PropertyValue, properties: Properties) -> str:
    """Resolve placeholders; a value that takes a secret into it is hidden like one."""
    text = held.value
    if text.startswith(_CIPHER) or ("${" in text and _SECRET.search(text)):
        return HIDDEN
    try:
        return resolve(text, properties.get)
    except ConfigurationError:
        return text


def _safely(properties: Properties, key: str) -> str:
    for source in properties.sources:
        _, held = _held(source, key)
        if held:
            return _spelled(held, properties)
    return ""


def _family(key: str) -> str:
    """Return the prefix that a key is listed under, always shorter than the key."""
    parts = key.split(".")
    depths = (depth for family, depth in _FAMILIES.items() if key.startswith(f"{family}."))
    depth = next(depths, 1)
    return ".".join(parts[: max(1, min(depth, len(parts) - 1))])


def _value(properties: Properties, key: str, default: object) -> str:
    found = _safely(properties, key)
    if found or default is None:
        return found
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, timedelta):
        return f"PT{default.total_seconds():g}S"
    return ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)


def _put(tree: dict[str, Any], path: names.Elements, value: object) -> None:
    for part in path[:-1]:
        below = tree.setdefault(str(part), {})
        # A key may have a value and keys below it.
        tree = below if isinstance(below, dict) else tree.setdefault(f"{part}.", {})
    tree[str(path[-1])] = value
