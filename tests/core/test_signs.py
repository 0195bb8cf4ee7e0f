"""What of a request, and of what came of it, shows that a session struggles (R29)."""

from dataclasses import replace

import pytest

from escalade_server.core import signs
from escalade_server.core.likeness import NO_QUESTION
from escalade_server.core.session import (
    NEW,
    Evidence,
    EvidenceKind,
    Session,
    Step,
    Struggle,
    Turn,
    begin,
)
from escalade_server.core.task import (
    Basis,
    FinishReason,
    Message,
    Request,
    Role,
    Task,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from escalade_server.core.trace import AttemptRecord, AttemptStatus
from tests.core.builders import T0, request, three_layers

SALT = b"s" * 32
QUESTION = "Why does the build of the billing service fail on the main branch since this morning?"
MODEL = three_layers().layers[0].models[0]


def told(asked: Request, before: Session = NEW) -> list[Struggle]:
    return [sign.what for sign in signs.told_by(asked, before, SALT)[1]]


def ids(asked: Request, before: Session = NEW) -> list[int]:
    return [sign.id for sign in signs.told_by(asked, before, SALT)[1]]


def with_evidence(*evidence: Evidence, id_: str = "r1") -> Request:
    return replace(request(), id=id_, task=Task(session_id="s", evidence=evidence))


def talk(*messages: Message) -> Request:
    return replace(request(), messages=messages)


def user(text: str) -> Message:
    return Message(Role.USER, (Text(text),))


def tool(text: str, *, is_error: bool = True) -> Message:
    return Message(Role.TOOL, (ToolResult("c", text, is_error),))


CALL = Message(Role.ASSISTANT, (ToolCall("c", "run", "{}"),))


@pytest.mark.parametrize("kind", EvidenceKind)
def test_each_kind_of_evidence_is_a_sign(kind: EvidenceKind) -> None:
    assert told(with_evidence(Evidence(kind, "x"))) == [signs.OF_EVIDENCE[kind]]


def test_a_signal_is_known_by_kind_and_id() -> None:
    check, cut = EvidenceKind.FAILED_CHECK, EvidenceKind.OUTPUT_CUT
    one, same, other, third = ids(
        with_evidence(
            Evidence(check, "a"), Evidence(check, "a"), Evidence(check, "b"), Evidence(cut, "a")
        )
    )
    assert one == same
    assert len({one, other, third}) == 3


def test_a_signal_without_an_id_is_the_requests_own() -> None:
    nameless = Evidence(EvidenceKind.FAILED_CHECK)
    assert ids(with_evidence(nameless)) == ids(with_evidence(nameless))
    assert ids(with_evidence(nameless)) != ids(with_evidence(nameless, id_="r2"))


def test_a_question_that_was_answered_and_comes_again_is_a_sign_once() -> None:
    asked = request(QUESTION)
    question, found = signs.told_by(asked, NEW, SALT)
    assert not found
    before = Session(question=question)
    assert told(request(f"{QUESTION.upper()}!!"), before) == [Struggle.SAME_QUESTION]
    turn = begin(Step("k", before, signs=signs.told_by(asked, before, SALT)[1]), 2)
    assert turn.raised == 1
    again = begin(Step("k", turn.session, signs=signs.told_by(asked, turn.session, SALT)[1]), 2)
    assert again.raised == 1
    assert again.why is None
    assert told(request("Now write a test that shows it is mended for good."), before) == []


def test_the_steps_of_one_question_do_not_ask_it_again() -> None:
    before = Session(question=signs.told_by(request(QUESTION), NEW, SALT)[0])
    step = talk(user(QUESTION), CALL, tool("fine", is_error=False))
    assert signs.told_by(step, before, SALT) == (NO_QUESTION, ())


def test_the_same_tool_error_again_is_a_sign_each_time_it_comes() -> None:
    once = talk(user(QUESTION), CALL, tool("no such file"))
    twice = talk(*once.messages, CALL, tool("no such file"))
    thrice = talk(*twice.messages, CALL, tool("no such file"))
    assert told(once) == []
    assert told(twice) == told(thrice) == [Struggle.TOOL_ERROR]
    assert ids(twice) == ids(twice)
    assert ids(twice) != ids(thrice)


def test_other_errors_good_results_and_old_errors_are_no_sign() -> None:
    both = (CALL, tool("a"), CALL, tool("a"))
    assert told(talk(CALL, tool("a"), CALL, tool("b"))) == []
    assert told(talk(CALL, tool("a", is_error=False), CALL, tool("a", is_error=False))) == []
    assert told(talk(*both, Message(Role.ASSISTANT, (Text("I see."),)))) == []
    assert told(talk(*both, CALL, tool("ok", is_error=False))) == []


def attempt(
    status: AttemptStatus = AttemptStatus.OK,
    finish: FinishReason | None = FinishReason.STOP,
    most: int | None = None,
) -> AttemptRecord:
    model = replace(MODEL, output_tokens_max=most)
    return AttemptRecord(
        1, model, "r", status, "", finish, None, "", 200, T0, T0, T0, Usage(), 0, 0, Basis.REPORTED
    )


def after(
    *attempts: AttemptRecord, before: Session = NEW, output_max: int | None = None,
    heeds: bool = True, question: int = NO_QUESTION,
) -> Session:  # fmt: skip
    won = attempts[-1] if attempts and attempts[-1].status is AttemptStatus.OK else None
    step = Step("k", before, question, heeds=heeds, ttl_ms=1_000)
    turn = Turn(0, lowered=False, why=None, session=before)
    return signs.after(step, turn, attempts, won, output_max, T0)


def test_an_answer_is_kept_by_model_and_layer_for_its_time() -> None:
    kept = after(attempt(), question=9)
    assert (kept.layer, kept.model, kept.question) == ("free", MODEL.key, 9)
    assert (kept.seen_ms, kept.until_ms) == (T0, T0 + 1_000)
    assert kept.struggle is None


def test_a_step_without_an_answer_is_neither_clean_nor_asked() -> None:
    before = Session("low", "m", 1, 1, question=3, signs=(4,))
    kept = after(attempt(AttemptStatus.FAILED, None), before=before, question=9)
    assert replace(kept, seen_ms=0, until_ms=0) == before


@pytest.mark.parametrize("raised", [0, 1])
def test_a_clean_step_counts_while_the_start_is_raised(raised: int) -> None:
    assert after(attempt(), before=Session(raised=raised)).clean == raised


def test_a_rejected_answer_is_a_struggle_whoever_answered_in_the_end() -> None:
    rejected = attempt(AttemptStatus.REJECTED)
    kept = after(rejected, attempt(), before=Session(raised=1))
    assert (kept.struggle, kept.clean, kept.model) == (Struggle.GATE_FAILED, 0, MODEL.key)
    assert after(rejected).struggle is Struggle.GATE_FAILED
    assert after(rejected, attempt(), heeds=False).struggle is None


@pytest.mark.parametrize(
    ("asked", "most", "struggle"),
    [
        (None, None, Struggle.OUTPUT_CUT),
        (None, 100, Struggle.OUTPUT_CUT),
        (200, 100, Struggle.OUTPUT_CUT),
        (100, 100, None),
        (50, None, None),
    ],
)
def test_a_cut_counts_unless_its_caller_asked_for_it(
    asked: int | None, most: int | None, struggle: Struggle | None
) -> None:
    cut = attempt(finish=FinishReason.LENGTH, most=most)
    assert after(cut, output_max=asked).struggle is struggle
