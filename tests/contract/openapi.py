"""A house's OpenAPI file as judge of requests and answers (OpenAPI 3.1, JSON Schema 2020-12)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

import orjson
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

HOUSES: Final = ("identity", "movie", "customer", "payment", "notification", "gateway")
# Answers of the door, listed with an operation or not (wire contract, section 2). 503 is left to
# those who look for it: nothing that a caller sends may bring it about.
GENERAL: Final = frozenset({400, 405, 413, 415, 429, 503})
# What the gateway answers itself, on every path.
OF_THE_GATEWAY: Final = GENERAL | {401, 403, 404, 431, 502, 504}
# Not the contract's where no document describes them: management, and the document itself.
_BESIDE: Final = re.compile(r"/(actuator|openapi|v3/api-docs|docs)\b")
_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch"})
_FAILURE: Final = {
    "type": "object",
    "required": ["success", "message"],
    "properties": {
        "success": {"const": False},
        "message": {"type": "string", "minLength": 1},
        "data": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "timestamp": {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?$"},
        "status": {"const": 503},
    },
    "additionalProperties": False,
}

Node = dict[str, Any]


class ContractError(AssertionError):
    """What went over the wire is not what the document says."""


@dataclass(frozen=True, slots=True)
class Received:
    """An answer, however it was fetched; `body` is None for a stream that is left alone.

    Attributes:
        headers: names in lower case; None where nobody looks at them.
    """

    method: str
    path: str
    status: int
    content_type: str
    body: bytes | None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        parameters: with references resolved, those of the path included.
        pointer: where it stands in the document (RFC 6901).
    """

    id: str
    method: str
    template: str
    pointer: str
    node: Node = field(repr=False)
    parameters: tuple[Node, ...] = field(repr=False)

    def matches(self, method: str, path: str) -> bool:
        return self.method == method and _pattern(self.template).fullmatch(path) is not None

    @property
    def rank(self) -> tuple[bool, ...]:
        """Literal segments go before templated ones, from left to right."""
        return tuple("{" in part for part in self.template.split("/"))


class Document:
    """`<house>/openapi.yaml`, read once."""

    def __init__(self, house: str) -> None:
        self.house = house
        self.root: Node = yaml.safe_load(files(house).joinpath("openapi.yaml").read_text("utf-8"))
        self._uri = f"urn:nozie:{house}"
        resource = DRAFT202012.create_resource(self.root)
        self._registry: Registry[Any] = Registry().with_resource(self._uri, resource)
        self.operations = sorted(self._operations(), key=lambda operation: operation.rank)

    def find(self, method: str, path: str) -> Operation | None:
        return next((one for one in self.operations if one.matches(method, path)), None)

    def resolve(self, node: Node, pointer: str) -> tuple[Node, str]:
        """Follow a whole-node reference; return the node and where it really stands."""
        while isinstance(node.get("$ref"), str) and set(node) <= {"$ref", "description"}:
            pointer = node["$ref"]
            node = self.at(pointer)
        return node, pointer

    def at(self, pointer: str) -> Any:
        """Return what stands at `#/a/b`."""
        node: Any = self.root
        for part in pointer.removeprefix("#/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            node = node[int(key)] if isinstance(node, list) else node[key]
        return node

    def faults(self, value: object, pointer: str) -> list[str]:
        """Say what is wrong with `value` by the schema at `pointer`."""
        return _faults(_validator(self, f"{self._uri}{pointer}"), value)

    def faults_of(self, value: object, schema: Node) -> list[str]:
        """Say what is wrong with `value` by a schema of this document."""
        # Its own references stay those of the document.
        return _faults(Draft202012Validator(schema, registry=self._registry), value)

    def validator(self, uri: str) -> Draft202012Validator:
        return Draft202012Validator({"$ref": uri}, registry=self._registry)

    def _operations(self) -> Iterator[Operation]:
        for template, item in self.root["paths"].items():
            for method in _METHODS & item.keys():
                node = item[method]
                given = [*item.get("parameters", ()), *node.get("parameters", ())]
                escaped = template.replace("~", "~0").replace("/", "~1")
                yield Operation(
                    id=node["operationId"],
                    method=method.upper(),
                    template=template,
                    pointer=f"#/paths/{escaped}/{method}",
                    node=node,
                    parameters=tuple(self.resolve(one, "")[0] for one in given),
                )


def ensure_agrees(
    documents: Sequence[Document], received: Received, *, general: frozenset[int] = GENERAL
) -> None:
    """Hold an answer against the documents.

    Raises:
        ContractError: the status is not declared, the content type is another one, a header or
            the body does not fit its schema; a path outside the documents answers 404 or 405 only.
    """
    if received.method in {"OPTIONS", "HEAD"}:
        return
    said = f"{received.method} {received.path} answered {received.status}"
    for document in documents:
        operation = document.find(received.method, received.path)
        if operation is not None:
            _ensure_declared(document, operation, received, general, said)
            return
    if _BESIDE.match(received.path):
        return
    if received.status not in general | {404, 405}:
        raise ContractError(f"{said}, though no document knows it")
    _ensure_failure(received, said)


def ensure_request(document: Document, method: str, path: str, body: object) -> None:
    """Hold a JSON request that was accepted against the document.

    Raises:
        ContractError: the service takes what its document does not offer.
    """
    operation = document.find(method, path)
    if operation is None or "requestBody" not in operation.node:
        return
    node, pointer = document.resolve(
        operation.node["requestBody"], f"{operation.pointer}/requestBody"
    )
    if "application/json" in node["content"]:
        where = f"{pointer}/content/application~1json/schema"
        if faults := document.faults(body, where):
            raise ContractError(f"{operation.id} accepted a body outside its schema: {faults}")


def ensure_parameters(document: Document, method: str, path: str, query: Mapping[str, str]) -> None:
    """Hold the query of a request that was accepted against the document.

    Raises:
        ContractError: the service takes a value that its document does not offer, or does without
            one that the document demands.
    """
    operation = document.find(method, path)
    for parameter in operation.parameters if operation else ():
        name = parameter["name"]
        if parameter["in"] != "query" or (name not in query and not parameter.get("required")):
            continue
        if name not in query:
            raise ContractError(f"{operation and operation.id} was content without {name}")
        schema, _ = document.resolve(parameter["schema"], "")
        value = _value_of(query[name], schema)
        if faults := document.faults_of(value, schema):
            raise ContractError(f"{operation and operation.id} accepted {name}: {faults}")


def _ensure_declared(
    document: Document,
    operation: Operation,
    received: Received,
    general: frozenset[int],
    said: str,
) -> None:
    on_the_way = general != GENERAL and document.house != "gateway"
    if on_the_way and received.status in general and _is_short(received.body):
        # The gateway's own answer on the way to the service.
        _ensure_failure(received, said)
        return
    declared = operation.node["responses"]
    key = next((k for k in (str(received.status), "default") if k in declared), None)
    if key is None:
        if received.status not in general:
            raise ContractError(f"{said}; {operation.id} declares {sorted(declared)}")
        _ensure_failure(received, said)
        return
    node, pointer = document.resolve(declared[key], f"{operation.pointer}/responses/{key}")
    _ensure_headers(document, node, pointer, received, said)
    content: Mapping[str, Any] = node.get("content", {})
    kind = received.content_type.partition(";")[0].strip()
    if not content:
        if received.body:
            raise ContractError(f"{said} with a body, where none is declared")
        return
    if kind not in content:
        raise ContractError(f"{said} as {kind or 'nothing'}, not {sorted(content)}")
    if received.body is None or "schema" not in content[kind]:
        return
    value = _json(received.body, said) if kind.endswith("json") else received.body.decode()
    where = f"{pointer}/content/{kind.replace('/', '~1')}/schema"
    if faults := document.faults(value, where):
        raise ContractError(f"{said}: {'; '.join(faults)}\n{received.body[:500]!r}")


def _ensure_headers(
    document: Document, node: Node, pointer: str, received: Received, said: str
) -> None:
    """Expect the headers that an answer declares, where the judge was given any."""
    for name in node.get("headers", {}) if received.headers is not None else ():
        header, where = document.resolve(node["headers"][name], f"{pointer}/headers/{name}")
        text = (received.headers or {}).get(name.lower())
        if text is None:
            if header.get("required", False):
                raise ContractError(f"{said} without {name}")
            continue
        value = _value_of(text, header["schema"])
        if faults := document.faults(value, f"{where}/schema"):
            raise ContractError(f"{said} with {name}: {'; '.join(faults)}")


def _value_of(text: str, schema: Node) -> object:
    """Read a parameter or header as the type that its schema names (style `simple`)."""
    try:
        if schema.get("type") == "integer":
            return int(text)
        if schema.get("type") == "number":
            return float(text)
    except ValueError:
        return text
    booleans = {"true": True, "false": False} if schema.get("type") == "boolean" else {}
    return booleans.get(text, text)


def _ensure_failure(received: Received, said: str) -> None:
    """Expect the envelope of failures, or the short form that the gateway writes."""
    if received.content_type != "application/json":
        raise ContractError(f"{said} as {received.content_type}, not application/json")
    value = _json(received.body or b"", said)
    if faults := _faults(Draft202012Validator(_FAILURE), value):
        raise ContractError(f"{said}: {'; '.join(faults)}")


def _is_short(body: bytes | None) -> bool:
    """Tell whether a failure has the gateway's form, without data and timestamp."""
    try:
        value = orjson.loads(body or b"")
    except ValueError:
        return False
    return isinstance(value, dict) and not {"data", "timestamp"} & value.keys()


def _json(body: bytes, said: str) -> Any:
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise ContractError(f"{said}, which is no JSON: {body[:200]!r}") from error


def _faults(validator: Draft202012Validator, value: object) -> list[str]:
    found = sorted(validator.iter_errors(value), key=lambda fault: fault.json_path)
    return [f"{fault.json_path} {fault.message[:200]}" for fault in found[:5]]


@cache
def _validator(document: Document, uri: str) -> Draft202012Validator:
    return document.validator(uri)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^}]*\}", template)
    return re.compile("[^/]+".join(map(re.escape, parts)), re.DOTALL)


def described() -> list[str]:
    """Return the houses that have a document to be held against."""
    return [name for name in HOUSES if files(name).joinpath("openapi.yaml").is_file()]


@cache
def document(house: str) -> Document:
    """Return the document of a house, read once per run."""
    return Document(house)
