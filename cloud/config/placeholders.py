"""Placeholders of Spring: `${key}`, `${key:default}`, nested on both sides, `${random.*}`."""

import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Callable

from cloud.errors import ConfigurationError

Lookup = Callable[[str], str | None]


class UnsetError(ConfigurationError):
    """A placeholder has neither value nor default."""


# Drawn once before workers fork: every process of an instance then resolves `${random.uuid}`
# of one key to one value, today and after a refresh.
_SEED = secrets.token_bytes(32)
_RANDOM = re.compile(r"random\.(value|uuid|int|long)(?:[(\[](-?\d+)(?:,(-?\d+))?[)\]])?$")
_LIMITS = {"int": 2**32, "long": 2**64}


def resolve(text: str, lookup: Lookup) -> str:
    r"""Replace every placeholder of `text`; `\${` stays as `${`.

    Args:
        text: the value as its source spells it.
        lookup: gives the resolved value of a key, None when nobody sets it.

    Raises:
        UnsetError: a placeholder has neither value nor default.
    """
    done: list[str] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        end = _end(text, start + 2)
        if end < 0:
            break
        if start and text[start - 1] == "\\":
            done += [text[at : start - 1], "${"]
            at = start + 2
            continue
        done += [text[at:start], _value(text[start + 2 : end], lookup)]
        at = end + 1
    return "".join(done) + text[at:]


def _value(body: str, lookup: Lookup) -> str:
    name, default = _split(body)
    key = resolve(name, lookup)
    found = lookup(key)
    if found is not None:
        return found
    if default is None:
        raise UnsetError(f"needs {key}, which is not set")
    return resolve(default, lookup)


def _split(body: str) -> tuple[str, str | None]:
    depth = 0
    for at, char in enumerate(body):
        depth += (char == "{") - (char == "}")
        if char == ":" and depth == 0:
            return body[:at], body[at + 1 :]
    return body, None


def _end(text: str, at: int) -> int:
    depth = 1
    for index in range(at, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index
    return -1


def random_value(name: str, owner: str) -> str | None:
    """Answer `random.value`, `.uuid`, `.int`, `.long`, `.int(max)`, `.int[min,max]`.

    Args:
        name: the name inside the placeholder; None is returned when it is not a random one.
        owner: the key whose value holds the placeholder; another key draws another value.
    """
    found = _RANDOM.match(name)
    if not found:
        return None
    kind, first, second = found.groups()
    drawn = hmac.digest(_SEED, f"{owner}\n{name}".encode(), hashlib.sha256)
    if kind == "value":
        return drawn[:16].hex()
    if kind == "uuid":
        return str(uuid.UUID(bytes=drawn[:16], version=4))
    low, high = (0, first) if second is None else (first, second)
    if first is None:
        return str(int.from_bytes(drawn) % _LIMITS[kind] - _LIMITS[kind] // 2)
    if int(high) <= int(low):
        raise ConfigurationError(f"{name} has an empty range")
    return str(int(low) + int.from_bytes(drawn) % (int(high) - int(low)))
