from dataclasses import replace

import pytest

from escalade_server.core.attempt import Ending, Over
from escalade_server.core.calling import DRAIN_MS, Calling
from escalade_server.core.commands import CancelCall, Command, Deliver
from escalade_server.core.events import (
    AttemptFailed,
    ChunkArrived,
    Finish,
    StreamEnded,
    TextDelta,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.rules import Rules
from escalade_server.core.task import Delivery, FinishReason, Usage
from tests.core.builders import T0, model, request
from tests.core.parts import need

STOP = Finish(FinishReason.STOP)
BROKE = Failure(FailureClass.OUTAGE, "connection reset")
WORD = ChunkArrived(1, (TextDelta("word"),))


class Line:
    """A call that has begun, and what was ordered of it."""

    def __init__(
        self, *, delivery: Delivery = Delivery.STREAM, drains: bool = False, others: bool = True
    ) -> None:
        self.calling = Calling(replace(request(), delivery=delivery), Rules())
        each = replace(model("a/b"), bills_after_cancel=drains)
        candidate = need().candidate(each, None)
        self.live = self.calling.prepare(1, candidate, "t.1", T0, others=others)
        self.calling.live = self.live
        self.out: list[Command] = []

    def hears(self, *news: ChunkArrived | StreamEnded | AttemptFailed) -> list[Over | None]:
        return [self.calling.hear(each, T0 + 10, self.out) for each in news]


@pytest.mark.parametrize(("others", "first_ms"), [(True, 30_000), (False, 60_000)])
def test_r24_the_last_candidate_may_take_all_the_time_that_is_left(
    *, others: bool, first_ms: int
) -> None:
    line = Line(others=others)

    assert (line.live.first_token_by_ms, line.live.total_by_ms) == (T0 + first_ms, T0 + 60_000)
    assert line.calling.wake_at_ms == T0 + first_ms


def test_r24_half_of_what_is_left_and_the_total_are_bounds() -> None:
    calling = Calling(request(deadline_ms=T0 + 10_000), Rules())
    candidate = need().candidate(model("a/b"), None)
    assert calling.prepare(1, candidate, "t.1", T0, others=True).first_token_by_ms == T0 + 5_000

    patient = Calling(request(deadline_ms=T0 + 10**9), Rules())
    assert patient.prepare(1, candidate, "t.1", T0, others=True).total_by_ms == T0 + 900_000


def test_deltas_go_on_at_once_and_the_answer_ends_with_finish_and_usage() -> None:
    line = Line()

    news = line.hears(WORD, ChunkArrived(1, (), STOP), ChunkArrived(1, (), None, Usage(1, 1)))

    assert news == [None, None, Over(line.live, Ending.WHOLE)]
    assert line.out == [Deliver(1, (TextDelta("word"),))]
    assert line.live.delivered
    assert line.calling.live is None
    assert line.hears(WORD, StreamEnded(1)) == [None, None], "late news"


def test_a_whole_answer_is_kept_and_nothing_is_delivered() -> None:
    line = Line(delivery=Delivery.WHOLE)

    line.hears(WORD)

    assert (line.out, line.live.delivered) == ([], False)
    assert line.live.fold.parts()


@pytest.mark.parametrize("end", [StreamEnded(1), AttemptFailed(1, BROKE)])
def test_r26_with_a_finish_reason_the_answer_is_whole(end: StreamEnded | AttemptFailed) -> None:
    line = Line()

    assert line.hears(WORD, ChunkArrived(1, (), STOP), end)[-1] == Over(line.live, Ending.WHOLE)


def test_r26_without_a_finish_reason_it_is_broken() -> None:
    cut = Failure(FailureClass.PROTOCOL, "broke off without a finish reason")
    ended, failed = Line(), Line()

    assert ended.hears(WORD, StreamEnded(1))[-1] == Over(ended.live, Ending.BROKEN, cut)
    assert failed.hears(WORD, AttemptFailed(1, BROKE))[-1] == Over(
        failed.live, Ending.BROKEN, BROKE
    )


def test_news_of_other_attempts_is_ignored() -> None:
    line = Line()

    assert line.hears(ChunkArrived(2, (TextDelta("x"),)), StreamEnded(2)) == [None, None]
    assert line.out == []


def test_a_call_that_is_silent_for_too_long_is_cancelled() -> None:
    line = Line()
    assert line.calling.overdue(T0 + 29_999, line.out) is None

    over = line.calling.overdue(T0 + 30_000, line.out)

    assert over is not None
    assert over.failure is not None
    assert over.failure.cls is FailureClass.TIMEOUT
    assert line.out == [CancelCall(1)]
    assert line.calling.overdue(T0 + 10**9, line.out) is None


def test_r26_usage_that_does_not_come_is_not_waited_for() -> None:
    line = Line()
    line.hears(WORD, ChunkArrived(1, (), STOP))
    line.out.clear()

    assert line.calling.overdue(T0 + 10 + 2_000, line.out) == Over(line.live, Ending.WHOLE)
    assert line.out == []


def test_r25_a_dropped_call_is_cancelled() -> None:
    line = Line()

    assert line.calling.drop(T0, line.out) == Over(line.live, Ending.DROPPED)
    assert line.out == [CancelCall(1)]
    assert line.calling.wake_at_ms is None
    assert line.calling.drop(T0, line.out) is None


def dropped() -> Line:
    line = Line(drains=True)
    assert line.calling.drop(T0, line.out) is None
    assert line.out == [CancelCall(1, drain=True)]
    assert line.calling.wake_at_ms == T0 + DRAIN_MS
    return line


@pytest.mark.parametrize("end", [StreamEnded(1), AttemptFailed(1, BROKE)])
def test_r25_what_bills_to_its_end_is_read_on(end: StreamEnded | AttemptFailed) -> None:
    line = dropped()

    news = line.hears(StreamEnded(2), WORD, ChunkArrived(1, (), STOP, Usage(1, 1)), end)

    assert news == [None, None, None, Over(line.live, Ending.DRAINED)]
    assert line.live.usage == Usage(1, 1)
    assert line.out == [CancelCall(1, drain=True)], "nobody is there to deliver to"
    assert line.calling.draining is None


def test_r25_a_drain_has_its_time() -> None:
    line = dropped()
    assert line.calling.overdue(T0 + DRAIN_MS - 1, line.out) is None

    assert line.calling.overdue(T0 + DRAIN_MS, line.out) == Over(line.live, Ending.DRAINED)
    assert line.out[-1] == CancelCall(1)


def test_r32_a_lease_is_extended_for_the_open_attempt_only() -> None:
    line = Line()
    line.calling.extend(2, T0 + 20_000)
    assert line.calling.wake_at_ms == T0 + 30_000

    line.calling.extend(1, T0 + 20_000)

    assert line.calling.wake_at_ms == T0 + 60_000
