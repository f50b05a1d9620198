"""The breakers of a process, found by name."""

import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

from cloud.breaker.machine import CircuitBreaker, Now, Sharing
from cloud.breaker.settings import CircuitBreakerSettings, State
from cloud.config import Environment, Properties


@dataclass(slots=True)
class _Family:
    """The breakers of one configuration, however many directories look at them.

    Attributes:
        placed: what an operator put a breaker into; one that is made later begins in it.
        awake: its waits end by the clock, which takes threads; before a fork none may be there.
    """

    made: dict[str, CircuitBreaker] = field(default_factory=dict)
    placed: dict[str, State] = field(default_factory=dict)
    sharing: Sharing | None = None
    awake: bool = True


_families: weakref.WeakKeyDictionary[Properties, _Family] = weakref.WeakKeyDictionary()
_followed: weakref.WeakKeyDictionary[Environment, _Family] = weakref.WeakKeyDictionary()


class Breakers:
    """The breakers of a process, by name, made on first use.

    Two directories of the same properties have the same breakers: whoever calls a service, its
    state is one.
    """

    def __init__(self, properties: Properties, *, now: Now = time.monotonic) -> None:
        self._properties = properties
        self._now = now
        self._family = _family_of(properties)

    def get(self, name: str) -> CircuitBreaker:
        """Return the breaker of that name, always the same one.

        Raises:
            ConfigurationError: its settings cannot be used.
        """
        family = self._family
        found = family.made.get(name)
        if found is None:
            rules = CircuitBreakerSettings.of(self._properties, name)
            fresh = CircuitBreaker(name, rules, now=self._now)
            fresh.sharing = family.sharing
            found = family.made.setdefault(name, fresh)
            if found is fresh and name in family.placed:
                found.transition(family.placed[name], told=False)
            elif found is fresh and family.awake:
                found.look_when_due()
        return found

    def find(self, name: str) -> CircuitBreaker | None:
        """Return the breaker of that name, None when nobody has needed it yet."""
        return self._family.made.get(name)

    def __iter__(self) -> Iterator[CircuitBreaker]:
        return iter(sorted(self._family.made.values(), key=lambda breaker: breaker.name))

    def place(self, name: str, state: State, *, told: bool = True) -> None:
        """Put a breaker into a state by hand, also one that nobody has needed yet."""
        self._family.placed[name] = state
        if found := self.find(name):
            found.transition(state, told=told)

    def wake(self) -> None:
        """Have the waits of breakers that began in one, before this process did, end by the clock.

        It is for each process of an instance to do; until then those of `follow` rest.
        """
        self._family.awake = True
        for breaker in self:
            breaker.look_when_due()

    def share(self, sharing: Sharing) -> None:
        """Let `sharing` have a say in all of them, also in those to come."""
        self._family.sharing = sharing
        for breaker in self:
            breaker.sharing = sharing


def follow(environment: Environment) -> Breakers:
    """Keep the breakers of an instance, and their states, when its configuration changes.

    Rules that cannot be gone by stop the start, and a refresh, also those of breakers to come.

    Raises:
        ConfigurationError: key, source and reason.
    """
    breakers = Breakers(environment.properties)
    _followed[environment] = family = breakers._family  # noqa: SLF001 - of the same room
    family.awake = False

    def ensure(properties: Properties) -> None:
        CircuitBreakerSettings.check(properties)
        for breaker in breakers:
            CircuitBreakerSettings.of(properties, breaker.name)

    def refreshed(properties: Properties, _: frozenset[str]) -> None:
        for breaker in breakers:
            breaker.govern(CircuitBreakerSettings.of(properties, breaker.name))

    ensure(environment.properties)
    environment.require(ensure)
    environment.subscribe(refreshed)
    return breakers


def _family_of(properties: Properties) -> _Family:
    """Find the family of a configuration: its own, or that of the instance it belongs to."""
    found = _families.get(properties)
    if found is None:
        held = (family for one, family in _followed.items() if one.properties is properties)
        found = _families.setdefault(properties, next(held, None) or _Family())
    return found
