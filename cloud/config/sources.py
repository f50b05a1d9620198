"""Where properties come from: YAML files, the process environment, JSON; all flattened alike."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from cloud.errors import ConfigurationError

ENVIRONMENT = "systemEnvironment"


@dataclass(frozen=True, slots=True)
class PropertyValue:
    """One value as its source spells it: placeholders and ciphers unresolved.

    Attributes:
        origin: where it stands, `application.yml:12:3` for a file.
    """

    value: str = field(repr=False)
    origin: str


@dataclass(frozen=True, slots=True)
class PropertySource:
    """Flat properties under one name; keys are spelled as their author did."""

    name: str
    values: Mapping[str, PropertyValue] = field(repr=False)

    def dump(self) -> dict[str, Any]:
        """Give it as JSON knows it: `{name, values: {key: [value, origin]}}`."""
        values = {key: [held.value, held.origin] for key, held in self.values.items()}
        return {"name": self.name, "values": values}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Make the source that `dump` gave."""
        values = {key: PropertyValue(*held) for key, held in dumped["values"].items()}
        return cls(dumped["name"], values)


def text_of(value: object) -> str:
    """Spell a JSON or YAML scalar as Spring does: `true`, `12`, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def flatten(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield `a.b[0].c` and text for each leaf of nested maps and lists."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flatten(item, joined(path, str(name)))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}[{index}]")
    else:
        yield path, "" if isinstance(value, list) else text_of(value)


def joined(path: str, name: str) -> str:
    """Append an element; a bracketed one needs no dot."""
    return f"{path}.{name}" if path and not name.startswith("[") else f"{path}{name}"


def from_environment(variables: Mapping[str, str]) -> PropertySource:
    """Keep the variables under their own names; `Properties` knows what they stand for."""
    return PropertySource(
        ENVIRONMENT,
        {
            name: PropertyValue(text, f"environment variable {name}")
            for name, text in variables.items()
        },
    )


def from_json(name: str, text: str) -> PropertySource:
    """Read an object of nested or dotted names (SPRING_APPLICATION_JSON)."""
    try:
        tree = json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        raise ConfigurationError(f"{name} is not JSON") from None
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{name} is not a JSON object")
    return PropertySource(name, {key: PropertyValue(leaf, name) for key, leaf in flatten(tree)})


def from_mapping(name: str, tree: Mapping[str, Any]) -> PropertySource:
    """Read nested or dotted names that a program made."""
    return PropertySource(name, {key: PropertyValue(leaf, name) for key, leaf in flatten(tree)})


def from_yaml(text: str, file: str, profiles: Collection[str]) -> list[PropertySource]:
    """Read a file of one or more documents; the last that applies comes first.

    A document with `spring.config.activate.on-profile` applies when the expression holds.

    Raises:
        ConfigurationError: the file is not YAML, or names a key twice.
    """
    kept = []
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if not isinstance(node, yaml.MappingNode) and node.value not in ("", "null", "~"):
                raise ConfigurationError(f"{file} is not a mapping")
            values = dict(_leaves(node, "", file))
            condition = values.get("spring.config.activate.on-profile")
            if condition is None or _holds(condition.value, profiles):
                kept.append(values)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{file}{line} is not YAML") from None
    return [
        PropertySource(file if len(kept) == 1 else f"{file} (document {number})", values)
        for number, values in reversed(list(enumerate(kept, 1)))
    ]


def from_file(path: Path, profiles: Collection[str]) -> list[PropertySource]:
    """Read a file when it is there; a missing one has no sources."""
    return from_yaml(path.read_text("utf-8"), path.name, profiles) if path.is_file() else []


def _leaves(node: yaml.Node, path: str, file: str) -> Iterator[tuple[str, PropertyValue]]:
    # Nodes instead of values: they know their line, and `1.10` or `12:30` stay as written.
    if isinstance(node, yaml.MappingNode):
        yield from _mapping(node, path, file)
    elif isinstance(node, yaml.SequenceNode) and node.value:
        for index, item in enumerate(node.value):
            yield from _leaves(item, f"{path}[{index}]", file)
    elif path:
        origin = f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        yield path, PropertyValue(_scalar(node), origin)


def _mapping(node: yaml.MappingNode, path: str, file: str) -> Iterator[tuple[str, PropertyValue]]:
    own = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    if len(own) != len(set(map(str, own))):
        twice = next(name for name in own if own.count(name) > 1)
        line = node.start_mark.line + 1
        raise ConfigurationError(f"{joined(path, twice)} stands twice in {file}, from line {line}")
    yaml.constructor.SafeConstructor().flatten_mapping(node)  # anchors merged with `<<`
    seen: dict[str, yaml.Node] = {str(key.value): item for key, item in node.value}
    for name, item in seen.items():
        yield from _leaves(item, joined(path, name), file)


def _scalar(node: yaml.Node) -> str:
    if node.tag == "tag:yaml.org,2002:null" or isinstance(node, yaml.SequenceNode):
        return ""
    if node.tag == "tag:yaml.org,2002:bool":
        return "true" if str(node.value).lower() in ("true", "yes", "on") else "false"
    return str(node.value)


def _holds(expression: str, profiles: Collection[str]) -> bool:
    """Judge `a`, `!a`, `a & b`, `a | b` and comma lists; without brackets, `&` binds first."""
    return any(
        all(
            (term.strip().removeprefix("!") in profiles) != term.strip().startswith("!")
            for term in choice.split("&")
        )
        for choice in expression.replace(",", "|").split("|")
    )
