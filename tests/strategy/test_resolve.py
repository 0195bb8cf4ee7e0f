"""From the model to the catalog: inference, overrides, everything the file can state."""

from decimal import Decimal

import pytest

from escalade_server.core.catalog import (
    Billing,
    Catalog,
    CounterScope,
    DataPolicy,
    Model,
    Scoring,
    TaskType,
)
from escalade_server.core.rules import (
    OnAllExhausted,
    OnBudgetAlert,
    OnComplexity,
    OnOutage,
    OnRateLimit,
    OnTargetExhausted,
    Rules,
)
from escalade_server.core.task import Feature
from escalade_server.core.triggers import ComplexityTrigger
from escalade_server.strategy import not_yet
from escalade_server.strategy.errors import StrategyErrors
from tests.strategy.strategies import GOOD, changed, loaded, with_more

USD = 1_000_000_000


def catalog(text: str) -> Catalog:
    return loaded(text).catalog


def first(text: str) -> Model:
    return catalog(text).models[0]


def codes(text: str) -> set[str]:
    return {notice.code for notice in loaded(text).notices}


def billed(layer: str, model: str, *, second: bool) -> tuple[Billing, int]:
    """Billing of a model, and the fee of its layer, with these keys in first or second layer."""
    other = "    - {name: other, priority: 2, models: [{provider: openai, model: gpt-4o}]}\n"
    text = (
        "fallback_strategy:\n  layers:\n"
        f"    - {{name: this, priority: {3 if second else 1}, {layer}"
        f"models: [{{provider: openai, model: gpt-4o-mini{model}}}]}}\n{other}"
    )
    found = next(layer for layer in catalog(text).layers if layer.name == "this")
    return found.models[0].billing, found.fee_nanos


@pytest.mark.parametrize(
    ("layer", "model", "second", "expected"),
    [
        ("billing: metered, cost_per_month: 0, ", "", False, (Billing.METERED, 0)),
        ("billing: metered, ", ", billing: free", False, (Billing.FREE, 0)),
        ("cost_per_month: 0, monthly_cap: 5, ", "", True, (Billing.FREE, 0)),
        ("monthly_cap: 5, ", ", monthly_cap: 3", True, (Billing.METERED, 0)),
        ("monthly_cap: 5, cost_per_month: 4, ", "", False, (Billing.METERED, 4 * USD)),
        ("", ", monthly_cap: 3", False, (Billing.SUBSCRIPTION, 3 * USD)),
        ("cost_per_month: 7, ", ", monthly_cap: 3", True, (Billing.SUBSCRIPTION, 7 * USD)),
        ("", ", monthly_cap: 0", True, (Billing.SUBSCRIPTION, 0)),
        ("", "", False, (Billing.FREE, 0)),
        ("", "", True, (Billing.METERED, 0)),
        ("", ", monthly_cap: unlimited", True, (Billing.METERED, 0)),
    ],
)
def test_r16_billing_is_inferred_in_this_order(
    layer: str, model: str, *, second: bool, expected: tuple[Billing, int]
) -> None:
    assert billed(layer, model, second=second) == expected


def test_r16_metered_without_a_cap_is_advised() -> None:
    assert "UNCAPPED" in codes(changed("      monthly_cap: 5_usd\n", ""))
    assert "UNCAPPED" not in codes(GOOD)
    under_strategy = changed("      monthly_cap: 5_usd\n", "  monthly_cap: 9\n")
    assert "UNCAPPED" not in codes(under_strategy)


def test_a_model_on_ones_own_machine_costs_nothing() -> None:
    text = with_more("providers: {own: {base_url: 'http://127.0.0.1:1', data: local}}\n")
    found = first(text.replace("openai", "own", 1))

    assert (found.provider, found.data) == ("own", DataPolicy.LOCAL)
    assert found.price.is_zero


def test_a_start_can_be_a_number() -> None:
    text = with_more("task_types: {debug: {start: 2}, plan: {start: first}}\n")

    assert [catalog(text).task_type(name).start for name in ("debug", "plan")] == [2, 1]


def test_r18_every_scope_has_its_counter() -> None:
    text = GOOD.replace("monthly_cap: 5_usd", "monthly_cap: 5_usd\n      was: reserve") + (
        "  monthly_budget: 20\n"
        "  cap_resets: day 14\n"
        "providers:\n"
        "  openai: {rate_limit: {requests_per_minute: 3, tokens_per_week: 9}, monthly_cap: 6,"
        " reset_zone: Europe/Berlin}\n"
    )
    free, premium = catalog(text).models

    mini = "openai/default/gpt-4o-mini"
    assert [(c.key, c.limit, c.scope, c.zone, c.reset_day) for c in free.counters] == [
        (f"requests/day:{mini}", 50, CounterScope.MODEL, "Europe/Berlin", 1),
        ("requests/minute:openai/default", 3, CounterScope.ACCOUNT, "UTC", 1),
        ("tokens/week:openai/default", 9, CounterScope.ACCOUNT, "Europe/Berlin", 1),
    ]
    assert [(c.key, c.limit, c.scope, c.reset_day) for c in premium.counters[2:]] == [
        ("nanos/month:layer/reserve", 5 * USD, CounterScope.LAYER, 14),
        ("nanos/month:provider/openai", 6 * USD, CounterScope.ACCOUNT, 14),
        ("nanos/month:strategy", 20 * USD, CounterScope.STRATEGY, 14),
    ]


@pytest.mark.fault("G7")
def test_r18_g7_a_cap_of_nothing_is_a_cap() -> None:
    premium = catalog(changed("5_usd", "0")).models[1]

    assert [(c.key, c.limit) for c in premium.counters] == [("nanos/month:layer/premium", 0)]


def test_every_window_has_a_counter() -> None:
    periods = ("second", "minute", "hour", "day", "week", "month")
    stated = [f"{unit}_per_{period}" for unit in ("requests", "tokens") for period in periods]
    text = changed("50/day", "{" + ", ".join(f"{key}: 7" for key in stated) + "}")

    keys = [counter.key.partition(":")[0] for counter in first(text).counters]
    assert keys == [key.replace("_per_", "/") for key in stated]
    assert first(changed("50/day", "{requests_per_day: unlimited}")).counters == ()


def test_r4_two_thresholds_are_named_and_the_stated_one_wins() -> None:
    found = loaded(GOOD + "  complexity_scoring: {threshold_for_premium: 5}\n")

    trigger = found.catalog.layers[1].triggers[1]
    assert isinstance(trigger, ComplexityTrigger)
    assert trigger.value_micro == 5_000_000
    assert found.catalog.scoring == Scoring(threshold_micro=5_000_000)
    notice = next(n for n in found.notices if n.code == "TWO_THRESHOLDS")
    assert (notice.line, "line 20" in notice.sentence, "line 18" in notice.sentence) == (
        20,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("trigger", "stated", "threshold"),
    [
        ("task.complexity > 8", "", 8_000_000),
        ("task.complexity >= 7.5", "", 7_500_000),
        ("task.complexity < 8", "", None),
        ("task.complexity == 8", "{threshold_for_premium: 6}", 6_000_000),
        ("task.complexity > 8", "{threshold_for_premium: 8.0}", 8_000_000),
    ],
)
def test_r4_the_threshold(trigger: str, stated: str, threshold: int | None) -> None:
    text = changed("task.complexity > 8", trigger)
    found = loaded(text + (f"complexity_scoring: {stated}\n" if stated else ""))

    assert found.catalog.scoring.threshold_micro == threshold
    assert "TWO_THRESHOLDS" not in {notice.code for notice in found.notices}


def test_r4_the_last_layer_that_names_the_complexity_has_the_threshold() -> None:
    text = changed("      cost_per_month: 0\n", "      trigger: task.complexity > 3\n")

    found = catalog(text)
    assert found.scoring.threshold_micro == 8_000_000
    first_trigger = found.layers[0].triggers[0]
    assert isinstance(first_trigger, ComplexityTrigger)
    assert first_trigger.value_micro == 3_000_000


def test_r4_weights_keep_their_defaults_one_by_one() -> None:
    found = catalog(with_more("complexity_scoring: {reasoning_depth_weight: 0.5}\n"))

    assert found.scoring == Scoring(300_000, 500_000, 100_000, 8_000_000)


def test_layers_are_in_order_of_priority_whatever_their_place() -> None:
    swapped = changed("priority: 1", "priority: 7")

    assert [(la.name, la.index, la.priority) for la in catalog(swapped).layers] == [
        ("premium", 0, 2),
        ("free", 1, 7),
    ]
    assert [model.position for model in catalog(swapped).models] == [0, 1]
    without = GOOD.replace("      priority: 1\n", "").replace("      priority: 2\n", "")
    assert [layer.priority for layer in catalog(without).layers] == [1, 2]


def test_every_rule_can_be_stated() -> None:
    text = with_more(
        "  escalation_logic: {rate_limit_hit: next_model, complexity_high: ignore,"
        " on_target_exhausted: fail, budget_alert: 'off'}\n"
        "  failure_handling: {on_all_layers_exhausted: fail, on_provider_outage: next_layer,"
        " log_escalation_events: false, max_wait: 1h}\n"
        "  monitoring: {track_token_usage: false, alert_at_budget_percent: [50, 95],"
        " alert_at_budget_80_percent: true, daily_usage_report: true}\n"
        "reporting: {zone: Europe/Berlin}\n"
        "capability_matching: prefer\n"
        "attempts_max: 3\n"
        "output_tokens_default: 1000\n"
        "circuit_breaker: {failures: 2, open_for: 3s}\n"
        "timeouts: {connect: 1s, first_token: 2s, idle: 3s, total: 4s, work: 5s,"
        " hold_patience: 6s, usage_grace: 7s}\n"
        "idempotency: {keep_answers: 0s}\n"
    )

    assert catalog(text).rules == Rules(
        on_rate_limit=OnRateLimit.NEXT_MODEL,
        on_complexity=OnComplexity.IGNORE,
        on_target_exhausted=OnTargetExhausted.FAIL,
        on_all_exhausted=OnAllExhausted.FAIL,
        on_outage=OnOutage.NEXT_LAYER,
        on_budget_alert=OnBudgetAlert.OFF,
        alert_percents=(50, 80, 95),
        log_escalations=False,
        track_tokens=False,
        daily_report=True,
        report_zone="Europe/Berlin",
        attempts_max=3,
        output_tokens_default=1000,
        max_wait_ms=3_600_000,
        breaker_failures=2,
        breaker_open_ms=3_000,
        connect_ms=1_000,
        first_token_ms=2_000,
        idle_ms=3_000,
        attempt_total_ms=4_000,
        work_ms=5_000,
        hold_patience_ms=6_000,
        usage_grace_ms=7_000,
        keep_answers_ms=0,
    )


def test_r2_task_types_and_words_can_be_extended() -> None:
    text = with_more(
        "task_types:\n"
        "  codegen: {depth: 6}\n"
        "  Translate_Text: {capabilities: [languages], start: last, aliases: [translation]}\n"
        "  other: {depth: 2}\n"
        "capability_aliases: {langs: languages, parsing: reading}\n"
    )
    found = catalog(text)

    generate = catalog(GOOD).task_type("generate")
    assert found.task_type("code-gen") == TaskType("generate", 6, generate.needs)
    translate = TaskType("translate-text", 5, frozenset({"languages"}), -1)
    assert found.task_type("translation") == translate
    assert found.task_type("Translate Text".replace(" ", "_")) == translate
    assert found.task_type("nobody knows").depth == 2
    assert found.models[0].capabilities == {"reading"}
    assert found.task_type("parse").needs == {"reading", "simple-tasks"}
    assert found.capability_aliases == {"langs": "languages", "parsing": "reading"}


@pytest.mark.parametrize(
    ("word", "name", "depth"),
    [
        ("parsing", "parse", 1),
        ("file_reading", "read", 1),
        ("Formatting", "format", 1),
        ("planning", "plan", 3),
        ("codegen", "generate", 5),
        ("debugging", "debug", 7),
        ("refactoring", "refactor", 8),
        ("architecture", "architecture", 9),
        ("reason", "reason", 9),
        ("singing", "other", 5),
    ],
)
def test_r2_depths_and_spellings(word: str, name: str, depth: int) -> None:
    found = catalog(GOOD).task_type(word)

    assert (found.name, found.depth) == (name, depth)


def test_r2_require_needs_a_model_for_every_type() -> None:
    with pytest.raises(StrategyErrors) as caught:
        loaded(with_more("capability_matching: require\n"))

    assert len(caught.value.errors) == 6  # parse, read and format are met
    able = "[parsing, planning, code-gen, debugging, refactoring, architecture, complex-reasoning]"
    assert catalog(
        changed("[parsing]", able) + "capability_matching: require\n"
    ).rules.require_capability


def test_a_model_states_its_own_facts() -> None:
    found = first(
        changed(
            "rate_limit: 50/day",
            "price: {input: 0.1, output: 0.4, cached: 0.003625, per_request: 0.001}\n"
            "          data: trains\n          features: [tools]\n"
            "          context_tokens: 1000\n          output_tokens_max: 10",
        )
    )

    price = found.price
    assert (price.input_picos, price.output_picos, price.cached_picos) == (100_000, 400_000, 3_625)
    assert price.request_nanos == 1_000_000
    assert (found.data, set(found.features)) == (DataPolicy.TRAINS, {Feature.TOOLS})
    assert (found.context_tokens, found.output_tokens_max) == (1000, 10)


def test_a_provider_of_the_users_own() -> None:
    text = GOOD.replace("provider: openai", "provider: sim") + (
        "providers:\n  sim: {base_url: 'http://127.0.0.1:9/v1/', model_aliases: {gpt-4o: big}}\n"
    )
    found = loaded(text, {})

    endpoint = found.endpoints["sim", "default"]
    assert (endpoint.base_url, endpoint.dialect) == ("http://127.0.0.1:9/v1", "openai")
    assert (endpoint.secret, endpoint.missing) == (None, "")
    assert [(m.id, m.wire_id) for m in found.catalog.models] == [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o", "big"),
    ]
    assert all(model.absence is None for model in found.catalog.models)
    assert "PRICE_UNKNOWN" in {notice.code for notice in found.notices}


def test_r15_a_stated_baseline() -> None:
    found = catalog(with_more("reporting: {baseline: openai/gpt-4o-mini}\n"))

    assert found.baseline is not None
    assert found.baseline.id == "gpt-4o-mini"


def test_consent_and_state() -> None:
    found = loaded(changed("name: premium", "name: premium\n      consent: required"))

    assert [layer.consent_required for layer in found.catalog.layers] == [False, True]
    assert found.state_url is None
    assert loaded(with_more("state: sqlite:here.db\n")).state_url == "sqlite:here.db"
    assert loaded(with_more("state: {url: 'redis://h'}\n")).state_url == "redis://h"


def test_every_key_that_is_accepted_is_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("name: premium", "name: premium\n      reserved_for_complexity: 70%") + (
        "  failure_handling: {on_all_layers_exhausted: fail, max_wait: 1h}\n"
        "  escalation_logic: {on_target_exhausted: wait}\n"
        "agents: {bot: {free_only: true, trusted_reports: true}}\n"
        "notifications: {webhooks: [{url_env: HOOK, body: slack}]}\n"
        "quality: {gates: [empty, invalid_json]}\n"
        "sessions: {ttl: 30min, sticky: false, evidence: false}\n"
        "idempotency: {keep_answers: 10min}\n"
        "providers: {openai: {concurrency: 3, timeouts: {idle: 1s}}}\n"
    )

    assert loaded(text).not_yet_in_effect == ()
    rows = (not_yet.Row("sessions.*", "not built", ("30min",)), not_yet.Row("quality", "nor this"))
    monkeypatch.setattr(not_yet, "ROWS", rows)
    listed = [str(entry) for entry in loaded(text).not_yet_in_effect]
    assert listed == [
        "line 25: quality is not yet in effect: nor this",
        "line 26: sessions.ttl is not yet in effect: not built",
    ]
    rules = loaded(text).catalog.rules
    assert (rules.session_ttl_ms, rules.session_sticky, rules.session_evidence) == (
        1_800_000, False, False,
    )  # fmt: skip
    openai = loaded(text).catalog.models[0].pace
    assert (openai.concurrency, openai.idle_ms, openai.total_ms) == ((("openai", 3),), 1_000, None)


def test_values_of_prices_are_exact() -> None:
    price = "price: {i_know: true, input: 0.0000001, output: 0}"
    found = first(changed("rate_limit: 50/day", price))

    assert found.price.input_picos == 1  # rounded up: never below what is paid
    assert Decimal(found.price.output_picos) == 0
