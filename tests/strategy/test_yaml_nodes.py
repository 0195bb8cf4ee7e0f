"""YAML 1.2 core types, places, and what is refused before any key is looked at (faults G)."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.yaml_nodes import SIZE_BYTES_MAX, Spot, parse


def value_of(text: str, environ: dict[str, str] | None = None) -> object:
    return parse(f"key: {text}\n", "f.yaml", environ or {}).root["key"]


@pytest.mark.fault("G3")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("1e3", Decimal(1000)),
        ("0.1", Decimal("0.1")),
        (".5", Decimal("0.5")),
        ("8_000", "8_000"),
        ("2026-11-23", "2026-11-23"),
        ("true", True),
        ("False", False),
        ("'true'", "true"),
        ('"50"', "50"),
        ("-7", -7),
        ("=", "="),
        ("!!str 50", "50"),
        ("!!int 50", 50),
        (".inf", Decimal("Infinity")),
        ("-.INF", Decimal("-Infinity")),
    ],
)
def test_core_types(text: str, expected: object) -> None:
    found = value_of(text)

    assert found == expected
    assert type(found) is type(expected)


def test_nan_is_a_number_that_parsers_refuse() -> None:
    found = value_of(".nan")

    assert isinstance(found, Decimal)
    assert found.is_nan()


def test_every_key_and_value_has_its_place() -> None:
    document = parse("a:\n  - b: 1\n    c: two\n", "f.yaml", {})

    assert document.keys["a", 0, "c"] == Spot(3, 5, "c")
    assert document.values["a", 0, "c"] == Spot(3, 8, "two")
    assert document.spot(("a", 0, "missing")) == Spot(2, 5)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{last}'] * 9)}]\n"
    for last, this in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.fault("G1", "G2", "G12", "G14")
@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\na: 2\n", 2, "duplicate key"),
        ("a:\n  b: 1\n  c: 2\n  b: 1\n", 4, "duplicate key"),
        ("a: !!python/object:os.system x\n", 1, "tags are not allowed"),
        ("a: !own x\n", 1, "tags are not allowed"),
        ("a: !!set {x}\n", 1, "tags are not allowed"),
        ("a: !!int x\n", 1, "not a whole number"),
        ("a: !!float x\n", 1, "not a number"),
        ("a: !!bool x\n", 1, "not true or false"),
        ("a:\nb: 1\n", 1, "the key has no value"),
        ("a: ~\n", 1, "the key has no value"),
        ("1: x\n", 1, "a key must be text"),
        ("? [x]\n: y\n", 1, "a key must be text"),
        ("a: ${UNSET_NAME}\n", 1, "the placeholder is not set"),
        ("a: 'x ${UNSET_NAME} y'\n", 1, "the placeholder is not set"),
        ("a: &a [*a]\n", 1, "an alias holds itself"),
        (BOMB, 1, "the file holds more than 50000 values"),
        ("a: &a x\nb: [" + "*a, " * 51 + "]\n", 2, "not YAML: more than 50 aliases"),
        ("a: " + "9" * 41 + "\n", 1, "the number is out of range"),
        ("a: 1e999999999\n", 1, "the number is out of range"),
        ("a: [\n", 2, "not YAML"),
        ("a: b: c\n", 1, "not YAML"),
        ("\ta: 1\n", 1, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: '\x01'\n", 1, "not YAML"),
        ("a: *nobody\n", 1, "not YAML"),
        ("- a\n", 1, "the file holds no strategy"),
        ("", 1, "the file holds no strategy"),
        ("# only a comment\n", 1, "the file holds no strategy"),
        ("a: " + "[" * 3000 + "\n", 1, "the file is nested too deeply"),
        ("a: " + "x" * SIZE_BYTES_MAX + "\n", 1, "the file is too large"),
    ],
)
def test_what_is_refused(text: str, line: int, problem: str) -> None:
    with pytest.raises(StrategyErrors) as caught:
        parse(text, "f.yaml", {})

    found = caught.value.errors
    assert [(error.line, error.problem.startswith(problem)) for error in found] == [(line, True)]


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(StrategyErrors, match="UTF-8"):
        parse(b"a: \xff\xfe\xfd\n", "f.yaml", {})


def test_control_characters_in_bytes_are_refused() -> None:
    with pytest.raises(StrategyErrors, match="special characters"):
        parse(b"a: \x01\n", "f.yaml", {})


def test_a_byte_order_mark_and_crlf_are_no_fault() -> None:
    assert parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "f.yaml", {}).root == {"a": 1, "b": 2}


def test_all_errors_are_collected() -> None:
    with pytest.raises(StrategyErrors) as caught:
        parse("a: ~\nb: !x y\nb: 2\n", "f.yaml", {})

    assert [error.line for error in caught.value] == [1, 2, 3]


def test_placeholders_are_filled_and_typed_like_what_they_stand_for() -> None:
    assert value_of("${AMOUNT}", {"AMOUNT": "8"}) == 8
    assert value_of("'${AMOUNT}'", {"AMOUNT": "8"}) == "8"
    assert value_of("http://${HOST}/v1", {"HOST": "h"}) == "http://h/v1"
    assert value_of("${TEXT}", {"TEXT": "a: [b"}) == "a: [b"


def test_what_a_placeholder_stands_for_is_not_shown() -> None:
    document = parse("key: ${SECRET_TEXT}\n", "f.yaml", {"SECRET_TEXT": "s3cret"})

    assert document.spot(("key",)).text == "${SECRET_TEXT}"


@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_refused(data: bytes) -> None:
    try:
        refused = None
        parse(data, "f.yaml", {})
    except StrategyErrors as errors:
        refused = errors.errors

    assert refused is None or len(refused) > 0
