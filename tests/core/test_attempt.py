import pytest

from escalade_server.core.attempt import Live
from escalade_server.core.events import (
    ChunkArrived,
    Delta,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.rules import Rules
from escalade_server.core.task import FinishReason, Usage
from tests.core.builders import T0, model
from tests.core.parts import live, need

RULES = Rules()
REASON = ReasoningDelta("hm")
CALL = ToolCallDelta(0, "1", "f", "{}")


def begun() -> Live:
    return live(model("a/b"), need())


def took(attempt: Live, *deltas: Delta, at_ms: int = T0 + 100) -> tuple[Delta, ...]:
    return attempt.take(ChunkArrived(1, deltas), at_ms)


def test_figures_of_every_read_are_kept() -> None:
    attempt = begun()
    attempt.take(ChunkArrived(1, (), None, Usage(1, 1), "m-1"), T0)
    attempt.take(ChunkArrived(1, (), Finish(FinishReason.LENGTH), Usage(2, 2), "", 5), T0 + 9)
    attempt.take(ChunkArrived(1), T0 + 10)

    assert (attempt.usage, attempt.reported_model, attempt.cost_nanos) == (Usage(2, 2), "m-1", 5)
    assert (attempt.finish, attempt.finish_ms) == (Finish(FinishReason.LENGTH), T0 + 9)
    assert (attempt.first_ms, attempt.last_ms) == (0, 0), "no delta, no first token"


def test_r21_blank_text_is_held_until_something_follows_it() -> None:
    attempt = begun()

    assert took(attempt, TextDelta(" ")) == ()
    assert took(attempt, TextDelta("\n"), REASON, at_ms=T0 + 200) == (REASON,)
    assert took(attempt, TextDelta("a")) == (TextDelta(" "), TextDelta("\n"), TextDelta("a"))
    assert took(attempt, TextDelta(" ")) == (TextDelta(" "),)
    assert attempt.first_ms == T0 + 100


def test_r21_a_tool_call_is_content() -> None:
    attempt = begun()
    took(attempt, TextDelta(" "))

    assert took(attempt, CALL) == (TextDelta(" "), CALL)


@pytest.mark.parametrize("reason", FinishReason)
@pytest.mark.parametrize("text", ["", " ", "a"])
def test_r21_an_answer_without_content_is_empty_unless_it_is_a_refusal(
    reason: FinishReason, text: str
) -> None:
    attempt = begun()
    assert not attempt.is_empty
    attempt.take(ChunkArrived(1, (TextDelta(text),), Finish(reason)), T0)

    own = reason in (FinishReason.CONTENT_FILTER, FinishReason.REFUSAL)
    assert attempt.is_empty is (text != "a" and not own)


def test_r24_a_silent_provider_has_its_first_token_time() -> None:
    attempt = begun()

    assert attempt.patience_ms(RULES) == T0 + 30_000
    assert attempt.overdue(RULES, T0 + 29_999) is None
    assert attempt.overdue(RULES, T0 + 30_000) == Failure(
        FailureClass.TIMEOUT, "gave no token in 30.0 s"
    )


def test_r24_reasoning_is_a_first_token_and_then_the_idle_time_counts() -> None:
    attempt = begun()
    took(attempt, REASON, at_ms=T0 + 10_000)

    assert attempt.patience_ms(RULES) == T0 + 55_000
    assert attempt.overdue(RULES, T0 + 55_000) == Failure(
        FailureClass.TIMEOUT, "stalled for 45 s in mid-answer"
    )


def test_r24_the_total_time_bounds_it_all() -> None:
    attempt = begun()
    took(attempt, TextDelta("a"), at_ms=T0 + 50_000)

    assert attempt.patience_ms(RULES) == T0 + 60_000
    assert attempt.overdue(RULES, T0 + 60_000) == Failure(
        FailureClass.TIMEOUT, "was not done after 60 s"
    )


def test_r26_a_finish_waits_two_seconds_for_usage_and_is_never_overdue() -> None:
    attempt = begun()
    attempt.take(ChunkArrived(1, (TextDelta("a"),), Finish(FinishReason.STOP)), T0 + 500)

    assert attempt.patience_ms(RULES) == T0 + 2_500
    assert attempt.overdue(RULES, T0 + 10**9) is None
