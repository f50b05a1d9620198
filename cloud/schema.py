"""Shapes of bodies at the border: `parse` on the way in, and the types that most shapes share.

Reading is as lenient as Jackson where a JVM neighbour counts on it, and strict where leniency
would end in a 500 later: text that no store can hold never gets past this room.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, NoReturn, Self, get_origin

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from cloud.errors import InvalidError

_MALFORMED = "Malformed JSON request"
# How deep lists and objects may sit in each other: far more than any body of ours needs, far less
# than a reader's stack, or the 100 levels that MongoDB stores.
DEEPEST: Final = 64
# Jackson's limit for the text of a number; its digits alone make the work of reading it grow.
_LONGEST_NUMBER: Final = 1000
# Beyond what any double is written with. A whole number is made of its exponent by multiplying:
# a few bytes of text would keep a process busy for minutes.
_LARGEST_EXPONENT: Final = 400
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# What Hibernate's @Email takes as well: atoms or a quoted text, then a domain, dots not required.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010FFFF-]+"
_LABEL = r"[a-z0-9\u0080-\U0010FFFF](?:[a-z0-9\u0080-\U0010FFFF-]*[a-z0-9\u0080-\U0010FFFF])?"
_EMAIL = re.compile(
    rf'(?:{_ATOM}(?:\.{_ATOM})*|"[^"\\\r\n]+")@(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f.:]+\])',
    re.IGNORECASE,
)


def parse_json(raw: bytes) -> Any:
    """Read one JSON document (RFC 8259, UTF-8); decimals come as Decimal, so no amount is a float.

    Raises:
        InvalidError: it is not JSON, nests deeper than DEEPEST, repeats a key, holds half a
            surrogate pair, NaN, or a number that is too long or beyond any float.
    """
    try:
        # Two readers: orjson knows the grammar and the encoding strictly, the standard library
        # can be told what to do with numbers and repeated keys.
        _ensure_shallow(orjson.loads(raw))
        return json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_float=_decimal, parse_constant=_refuse
        )
    except _UnfitError as error:
        raise InvalidError(f"{_MALFORMED}: {error}") from error
    except (ValueError, ArithmeticError) as error:
        raise InvalidError(_MALFORMED) from error


class _UnfitError(ValueError):
    """JSON by its grammar, but not to be read; the text is safe to show."""


def _ensure_shallow(document: object) -> None:
    """Look at one level after the other: the depth of what came decides nothing of our stack."""
    level = [document]
    for _ in range(DEEPEST + 1):
        level = [inner for each in level if isinstance(each, dict | list) for inner in _items(each)]
        if not level:
            return
    raise _UnfitError(f"nested deeper than {DEEPEST} levels")


def _items(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _decimal(text: str) -> Decimal:
    """Read a number with a fraction or an exponent."""
    if len(text) > _LONGEST_NUMBER:
        raise _UnfitError("a number is too long")
    number = Decimal(text)
    if abs(int(number.as_tuple().exponent)) > _LARGEST_EXPONENT:
        raise _UnfitError("the exponent of a number is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a key that comes twice means two readers may disagree."""
    built = dict(pairs)
    if len(built) != len(pairs):
        raise _UnfitError("a key is repeated")
    return built


def _refuse(constant: str) -> NoReturn:
    raise _UnfitError(f"{constant} is not JSON")


class Body(BaseModel):
    """A JSON object from outside: camelCase names, unknown fields ignored.

    A number or boolean is accepted for a string, and a numeric string for a number.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        coerce_numbers_to_str=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if any(get_origin(rule) is Annotated for rule in field.metadata):
                # pydantic passes over it in silence, and the rule would never hold.
                raise TypeError(f"{cls.__name__}.{name}: a type stands where a rule belongs")

    @classmethod
    def parse(cls, data: object) -> Self:
        """Read `data`, as `parse_json` gives it.

        Raises:
            InvalidError: with one reason per field, under the field's JSON name.
        """
        if not isinstance(data, dict):
            raise InvalidError("Request body must be a JSON object")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidError("Validation failed", _reasons(error)) from error

    @field_validator("*", mode="before")
    @classmethod
    def _lenient(cls, value: object) -> object:
        ensure_storable(value)
        # As text a boolean serves a string field and a boolean field, but no number.
        return str(value).lower() if isinstance(value, bool) else value


def ensure_storable(value: object) -> None:
    """Refuse text that PostgreSQL or UTF-8 cannot hold, however deep it sits in lists and maps.

    Raises:
        ValueError: a NUL or half a surrogate pair.
    """
    # A list of what is still to be seen, and no recursion: not everything came by `parse_json`.
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if _UNSTORABLE.search(each):
                raise ValueError("holds characters that cannot be stored")
        elif isinstance(each, Mapping):
            waiting.extend(each)
            waiting.extend(each.values())
        elif isinstance(each, list | tuple):
            waiting.extend(each)


def _reasons(error: ValidationError) -> dict[str, str]:
    """Field name to reason, the first reason of each field."""
    reasons: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
        reasons.setdefault("".join(parts).removeprefix("."), _reason(fault))
    return reasons


# pydantic's error types by the words a person understands.
_WORDS = {
    "missing": "is required",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 64 bits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _reason(fault: Any) -> str:
    if fault["input"] is None:
        return "is required"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return _WORDS.get(fault["type"]) or fault["msg"].replace("Input should", "must").lower()


@dataclass(frozen=True, slots=True)
class Text:
    """Length of a text in UTF-16 units, as Java counts: `Annotated[str, Text(255)]`."""

    max: int = 255
    min: int = 0

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._measured, handler(source))

    def _measured(self, value: str | None) -> str | None:
        if value is not None and not self.min <= utf16_length(value) <= self.max:
            raise ValueError(
                f"must have {self.min} to {self.max} characters"
                if self.min
                else f"must have at most {self.max} characters"
            )
        return value


def utf16_length(text: str) -> int:
    """Count UTF-16 units: a character beyond the basic plane counts twice."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _email(value: str) -> str:
    local, _, domain = value.rpartition("@")
    fits = len(local) <= 64 and len(domain) <= 255  # noqa: PLR2004 - RFC 5321 section 4.5.3.1
    if value and not (fits and _EMAIL.fullmatch(value)):
        raise ValueError("must be a well-formed e-mail address")
    return value


def is_int64(value: int) -> bool:
    """Tell whether a Java long, and so an id column, can hold it."""
    return -(2**63) <= value < 2**63


def _int64(value: int) -> int:
    if not is_int64(value):
        raise ValueError("must be a whole number of at most 64 bits")
    return value


def _spelled_out(value: Decimal) -> Decimal:
    """Write 1E+5 as 100000: who spells out an exponent later gets no more digits than there are."""
    return value.quantize(Decimal(1)) if int(value.as_tuple().exponent) > 0 else value


NotBlank = Annotated[str, AfterValidator(_not_blank)]
Email = Annotated[str, AfterValidator(_email)]
RequiredEmail = Annotated[NotBlank, AfterValidator(_email)]
Int64 = Annotated[int, AfterValidator(_int64)]
# numeric(10,2): what an amount column holds.
Money = Annotated[
    Decimal,
    Field(max_digits=10, decimal_places=2, allow_inf_nan=False),
    AfterValidator(_spelled_out),
]


def minor_units(amount: Decimal) -> int:
    """Cents of an amount with at most two decimals.

    Raises:
        ValueError: a part of a cent would be lost.
    """
    cents = amount.scaleb(2)
    if cents != cents.to_integral_value():
        raise ValueError("must have at most two decimals")
    return int(cents)


def amount_of(minor: int) -> Decimal:
    """Write cents as an amount that always shows two decimals."""
    return Decimal(minor).scaleb(-2)
