"""Relaxed names: when two spellings mean one property, and what environment variables stand for.

Rules of Spring Boot's "Relaxed Binding": case, `-` and `_` do not count within an element, so
`service-url`, `serviceUrl` and `SERVICEURL` are one; `[0]` is an index; what else stands in
brackets is a map key, kept as it is written (`[/**]`, `[com.example]`).
"""

import re
from functools import lru_cache

Elements = tuple[str | int, ...]

_ELEMENT = re.compile(r"\[([^\]]*)\]|([^.\[]+)")
_DIGITS = re.compile(r"_(\d+)(?=_|$)")


@lru_cache(maxsize=8192)
def elements(key: str) -> Elements:
    """Split `a.b[0].[x.y]` to `("a", "b", 0, "x.y")`."""
    return tuple(
        name or (int(bracket) if bracket.isdigit() else bracket)
        for bracket, name in _ELEMENT.findall(key)
    )


@lru_cache(maxsize=8192)
def uniform(key: str) -> str:
    """Return the one spelling under which all spellings of `key` meet."""
    parts = []
    for bracket, name in _ELEMENT.findall(key):
        if not name:
            parts.append(f"[{bracket}]")
        else:
            parts.append("." + name.replace("-", "").replace("_", "").lower())
    return "".join(parts).removeprefix(".")


@lru_cache(maxsize=8192)
def list_roots(name: str) -> tuple[str, ...]:
    """Return the lists that a uniform name is part of: `a[0].b[1]` is in `a` and `a[0].b`."""
    return tuple(name[: found.start()] for found in re.finditer(r"\[\d+\]", name))


def variables(key: str) -> frozenset[str]:
    """Return the environment variables that set `key`: dots to `_`, dashes dropped, upper case.

    The older spelling, dashes to `_`, counts too (`SPRING_JPA_OPEN_IN_VIEW`), as in Spring.
    """
    flat = key.replace("[", ".").replace("]", "").replace("..", ".")
    new = flat.replace("-", "").replace(".", "_").upper()
    old = flat.replace("-", "_").replace(".", "_").upper()
    return frozenset({new, old})


def of_variable(name: str) -> str:
    """Return the property that an environment variable stands for: `A_B_0_C` is `a.b[0].c`."""
    return _DIGITS.sub(r"[\1]", name).replace("_", ".").lower().replace(".[", "[")
