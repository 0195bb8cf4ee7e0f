"""Gates in one task: what is held, what a failed one costs, and what stands in at the end (R21)."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from escalade_server.core.commands import Deliver, Reserve, Settle
from escalade_server.core.events import ChunkArrived, OutcomeReported, ReasoningDelta, ToolCallDelta
from escalade_server.core.facts import ErrorReason, Escalated, EscalationReason, Finished, Selected
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Demands, Gate, OnUnmet, Quality, Wish
from escalade_server.core.task import Delivery, FinishReason, Task, Text, Usage
from escalade_server.core.trace import AttemptStatus
from tests.core.builders import request
from tests.core.gated import DELIVER, WORDS, delivered, play, settle, strategy
from tests.core.play import Play

LONG = Demands(frozenset({Gate.TOO_SHORT}), shortest_characters=3)


class Case(NamedTuple):
    """A strategy, a request, what models say, and how the task ends."""

    quality: Quality
    answers: tuple[str | FailureClass, ...]
    text: str
    """What the caller holds at the end; empty: the task failed."""
    unmet: Gate | None = None
    wish: Wish | None = None
    type: str = "parse"


PASSED, BAD = ("good",), ("bad", "good")
CASES = {
    "no gate": Case(Quality(), ("bad",), "bad"),
    "passed": Case(Quality(WORDS), PASSED, "good"),
    "strategy-wide": Case(Quality(WORDS), BAD, "good"),
    "of the layer": Case(Quality(by_layer={"free": WORDS}), BAD, "good"),
    "of another layer": Case(Quality(by_layer={"premium": WORDS}), ("bad",), "bad"),
    "in the next layer none": Case(Quality(by_layer={"free": WORDS}), ("bad", "bad"), "bad"),
    "of the type": Case(Quality(by_type={"parse": WORDS}), BAD, "good"),
    "of another type": Case(Quality(by_type={"debug": WORDS}), ("bad",), "bad"),
    "of the request": Case(Quality(), BAD, "good", wish=Wish(WORDS)),
    "twice, then good": Case(Quality(WORDS), ("bad", "bad", "good"), "good"),
    "every layer, fail": Case(Quality(WORDS), ("bad", "bad", "bad"), ""),
    "every layer, deliver": Case(DELIVER, ("bad1", "bad2", "bad3"), "bad3", Gate.PATTERN),
    "no escalation is left": Case(replace(DELIVER, escalations_max=0), ("bad",), "bad",
                                  Gate.PATTERN),
    "one escalation, fail": Case(Quality(WORDS, escalations_max=1), ("bad", "bad"), ""),
    "a request lowers the number": Case(DELIVER, ("bad1", "bad2"), "bad2", Gate.PATTERN,
                                        Wish(escalations_max=1)),
    "a request does not raise it": Case(replace(DELIVER, escalations_max=1), ("bad1", "bad2"),
                                        "bad2", Gate.PATTERN, Wish(escalations_max=2)),
    "a request wants it delivered": Case(Quality(WORDS, escalations_max=0), ("bad",), "bad",
                                         Gate.PATTERN, Wish(on_unmet=OnUnmet.DELIVER)),
    "a request wants none": Case(replace(DELIVER, escalations_max=0), ("bad",), "",
                                 wish=Wish(on_unmet=OnUnmet.FAIL)),
    "what is above fails": Case(
        DELIVER, ("bad", *[FailureClass.OUTAGE] * 3), "bad", Gate.PATTERN),
    "what is above finds it wrong": Case(
        DELIVER, ("bad", FailureClass.BAD_REQUEST), "bad", Gate.PATTERN),
    "the last rejected one counts": Case(
        DELIVER, ("bad1", "bad2", FailureClass.OUTAGE), "bad2", Gate.PATTERN),
    "nothing is no answer": Case(DELIVER, ("bad", "  ", "  "), "bad", Gate.PATTERN),
    "nothing never stands in": Case(replace(DELIVER, escalations_max=0), ("   ",), ""),
}  # fmt: skip


@pytest.mark.fault("P15")
@pytest.mark.parametrize("delivery", [Delivery.STREAM, Delivery.WHOLE])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_r21_how_a_task_ends(case: Case, delivery: Delivery) -> None:
    asked = replace(
        request(task=Task(case.type, 0, 0)), quality=case.wish, delivery=delivery, content="hash"
    )
    game = settle(play(strategy(case.quality), *case.answers, req=asked))

    rejected = [answer for answer in case.answers if isinstance(answer, str)]
    gates = [a.gate for a in (game.finished if case.text else game.failed).report.attempts]
    assert len(gates) == len(case.answers)
    assert game.cascade.closed
    if not case.text:
        assert game.failed.reason is ErrorReason.QUALITY_NOT_MET
        assert not delivered(game)
        return
    whole = "".join(p.text for p in game.finished.answer.parts if isinstance(p, Text))
    assert (game.text if delivery is Delivery.STREAM else whole) == case.text
    assert game.finished.unmet is case.unmet
    number = case.answers.index(case.text) + 1
    if case.answers.count(case.text) > 1:
        number = len(case.answers)
    assert set(delivered(game)) <= {number}, "nothing of a rejected answer was delivered"
    answered = game.finished.report.attempts[number - 1]
    assert game.finished.report.answered is answered.model
    marked = [order for order in game.log if isinstance(order, Settle) and order.figures]
    assert [order.attempt for order in marked] == [number], "its request id is answered (R27)"
    assert len(rejected) <= 3


def test_a_failed_gate_is_charged_listed_and_escalates_with_reason_quality() -> None:
    game = settle(play(strategy(Quality(WORDS)), "bad", "good"))

    first, second = game.finished.report.attempts
    assert (first.status, first.gate, first.detail) == (
        AttemptStatus.REJECTED, Gate.PATTERN, "was bad",
    )  # fmt: skip
    assert first.usage == Usage(100, 10)
    assert first.list_nanos > 0
    assert second.gate is None
    (escalated,) = game.told(Escalated)
    assert (escalated.reason, escalated.failed_attempt) == (EscalationReason.QUALITY, 1)
    assert "mini: was bad" in game.finished.report.story
    assert [c.model.layer for c in game.last(Reserve).candidates] == ["budget", "budget"], (
        "the whole layer is rejected: its other model is not tried"
    )


def test_deltas_are_held_until_the_gates_have_decided_and_selected_says_so() -> None:
    game = Play(strategy(Quality(WORDS | LONG)), request())
    game.start()
    game.grant()
    game.feed(ChunkArrived(1, (ReasoningDelta("hm"),)))
    game.says("go")
    game.feed(ChunkArrived(1, (ToolCallDelta(0, "c1", "f", "{}"),)))
    assert game.told(Selected)[0].held_by == (Gate.TOO_SHORT, Gate.PATTERN)
    assert not delivered(game)

    orders = game.finishes()
    kinds = [type(order) for order in orders]
    assert kinds.index(Deliver) < kinds.index(Settle)
    assert [len(order.deltas) for order in orders if isinstance(order, Deliver)] == [3]


def test_without_a_gate_nothing_is_held() -> None:
    game = Play(strategy(Quality(on_unmet=OnUnmet.DELIVER)), request())
    game.start()
    game.grant()

    assert [order for order in game.says("Hi") if isinstance(order, Deliver)]
    assert game.told(Selected)[0].held_by == ()


class Refuses(NamedTuple):
    """How a refusal is dealt with."""

    gates: frozenset[Gate]
    layers: list[str]


@pytest.mark.parametrize(
    "case", [Refuses(frozenset(), ["free"]), Refuses(frozenset({Gate.REFUSAL}), ["free", "budget"])]
)
def test_a_refusal_goes_to_another_vendor_only_by_the_strategys_gate(case: Refuses) -> None:
    game = Play(strategy(Quality(Demands(case.gates))), request())
    game.start()
    game.grant()
    game.says("bad")  # as the checker of these tests has it
    game.finishes(reason=FinishReason.REFUSAL)

    if len(case.layers) > 1:
        game.grant()
    assert [fact.model.layer for fact in game.told(Selected)] == case.layers


def test_a_filters_error_that_fails_the_gate_is_charged_as_the_filter_is() -> None:
    gated = play(strategy(Quality(Demands(frozenset({Gate.REFUSAL})))), FailureClass.CONTENT)
    plain = play(strategy(Quality()), FailureClass.CONTENT)

    assert gated.last(Settle) == replace(plain.last(Settle), tally=None)
    assert gated.last(Reserve).attempt == 2


def test_under_route_gates_are_the_callers() -> None:
    game = Play(strategy(DELIVER), replace(request(), delivery=Delivery.ROUTE))
    game.start()
    game.grant()
    assert game.told(Selected)[0].held_by == ()
    for number in (1, 2):
        game.feed(OutcomeReported(number, Usage(1, 1), rejected="pattern", gate=Gate.PATTERN))
        game.grant()
    game.feed(OutcomeReported(3, Usage(1, 1), rejected="their own"))

    gates = [attempt.gate for attempt in game.failed.report.attempts]
    assert gates == [Gate.PATTERN, Gate.PATTERN, None]
    assert not isinstance(game.outcome, Finished)
