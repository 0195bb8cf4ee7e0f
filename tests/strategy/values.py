"""What each value of each key of a strategy does, seen from outside: one observer a key."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import structlog

from escalade_server.api.callers import Access, Gate
from escalade_server.api.status import RefusedError
from escalade_server.checks.gates import AnswerGates
from escalade_server.core import policy
from escalade_server.core.agents import limited
from escalade_server.core.alerting import marks_of
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import End, Queue, Reserve, SetBench, Settle
from escalade_server.core.events import OutcomeReported
from escalade_server.core.experience import Experience
from escalade_server.core.facts import Escalated, EscalationKind, EscalationReason
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.need import need_of
from escalade_server.core.session import Session, Sign, Step, Struggle
from escalade_server.core.standing import Balance, Standing
from escalade_server.core.task import (
    Constraints,
    DataDemand,
    Delivery,
    FinishReason,
    FormatKind,
    Image,
    Request,
    ResponseFormat,
    Task,
    Text,
    Tool,
    ToolCall,
)
from escalade_server.core.trace import Answer
from escalade_server.engine.ports import Notice
from escalade_server.engine.usage import Span, UsageTables
from escalade_server.notify.desk import Desk
from escalade_server.notify.webhook import Shape, body_of
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.registry import CODECS
from escalade_server.report.daily import DailyReports
from escalade_server.report.text import as_json
from escalade_server.report.usage import make
from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry.logs import LogObserver
from tests.core.builders import DAY, T0, request
from tests.core.play import Play
from tests.strategy.strategies import loaded

MINI, GEMINI = "gpt-4o-mini", "gemini-2.0-flash"
LAYERS = """\
    - name: free
      models:
        - {provider: openai, model: gpt-4o-mini, rate_limit: 50/day, capabilities: [parsing]%(own)s}
        - {provider: openai, model: gpt-4.1-mini, rate_limit: 50/day}
        - {provider: google, model: gemini-2.0-flash, rate_limit: 50/day}
      cost_per_month: 0
    - name: budget
      models: [{provider: nano-gpt, model: glm-5, monthly_cap: 8_usd}]
      billing: subscription
    - name: premium
      models:
        - provider: openai
          model: gpt-4o
          capabilities: [planning, code-gen, debugging, refactoring, complex-reasoning]
      trigger: [budget.exhausted, task.complexity > 8]
      monthly_cap: 5_usd%(layer)s
"""


def loose(part: object) -> Any:
    """Hand over what is not looked at, or only in part."""
    return part


def take(*, model: str = "", layer: str = "", more: str = "", top: str = "") -> Loaded:
    """Load three layers with something added: to the first model, the last layer, the strategy."""
    layers = LAYERS % {"own": model and f", {model}", "layer": layer and f"\n      {layer}"}
    found = loaded(f"fallback_strategy:\n  layers:\n{layers}{more and f'  {more}{chr(10)}'}{top}\n")
    assert found.not_yet_in_effect == ()
    return found


def takes(**parts: str) -> str:
    """Say whether a strategy loads."""
    try:
        take(**parts)
    except StrategyErrors:
        return "refused"
    return "loads"


def full(catalog: Catalog, *layers: str, held: bool = False) -> Standing:
    """Use up, or hold, all that these layers may."""
    rows = {
        counter.key: Balance("now", 0, counter.limit, DAY)
        if held
        else Balance("now", counter.limit, 0, DAY)
        for layer in catalog.layers
        if layer.name in layers
        for model in layer.models
        for counter in (*model.counters, *model.ordinary)
    }
    return Standing(rows)


PARSE = Task(type="parse", files=0, tokens=0)
HARD = replace(PARSE, complexity_micro=9_000_000)
LATE = DAY + 1_000_000
NO_WAIT = Constraints(may_wait=False)


def ask(task: Task = PARSE, limits: Constraints | None = None, agent: str = "") -> Request:
    return replace(request(task=task, constraints=limits), agent=agent)


def played(found: Loaded, asked: Request | None = None, standing: Standing | None = None) -> Play:
    play = Play(found.catalog, limited(asked or ask(), found.catalog))
    play.start(standing)
    return play


def went(play: Play) -> str:
    """Say where a task went: the first model asked, a wait, or nowhere."""
    for order in reversed(play.log):
        if isinstance(order, Reserve):
            return order.candidates[0].model.id
        if isinstance(order, Queue):
            return "waits, people are told" if order.waiting.notify else "waits"
        if isinstance(order, End):
            return "fails"
    return "pauses"


# ------------------------------------------------------------------------ what to do when


def rate_limit_hit(value: str) -> str:
    found = take(more=f"escalation_logic: {{rate_limit_hit: {value}}}")
    return went(played(found, ask(limits=NO_WAIT), full(found.catalog, "free")))


def complexity_high(value: str) -> str:
    return went(played(take(more=f"escalation_logic: {{complexity_high: {value}}}"), ask(HARD)))


def on_target_exhausted(value: str) -> str:
    found = take(more=f"escalation_logic: {{on_target_exhausted: {value}}}")
    return went(played(found, replace(ask(HARD), ends_ms=LATE), full(found.catalog, "premium")))


def on_all_exhausted(value: str) -> str:
    found = take(more=f"failure_handling: {{on_all_layers_exhausted: {value}}}")
    asked = replace(ask(), ends_ms=LATE)
    return went(played(found, asked, full(found.catalog, "free", "budget", "premium")))


def on_outage(value: str) -> str:
    play = played(take(more=f"failure_handling: {{on_provider_outage: {value}}}"))
    play.grant()
    play.fails(FailureClass.OUTAGE)
    return went(play)


def budget_alert(value: str) -> tuple[bool, str]:
    found = take(more=f"escalation_logic: {{budget_alert: {value}}}")
    return bool(marks_of(found.catalog)), sinks_of(found, "alert.budget")


def sinks_of(found: Loaded, kind: str) -> str:
    """Say who is told of a kind of notice."""
    sinks = SimpleNamespace(log="log", hook="hook")
    desk = Desk(
        loose(None), loose(None), loose(None), rules=lambda: found.catalog.rules,
        log=lambda: loose(sinks.log) if found.sinks.log else None,
        hooks=lambda: [loose(sinks.hook)],
    )  # fmt: skip
    return "+".join(map(str, desk._sinks(kind)))


def never_silent(value: str) -> str:
    return takes(more=f"escalation_logic: {{never_fail_silently: {value}}}")


def log_escalations(value: str) -> list[str]:
    found = take(more=f"failure_handling: {{log_escalation_events: {value}}}")
    with structlog.testing.capture_logs() as lines:
        watch = LogObserver(
            structlog.get_logger(), "info", log_escalations=found.catalog.rules.log_escalations
        )
        fact = Escalated("free", "premium", EscalationReason.CAP, "full", EscalationKind.FAILURE)
        watch.fact("t", ask(), fact, T0)
    return [line["event"] for line in lines]


def track_tokens(value: str) -> bool:
    found = take(more=f"monitoring: {{track_token_usage: {value}}}")
    span = Span("2026-11-22", "2026-11-23", T0, T0 + 86_400_000)
    tables = UsageTables((), (), (), (), "")
    made = make(found.catalog, tables, span, T0, "UTC")
    return "input_tokens" in json.dumps(as_json(made))


def alert_at_80(value: str) -> list[int]:
    found = take(more=f"monitoring: {{alert_at_budget_80_percent: {value}}}")
    return sorted({mark.percent for marks in marks_of(found.catalog).values() for mark in marks})


def daily_report(value: str) -> str:
    found = take(more=f"monitoring: {{daily_usage_report: {value}}}")
    looked: list[str] = []

    class Days:
        async def unreported(self, begin: str, end: str) -> tuple[str, ...]:
            looked.append(end)
            return ()

    clock = SimpleNamespace(now_ms=lambda: T0)
    work = DailyReports(
        loose(None), loose(Days()), clock, zone="UTC",
        wanted=lambda: found.catalog.rules.daily_report, made=lambda _: None,
    )  # fmt: skip
    asyncio.run(work.look())
    return "made" if looked else "not made"


def capability_matching(value: str) -> list[str]:
    play = played(take(top=f"capability_matching: {value}"))
    return [candidate.model.id for candidate in play.last(Reserve).candidates]


def capability_matching_inside(value: str) -> list[str]:
    play = played(take(more=f"capability_matching: {value}"))
    return [candidate.model.id for candidate in play.last(Reserve).candidates]


def task_start(value: str) -> str:
    return went(played(take(top=f"task_types: {{parse: {{start: {value}}}}}")))


def reserved(value: str) -> tuple[str, str]:
    """Where an ordinary task and one that jumped go, when a third of the cap is spent."""
    found = take(layer=f"reserved_for_complexity: {value}")
    standing = full(found.catalog, "free", "budget")
    spent = {
        counter.key: Balance("now", min(counter.limit, 5_000_000_000 // 3), 0, DAY)
        for model in found.catalog.layers[2].models
        for counter in (*model.counters, *model.ordinary)
    }
    standing = Standing({**standing.balances, **spent})
    ordinary, jumped = ask(limits=NO_WAIT), ask(HARD, NO_WAIT)
    return went(played(found, ordinary, standing)), went(played(found, jumped, standing))


def hold_patience(value: str) -> str:
    found = take(top=f"timeouts: {{hold_patience: {value}}}")
    return went(played(found, ask(), full(found.catalog, "free", held=True)))


# ------------------------------------------------------------------------------- sessions

SESSION = Session("free", "google/default/gemini-2.0-flash")
CHECK = Sign(Struggle.FAILED_CHECK, 1)


def stepped(section: str) -> str:
    rules = take(top=f"sessions: {section}").catalog.rules
    step = Step(
        "k", SESSION, signs=(CHECK,), sticky=rules.session_sticky, heeds=rules.session_evidence
    )
    return went(played(take(), replace(ask(), session=step)))


def sticky(value: str) -> str:
    return stepped(f"{{sticky: {value}, evidence: false}}")


def evidence(value: str) -> str:
    return stepped(f"{{sticky: false, evidence: {value}}}")


# -------------------------------------------------------------------- models, layers, agents


def consent(value: str) -> str:
    found = take(layer=f"consent: {value}")
    return went(played(found, ask(limits=NO_WAIT), full(found.catalog, "free", "budget")))


def billed(found: Loaded, index: int) -> tuple[bool, int]:
    """Say whether the free-only may use a layer's first model, and what a call there is charged."""
    others = [layer.name for layer in found.catalog.layers if layer.index != index]
    only = Constraints(allowed_models=(found.catalog.layers[index].models[0].id,), may_wait=False)
    play = played(found, ask(limits=only), full(found.catalog, *others))
    play.grant()
    play.says("Yes.")
    play.finishes()
    free = went(played(found, ask(limits=replace(only, free_only=True))))
    return free != "fails", play.last(Settle).charged_nanos


def model_billing(value: str) -> tuple[bool, int]:
    return billed(take(model=f"billing: {value}"), 0)


def layer_billing(value: str) -> tuple[bool, int]:
    return billed(take(layer=f"billing: {value}"), 2)


def admitted(found: Loaded, index: int, model: str) -> list[str]:
    """Say what stands against a model for each demand for a task's data; nothing: it may."""
    catalog, told = found.catalog, []
    layer = catalog.layers[index]
    [judged] = [each for each in layer.models if each.id == model]
    for demand in DataDemand:
        asked = ask(replace(PARSE, data_demand=demand))
        need = need_of(asked, catalog, catalog.task_types["parse"], 10, 0)
        view = policy.view(need, Experience(), Standing(), T0, require=False)
        told.append(policy.judge(judged, layer, view)[0].detail)
    return told


def model_data(value: str) -> list[str]:
    return admitted(take(model=f"data: {value}"), 0, MINI)


def layer_data(value: str) -> list[str]:
    return admitted(take(layer=f"data: {value}"), 2, "gpt-4o")


def provider_data(value: str) -> list[str]:
    return admitted(take(top=f"providers: {{google: {{data: {value}}}}}"), 0, GEMINI)


def features(value: str) -> list[str]:
    """Say which requests the model takes."""
    found, base = (
        take(model=f"features: [{value}]"),
        ask(limits=Constraints(allowed_models=(MINI,))),
    )
    shape = ResponseFormat(FormatKind.JSON_SCHEMA, "s", "{}")
    picture = replace(base.messages[0], parts=(Image("image/png", b"x"),))
    wants = {
        "a tool": replace(base, tools=(Tool("t", "", "{}"),)),
        "an image": replace(base, messages=(picture,)),
        "a schema": replace(base, response_format=shape),
    }
    return [name for name, asked in wants.items() if went(played(found, asked)) == MINI]


def agent_data(value: str) -> list[str]:
    providers = "providers: {openai: {data: local}, google: {data: no_training}}"
    found = take(top=f"{providers}\nagents: {{bot: {{data: {value}}}}}")
    full_of = ask(replace(PARSE, capabilities=()), Constraints(highest_layer="budget"), "bot")
    play = played(found, full_of)
    free = [candidate.model.provider for candidate in play.last(Reserve).candidates]
    later = played(found, full_of, full(found.catalog, "free"))
    return [*dict.fromkeys(free), went(later)]


def agent_role(value: str) -> str:
    """Say what a caller that its certificate names may do."""
    found = take(top=f"agents: {{bot: {{role: {value}}}}}")
    strategy = SimpleNamespace(catalog=found.catalog, clock=None)
    proven = {"x509_subject": [b"CN=bot"], "x509_common_name": [b"bot"]}
    caller = SimpleNamespace(invocation_metadata=lambda: (), auth_context=lambda: proven)
    gate = Gate(loose(strategy), None, required=True, certificates=True)
    try:
        gate.admit(Access.OPERATOR, None, loose(caller))
    except RefusedError:
        return "works"
    return "works and steers"


def agent_free_only(value: str) -> str:
    found = take(top=f"agents: {{bot: {{free_only: {value}}}}}")
    return went(played(found, ask(limits=NO_WAIT, agent="bot"), full(found.catalog, "free")))


def agent_may_downgrade(value: str) -> str:
    found = take(top=f"agents: {{bot: {{may_downgrade: {value}}}}}")
    return went(played(found, ask(HARD, NO_WAIT, "bot"), full(found.catalog, "premium")))


def agent_trusted(value: str) -> list[str]:
    """Say whom a report of its own call benches."""
    found = take(top=f"agents: {{bot: {{trusted_reports: {value}}}}}")
    play = played(found, replace(ask(agent="bot"), delivery=Delivery.ROUTE))
    play.grant()
    failure = Failure(FailureClass.QUOTA_WINDOW, "full", reset_at_ms=T0 + 60_000)
    play.feed(OutcomeReported(1, failure=failure))
    return [order.key for order in play.log if isinstance(order, SetBench)]


def dialect(value: str) -> str:
    top = f"providers: {{nano-gpt: {{dialect: {value}, base_url: 'https://h'}}}}"
    found = take(top=top)
    model = found.catalog.layers[1].models[0]
    need = need_of(ask(), found.catalog, found.catalog.task_types["parse"], 10, 0)
    end = Endpoint(model.provider, model.account, "https://h", "key", 1_000)
    wire = CODECS[model.dialect].encode(ask(), need.candidate(model, None), end)
    return wire.url.partition("?")[0].rpartition("/")[2]


def window(key: str, value: str) -> list[tuple[str, str, int]]:
    found = take(top=f"providers: {{google: {{rate_limit: {{{key}: {value}}}}}}}")
    [model] = [model for model in found.catalog.models if model.id == GEMINI]
    return [
        (counter.unit.value, counter.period.value, counter.limit)
        for counter in model.counters
        if counter.limit == 7
    ]


def price_i_know(value: str) -> str:
    return takes(model=f"price: {{i_know: {value}, input: 5000, output: 1}}")


def webhook_body(value: str) -> str:
    hook = f"{{url_env: HOOK, body: {value}}}"
    [made] = take(top=f"notifications: {{webhooks: [{hook}]}}").sinks.hooks
    shape = Shape.SLACK if made.slack else Shape.PLAIN
    body = json.loads(body_of(Notice("1", "report", "Hi.", T0, T0), shape))
    return "a text" if list(body) == ["text"] else f"data of notice {body['id']}"


def notify_log(value: str) -> str:
    return sinks_of(take(top=f"notifications: {{log: {value}}}"), "report")


# ---------------------------------------------------------------------------------- gates

CALL = ToolCall("c", "missing", "{")
BAD: Mapping[str, tuple[FormatKind, Answer]] = {
    "cut": (FormatKind.TEXT, Answer((Text("a long text, cut"),), FinishReason.LENGTH)),
    "refused": (FormatKind.TEXT, Answer((Text("I will not do it"),), FinishReason.REFUSAL)),
    "prose": (FormatKind.JSON, Answer((Text("a long text of words"),))),
    "other JSON": (FormatKind.JSON_SCHEMA, Answer((Text('{"some": "other"}'),))),
    "bad call": (FormatKind.TEXT, Answer((Text("I call a tool"), CALL), FinishReason.TOOL_CALLS)),
    "short": (FormatKind.TEXT, Answer((Text("no"),))),
    "plain": (FormatKind.TEXT, Answer((Text("a long text with nothing"),))),
}
BESIDE = {"too_short": ", shortest_characters: 5", "pattern": ", pattern: DONE"}
SCHEMA = '{"type": "object", "required": ["sum"]}'


def failed(found: Loaded, type_: str = "parse") -> list[str]:
    """Say which bad answers are not accepted."""
    quality = found.catalog.rules.quality
    demands = quality.demands
    if type_ in quality.by_type:
        demands |= quality.by_type[type_]
    checker, base = AnswerGates(), ask()
    tools = (Tool("look", "", "{}"),)
    names = []
    for name, (kind, answer) in BAD.items():
        shape = ResponseFormat(kind, "s", SCHEMA if kind is FormatKind.JSON_SCHEMA else "")
        asked = replace(base, response_format=shape, tools=tools)
        if checker.check(asked, answer, demands) is not None:
            names.append(name)
    play = played(found)
    play.grant()
    play.finishes()
    empty = play.last(Settle).figures is None and went(play) != MINI
    return [*(["empty"] if empty else []), *names]


def quality_gates(value: str) -> list[str]:
    return failed(take(top=f"quality: {{gates: [{value}]{BESIDE.get(value, '')}}}"))


def type_gates(value: str) -> list[str]:
    demands = f"{{gates: [{value}]{BESIDE.get(value, '')}}}"
    return failed(take(top=f"task_types: {{parse: {{quality: {demands}}}}}"))


def on_unmet(value: str) -> str:
    """Say what becomes of a task whose every answer is bad (``Picky`` does not like the word)."""
    found = take(top=f"quality: {{gates: [refusal], on_unmet: {value}, max_escalations: 0}}")
    play = played(found, ask(limits=NO_WAIT))
    play.grant()
    play.says("bad")
    play.finishes()
    play.settled()
    if play.outcome is None:
        play.settled()  # of the answer that stands in
    outcome = play.outcome
    return "fails" if outcome is None or not hasattr(outcome, "answer") else "delivers"
