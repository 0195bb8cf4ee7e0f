from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core import complexity
from escalade_server.core.catalog import Scoring
from escalade_server.core.complexity import UNITS_PER_MICRO, UNITS_PER_POINT, Score, Traits
from escalade_server.core.task import (
    FormatKind,
    Image,
    Message,
    ProviderState,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    Task,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from escalade_server.core.triggers import Comparison, ComplexityTrigger
from tests.core.builders import T0, three_layers

DEFAULT = Scoring()
V1 = Scoring(300_000, 400_000, 300_000)
weights = st.integers(0, 2_000_000)


def points(scoring: Scoring, depth: int, files: int, tokens: int) -> Fraction:
    return Fraction(
        complexity.score(scoring, files=files, depth=depth, tokens=tokens).units, UNITS_PER_POINT
    )


@pytest.mark.parametrize(
    ("scoring", "depth", "files", "tokens", "expected"),
    [
        (DEFAULT, 1, 0, 0, "0.7"),
        (DEFAULT, 7, 0, 0, "4.9"),
        (DEFAULT, 8, 10, 50_000, "9.6"),
        (DEFAULT, 9, 10, 50_000, "10"),
        (V1, 9, 10, 50_000, "9.6"),
        (V1, 5, 10, 50_000, "8"),
        (DEFAULT, 5, 99, 10**9, "7.5"),
        (DEFAULT, 5, -3, -1, "3.5"),
    ],
)
def test_r3_scores_of_the_reference_weights_are_exact(
    scoring: Scoring, depth: int, files: int, tokens: int, expected: str
) -> None:
    assert points(scoring, depth, files, tokens) == Fraction(expected)


def test_r3_the_score_is_capped_and_the_parts_are_not() -> None:
    found = complexity.score(DEFAULT, files=10, depth=9, tokens=50_000)

    assert Fraction(found.uncapped_units, UNITS_PER_POINT) == Fraction("10.3")
    parts = (found.files_units, found.depth_units, found.context_units)
    assert [Fraction(p, UNITS_PER_POINT) for p in parts] == [3, Fraction("6.3"), 1]


def test_r3_exactly_eight_is_not_above_eight() -> None:
    found = complexity.score(V1, files=10, depth=5, tokens=50_000)
    above = ComplexityTrigger(Comparison.GT, 8_000_000, "task.complexity > 8")
    at_least = ComplexityTrigger(Comparison.GE, 8_000_000, "task.complexity >= 8")

    assert not complexity.holds(above, found.units)
    assert complexity.holds(at_least, found.units)


@given(
    st.tuples(weights, weights, weights),
    st.integers(0, 12),
    st.integers(0, 10),
    st.integers(0, 60_000),
    st.integers(0, 10_000_000),
)
def test_r3_every_comparison_is_exact(
    micro: tuple[int, int, int], files: int, depth: int, tokens: int, value_micro: int
) -> None:
    by_files, by_depth, by_context = (Fraction(w, 1_000_000) for w in micro)
    exact = 10 * (
        by_files * min(Fraction(files, 10), Fraction(1))
        + by_depth * Fraction(depth, 10)
        + by_context * min(Fraction(tokens, 50_000), Fraction(1))
    )
    value = Fraction(value_micro, 1_000_000)

    found = complexity.score(Scoring(*micro), files=files, depth=depth, tokens=tokens)

    assert Fraction(found.uncapped_units, UNITS_PER_POINT) == exact
    assert found.uncapped_units == found.files_units + found.depth_units + found.context_units
    capped = min(exact, Fraction(10))
    for comparison, truth in (
        (Comparison.GT, capped > value),
        (Comparison.GE, capped >= value),
        (Comparison.LT, capped < value),
        (Comparison.LE, capped <= value),
        (Comparison.EQ, capped == value),
    ):
        assert (
            complexity.holds(ComplexityTrigger(comparison, value_micro, ""), found.units) is truth
        )


def test_r3_a_stated_complexity_has_no_parts() -> None:
    found = complexity.stated(8_000_001)

    assert found == Score(8_000_001 * UNITS_PER_MICRO, 8_000_001 * UNITS_PER_MICRO, 0, 0, 0)


def asked(*parts: Text | Image | ToolCall | ToolResult | Reasoning, task: Task) -> Request:
    return Request("r1", task, (Message(Role.USER, parts),), deadline_ms=T0)


def test_bytes_of_everything_that_goes_upstream_are_counted() -> None:
    state = ProviderState("openai", "m", b"opaque")
    messages = (
        Message(Role.USER, (Text("four"), Text("é"), Image("image/png", b"picture"))),
        Message(Role.ASSISTANT, (Reasoning("hm"), ToolCall("1", "né", "{é}"), state)),
        Message(Role.TOOL, (ToolResult("1", "ok"),)),
    )
    req = Request(
        "r1",
        Task(),
        messages,
        tools=(Tool("né", "ab", "{}"),),
        response_format=ResponseFormat(FormatKind.JSON_SCHEMA, "n", '"é"'),
    )

    assert complexity.size(req) == (4 + (4 + 2) + (2 + 3 + 4) + 2 + 7, 1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Why does this test fail?", "debug"),
        ("Here is a traceback", "debug"),
        ("Please extract all the names.", "parse"),
        ("Design a billing system for us", "architecture"),
        ("Tell me a story.", "other"),
        ("  \n", "other"),
    ],
)
def test_a_type_is_estimated_from_the_verb(text: str, kind: str) -> None:
    found = complexity.traits(asked(Text(text), task=Task(files=0, tokens=0)), three_layers(), 0)

    assert found.type.name == kind
    assert bool(found.estimated) == bool(text.strip())


def test_what_is_not_stated_is_estimated_and_said() -> None:
    text = "Fix this failing test: a.py, b/c.py and a.py"
    req = asked(Image("image/png", b""), Text(" "), Text(text), task=Task())

    found = complexity.traits(req, three_layers(), 44)

    assert (found.type.name, found.files, found.tokens) == ("debug", 2, 11)
    assert dict(found.estimated) == {
        "type": "the last message says 'fix this failing test'",
        "files": "2 file names in the last message",
        "tokens": "44 bytes of messages / 4",
    }


def test_what_is_stated_is_not_estimated() -> None:
    req = asked(Text("debug a.py"), task=Task(type="parsing", files=3, tokens=5))

    found = complexity.traits(req, three_layers(), 44)

    assert (found.type.name, found.files, found.tokens, found.estimated) == ("parse", 3, 5, ())


def test_a_request_without_words_is_other() -> None:
    req = asked(Image("image/png", b""), task=Task())

    assert complexity.traits(req, three_layers(), 0) == Traits(three_layers().other_type, 0, 0, ())
