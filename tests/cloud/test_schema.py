from contextlib import suppress
from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.errors import InvalidError
from cloud.schema import (
    Body,
    Email,
    Int64,
    Money,
    NotBlank,
    RequiredEmail,
    Text,
    amount_of,
    ensure_storable,
    minor_units,
    parse_json,
)


class Item(Body):
    name: NotBlank


class Order(Body):
    full_name: Annotated[str, Text(10)] | None = None
    count: Int64 = 0
    flag: bool = False
    amount: Money | None = None
    email: Email | None = None
    items: tuple[Item, ...] = ()
    tags: list[str] | None = None
    params: dict[str, str] | None = None


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[" * 100_000, id="nested too deep"),
        pytest.param(b'{"a":' * 1_000 + b"1" + b"}" * 1_000, id="objects nested too deep"),
        pytest.param(b"[NaN]", id="NaN"),
        pytest.param(b"[Infinity]", id="Infinity"),
        pytest.param(b"9" * 5000, id="a number of 5000 digits"),
        pytest.param(b"1e400", id="a number beyond any float"),
        pytest.param(b'{"a":1,"a":2}', id="a key twice"),
        pytest.param(b'{"a":{"b":1,"\\u0062":2}}', id="a key twice, once escaped"),
        pytest.param(b'"\\ud800"', id="half a surrogate pair"),
        pytest.param(b'"\xff"', id="no UTF-8"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param(b"{} {}", id="two documents"),
        pytest.param(b"{'a':1}", id="single quotes"),
    ],
)
def test_what_is_not_strict_json_is_refused(raw):
    with pytest.raises(InvalidError):
        parse_json(raw)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_bring_another_error_than_ours(raw):
    with suppress(InvalidError):
        parse_json(raw)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("1e-999999999", id="a tiny one"),
        pytest.param("0e999999999", id="nothing, at great length"),
        pytest.param("-0.0e-999999999", id="nothing, below zero"),
        pytest.param("1e999999999", id="a huge one"),
        pytest.param("1e-401", id="just too small"),
        pytest.param("1." + "0" * 1_000_000, id="a million digits"),
        pytest.param("9" * 1_000_000, id="a million digits, whole"),
    ],
)
def test_a_number_that_takes_long_to_compute_is_refused_as_it_is_read(number):
    """A whole number is made of an exponent by multiplying, and nothing else runs meanwhile."""
    with pytest.raises(InvalidError, match="Malformed JSON request"):
        Order.parse(parse_json(b'{"count":%s}' % number.encode()))


@pytest.mark.parametrize(
    ("number", "count"),
    [
        pytest.param(b"1E+5", 100_000, id="an exponent"),
        pytest.param(b"1200e-2", 12, id="a whole number all the same"),
        pytest.param(b"5.0000000000", 5, id="a fraction of nothing"),
    ],
)
def test_a_number_may_be_written_with_an_exponent(number, count):
    assert Order.parse(parse_json(b'{"count":%s}' % number)).count == count


@pytest.mark.parametrize(
    ("amount", "read"),
    [
        pytest.param("1E+5", "100000", id="an exponent"),
        pytest.param("0e999999999", "0", id="nothing, at great length"),
        pytest.param("10.00", "10.00", id="the scale stays"),
    ],
)
def test_an_amount_is_spelled_out(amount, read):
    assert str(Order.parse({"amount": amount}).amount) == read


def test_the_smallest_double_can_be_read():
    assert parse_json(b"[4.9406564584124654E-324]") == [Decimal("4.9406564584124654E-324")]


@pytest.mark.parametrize("levels", [65, 500, 1000])
@pytest.mark.parametrize(
    ("opened", "closed"),
    [pytest.param(b"[", b"]", id="lists"), pytest.param(b'{"a":', b"}", id="objects")],
)
def test_what_is_nested_too_deep_is_refused_with_a_reason(opened, closed, levels):
    with pytest.raises(InvalidError, match="nested deeper than 64 levels"):
        parse_json(opened * levels + b"1" + closed * levels)


def test_what_is_nested_as_deep_as_allowed_is_looked_through():
    inner = parse_json(b"[" * 63 + b'"\\u0000"' + b"]" * 63)
    with pytest.raises(InvalidError) as caught:
        Order.parse({"tags": inner})
    assert caught.value.fields == {"tags": "holds characters that cannot be stored"}


def test_text_is_looked_for_however_deep_it_sits():
    """What another reader than ours has read may be nested deeper than a stack."""
    deep: object = "a\0"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="cannot be stored"):
        ensure_storable(deep)


def test_an_amount_is_never_a_float():
    assert parse_json(b'{"a":10.00,"b":0.1,"c":7}') == {
        "a": Decimal("10.00"),
        "b": Decimal("0.1"),
        "c": 7,
    }


@pytest.mark.parametrize("data", [None, [], "x", 1, True], ids=repr)
def test_a_body_is_an_object(data):
    with pytest.raises(InvalidError, match="JSON object"):
        Order.parse(data)


@pytest.mark.parametrize(
    ("data", "field", "value"),
    [
        pytest.param({"fullName": 5}, "full_name", "5", id="a number for a string"),
        pytest.param({"fullName": Decimal("1.50")}, "full_name", "1.50", id="a decimal for one"),
        pytest.param({"fullName": True}, "full_name", "true", id="a boolean for a string"),
        pytest.param({"count": "12"}, "count", 12, id="a numeric string for a number"),
        pytest.param({"count": Decimal(3)}, "count", 3, id="a whole decimal"),
        pytest.param({"amount": "10.50"}, "amount", Decimal("10.50"), id="an amount as text"),
        pytest.param({"flag": "on"}, "flag", True, id="a boolean as text"),
        pytest.param({"flag": True}, "flag", True, id="a boolean"),
        pytest.param({"email": ""}, "email", "", id="an empty e-mail"),
        pytest.param({"email": None}, "email", None, id="no e-mail"),
        pytest.param({"unknown": object()}, "count", 0, id="an unknown field"),
        pytest.param({"full_name": "x"}, "full_name", "x", id="the Python name"),
    ],
)
def test_reading_is_as_lenient_as_jackson(data, field, value):
    assert getattr(Order.parse(data), field) == value


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        pytest.param(
            {"fullName": "x" * 11}, {"fullName": "must have at most 10 characters"}, id="too long"
        ),
        pytest.param(
            {"fullName": "\N{GRINNING FACE}" * 6},
            {"fullName": "must have at most 10 characters"},
            id="too long in UTF-16",
        ),
        pytest.param(
            {"fullName": "a\0"}, {"fullName": "holds characters that cannot be stored"}, id="a NUL"
        ),
        pytest.param(
            {"fullName": "\udc00"},
            {"fullName": "holds characters that cannot be stored"},
            id="a lone surrogate",
        ),
        pytest.param(
            {"tags": ["a", "b\0"]},
            {"tags": "holds characters that cannot be stored"},
            id="a NUL in a list",
        ),
        pytest.param(
            {"params": {"a\0": "b"}},
            {"params": "holds characters that cannot be stored"},
            id="a NUL in a key",
        ),
        pytest.param({"fullName": {}}, {"fullName": "must be text"}, id="an object for a string"),
        pytest.param({"count": None}, {"count": "is required"}, id="null"),
        pytest.param(
            {"count": 2**63},
            {"count": "must be a whole number of at most 64 bits"},
            id="beyond 64 bits",
        ),
        pytest.param({"count": 1.5}, {"count": "must be a whole number"}, id="a fraction"),
        pytest.param({"count": True}, {"count": "must be a whole number"}, id="a boolean"),
        pytest.param({"flag": "maybe"}, {"flag": "must be true or false"}, id="no boolean"),
        pytest.param({"amount": "x"}, {"amount": "must be a number"}, id="no amount"),
        pytest.param({"amount": "NaN"}, {"amount": "must be a number"}, id="NaN"),
        pytest.param(
            {"items": [{"name": "a"}, {"name": " "}]},
            {"items[1].name": "must not be blank"},
            id="blank, deep inside",
        ),
        pytest.param({"items": [{}]}, {"items[0].name": "is required"}, id="missing"),
        pytest.param({"items": "x"}, {"items": "must be a list"}, id="no list"),
        pytest.param(
            {"count": "x", "flag": []},
            {"count": "must be a whole number", "flag": "must be true or false"},
            id="two at once",
        ),
    ],
)
def test_each_field_at_fault_gets_one_reason(data, reasons):
    with pytest.raises(InvalidError) as caught:
        Order.parse(data)
    assert caught.value.fields == reasons


@pytest.mark.parametrize(
    "address",
    ["a@b", "ann@example.org", "a.b+c@x-y.org", '"odd one"@x', "a@[127.0.0.1]", "ü@ö.de"],
)
def test_an_address_as_the_jvm_services_take_it(address):
    assert Order.parse({"email": address}).email == address


@pytest.mark.parametrize(
    "address",
    [
        "a",
        "@b",
        "a@",
        "a b@c",
        "a@b@c",
        ".a@b",
        "a..b@c",
        "a@b..c",
        "a@-b",
        "a@b\n",
        "x" * 65 + "@b",
        "a@" + "x" * 256,
    ],
)
def test_what_is_no_address(address):
    with pytest.raises(InvalidError):
        Order.parse({"email": address})


@pytest.mark.parametrize("amount", ["0.001", "100000000.00", "1e9"])
def test_an_amount_fits_its_column(amount):
    with pytest.raises(InvalidError):
        Order.parse({"amount": amount})


def test_a_required_address_may_not_be_empty():
    class Form(Body):
        email: Annotated[RequiredEmail, Text(255)]

    with pytest.raises(InvalidError) as caught:
        Form.parse({"email": ""})
    assert caught.value.fields == {"email": "must not be blank"}


def test_a_rule_that_would_never_hold_is_found_at_import():
    """Pydantic ignores a type among the rules; so did a house of ours."""
    with pytest.raises(TypeError, match="email"):

        class Form(Body):
            email: Annotated[NotBlank, Email]


@given(st.integers(min_value=-(10**10), max_value=10**10))
def test_cents_and_amounts_are_each_others_inverse(cents):
    assert minor_units(amount_of(cents)) == cents


def test_an_amount_shows_two_decimals():
    assert str(amount_of(1000)) == "10.00"
    with pytest.raises(ValueError, match="decimals"):
        minor_units(Decimal("0.001"))
