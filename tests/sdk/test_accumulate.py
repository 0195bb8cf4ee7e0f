import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

import escalade
from escalade import testing
from escalade._accumulate import Accumulator
from escalade.v1 import completion_pb2, escalation_pb2

Events = list[escalation_pb2.Event]
words = st.text(min_size=1, max_size=8)


@dataclass(frozen=True)
class Piece:
    """One part of an attempt, and where it is cut into deltas."""

    kind: str
    content: str
    cuts: tuple[int, ...]

    def fragments(self) -> list[str]:
        marks = sorted({0, len(self.content), *(cut % len(self.content) for cut in self.cuts)})
        return [self.content[a:b] for a, b in itertools.pairwise(marks)]


pieces = st.builds(
    Piece,
    kind=st.sampled_from(["text", "reasoning", "tool_call", "state"]),
    content=words,
    cuts=st.lists(st.integers(0, 7), max_size=4).map(tuple),
)
attempts = st.lists(pieces, max_size=5)


def deltas(attempt: int, parts: list[Piece]) -> Events:
    made: list[completion_pb2.Delta] = []
    calls = 0
    for part in parts:
        match part.kind:
            case "text":
                made += [completion_pb2.Delta(text=piece) for piece in part.fragments()]
            case "reasoning":
                made += [completion_pb2.Delta(reasoning=piece) for piece in part.fragments()]
            case "tool_call":
                for number, piece in enumerate(part.fragments()):
                    call = completion_pb2.ToolCallDelta(index=calls, arguments_json_fragment=piece)
                    if number == 0:
                        call.id, call.name = f"c{calls}", "tool"
                    made.append(completion_pb2.Delta(tool_call=call))
                calls += 1
            case _:
                state = completion_pb2.ProviderState(dialect="d", data=part.content.encode())
                made.append(completion_pb2.Delta(provider_state=state))
    for delta in made:
        delta.attempt = attempt
    return [escalation_pb2.Event(delta=delta) for delta in made]


def expected(parts: list[Piece]) -> tuple[escalade.Part, ...]:
    """Neighbours of one kind of text are one part, whatever the cuts."""
    made: list[escalade.Part] = []
    calls = 0
    for part in parts:
        last = made[-1] if made else None
        match part.kind:
            case "text":
                if isinstance(last, escalade.Text):
                    made[-1] = escalade.Text(last.text + part.content)
                else:
                    made.append(escalade.Text(part.content))
            case "reasoning":
                if isinstance(last, escalade.Reasoning):
                    made[-1] = escalade.Reasoning(last.text + part.content)
                else:
                    made.append(escalade.Reasoning(part.content))
            case "tool_call":
                made.append(escalade.ToolCall(f"c{calls}", "tool", part.content))
                calls += 1
            case _:
                made.append(escalade.ProviderState("d", "", part.content.encode()))
    return tuple(made)


def told_text(events: list[escalade.Event]) -> str:
    """What a user has who appends text and starts over at Retracted."""
    text = ""
    for event in events:
        match event:
            case escalade.TextDelta(_, piece):
                text += piece
            case escalade.Retracted():
                text = ""
            case _:
                pass
    return text


@given(broken=st.lists(attempts, max_size=3), last=attempts, late=st.booleans())
def test_only_the_last_attempt_stands(
    broken: list[list[Piece]], last: list[Piece], *, late: bool
) -> None:
    fold = Accumulator("r", may_restart=True)
    told: list[escalade.Event] = []
    for number, parts in enumerate([*broken, last], start=1):
        events = deltas(number, parts)
        if number <= len(broken):
            events.append(testing.retracted(number))
            events += deltas(number, parts) if late else []  # void, although they come
        for event in events:
            told += [seen for seen in [fold.add(event)] if seen is not None]
            assert fold.snapshot.text == told_text(told)
            assert fold.snapshot.tool_calls == ()
    assert fold.add(testing.finished()) is None
    before = fold.snapshot
    told += fold.end()

    answer = fold.answer
    assert answer is not None
    assert answer.message.parts == expected(last)
    assert fold.snapshot.tool_calls == answer.tool_calls
    assert (before.finished, fold.snapshot.finished) == (False, True)
    assert answer.text == told_text(told) == fold.snapshot.text
    assert answer.reasoning == fold.snapshot.reasoning
    assert told[-1] == escalade.Finished(answer)


@given(words)
def test_an_answer_in_one_piece_is_told_as_text(text: str) -> None:
    end = testing.finished()
    end.finished.answer.parts.add(text=text)
    end.finished.answer.parts.add()  # a kind of a newer server
    fold = Accumulator("r", may_restart=False)
    fold.add(end)

    assert told_text(list(fold.end())) == text
    assert fold.answer is not None
    assert fold.answer.message == escalade.Message.assistant(text)


@pytest.mark.parametrize(
    "events",
    [
        [testing.text("a", attempt=1), testing.text("b", attempt=2)],
        [testing.finished(), testing.text("a")],
        [testing.finished(), testing.finished()],
        [testing.failed("BUG"), testing.finished()],
        [testing.text("a"), testing.retracted(1)],
    ],
    ids=["spliced", "after-finished", "two-ends", "after-failed", "restart-unasked"],
)
def test_a_broken_rule_is_not_believed(events: Events) -> None:
    fold = Accumulator("r", may_restart=False)
    for event in events[:-1]:
        fold.add(event)
    with pytest.raises(escalade.ProtocolViolation) as broken:
        fold.add(events[-1])

    assert broken.value.request_id == "r"


def test_retracting_what_said_nothing_is_harmless() -> None:
    fold = Accumulator("r", may_restart=False)
    fold.add(testing.retracted(1))
    fold.add(testing.text("b", attempt=2))

    assert fold.snapshot == escalade.Snapshot(attempt=2, text="b")


def test_kinds_of_a_newer_server_are_passed_over() -> None:
    fold = Accumulator("r", may_restart=False)

    assert fold.add(escalation_pb2.Event(sequence=1)) is None
    assert fold.add(escalation_pb2.Event(delta=completion_pb2.Delta(attempt=1))) is None
    assert fold.snapshot.text == ""
