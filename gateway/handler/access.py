"""What the platform asks of a request before its route may have it: token, roles, limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.predicates import Pattern
from gateway.settings import LimitRule, Opening, RoleRule, Settings

_MEMO, _LONGEST = 4096, 256


@dataclass(frozen=True, slots=True)
class Access:
    """What one method on one path asks for.

    Attributes:
        public: no token needed.
        roles: of each set the caller needs one.
        rule: a limit of its own per client address, else the general ones hold.
        counted: some limit holds at all.
        compat: also served on the compatibility listener.
    """

    public: bool
    roles: tuple[frozenset[str], ...]
    rule: LimitRule | None
    counted: bool
    compat: bool


class AccessRules:
    """The platform's rules, compiled; answers for the same method and path are remembered."""

    def __init__(self, settings: Settings) -> None:
        self._public = _Openings(settings.public)
        self._compat = _Openings(settings.compat)
        # A trailing slash never leads around a rule.
        self._roles = [(rule, Pattern(rule.path)) for rule in settings.roles]
        self._limits = [
            (rule, [Pattern(path) for path in rule.paths]) for rule in settings.limits.rules
        ]
        self._exempt = [Pattern(path) for path in settings.limits.exempt]
        self._known: dict[tuple[str, str], Access] = {}

    def of(self, method: str, path: str) -> Access:
        key = method, path
        found = self._known.get(key)
        if found is None:
            found = self._decide(method, path)
            if len(path) <= _LONGEST:
                if len(self._known) >= _MEMO:
                    self._known.clear()
                self._known[key] = found
        return found

    def _decide(self, method: str, path: str) -> Access:
        limits = (rule for rule, patterns in self._limits if _any(patterns, path))
        return Access(
            public=self._public.holds(method, path),
            roles=tuple(
                rule.roles for rule, pattern in self._roles if _applies(rule, pattern, method, path)
            ),
            rule=next(limits, None),
            counted=not _any(self._exempt, path),
            compat=self._compat.holds(method, path),
        )


class _Openings:
    """A list of operations: method and whole path."""

    def __init__(self, openings: Sequence[Opening]) -> None:
        self._patterns = [(o.method, Pattern(o.path, trailing_slash=False)) for o in openings]

    def holds(self, method: str, path: str) -> bool:
        return any(
            known in {method, "ANY"} and pattern.match(path) is not None
            for known, pattern in self._patterns
        )


def _applies(rule: RoleRule, pattern: Pattern, method: str, path: str) -> bool:
    return rule.method in {method, "ANY"} and pattern.match(path) is not None


def _any(patterns: Sequence[Pattern], path: str) -> bool:
    return any(pattern.match(path) is not None for pattern in patterns)


class Windows:
    """Fixed windows in this process, for the time that Redis is away."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._counts: dict[str, tuple[float, int]] = {}
        self._capacity = capacity

    def count(self, bucket: str, window: timedelta, now: float) -> int:
        """Count one more; return how many this window has seen. `now` is monotonic."""
        since, seen = self._counts.get(bucket, (now, 0))
        if now - since >= window.total_seconds():
            since, seen = now, 0
        if bucket not in self._counts and len(self._counts) >= self._capacity:
            # The oldest window ends first; a flood of addresses must not fill the memory.
            self._counts.pop(next(iter(self._counts)))
        self._counts[bucket] = since, seen + 1
        return seen + 1
