"""An immutable snapshot over ordered sources: what a property's value is, and who says so."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self

from cloud.config import names
from cloud.config.placeholders import random_value, resolve
from cloud.config.sources import ENVIRONMENT, PropertySource, PropertyValue, from_mapping
from cloud.errors import ConfigurationError

_ENCRYPTED = "{cipher}"
_SIMPLE = re.compile(r"([+-]?\d+)\s*([a-zA-Z]{0,2})$")
_ISO = re.compile(
    r"(?P<sign>[+-]?)P(?:(?P<d>\d+)D)?"
    r"(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?$",
    re.IGNORECASE,
)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_TRUE, _FALSE = {"true", "on", "yes", "1"}, {"false", "off", "no", "0"}


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    held: PropertyValue
    source: str


class Properties:
    """Properties of one application in one set of profiles, highest precedence first.

    Names are relaxed, placeholders resolved, local `{cipher}` values decrypted, on every read.
    Maps of several sources merge; a list comes whole from the highest source that has any of it.

    Attributes:
        application: `spring.application.name`; errors open with it.
        profiles: the active profiles, `("default",)` when none is.
        sources: highest precedence first.
        asked: the keys that somebody has read as a setting, with the defaults they have there.
    """

    def __init__(
        self, application: str, profiles: Sequence[str], sources: Sequence[PropertySource]
    ) -> None:
        self.application = application
        self.profiles = tuple(profiles)
        self.sources = tuple(sources)
        self.asked: dict[str, object] = {}
        self._entries: dict[str, _Entry] = {}
        self._variables: dict[str, _Entry] = {}
        self._decrypt: Callable[[str], str] | None = None
        self._fill()

    @classmethod
    def of(
        cls,
        values: Mapping[str, Any],
        application: str = "app",
        profiles: Sequence[str] = ("default",),
    ) -> Self:
        """Build from one mapping of nested or dotted names."""
        return cls(application, profiles, [from_mapping("inline", values)])

    def dump(self) -> dict[str, Any]:
        """Give all sources as JSON knows it, for another process of the instance: it holds secrets.

        Shape: `{application, profiles, sources: [{name, values: {key: [value, origin]}}]}`.
        """
        return {
            "application": self.application,
            "profiles": list(self.profiles),
            "sources": [source.dump() for source in self.sources],
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Make the properties that `dump` gave."""
        sources = [PropertySource.load(source) for source in dumped["sources"]]
        return cls(dumped["application"], dumped["profiles"], sources)

    def _fill(self) -> None:
        known: dict[str, list[str]] = {}
        for source in self.sources:
            if source.name != ENVIRONMENT:
                for key in source.values:
                    for variable in names.variables(key):
                        known.setdefault(variable, []).append(key)
        claimed: set[str] = set()
        for source in self.sources:
            entries = list(self._read(source, known))
            fresh = {name: entry for name, entry in entries if not self._taken(name, claimed)}
            for name, entry in fresh.items():
                self._entries.setdefault(name, entry)
                claimed.update((name, *names.list_roots(name)))

    def _read(
        self, source: PropertySource, known: Mapping[str, list[str]]
    ) -> Iterator[tuple[str, _Entry]]:
        for key, held in source.values.items():
            if source.name != ENVIRONMENT:
                yield names.uniform(key), _Entry(key, held, source.name)
                continue
            own = names.of_variable(key)
            # Also found by its own name, for `${JWT_SECRET}` and for keys that no file mentions.
            for name in (key, names.uniform(own)):
                self._variables.setdefault(name, _Entry(own, held, source.name))
            for spelled in known.get(key.upper(), [own]):
                yield names.uniform(spelled), _Entry(spelled, held, source.name)

    @staticmethod
    def _taken(name: str, claimed: Collection[str]) -> bool:
        return name in claimed or any(root in claimed for root in names.list_roots(name))

    def _find(self, key: str) -> _Entry | None:
        return (
            self._entries.get(names.uniform(key))
            or self._variables.get(key)
            or self._variables.get(names.uniform(key))
            or self._variables.get(names.uniform(key.replace("-", ".")))
        )

    def _resolved(self, key: str, within: tuple[str, ...] = ()) -> str | None:
        entry = self._find(key)
        if entry is None:
            return random_value(key, within[-1] if within else "")
        name = names.uniform(entry.key) if entry.source != ENVIRONMENT else f"env:{entry.key}"
        if name in within:
            raise ConfigurationError("refers to itself through its placeholders")
        text = entry.held.value
        if text.startswith(_ENCRYPTED):
            return self._plain(text)
        if "${" not in text:
            return text
        return resolve(text, lambda inner: self._resolved(inner, (*within, name)))

    def _plain(self, text: str) -> str:
        try:
            # Most instances meet no such value, and need not hold a library for it.
            from cloud.config.cipher import decryptor  # noqa: PLC0415

            self._decrypt = self._decrypt or decryptor(self.get)
            return self._decrypt(text.removeprefix(_ENCRYPTED))
        except ConfigurationError as error:
            fault = f"cannot be decrypted: {error}"
        except Exception:  # noqa: BLE001 - whatever fails, its text could hold the secret
            fault = "cannot be decrypted with the key at hand"
        if (self.get("encrypt.fail-on-error") or "").lower() != "false":
            raise ConfigurationError(fault)
        return ""  # never the cipher's text: it would make a known password (Spring does so too)

    def get(self, key: str) -> str | None:
        """Return the value as text, None when no source has the key.

        Raises:
            UnsetError: a placeholder in it has neither value nor default.
            ConfigurationError: placeholders go in a ring, or a cipher does not open.
        """
        try:
            return self._resolved(key)
        except ConfigurationError as error:
            raise type(error)(str(self.wrong(key, str(error)))) from None

    def wrong(self, key: str, fault: str) -> ConfigurationError:
        """Make the one line that stops a start: application, key, fault, where the value stands."""
        where = self.origin(key)
        return ConfigurationError(
            f"{self.application}: {key} {fault}" + (f" (from {where})" if where else "")
        )

    def origin(self, key: str) -> str | None:
        """Return where the value stands: file, line and column, or the variable."""
        entry = self._find(key)
        return entry.held.origin if entry else None

    def text(self, key: str, default: str | None = None) -> str:
        """Return the value, `default` when absent.

        Raises:
            ConfigurationError: absent or empty, and there is no default.
        """
        self.asked[key] = default
        found = self.get(key)
        if found is None:
            found = default
        if not found and default is None:
            raise self.wrong(key, "is not set")
        return found or ""

    def _given(self, key: str, default: object) -> str | None:
        """Return text to convert, None to take the default; an empty value counts as absent."""
        self.asked[key] = default
        found = (self.get(key) or "").strip()
        if not found and default is None:
            raise self.wrong(key, "is not set")
        return found or None

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> int:
        """Return a whole number within the bounds, both inclusive."""
        found = self._given(key, default)
        try:
            value = int(found) if found else default or 0
        except ValueError:
            raise self.wrong(key, "is not a whole number") from None
        self._bounded(key, value, minimum, maximum)
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> float:
        """Return a number within the bounds, both inclusive."""
        found = self._given(key, default)
        try:
            value = float(found) if found else default or 0.0
        except ValueError:
            raise self.wrong(key, "is not a number") from None
        self._bounded(key, value, minimum, maximum)
        return value

    def _bounded(
        self, key: str, value: float, minimum: float | None, maximum: float | None
    ) -> None:
        if minimum is not None and not value >= minimum:
            raise self.wrong(key, f"is below {minimum}")
        if maximum is not None and not value <= maximum:
            raise self.wrong(key, f"is above {maximum}")

    def boolean(self, key: str, default: bool | None = None) -> bool:  # noqa: FBT001 - like its kin
        """Return true for `true`, `on`, `yes`, `1`, false for their opposites."""
        found = self._given(key, default)
        if found is None:
            return bool(default)
        if found.lower() not in _TRUE | _FALSE:
            raise self.wrong(key, "is neither true nor false")
        return found.lower() in _TRUE

    def duration(
        self, key: str, default: timedelta | None = None, *, unit: Literal["ms", "s"] = "ms"
    ) -> timedelta:
        """Return a span: `500ms`, `10s`, `PT1M`; a bare number counts in `unit`.

        Spring Boot reference, "Converting Durations": ns, us, ms, s, m, h, d, or ISO 8601.
        """
        found = self._given(key, default)
        if found is None:
            return default or timedelta()
        simple, iso = _SIMPLE.match(found), _ISO.match(found)
        try:
            if simple:
                scale = _SECONDS[simple[2].lower() or unit]
                return timedelta(seconds=int(simple[1]) * scale)
            if iso and found[-1].upper() not in "PT":
                parts = {name: float(iso[name] or 0) * _SECONDS[name] for name in "dhms"}
                return timedelta(seconds=sum(parts.values())) * (-1 if iso["sign"] == "-" else 1)
        except (KeyError, OverflowError):
            pass
        raise self.wrong(key, "is not a duration")

    def data_size(self, key: str, default: int | None = None) -> int:
        """Return bytes: `16KB`, `1MB`, a bare number; 1 KB is 1024 bytes."""
        found = self._given(key, default)
        if found is None:
            return default or 0
        simple = _SIMPLE.match(found)
        if not simple or simple[2].upper() not in _BYTES:
            raise self.wrong(key, "is not a data size")
        return int(simple[1]) * _BYTES[simple[2].upper()]

    def listing(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the items of `a, b` or of `key[0]`, `key[1]`; blanks around them are dropped."""
        self.asked[key] = default
        found = self.get(key)
        if found is not None:
            return tuple(item.strip() for item in found.split(",") if item.strip())
        items = self.tree(key)
        if not items:
            return tuple(default)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.wrong(key, "is not a list of texts")
        return tuple(items)

    def _below(self, prefix: str) -> Iterator[tuple[str, names.Elements]]:
        """Yield each key below the prefix with its elements after it."""
        start = names.uniform(prefix)
        skip = len(names.elements(prefix))
        for name, entry in self._entries.items():
            if not start or name.startswith((f"{start}.", f"{start}[")):
                yield entry.key, names.elements(entry.key)[skip:]

    def tree(self, prefix: str, *, lenient: bool = False) -> Any:
        """Return nested dicts and lists of text below the prefix, {} when there is nothing.

        A value that has values below it (`url` and `url.timeout`) stands under the name "". When
        `lenient`, a value that cannot be resolved stays as it is written, as Spring's binder
        leaves it.

        Raises:
            ConfigurationError: a list has a gap.
        """
        root: dict[str | int, Any] = {}
        for key, path in self._below(prefix):
            spot = root
            for element in path[:-1]:
                below = spot.setdefault(element, {})
                if not isinstance(below, dict):
                    below = spot[element] = {"": below}
                spot = below
            if isinstance(spot.get(path[-1]), dict):
                spot = spot[path[-1]]
                path = ("",)  # noqa: PLW2901 - the scalar beside its own subtree
            spot[path[-1]] = self._as_written(key) if lenient else self.get(key)
        return self._listed(root, prefix)

    def _as_written(self, key: str) -> str | None:
        try:
            return self._resolved(key)
        except ConfigurationError:
            entry = self._find(key)
            return entry.held.value if entry is not None else None

    def _listed(self, node: Any, path: str) -> Any:
        """Turn dicts with indexes for names into lists."""
        if not isinstance(node, dict):
            return node
        if node and all(isinstance(name, int) for name in node):
            if sorted(node) != list(range(len(node))):
                raise self.wrong(path, "is a list with a gap")
            return [self._listed(node[index], f"{path}[{index}]") for index in range(len(node))]
        return {str(name): self._listed(item, f"{path}.{name}") for name, item in node.items()}

    def subset(self, prefix: str) -> dict[str, str]:
        """Return what stands below the prefix, flat: `logging.level` gives logger to level."""
        return {_flat(path): self.get(key) or "" for key, path in self._below(prefix)}

    def keys(self) -> frozenset[str]:
        """Return every key but those that only the process environment has."""
        return frozenset(
            entry.key for entry in self._entries.values() if entry.source != ENVIRONMENT
        )


def _flat(path: names.Elements) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
