import pytest

from escalade_server.core.answer import Fold
from escalade_server.core.events import (
    Delta,
    ReasoningDelta,
    StateDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.task import ProviderState, Reasoning, Text, ToolCall

STATE = ProviderState("openai", "mini", b"opaque")
DELTAS: list[Delta] = [
    TextDelta("Hé"),
    ReasoningDelta("hm"),
    ToolCallDelta(1, "call-b", "write", "{"),
    ToolCallDelta(0, "call-a", "read", ""),
    ReasoningDelta("é"),
    ToolCallDelta(1, "", "", '"é"}'),
    TextDelta("llo"),
    StateDelta(STATE),
]


def test_u27_an_answer_is_put_together_by_kind_and_slot() -> None:
    fold = Fold(keep=True)
    for delta in DELTAS:
        fold.add((delta,))

    assert fold.parts() == (
        Reasoning("hmé"),
        Text("Héllo"),
        ToolCall("call-a", "read", ""),
        ToolCall("call-b", "write", '{"é"}'),
        STATE,
    )


@pytest.mark.parametrize("keep", [True, False])
def test_bytes_are_counted_whether_it_is_kept_or_not(*, keep: bool) -> None:
    fold = Fold(keep=keep)
    fold.add(DELTAS)

    assert fold.output_bytes == 3 + 2 + (5 + 1) + 4 + 2 + 5 + 3
    assert bool(fold.parts()) is keep


@pytest.mark.parametrize(
    ("delta", "content"),
    [
        (TextDelta(""), False),
        (TextDelta(" \n\t"), False),
        (TextDelta(" a"), True),
        (ReasoningDelta("a"), False),
        (StateDelta(STATE), False),
        (ToolCallDelta(0, "", "", ""), True),
    ],
)
def test_r21_what_counts_as_content(delta: Delta, *, content: bool) -> None:
    fold = Fold(keep=False)
    fold.add((delta,))

    assert fold.has_content is content
    fold.add((TextDelta("a"), TextDelta(" ")))
    assert fold.has_content


def test_nothing_folds_to_nothing() -> None:
    assert Fold(keep=True).parts() == ()
