"""The signs by which a session shows that it struggles, in what comes in and in what came of it."""

from collections.abc import Sequence

from escalade_server.core import likeness
from escalade_server.core.session import EvidenceKind, Session, Sign, Step, Struggle, Turn
from escalade_server.core.task import FinishReason, Message, Request, Role, Text, ToolResult
from escalade_server.core.trace import AttemptRecord, AttemptStatus

OF_EVIDENCE = {
    EvidenceKind.REPEATED_TOOL_ERROR: Struggle.TOOL_ERROR,
    EvidenceKind.FAILED_CHECK: Struggle.FAILED_CHECK,
    EvidenceKind.REPHRASED_QUESTION: Struggle.SAME_QUESTION,
    EvidenceKind.OUTPUT_CUT: Struggle.OUTPUT_CUT,
}


def told_by(request: Request, before: Session, salt: bytes) -> tuple[int, tuple[Sign, ...]]:
    """Answer the hash of a request's question, and the signs that it tells or shows (R29).

    A question counts as asked again only if it was answered before: else it is tried again.
    """
    signs = [
        Sign(
            OF_EVIDENCE[each.kind],
            likeness.key_of(salt, "told", each.kind.value, each.signal_id or request.id),
        )
        for each in request.task.evidence
    ]
    signs += _tool_errors(request.messages, salt)
    question = likeness.bits_of(_question(request.messages), salt)
    if likeness.are_alike(question, before.question):
        known = next((s for s in before.signs if likeness.are_alike(s, question)), question)
        signs.append(Sign(Struggle.SAME_QUESTION, known))
    return question, tuple(signs)


def _question(messages: Sequence[Message]) -> str:
    """Answer what the user has just asked; nothing if the last word is a tool's."""
    if not messages or messages[-1].role is not Role.USER:
        return ""
    return " ".join([part.text for part in messages[-1].parts if isinstance(part, Text)])


def _tool_errors(messages: Sequence[Message], salt: bytes) -> list[Sign]:
    """Find errors among the newest tool results that came earlier in the conversation, too."""
    errors: list[int] = []
    newest: dict[int, None] = {}
    for message in messages:
        if message.role is not Role.TOOL:
            newest.clear()
        for part in message.parts:
            if isinstance(part, ToolResult) and part.is_error:
                key = likeness.key_of(salt, "error", part.text)
                errors.append(key)
                newest[key] = None
    return [
        Sign(Struggle.TOOL_ERROR, likeness.key_of(salt, "again", f"{key} {errors.count(key)}"))
        for key in newest
        if errors.count(key) > 1
    ]


def after(  # noqa: PLR0917 - as it is read: the step, what came of it, and when
    step: Step, turn: Turn, attempts: Sequence[AttemptRecord], won: AttemptRecord | None,
    output_max: int | None, now_ms: int,
) -> Session:  # fmt: skip
    """Say what is to be kept once a step is over, answered or not.

    Args:
        step: The step.
        turn: How it began.
        attempts: All that was tried for it.
        won: The one of them that answered it.
        output_max: Tokens that its caller lets an answer have, if it says so.
        now_ms: The end.
    """
    old = turn.session
    layer, model, question, clean = old.layer, old.model, old.question, old.clean
    struggle = _shown(attempts, won, output_max) if step.heeds else None
    if won is not None:
        layer, model, question = won.model.layer, won.model.key, step.question or question
        clean += bool(struggle is None and old.raised)
    until_ms = now_ms + step.ttl_ms
    return Session(layer, model, old.raised, clean, struggle, question, old.signs, now_ms, until_ms)


def _shown(
    attempts: Sequence[AttemptRecord], won: AttemptRecord | None, output_max: int | None
) -> Struggle | None:
    """Read from a step's own attempts whether it struggled."""
    if any(attempt.status is AttemptStatus.REJECTED for attempt in attempts):
        return Struggle.GATE_FAILED
    if won is None or won.finish is not FinishReason.LENGTH:
        return None
    most = won.model.output_tokens_max
    is_asked_for = output_max is not None and (most is None or output_max <= most)
    return None if is_asked_for else Struggle.OUTPUT_CUT
