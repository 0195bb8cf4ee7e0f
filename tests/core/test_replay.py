"""Recorded tasks order today what they ordered when they were recorded."""

import json

import pytest

from tests.core.record import SCENES, TRACES, recorded


@pytest.mark.parametrize("name", SCENES)
def test_the_same_events_lead_to_the_same_orders(name: str) -> None:
    then = json.loads((TRACES / f"{name}.json").read_text())

    assert json.loads(recorded(name)) == then


def test_no_trace_is_left_over() -> None:
    assert {path.stem for path in TRACES.glob("*.json")} == set(SCENES)
