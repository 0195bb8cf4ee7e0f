"""One attempt in flight: what has come of it, and when its provider has been silent too long."""

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from escalade_server.core.answer import Fold
from escalade_server.core.catalog import Model
from escalade_server.core.commands import Candidate
from escalade_server.core.events import ChunkArrived, Delta, Finish, TextDelta
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.gates import Demands
from escalade_server.core.record import record
from escalade_server.core.rules import Rules
from escalade_server.core.task import FinishReason, Usage
from escalade_server.core.trace import Answer, Oddities

_NAME = re.compile(r"[\w.:/@+~-]{1,128}", re.ASCII)
NO_NAME = "?"
"""For what can be no model's name: a provider may quote there what it was sent (D6)."""
_WHOLE = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)


class Ending(Enum):
    """How a call came to its end."""

    WHOLE = auto()
    BROKEN = auto()
    REJECTED = auto()
    """Answered, but the answer failed a gate."""
    DROPPED = auto()
    """Cancelled by us: its caller left, or the deadline came."""
    DRAINED = auto()
    """Read on after its caller left, now at its end or out of time (R25)."""
    UNREPORTED = auto()
    """Called by the caller itself, which never reported (R32)."""


@dataclass(slots=True)
class Live:
    """State of one attempt. Instants in Unix ms, 0 for not yet."""

    number: int
    candidate: Candidate
    reservation_id: str
    started_ms: int
    first_token_by_ms: int
    total_by_ms: int
    fold: Fold
    first_ms: int = 0
    last_ms: int = 0
    delivered: bool = False
    """Some of it has gone to the caller: from here on only a retraction takes it back."""
    finish: Finish | None = None
    finish_ms: int = 0
    usage: Usage | None = None
    cost_nanos: int | None = None
    reported_model: str = ""
    oddities: Oddities | None = None
    drain_until_ms: int = 0
    ended_ms: int = 0
    """When it ended, where its caller says so; 0: when we are told."""
    digest: str = ""
    """Of its caller's report, if it made one (R32)."""
    demands: Demands | None = None
    """What its answer must pass before any of it is delivered (R21)."""
    _held: list[Delta] = field(default_factory=list)

    @property
    def model(self) -> Model:
        """The model that is called."""
        return self.candidate.model

    def take(self, chunk: ChunkArrived, now_ms: int) -> tuple[Delta, ...]:
        """Take one read and answer the deltas that may go on to the caller.

        Blank text is held until something follows it: the gate ``empty`` is decided at the first
        non-blank content (R21). Under any other gate all is held until the answer has passed.
        """
        if chunk.finish is not None:
            self.finish, self.finish_ms = chunk.finish, now_ms
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.cost_nanos is not None:
            self.cost_nanos = chunk.cost_nanos
        if chunk.model and chunk.model != self.reported_model:
            self.reported_model = chunk.model if _NAME.fullmatch(chunk.model) else NO_NAME
        if chunk.oddities is not None:
            self.oddities = chunk.oddities
            if chunk.oddities.unbelievable:  # what was told before it holds no more (U26)
                self.usage = None
        deltas = chunk.deltas
        if not deltas:
            return ()
        self.last_ms = now_ms
        if not self.first_ms:
            self.first_ms = now_ms
        self.fold.add(deltas)
        if self.demands is not None:
            self._held.extend(deltas)
            return ()
        if self.fold.has_content:
            if self._held:
                deltas = (*self._held, *deltas)
                self._held.clear()
            return deltas
        self._held.extend(d for d in deltas if isinstance(d, TextDelta))
        return tuple(d for d in deltas if not isinstance(d, TextDelta))

    def held(self) -> tuple[Delta, ...]:
        """All that was held back, to be delivered after all."""
        held, self._held = tuple(self._held), []
        return held

    @property
    def answer(self) -> Answer:
        """What came of it, whole; without parts where only the figures are wanted."""
        finish = self.finish or Finish(FinishReason.STOP)
        return Answer(self.fold.parts(), finish.reason, finish.detail)

    @property
    def is_empty(self) -> bool:
        """True for an answer without content that is not a refusal or filter of its own."""
        if self.fold.has_content or self.finish is None:
            return False
        return self.finish.reason in _WHOLE

    def patience_ms(self, rules: Rules) -> int:
        """Instant at which a silent provider has been silent for too long (R24, R26)."""
        if self.finish is not None:
            return self.finish_ms + rules.usage_grace_ms
        silent = self.last_ms + self.idle_ms(rules) if self.first_ms else self.first_token_by_ms
        return min(silent, self.total_by_ms)

    def idle_ms(self, rules: Rules) -> int:
        """How long its provider may be silent in mid-answer."""
        own = self.candidate.model.pace.idle_ms
        return rules.idle_ms if own is None else own

    def overdue(self, rules: Rules, now_ms: int) -> Failure | None:
        """Say which limit of time has passed, if one has and the answer is not whole."""
        if self.finish is not None or now_ms < self.patience_ms(rules):
            return None
        if now_ms >= self.total_by_ms:
            detail = f"was not done after {(now_ms - self.started_ms) / 1000:.0f} s"
        elif self.first_ms:
            detail = f"stalled for {self.idle_ms(rules) / 1000:g} s in mid-answer"
        else:
            detail = f"gave no token in {(now_ms - self.started_ms) / 1000:.1f} s"
        return Failure(FailureClass.TIMEOUT, detail)


@record
class Over:
    """An attempt has ended. ``failure`` says why it is not an answer, or is one of a filter's."""

    live: Live
    ending: Ending
    failure: Failure | None = None
