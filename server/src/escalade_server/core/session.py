"""The steps of an agent's session: which model knows it, and how hard it struggles (R29).

Pure: what is kept of the session and what is new go in, and what is to be kept comes out. A raise
lasts ``CLEAN_STEPS`` steps, the one that brought the sign among them; after so many without a new
sign the start is one layer lower again. At one step the start rises by one layer at most, and one
sign raises it once, however often it is told.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from escalade_server.core import likeness
from escalade_server.core.record import record

CLEAN_STEPS = 3
SIGNS_MAX = 32
"""So many signs are remembered; an older one that is told again counts as new."""


class EvidenceKind(Enum):
    """A sign of struggle that a caller has seen in a session (R29)."""

    REPEATED_TOOL_ERROR = "repeated_tool_error"
    FAILED_CHECK = "failed_check"
    REPHRASED_QUESTION = "rephrased_question"
    OUTPUT_CUT = "output_cut"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One sign of struggle; ``signal_id`` tells it from others, empty: it is this request's own."""

    kind: EvidenceKind
    signal_id: str = ""


class Struggle(Enum):
    """What showed that a session struggles: the callers' kinds of evidence, and our own."""

    TOOL_ERROR = "tool_error"
    FAILED_CHECK = "failed_check"
    SAME_QUESTION = "same_question"
    OUTPUT_CUT = "output_cut"
    GATE_FAILED = "gate_failed"


IN_WORDS = {
    Struggle.TOOL_ERROR: "the same tool error came again",
    Struggle.FAILED_CHECK: "a check of the caller failed",
    Struggle.SAME_QUESTION: "the same question was asked again",
    Struggle.OUTPUT_CUT: "an output was cut off",
    Struggle.GATE_FAILED: "an answer failed its gate",
}


class Sign(NamedTuple):
    """A sign of struggle; ``id`` is a salted hash that tells it from others of the session."""

    what: Struggle
    id: int


@dataclass(frozen=True, slots=True)
class Session:
    """All that is kept of a session between two steps: no text, no name. Instants in Unix ms."""

    layer: str = ""
    """Of the model that answered last."""
    model: str = ""
    """The key of that model, which holds the prompt cache."""
    raised: int = 0
    """Layers by which the start is raised."""
    clean: int = 0
    """Steps without a sign since the last one, or since the start was lowered."""
    struggle: Struggle | None = None
    """What the last step showed; it counts at the next one."""
    question: int = likeness.NO_QUESTION
    """The last question that was answered, as ``likeness`` has it."""
    signs: tuple[int, ...] = ()
    """Those that have counted, oldest first."""
    seen_ms: int = 0
    until_ms: int = 0
    """When it is forgotten."""


NEW = Session()


@record
class Step:
    """One step of a session, as its task comes in."""

    key: str
    """Under which the session is kept: a hash of agent and name."""
    before: Session = NEW
    question: int = likeness.NO_QUESTION
    signs: tuple[Sign, ...] = ()
    ttl_ms: int = 3_600_000
    sticky: bool = True
    heeds: bool = True
    """Signs of struggle raise the start."""


@record
class Turn:
    """What a session makes of the start of its next step."""

    raised: int
    """By so many layers this task starts higher."""
    lowered: bool
    """By one, after clean steps."""
    why: Struggle | None
    """What this step brought, or the last one showed."""
    session: Session
    """As far as the start has changed it."""


def begin(step: Step, room: int) -> Turn:
    """Say how a step starts, if its own limits leave ``room`` layers above its start."""
    old = step.before
    if not step.heeds:
        kept = Session(old.layer, old.model, seen_ms=old.seen_ms, until_ms=old.until_ms)
        return Turn(0, lowered=False, why=None, session=kept)
    known = set(old.signs)
    fresh = [sign for sign in step.signs if sign.id not in known]
    why = fresh[0].what if fresh else old.struggle
    raised, clean, lowered = old.raised, old.clean, False
    if why is not None:
        raised, clean = raised + (raised < room), 0
    elif raised and clean >= CLEAN_STEPS:
        raised, clean = raised - 1, 0
        lowered = raised < room
    signs = (*old.signs, *dict.fromkeys([sign.id for sign in fresh]))[-SIGNS_MAX:]
    session = Session(
        old.layer, old.model, raised, clean, None, old.question, signs, old.seen_ms, old.until_ms
    )
    return Turn(min(raised, room), lowered, why, session)


def note_of(turn: Turn) -> str:
    """Say in words what the session did to the start; nothing if it left it as it is."""
    layers = f"{turn.raised} layer{'s' if turn.raised > 1 else ''} higher"
    if turn.lowered:
        rest = f", still {layers} than without it" if turn.raised else ""
        return f"{CLEAN_STEPS} clean steps in the session: one layer lower again{rest}"
    if not turn.raised:
        return ""
    if turn.why is not None:
        return f"{IN_WORDS[turn.why]} in the session: {layers}"
    left = CLEAN_STEPS - turn.session.clean
    return f"the session struggled: {layers}, for {left} step{'s' if left > 1 else ''} more"
