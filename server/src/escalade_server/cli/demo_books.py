"""The books of the demo: what the reports of all tasks add up to, and what the providers counted.

Every figure of ours is read from the events and reports that came through the SDK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import escalade
from escalade.v1.completion_pb2 import Basis
from escalade.v1.escalation_pb2 import AttemptStatus, Report
from escalade_server.cli.demo_day import Chore
from escalade_server.provider_simulator import Ledger

PICOS_PER_NANO = 1_000


@dataclass(frozen=True, slots=True)
class Done:
    """A task that ended: with an answer, or with an error."""

    number: int
    chore: Chore
    events: tuple[escalade.Announcement, ...]
    answer: escalade.Answer | None = None
    error: escalade.EscaladeError | None = None

    @property
    def report(self) -> Report | None:
        """The whole record of the task, if the service gave one."""
        if self.answer is not None:
            return self.answer.report
        return self.error.report if self.error is not None else None


@dataclass(slots=True)
class LayerSum:
    """What one layer did. Tokens and costs are of all attempts in it."""

    tasks: int = 0
    tokens: int = 0
    list_nanos: int = 0
    charged_nanos: int = 0


@dataclass(slots=True)
class Account:
    """What our reports say of one model: calls, and list value by how well it is known."""

    calls: int = 0
    reported_nanos: int = 0
    bounded_nanos: int = 0
    """Of calls whose usage no provider told: booked by their bound, never below the bill (R13)."""
    bounded_calls: int = 0

    @property
    def nanos(self) -> int:
        """All of it."""
        return self.reported_nanos + self.bounded_nanos


@dataclass(slots=True)
class Books:
    """Grows with each task."""

    layers: dict[str, LayerSum]
    tasks: int = 0
    lost: list[Done] = field(default_factory=list)
    escalations: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By from, to and reason."""
    fallbacks: int = 0
    retractions: int = 0
    baseline_model: str = ""
    baseline_nanos: int = 0
    accounts: dict[tuple[str, str], Account] = field(default_factory=dict)
    """By provider and the name that goes over the wire, as the providers count."""

    def add(self, done: Done) -> None:
        """Take a task that ended."""
        self.tasks += 1
        wire = {
            event.attempt: event.wire_model
            for event in done.events
            if isinstance(event, escalade.Selected)
        }
        for event in done.events:
            self.fallbacks += isinstance(event, escalade.Fallback)
            self.retractions += isinstance(event, escalade.Retracted)
            if isinstance(event, escalade.Escalated):
                self.escalations[event.from_layer, event.to_layer, event.reason] += 1
        if done.answer is None:
            self.lost.append(done)
        else:
            self.layers.setdefault(done.answer.layer, LayerSum()).tasks += 1
        if done.report is not None:
            self.baseline_model = done.report.baseline_model or self.baseline_model
            self.baseline_nanos += done.report.baseline_nano_usd
            self._add_attempts(done.report, wire)

    def _add_attempts(self, report: Report, wire: dict[int, str]) -> None:
        for attempt in report.attempts:
            if attempt.status == AttemptStatus.ATTEMPT_STATUS_NOT_SENT:
                continue
            layer = self.layers.setdefault(attempt.target.layer, LayerSum())
            layer.tokens += attempt.usage.input_tokens + attempt.usage.output_tokens
            layer.list_nanos += attempt.cost.list_nano_usd
            layer.charged_nanos += attempt.cost.charged_nano_usd
            name = wire.get(attempt.attempt, attempt.target.model)
            account = self.accounts.setdefault((attempt.target.provider, name), Account())
            account.calls += 1
            if attempt.basis in (Basis.BASIS_ESTIMATED, Basis.BASIS_RESERVED):
                account.bounded_calls += 1
                account.bounded_nanos += attempt.cost.list_nano_usd
            else:
                account.reported_nanos += attempt.cost.list_nano_usd

    @property
    def calls(self) -> int:
        """Calls made, of all models."""
        return sum(account.calls for account in self.accounts.values())

    @property
    def nanos(self) -> int:
        """List value of all calls."""
        return sum(account.nanos for account in self.accounts.values())

    @property
    def charged_nanos(self) -> int:
        """What all calls are charged."""
        return sum(layer.charged_nanos for layer in self.layers.values())


@dataclass(frozen=True, slots=True)
class Audit:
    """Our books beside the providers'."""

    their_calls: int
    their_nanos: int
    our_calls: int
    our_nanos: int
    bounded_calls: int
    differences: Sequence[str]
    """In words; empty when the books agree."""


def audit(books: Books, ledger: Ledger) -> Audit:
    """Compare, model by model.

    A call whose usage the provider reported is worth the same in both books; one that broke
    before that is booked by its bound, which the provider's bill may not exceed.
    """
    names = sorted(books.accounts.keys() | ledger.accounts.keys())
    return Audit(
        their_calls=sum(account.requests_received for account in ledger.accounts.values()),
        their_nanos=ledger.cost_nanos,
        our_calls=books.calls,
        our_nanos=books.nanos,
        bounded_calls=sum(account.bounded_calls for account in books.accounts.values()),
        differences=tuple(_differences(books, ledger, names)),
    )


def _differences(books: Books, ledger: Ledger, names: Iterable[tuple[str, str]]) -> Iterable[str]:
    for provider, model in names:
        ours = books.accounts.get((provider, model), Account())
        theirs = ledger.of(provider, model)
        name = f"{provider}/{model}"
        if ours.calls != theirs.requests_received:
            yield f"{name}: {theirs.requests_received} calls there, {ours.calls} here"
        rounding = PICOS_PER_NANO * ours.calls  # each call is rounded up to a whole nano-dollar
        low = ours.reported_nanos * PICOS_PER_NANO - rounding
        if not low <= theirs.cost_pico <= ours.nanos * PICOS_PER_NANO:
            yield f"{name}: {theirs.cost_nanos} nano-dollars there, {ours.nanos} here"
