"""``quality:`` of a strategy, of a layer and of a task type, as the core gets it (R21)."""

import pytest

from escalade_server.checks.gates import pattern_error
from escalade_server.core.gates import NOTHING, Demands, Gate, OnUnmet, Quality
from escalade_server.core.task import Task
from escalade_server.strategy.errors import StrategyError, StrategyErrors
from escalade_server.strategy.load import loads
from tests.strategy.strategies import GOOD, loaded, with_more

JSON = Demands(frozenset({Gate.INVALID_JSON}))
IN_LAYER = "name: premium"


def quality(text: str) -> Quality:
    return loaded(text).catalog.rules.quality


def in_premium(section: str) -> str:
    return GOOD.replace(IN_LAYER, f"{IN_LAYER}\n      quality: {section}")


def test_without_the_section_only_empty_stands() -> None:
    assert quality(GOOD) == Quality()
    assert quality(with_more("quality: {gates: [empty]}\n")) == Quality()


def test_the_strategys_own_section() -> None:
    section = "quality: {gates: [invalid_json], max_escalations: 5, on_unmet: deliver}\n"

    assert quality(with_more(section)) == Quality(JSON, escalations_max=5, on_unmet=OnUnmet.DELIVER)


def test_a_length_and_a_pattern_are_gates_by_themselves() -> None:
    found = quality(with_more("quality: {shortest_characters: 7, pattern: done}\n")).demands

    assert found == Demands(frozenset({Gate.TOO_SHORT, Gate.PATTERN}), 7, ("done",))


def test_of_a_layer() -> None:
    assert quality(in_premium("{gates: [invalid_json]}")) == Quality(by_layer={"premium": JSON})


@pytest.mark.parametrize("written", ["debug", "Debug", "debugging", "of-mine", "my_alias"])
def test_of_a_task_type_under_any_of_its_names(written: str) -> None:
    more = "" if written.lower().startswith("debug") else ", aliases: [my-alias]"
    own = written if written != "my_alias" else "of-mine"
    catalog = loaded(
        with_more(f"task_types: {{{own}: {{quality: {{gates: [invalid_json]}}{more}}}}}\n")
    ).catalog

    name = catalog.task_type(Task(written).type).name
    assert catalog.rules.quality.by_type == {name: JSON}


def test_an_empty_section_of_a_layer_or_type_asks_for_nothing() -> None:
    text = in_premium("{gates: [empty]}") + "task_types: {debug: {depth: 7}}\n"

    assert quality(text) == Quality()
    assert quality(text).demands is not None
    assert quality(text).by_type.get("debug", NOTHING) == NOTHING


def errors(text: str) -> list[StrategyError]:
    with pytest.raises(StrategyErrors) as caught:
        loads(text, environ={}, assume_keys=True, pattern_error=pattern_error)
    return list(caught.value.errors)


BAD = [
    (with_more("quality: {gates: [too_short]}\n"), "quality.gates", "asks for nothing"),
    (with_more("quality: {gates: [pattern]}\n"), "quality.gates", "asks for nothing"),
    (with_more("quality: {gates: [nice]}\n"), "quality.gates", ""),
    (with_more("quality: {pattern: '(?=x)'}\n"), "quality.pattern", "linear time"),
    (with_more("quality: {pattern: '(a)\\1'}\n"), "quality.pattern", "linear time"),
    (in_premium("{pattern: '['}"), "quality.pattern", "linear time"),
    (in_premium("{max_escalations: 3}"), "max_escalations", ""),
    (in_premium("{on_unmet: deliver}"), "on_unmet", ""),
    (with_more("task_types: {debug: {quality: {pattern: '('}}}\n"), "debug.quality.pattern",
     "linear time"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "says"), BAD)
def test_a_gate_that_cannot_be_asked_is_refused_with_its_line(
    text: str, key: str, says: str
) -> None:
    (error,) = errors(text)

    assert key in error.key
    assert error.line == 1 + text[: text.index("quality")].count("\n")
    assert says in error.problem


def test_the_engine_of_patterns_is_handed_in() -> None:
    text = with_more("quality: {pattern: '(?=x)'}\n")

    assert quality(text).demands.patterns == ("(?=x)",), "Python's own engine takes it"
    assert errors(text)
