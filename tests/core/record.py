"""Records what a cascade orders, one line an order; ``python -m tests.core.record`` writes anew.

A scene begins a trace; its steps are names of methods of ``Play`` with their arguments, each with
the orders that it led to. ``test_replay`` plays the steps again and compares. Read the difference
before you write anew: it is what callers and stores will see of a change.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from escalade_server.core.commands import (
    Announce,
    CallModel,
    CancelCall,
    Command,
    Deliver,
    End,
    Queue,
    Reserve,
    SetBench,
    Settle,
)
from escalade_server.core.facts import Escalated, Fallback, Finished, Selected, Waiting
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Balance, Standing
from escalade_server.core.task import Constraints, Delivery, OnInterruption, Request, Task, Usage
from tests.core.builders import DAY, T0, request, three_layers
from tests.core.play import Play

TRACES = Path(__file__).with_name("traces")
Argument = str | int | bool | list[str]
Step = Sequence[Argument]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a trace begins with, in words and numbers."""

    type: str = "parse"
    complexity: int | None = None
    free_only: bool = False
    whole: bool = False
    fail_on_interruption: bool = False
    full: tuple[str, ...] = ()
    """Keys of counters of requests that are used up."""

    def request(self) -> Request:
        complexity = None if self.complexity is None else self.complexity * 1_000_000
        made = request(
            task=Task(type=self.type, files=0, tokens=0, complexity_micro=complexity),
            constraints=Constraints(free_only=self.free_only),
        )
        fails, whole = self.fail_on_interruption, self.whole
        return replace(
            made,
            delivery=Delivery.WHOLE if whole else Delivery.STREAM,
            on_interruption=OnInterruption.FAIL if fails else OnInterruption.RESTART,
        )


def in_words(order: Command) -> str:
    """Say an order in one line: all of it that anybody outside the core acts on."""
    match order:
        case Reserve(reservation, attempt, candidates):
            held = ", ".join(f"{c.model.id} {c.tokens}t {c.nanos}n" for c in candidates)
            return f"reserve {reservation} for attempt {attempt}: {held}"
        case CallModel(attempt, candidate):
            return f"call {attempt}: {candidate.model.key} up to {candidate.output_tokens_max}"
        case CancelCall(attempt=attempt, drain=drain):
            return f"cancel {attempt}{' and drain' if drain else ''}"
        case Deliver(attempt, deltas):
            return f"deliver {attempt}: {[tuple(delta) for delta in deltas]}"
        case Settle():
            named = [(one.name, getattr(order, one.name)) for one in fields(order)]
            said = [(name, value) for name, value in named if value not in (None, "", Usage())]
            figures = [f"{name}={getattr(value, 'value', value)}" for name, value in said]
            return f"settle {' '.join(figures)}"
        case SetBench(key=key, bench=bench):
            return f"bench {key} until +{bench.until_ms - T0} ms: {bench.cls.value}"
        case Announce(fact):
            return f"announce {_fact(fact)}"
        case Queue(waiting):
            return f"queue, {_fact(waiting)}"
        case End(outcome, tally):
            what = "finished" if isinstance(outcome, Finished) else outcome.reason.value
            counted = f", {tally}" if tally else ""
            return f"end {what}: {outcome.report.story}{counted}"
        case _:
            return f"health {order.provider} {'ok' if order.ok else 'not ok'}"


def _fact(fact: object) -> str:
    match fact:
        case Escalated():
            said = f"{fact.from_layer} -> {fact.to_layer}, {fact.reason.value} ({fact.kind.value})"
            return f"Escalated {said}: {fact.detail}"
        case Fallback():
            return f"Fallback {fact.from_model.id} -> {fact.to_model.id}, {fact.cls.value}"
        case Selected():
            return f"Selected {fact.model.id} past {[s.verdict.cause.value for s in fact.skips]}"
        case Waiting():
            return f"Waiting {fact.reason.value} until +{fact.earliest_ms - T0} ms"
        case _:
            return type(fact).__name__


def played(scene: Scene, steps: Sequence[Step]) -> list[list[str]]:
    """Play steps and answer the orders of each; the start is the first."""
    play = Play(three_layers(), scene.request())
    orders = [play.start(Standing({k: Balance("today", 50, 0, DAY) for k in scene.full}))]
    for name, *arguments in steps:
        before = len(play.log)
        _act(play, str(name), arguments)
        orders.append(play.log[before:])
    return [[in_words(order) for order in each] for each in orders]


def _act(play: Play, name: str, arguments: Sequence[Argument]) -> None:
    match name, *arguments:
        case "grant", int(place):
            play.grant(place)
        case "says", str(text):
            play.says(text)
        case "finishes", int(tokens_in), int(tokens_out):
            play.finishes(Usage(tokens_in, tokens_out))
        case "fails", str(cls):
            play.fails(FailureClass(cls))
        case "fails", str(cls), int(reset_ms):
            play.fails(FailureClass(cls), reset_ms)
        case "passes", int(ms):
            play.passes(ms)
        case "ends" | "settled" | "leaves", *_:
            getattr(play, name)()
        case _:
            raise ValueError(f"no such step: {name} {arguments}")


FREE_FULL = ("requests/day:openai/default/mini", "requests/day:google/default/flash")
ANSWER: tuple[Step, ...] = (("says", "Hi"), ("finishes", 100, 10), ("settled",))
SCENES: dict[str, tuple[Scene, tuple[Step, ...]]] = {
    "easy": (Scene(), (("grant", 0), *ANSWER)),
    "whole": (Scene(whole=True), (("grant", 0), *ANSWER)),
    "fallback_then_escalation": (
        Scene(),
        (
            ("grant", 0), ("fails", "quota_window", 3_600_000), ("settled",),
            ("grant", 0), ("fails", "outage"), ("settled",), ("grant", 0), *ANSWER,
        ),
    ),
    "exhausted_then_paid": (Scene(full=FREE_FULL), (("grant", 0), *ANSWER)),
    "free_only_exhausted": (Scene(free_only=True, full=FREE_FULL), ()),
    "jump_then_downgrade": (
        Scene(complexity=9),
        (("grant", 0), ("fails", "spend_cap"), ("settled",), ("grant", 0), *ANSWER),
    ),
    "broken_stream_restarts": (
        Scene(),
        (("grant", 0), ("says", "Hal"), ("fails", "outage"), ("settled",), ("grant", 0), *ANSWER),
    ),
    "broken_stream_fails": (
        Scene(fail_on_interruption=True),
        (("grant", 0), ("says", "Hal"), ("ends",), ("settled",)),
    ),
    "silence": (
        Scene(), (("grant", 0), ("passes", 30_000), ("settled",), ("grant", 0), *ANSWER),
    ),
    "empty_answer": (
        Scene(),
        (("grant", 0), ("says", " "), ("finishes", 9, 1), ("settled",), ("grant", 0), *ANSWER),
    ),
    "caller_leaves": (
        Scene(type="debug"), (("grant", 0), ("leaves",), ("says", "late"), ("settled",)),
    ),
    "deadline": (Scene(), (("grant", 0), ("says", "Slow"), ("passes", 60_000), ("settled",))),
}  # fmt: skip


def recorded(name: str) -> str:
    """Answer the text of a trace as it is today."""
    scene, steps = SCENES[name]
    orders = played(scene, steps)
    lines = [{"step": ["start"], "orders": orders[0]}]
    lines += [
        {"step": [str(part) for part in step], "orders": each}
        for step, each in zip(steps, orders[1:], strict=True)
    ]
    return json.dumps(lines, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TRACES.mkdir(exist_ok=True)
    for title in SCENES:
        (TRACES / f"{title}.json").write_text(recorded(title))
