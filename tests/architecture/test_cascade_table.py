"""The transition table in the cascade's docstring is read as its specification: it is whole."""

import re
import typing

import pytest

from escalade_server.core import cascade, events
from escalade_server.core.cascade import _State

EVENTS = sorted(event.__name__ for event in typing.get_args(events.Event))
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in (cascade.__doc__ or "").splitlines()
    if line.startswith("|") and not line.startswith(("| state", "|--"))
]
NAMES = {name for row in ROWS for name in re.findall(r"\b[A-Z][a-z]+[A-Za-z]*\b", row[1])}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_stands_in_the_table(event: str) -> None:
    assert event in NAMES


@pytest.mark.parametrize("state", [state.name for state in _State])
def test_every_state_stands_in_the_table(state: str) -> None:
    assert any(re.search(rf"\b{state}\b", f"{row[0]} {row[2]}") for row in ROWS)


def test_the_table_names_nothing_that_is_not_there() -> None:
    walked = {"Choice", "Pause"}  # what the walk answers, in the row of the advance

    assert NAMES - set(EVENTS) - walked == set()
    known = {state.name for state in _State} | {"(advance)", "any"}
    assert {row[0] for row in ROWS} <= known
