"""How simulated providers behave: healthy, flaky, down for a while, and wrong in every way."""

from collections.abc import Sequence
from enum import Enum
from random import Random
from typing import NamedTuple

from escalade_server.core.commands import CallModel
from escalade_server.core.events import (
    AttemptFailed,
    CallerLeft,
    ChunkArrived,
    Delta,
    Finish,
    LeaseExtended,
    OutcomeReported,
    ReasoningDelta,
    ReportsEnded,
    StreamEnded,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.facts import Selected
from escalade_server.core.failure import Failure, FailureClass, Scope
from escalade_server.core.task import FinishReason, Request, Usage
from escalade_server.simulation.chance import between, chance, maybe, pick
from escalade_server.simulation.script import Now, Step, Word
from escalade_server.simulation.workload import number_of

_F = FailureClass
WEIGHTED = (
    *[_F.RATE_SHORT] * 4, *[_F.QUOTA_WINDOW] * 2, *[_F.OUTAGE] * 6, *[_F.OVERLOADED] * 3,
    *[_F.PROTOCOL] * 2, *[_F.UNKNOWN] * 2, *[_F.TIMEOUT] * 2, _F.SPEND_CAP, _F.BALANCE, _F.CONTEXT,
    _F.CONTENT, _F.REFUSAL, _F.AUTH, _F.FORBIDDEN, _F.MODEL_GONE, _F.BAD_REQUEST, _F.TOO_LARGE,
)  # fmt: skip
"""Every class a provider can show, the usual ones likelier. CANCELLED is never a provider's."""
IN_MID_STREAM = (_F.OUTAGE, _F.OUTAGE, _F.PROTOCOL, _F.OVERLOADED, _F.CONTENT, _F.UNKNOWN)
RESETS = frozenset({_F.RATE_SHORT, _F.QUOTA_WINDOW, _F.OVERLOADED, _F.SPEND_CAP})
RESETS_MS = (-1_000, 0, 300, 1_500, 2_000, 5_000, 60_000, 3_600_000)


class Ill(Enum):
    """How a provider is down."""

    REFUSES = "refuses"
    SILENT = "silent"
    BREAKS = "breaks"
    """In mid-stream."""
    PACED = "paced"
    """429 for everything."""
    OVERLOADED = "overloaded"
    """529 for everything."""


_TOLD = {Ill.PACED: _F.RATE_SHORT, Ill.OVERLOADED: _F.OVERLOADED}


class Phase(NamedTuple):
    """A provider is down from one instant of the run to another."""

    provider: str
    from_us: int
    to_us: int
    ill: Ill


class Character(NamedTuple):
    """How a provider is by nature."""

    latency_us: int
    fails_percent: float
    cuts_percent: float
    odd_percent: float
    """Usage late, missing or wrong; empty answers; silence after the answer."""


HEALTHY = Character(200_000, 0, 0, 0)


class Providers:
    """``Upstream`` of a seed. ``lies`` are the attempts told to have used more than was granted."""

    def __init__(
        self, seed: int, characters: dict[str, Character], phases: Sequence[Phase] = ()
    ) -> None:
        """Say what is drawn from, and who is how."""
        self._seed, self._characters, self._phases = seed, characters, phases
        self.lies: set[tuple[int, int]] = set()

    def answer(self, order: CallModel, request: Request, now: Now) -> Sequence[Step]:
        """Say how a call goes."""
        number, attempt = number_of(request), order.attempt
        rng = chance(self._seed, 1, number, attempt)
        model = order.candidate.model
        character = self._characters.get(model.provider, HEALTHY)
        wait_us = int(character.latency_us * (0.2 + 2 * rng.random()))
        ill = self._ill(model.provider, now.us)
        if ill is Ill.SILENT:
            return ()
        if ill is Ill.REFUSES:
            cls = pick(rng, (_F.OUTAGE, _F.OUTAGE, _F.PROTOCOL, _F.UNKNOWN))
            failure = Failure(cls, "is down", 503, sent=maybe(rng, 70))
            return (Step(wait_us, AttemptFailed(attempt, failure)),)
        if ill in _TOLD:  # without an instant to come back: nobody knows when it heals
            failure = Failure(_TOLD[ill], f"is {ill.value}", 429)
            return (Step(wait_us, AttemptFailed(attempt, failure)),)
        if maybe(rng, character.fails_percent):
            failure = failure_of(rng, pick(rng, WEIGHTED), now.ms)
            return (Step(wait_us, AttemptFailed(attempt, failure)),)
        if ill is None and maybe(rng, character.fails_percent / 6):
            return ()
        words = _words(rng, f"r{number}.{attempt}", attempt, wait_us)
        if ill is Ill.BREAKS or maybe(rng, character.cuts_percent):
            return (*words, *_cut(rng, attempt, wait_us, now.ms))
        if maybe(rng, character.odd_percent):
            return self._odd(rng, order, number, words, wait_us)
        usage = _usage(rng, order)
        reason = pick(rng, (*[FinishReason.STOP] * 8, *FinishReason))
        end = Step(wait_us // 2, ChunkArrived(attempt, (), Finish(reason), usage))
        return (*words, end, Step(1_000, StreamEnded(attempt)))

    def reports(self, told: Selected, request: Request, now: Now) -> Sequence[Word]:
        """Say what a caller reports of the model that it was told to call."""
        number, attempt = number_of(request), told.attempt
        rng = chance(self._seed, 2, number, attempt)
        wait_us = between(rng, 50_000, 8_000_000)
        if maybe(rng, 8):
            return ()
        if maybe(rng, 6):
            return (Word(wait_us, CallerLeft()),)
        if maybe(rng, 6):
            return (Word(wait_us, ReportsEnded()),)
        usage: Usage | None = None
        if maybe(rng, 80):
            most = max(told.output_tokens_max, 1)
            usage = Usage(between(rng, 0, told.input_tokens_max), between(rng, 0, most))
        if maybe(rng, 3):
            self.lies.add((number, attempt))
            usage = Usage(told.input_tokens_max * 3, told.output_tokens_max * 3)
        outcome = OutcomeReported(attempt, usage, digest=f"{number}.{attempt}")
        if maybe(rng, 30):
            failure = failure_of(rng, pick(rng, WEIGHTED), now.ms, sent_percent=80)
            outcome = outcome._replace(failure=failure)
        elif maybe(rng, 10):
            outcome = outcome._replace(rejected="min_length")
        else:
            outcome = outcome._replace(finish=Finish(FinishReason.STOP))
        said = Word(wait_us, outcome)
        again = (Word(wait_us, outcome),) if maybe(rng, 20) else ()
        if maybe(rng, 15):
            return (Word(wait_us, LeaseExtended(attempt)), said, *again)
        return (said, *again)

    def _ill(self, provider: str, now_us: int) -> Ill | None:
        for phase in self._phases:
            if phase.provider == provider and phase.from_us <= now_us < phase.to_us:
                return phase.ill
        return None

    def _odd(
        self, rng: Random, order: CallModel, number: int, words: tuple[Step, ...], wait_us: int
    ) -> tuple[Step, ...]:
        """Answer in one of the ways that a provider should not."""
        attempt, usage, finish = order.attempt, _usage(rng, order), Finish(FinishReason.STOP)
        end = Step(1_000, StreamEnded(attempt))
        late = Step(between(rng, 50_000, 4_000_000), ChunkArrived(attempt, (), None, usage))
        bare = Step(wait_us, ChunkArrived(attempt, (), finish))
        blank = Step(wait_us, ChunkArrived(attempt, (TextDelta(" "),), finish, usage))
        bound = order.candidate.output_tokens_max
        above = Usage(usage.input_tokens, bound * 2 + 50)
        absurd = pick(rng, (
            Usage(10**9, 10**9), Usage(-5, 10), Usage(10, -5), Usage(10, 5, cached_tokens=20),
        ))  # fmt: skip
        way = between(rng, 0, 7)
        if way == 0:
            return (*words, bare, late, end)
        if way == 1:
            return (*words, bare, end)
        if way == 2:
            return (*words, bare)
        if way == 3:
            return (blank, end)
        if way == 4:
            return (end,)
        if way == 5:
            return (*words, Step(wait_us, ChunkArrived(attempt, (), finish, absurd)), end)
        if way == 6:
            self.lies.add((number, attempt))
            return (*words, Step(wait_us, ChunkArrived(attempt, (), finish, above)), end)
        chunk = ChunkArrived(attempt, (), finish, usage, cost_nanos=between(rng, -5, 10**6))
        self.lies.add((number, attempt))
        return (*words, Step(wait_us, chunk), Step(3_000_000, chunk), end)


def failure_of(rng: Random, cls: FailureClass, now_ms: int, *, sent_percent: int = 95) -> Failure:
    """Draw a failure of a class, with or without the instant at which it may be over."""
    reset_ms = None
    if cls in RESETS and maybe(rng, 60):
        reset_ms = now_ms + pick(rng, RESETS_MS)
    scope = pick(rng, (Scope.ACCOUNT, Scope.PROVIDER)) if maybe(rng, 8) else None
    sent = maybe(rng, sent_percent)
    return Failure(cls, f"said {cls.value}", 429, "", reset_ms, scope, sent)


def _usage(rng: Random, order: CallModel) -> Usage:
    """Draw a usage inside the bounds of a call: the input cannot be more than its bytes."""
    granted = order.candidate.output_tokens_max
    return Usage(between(rng, 1, 20), between(rng, 1, min(max(granted, 1), 900)))


def _words(rng: Random, tag: str, attempt: int, wait_us: int) -> tuple[Step, ...]:
    """Draw the deltas of an answer, which is not empty; each text says whose it is."""
    steps, count = [], between(rng, 1, 4)
    for place in range(count):
        text: Delta = TextDelta(f"{tag}.{place} ")
        deltas: tuple[Delta, ...] = (text,)
        if not place and count > 1 and maybe(rng, 16):
            deltas = (ReasoningDelta("hm"),) if maybe(rng, 50) else (TextDelta(" "),)
        elif maybe(rng, 5):
            deltas = (text, ToolCallDelta(0, f"c{attempt}", "tool", "{}"))
        steps.append(Step(wait_us if not place else wait_us // 5, ChunkArrived(attempt, deltas)))
    return tuple(steps)


def _cut(rng: Random, attempt: int, wait_us: int, now_ms: int) -> tuple[Step, ...]:
    """Break off in mid-stream: with an error, without one, or by silence."""
    if maybe(rng, 20):
        return ()
    if maybe(rng, 30):
        return (Step(wait_us, StreamEnded(attempt)),)
    failure = failure_of(rng, pick(rng, IN_MID_STREAM), now_ms, sent_percent=100)
    return (Step(wait_us, AttemptFailed(attempt, failure)),)
