"""The metrics: one fold over the record of each task, and what else tells of itself.

Rules of the file:
1. A task that goes straight costs a few µs: what is counted is found by its model, once.
2. Examples (exemplars) name traces of eventful tasks only: those are never left out of the export.
3. No prompt, answer or key; agents are bounded, every other label is the strategy's or an enum.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter

from escalade_server.core.catalog import Model
from escalade_server.core.facts import (
    Assessed,
    Escalated,
    Fact,
    Fallback,
    Finished,
    Outcome,
    Selected,
    Waiting,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.task import Request
from escalade_server.core.trace import AttemptRecord, AttemptStatus, Report
from escalade_server.core.tracing import trace_id
from escalade_server.engine.news import AlertNews, Entry
from escalade_server.telemetry import catalogue
from escalade_server.telemetry.conventions import CHAT, GRPC, PROVIDERS
from escalade_server.telemetry.instruments import (
    OTHER,
    Count,
    Counter,
    Histogram,
    Kind,
    Spread,
)

AGENTS_MAX = 50
"""Agents with a series of their own; those that come later share one."""
_OK, _NOT_SENT = AttemptStatus.OK, AttemptStatus.NOT_SENT
_USAGE = ("input", "output", "cached", "cache_write", "reasoning")
_TOLD_AGAIN = ("replayed", "already_answered")


class _OfModel:
    """What every call of one model moves, found once."""

    __slots__ = (
        "cost", "first", "first_of_task", "inputs", "list_value", "ok", "outputs",
        "seconds", "tokens",
    )  # fmt: skip

    def __init__(self, of: "Metrics", model: Model) -> None:
        names = model.layer, model.provider, model.id
        said = CHAT, PROVIDERS.get(model.provider, model.provider), model.wire_id
        self.ok = of.counters[catalogue.ATTEMPTS.name].of(*names, _OK.value, "")
        self.tokens = [of.counters[catalogue.TOKENS.name].of(*names, kind) for kind in _USAGE]
        self.cost = of.counters[catalogue.COST.name].of(*names)
        self.list_value = of.counters[catalogue.LIST_VALUE.name].of(*names)
        self.inputs = of.histograms[catalogue.GENAI_USAGE.name].of(*said, "input")
        self.outputs = of.histograms[catalogue.GENAI_USAGE.name].of(*said, "output")
        self.seconds = of.histograms[catalogue.GENAI_SECONDS.name].of(*said, "")
        self.first = of.histograms[catalogue.GENAI_FIRST.name].of(*said)
        self.first_of_task = of.histograms[catalogue.FIRST_TOKEN.name].of(model.layer)


class Metrics:
    """``Observer`` of the engine; owned by one event loop, read by any thread."""

    def __init__(self) -> None:
        """Begin at zero."""
        fed = catalogue.FED
        self.counters = {m.name: Counter(m) for m in fed if m.kind is Kind.COUNTER}
        self.histograms = {m.name: Histogram(m) for m in fed if m.kind is Kind.HISTOGRAM}
        self.compared_nanos = 0
        """What was charged for the tasks that are compared with the baseline."""
        self.failed = 0
        """Facts that could not be counted: mistakes of ours."""
        self._models: dict[str, _OfModel] = {}
        self._requests: dict[tuple[str, str, str], Count] = {}
        self._agents: dict[str, tuple[Count, Count]] = {}
        self._gates: dict[str, dict[int, tuple[Gate, ...]]] = {}
        self._waiting: set[str] = set()
        self._counted: dict[type[Fact], Callable[..., None]] = {
            Selected: self._selected,
            Escalated: self._escalated,
            Fallback: self._fallback,
            Waiting: self._waits,
        }
        self._seconds = self.histograms[catalogue.TASK_SECONDS.name].of("ok")
        self._baseline = self.counters[catalogue.BASELINE.name].of()
        self._decision = self.histograms[catalogue.DECISION.name].of()
        self._lag = self.histograms[catalogue.LOOP_LAG.name].of()
        self.counters[catalogue.LEDGER_ERRORS.name].of()

    def expect(self, models: Iterable[Model]) -> None:
        """Show these at zero before anything happens: an increase from nothing is none (rules)."""
        unclassified = self.counters[catalogue.UNCLASSIFIED.name]
        for model in models:
            unclassified.of(model.provider, model.id)

    # ------------------------------------------------------------------------- what is told

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        """See one announced fact."""
        if type(fact) is Assessed or (type(fact) is Selected and not fact.held_by):
            return  # every task has these
        count = self._counted.get(type(fact))
        if count is not None:
            try:
                count(task_id, request, fact, now_ms)
            except Exception:  # noqa: BLE001 - a watcher never stops what it watches
                self.failed += 1

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """See the one ending of a task."""
        try:
            self._ended(task_id, request, outcome)
        except Exception:  # noqa: BLE001 - as above
            self.failed += 1

    def _selected(self, task_id: str, _request: Request, fact: Selected, _now_ms: int) -> None:
        self._gates.setdefault(task_id, {})[fact.attempt] = fact.held_by

    def _escalated(self, task_id: str, request: Request, fact: Escalated, now_ms: int) -> None:
        labels = fact.from_layer, fact.to_layer, fact.reason.value, fact.kind.value
        count = self.counters[catalogue.ESCALATIONS.name].of(*labels)
        count.value += 1
        count.exemplar = trace_id(task_id, request.trace), now_ms

    def _fallback(self, _id: str, _request: Request, fact: Fallback, _now_ms: int) -> None:
        model = fact.from_model
        labels = model.layer, model.provider, model.id, fact.cls.value
        self.counters[catalogue.FALLBACKS.name].of(*labels).value += 1

    def _waits(self, task_id: str, _request: Request, fact: Waiting, _now_ms: int) -> None:
        if task_id not in self._waiting:
            self._waiting.add(task_id)
            self.counters[catalogue.WAITS.name].of(fact.reason.value).value += 1

    # ------------------------------------------------------------------------- how tasks end

    def _ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        report = outcome.report
        attempts = report.attempts
        gates = self._gates.pop(task_id, None) if self._gates else None
        if self._waiting:
            self._waiting.discard(task_id)
        if isinstance(outcome, Finished):
            result = "replayed" if outcome.replayed else "unmet" if outcome.unmet else "ok"
        else:
            result = outcome.reason.value
        model = report.answered
        key = result, "" if model is None else model.layer, report.assessment.type
        count = self._requests.get(key)
        if count is None:
            count = self._requests[key] = self.counters[catalogue.REQUESTS.name].of(*key)
        count.value += 1
        agent = self._agents.get(request.agent) or self._agent(request.agent)
        agent[0].value += 1
        if result in _TOLD_AGAIN:
            return  # nothing was done for it; its figures are counted with the first
        took = report.ended_ms - report.started_ms
        seconds = self._seconds if result == "ok" else self._took(result)
        seconds.add(took)
        if report.charged_nanos:
            agent[1].value += report.charged_nanos
        if report.baseline_nanos is not None:
            self._baseline.value += report.baseline_nanos
            self.compared_nanos += report.charged_nanos
        for attempt in attempts:
            self._attempt(attempt, report)
        if len(attempts) != 1 or len(report.layer_path) != 1 or result != "ok":
            seconds.show(took, trace_id(task_id, request.trace), report.ended_ms)
        if report.waited_ms:
            self.histograms[catalogue.WAITED.name].of().add(report.waited_ms)
        if gates:
            self._judged(gates, attempts)

    def _took(self, result: str) -> Spread:
        return self.histograms[catalogue.TASK_SECONDS.name].of(result)

    def _agent(self, name: str) -> tuple[Count, Count]:
        """Find what is counted by agent; whoever comes late shares one name."""
        named = name if len(self._agents) < AGENTS_MAX else OTHER
        found = (
            self.counters[catalogue.AGENT_REQUESTS.name].of(named),
            self.counters[catalogue.AGENT_COST.name].of(named),
        )
        if named == name:
            self._agents[name] = found
        return found

    def _attempt(self, attempt: AttemptRecord, report: Report) -> None:
        model = attempt.model
        known = self._models.get(model.key)
        if known is None:
            known = self._models[model.key] = _OfModel(self, model)
        usage, list_nanos = attempt.usage, attempt.list_nanos
        tokens = known.tokens
        tokens[0].value += usage.input_tokens
        tokens[1].value += usage.output_tokens
        if usage.cached_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
            tokens[2].value += usage.cached_tokens
            tokens[3].value += usage.cache_write_tokens
            tokens[4].value += usage.reasoning_tokens
        if list_nanos:
            known.list_value.value += list_nanos
            known.cost.value += attempt.charged_nanos
        if attempt.status is _OK:
            known.ok.value += 1
            known.seconds.add(attempt.ended_ms - attempt.started_ms)
            if model is report.answered and attempt.first_delta_ms:
                known.first_of_task.add(attempt.first_delta_ms - report.started_ms)
        else:
            self._failed(attempt)
        if attempt.first_delta_ms:
            known.first.add(attempt.first_delta_ms - attempt.started_ms)
        known.inputs.add(usage.input_tokens)
        known.outputs.add(usage.output_tokens)
        if attempt.oddities is not None:
            for oddity, found in attempt.oddities._asdict().items():
                if found:
                    labels = model.provider, model.id, oddity
                    self.counters[catalogue.ODD_ANSWERS.name].of(*labels).value += 1

    def _failed(self, attempt: AttemptRecord) -> None:
        model, status, failure = attempt.model, attempt.status, attempt.failure
        rejected = status is AttemptStatus.REJECTED  # the call went well: so say the spans too
        names = model.layer, model.provider, model.id
        why = failure.value if failure and not rejected else ""
        self.counters[catalogue.ATTEMPTS.name].of(*names, status.value, why).value += 1
        if status is AttemptStatus.RETRACTED:
            self.counters[catalogue.RETRACTIONS.name].of(*names, why).value += 1
        if failure is FailureClass.UNKNOWN:
            self.counters[catalogue.UNCLASSIFIED.name].of(model.provider, model.id).value += 1
        if status is not _NOT_SENT:
            said = CHAT, PROVIDERS.get(model.provider, model.provider), model.wire_id
            error = "" if rejected else why or status.value
            seconds = self.histograms[catalogue.GENAI_SECONDS.name].of(*said, error)
            seconds.add(attempt.ended_ms - attempt.started_ms)

    def _judged(
        self, gates: Mapping[int, tuple[Gate, ...]], attempts: tuple[AttemptRecord, ...]
    ) -> None:
        """Count what gates said: an answer is held by all of them, and fails by one."""
        verdicts = self.counters[catalogue.GATES.name]
        for attempt in attempts:
            asked = gates.get(attempt.number, ())
            if attempt.gate is not None:
                verdicts.of(attempt.gate.value, "failed").value += 1
            elif attempt.status is _OK:
                for gate in asked:
                    verdicts.of(gate.value, "passed").value += 1

    # ---------------------------------------------------------------- what tells of itself

    def told(self, entries: Sequence[Entry]) -> None:
        """Count what people are told, from the feed: there every alert is once."""
        for entry in entries:
            if isinstance(entry.news, AlertNews):
                self.counters[catalogue.ALERTS.name].of(entry.news.kind.value).value += 1

    def called(self, method: str, status: str, seconds: float) -> None:
        """Count one RPC; ``method`` is its full name, ``status`` the name of its code."""
        self.histograms[catalogue.RPC_SECONDS.name].of(GRPC, method, status).add(seconds)

    def deciding(self) -> Callable[[], None]:
        """Measure from now how long a task takes to its first order, which the answer is told."""
        return partial(self._decided, perf_counter())

    def _decided(self, begun: float) -> None:
        self._decision.add((perf_counter() - begun) * 1e6)

    def lagged(self, seconds: float) -> None:
        """Count how late the event loop was."""
        self._lag.add(max(seconds, 0.0) * 1e6)

    def stored(self, operation: str, seconds: float) -> None:
        """Count one round trip to the ledger."""
        self.histograms[catalogue.STORE.name].of(operation).add(seconds * 1e6)

    def ledger_failed(self) -> None:
        """Count that the ledger cannot be written any more."""
        self.counters[catalogue.LEDGER_ERRORS.name].of().value += 1
