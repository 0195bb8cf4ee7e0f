"""From what an engine told to spans: nothing is missing, nothing twice, and all of it nests."""

from dataclasses import replace

import pytest

from escalade_server.core.facts import Escalated, Failed, Waiting
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Balance, VerdictClass
from escalade_server.core.task import Sampling, Task
from escalade_server.engine.ports import ProviderFailure
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.journey import Journey
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.spans import Span, SpanKind, spans_of
from tests.core.builders import DAY, T0, request, three_layers
from tests.engine.shell import World, finish, text
from tests.telemetry.journeys import AROUND, CONTEXT, WISH, Recorder, bumpy, played, watched, wild

pytestmark = pytest.mark.looptime


def tree(spans: list[Span]) -> list[tuple[int, str]]:
    """Names with their depth, in order."""
    depth: dict[str, int] = {}
    for span in spans:
        depth[span.id] = depth.get(span.parent, -1) + 1
    return [(depth[span.id], span.name) for span in spans]


def told(span: Span) -> dict[str, object]:
    found: dict[str, object] = dict(span.attributes)
    assert len(found) == len(span.attributes), "every name once"
    return found


def assert_sound(journey: Journey, spans: list[Span]) -> None:
    """What holds for the spans of every task that has ended."""
    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans)
    outcome = journey.outcome
    assert outcome is not None
    for number, span in enumerate(spans):
        assert span.end_ms is not None
        assert span.start_ms <= span.end_ms
        if number:
            above = by_id[span.parent]
            assert above.end_ms is not None
            assert above.start_ms <= span.start_ms
            assert span.end_ms <= above.end_ms
        for event in span.events:
            assert span.start_ms <= event.at_ms <= span.end_ms, (span.name, event)
    report = outcome.report
    used = {
        c.INPUT_TOKENS: report.usage.input_tokens,
        c.OUTPUT_TOKENS: report.usage.output_tokens,
        c.LIST_COST: report.list_nanos,
        c.CHARGED_COST: report.charged_nanos,
    }
    for name, total in used.items():
        having = [span for span in spans if name in told(span)]
        assert all(c.OPERATION in told(span) for span in having)
        assert sum(int(str(told(span)[name])) for span in having) == total
    changes = [fact for fact, _ in journey.told if isinstance(fact, Escalated)]
    layers = [told(span) for span in spans if c.REASON in told(span)]
    assert [(e.from_layer, e.to_layer, e.reason.value, e.detail) for e in changes] == [
        (at[c.FROM], at[c.TO], at[c.REASON], at[c.DETAIL]) for at in layers
    ]
    calls = [span for span in spans if c.OPERATION in told(span)]
    assert [told(span)[c.ATTEMPT] for span in calls] == [a.number for a in report.attempts]


async def test_a_straight_task() -> None:
    world, seen = bumpy(), Recorder()
    world.providers.scripts.clear()
    await watched(world, seen).ask(replace(request(), agent="bot"))

    [journey] = seen.journeys.values()
    spans = spans_of(journey, AROUND)
    assert_sound(journey, spans)
    assert tree(spans) == [
        (0, "escalade.v1.RouterService/Complete"),
        (1, "assess"),
        (1, "layer free"),
        (2, "chat mini"),
        (1, "settle"),
    ]
    root, assess, layer, call, _ = spans
    assert root.parent == ""
    assert [span.kind for span in spans] == [
        SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.INTERNAL,
    ]  # fmt: skip
    assert told(root) | {c.STORY: ""} == {
        c.RPC_SYSTEM: "grpc", c.RPC_METHOD: "escalade.v1.RouterService/Complete",
        c.RPC_STATUS: "OK", c.REQUEST_ID: "r1", c.AGENT: "bot", c.OUTCOME: "answered",
        c.TASK_TYPE: "parse", c.ATTEMPTS: 1, c.LAYER_PATH: ("free",), c.WAITED_MS: 0,
        c.LAYER: "free", c.MODEL: "openai/default/mini", c.STORY: "",
    }  # fmt: skip
    assert "answered by" in str(told(root)[c.STORY])
    assert told(assess)[c.START_LAYER] == "free"
    assert c.REASON not in told(layer)
    assert told(call)[c.TIME_TO_FIRST_CHUNK] == 0.01
    assert (told(call)[c.SERVER_ADDRESS], told(call)[c.SERVER_PORT]) == ("models.test", 443)
    assert told(call)[c.FINISH_REASONS] == ("stop",)


async def test_fallback_retraction_and_escalation() -> None:
    world, seen = bumpy(), Recorder()
    await watched(world, seen).ask(replace(request(), trace=CONTEXT))

    [journey] = seen.journeys.values()
    spans = spans_of(journey, AROUND)
    assert_sound(journey, spans)
    assert tree(spans)[2:] == [
        (1, "layer free"),
        (2, "chat mini"),
        (2, "chat flash"),
        (1, "layer budget"),
        (2, "chat glm"),
        (1, "settle"),
    ]
    root, _, free, mini, flash, budget, _, _ = spans
    assert root.parent == CONTEXT.span_id
    assert told(budget)[c.REASON] == "outage"
    assert told(budget)[c.FAILED_ATTEMPT] == 2
    assert [event.name for event in free.events] == [
        c.EVENT_SELECTED, c.EVENT_FALLBACK, c.EVENT_SELECTED,
    ]  # fmt: skip
    assert [event.name for event in flash.events] == [c.EVENT_FIRST_CHUNK, c.EVENT_RETRACTED]
    assert told(mini)[c.ERROR_TYPE] == "quota_window"
    assert mini.error is not None
    assert told(flash)[c.ATTEMPT_STATUS] == "retracted"
    assert budget.error is None


async def test_a_failed_gate_and_the_answer_that_stands_in() -> None:
    world, seen = World(three_layers(Rules(quality=WISH))), Recorder()
    for model in world.engine.catalog.models:
        world.providers.scripts[model.id] = [[0.01, *text("no such word"), 0.01, finish()]]
    caller = await watched(world, seen).ask(request())

    [journey] = seen.journeys.values()
    spans = spans_of(journey, AROUND)
    assert_sound(journey, spans)
    calls = [span for span in spans if c.OPERATION in told(span)]
    assert {told(span)[c.GATE] for span in calls} == {"pattern"}
    for span in calls:
        [verdict] = [event for event in span.events if event.name == c.EVENT_GATE]
        assert dict(verdict.attributes)[c.GATE_PASSED] is False
        assert span.error is None, "it was an answer"
    assert told(spans[0])[c.UNMET] == Gate.PATTERN.value
    assert "no such word" not in str(spans)
    assert caller.text == "no such word"


async def test_a_wait_is_marked_when_it_begins_and_told_when_it_is_over() -> None:
    world, seen = World(three_layers()), Recorder()
    await watched(world, seen).ask(request())
    [whole] = seen.journeys.values()
    assessed, selected = whole.told
    wait = Waiting(VerdictClass.RATE, T0 + 90_000, "50 a day", "all full", 3)
    later = [assessed, (wait, T0), selected]
    journey = Journey(whole.task_id, whole.request, later[:2])

    begun = spans_of(journey, AROUND)
    assert [(s.name, s.end_ms) for s in begun[2:]] == [("queued", T0), ("wait", None)]
    assert told(begun[2])[c.WAIT_POSITION] == 3
    assert told(begun[2])[c.REQUEST_ID] == "r1"
    journey.told, journey.outcome = later, whole.outcome
    over = spans_of(journey, AROUND)
    assert [s.name for s in over[1:]] == [
        "assess", "queued", "wait", "layer free", "chat mini", "settle",
    ]  # fmt: skip
    assert over[2] == begun[2], "what was sent stays true"
    assert over[3].end_ms == selected[1]


async def test_what_the_caller_said_of_sampling_is_told_and_no_word_of_it() -> None:
    world, seen = bumpy(), Recorder()
    sampling = Sampling(temperature=0.5, seed=7, stop=("canary-stop",))
    asked = replace(request("canary-prompt"), sampling=sampling)
    asked = replace(asked, task=Task("parse", 0, 0, session_id="s-1"))
    await watched(world, seen).ask(asked)

    [journey] = seen.journeys.values()
    spans = spans_of(journey, AROUND)
    [call, *_] = [span for span in spans if c.OPERATION in told(span)]
    assert told(call)[c.REQUEST_TEMPERATURE] == 0.5
    assert told(call)[c.REQUEST_SEED] == 7
    assert told(call)[c.CONVERSATION] == "s-1"
    for canary in ("canary", "Hello", "Hal"):
        assert canary not in str(spans)


async def test_a_task_without_an_answer_has_its_reason_and_status() -> None:
    world, seen = World(three_layers()), Recorder()
    full = {key: Balance("w", 50, 0, DAY) for key in _KEYS}
    world.store.balances.update(full)
    asked = replace(request(), constraints=replace(request().constraints, highest_layer="free"))
    caller = await watched(world, seen).ask(asked)

    assert isinstance(caller.outcome, Failed)
    [journey] = seen.journeys.values()
    [root, assess] = spans_of(journey, AROUND)
    assert told(root)[c.OUTCOME] == caller.outcome.reason.value
    assert told(root)[c.RPC_STATUS] == caller.outcome.reason.name
    assert (root.error, assess.error) == (None, None), "no fault of the server"


_KEYS = ("requests/day:openai/default/mini", "requests/day:google/default/flash")


async def test_a_secret_in_the_words_of_others_is_taken_out() -> None:
    world, seen = bumpy(), Recorder()
    refusal = Failure(FailureClass.AUTH, "the key sk-canary0123456789abcdef is no good \ud800")
    world.providers.scripts["mini"] = [[0.01, ProviderFailure(refusal)]]
    await watched(world, seen).ask(request())

    [journey] = seen.journeys.values()
    shown = str(spans_of(journey, replace(AROUND, redact=Redactor().text)))
    assert "[redacted] is no good" in shown
    assert "canary" not in shown
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize("seed", range(40))
async def test_of_any_task_the_spans_are_whole_and_what_was_sent_stays_true(seed: int) -> None:
    (world, asked), seen = wild(seed), Recorder()
    await played(watched(world, seen), asked)

    assert len(seen.journeys) == len(asked)
    for journey in seen.journeys.values():
        spans = spans_of(journey, AROUND)
        assert_sound(journey, spans)
        final = {span.id: span for span in spans}
        for upto in range(len(journey.told) + 1):
            part = Journey(journey.task_id, journey.request, journey.told[:upto])
            for span in spans_of(part, AROUND):
                if span.end_ms is not None and upto and _is_step(part):
                    assert span == final[span.id]


def _is_step(journey: Journey) -> bool:
    """Only with these is anything sent: with them come the records of what is over."""
    return type(journey.told[-1][0]).__name__ in {"Selected", "Waiting"}
