"""Both reference files load as they stand, into exactly these catalogs (issue 3, R4, R16, R18)."""

from dataclasses import dataclass

import pytest

from escalade_server.core.absence import AbsenceKind
from escalade_server.core.catalog import Billing, DataPolicy, Model, Scoring
from escalade_server.core.rules import (
    OnAllExhausted,
    OnBudgetAlert,
    OnComplexity,
    OnOutage,
    OnRateLimit,
    Rules,
)
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from escalade_server.strategy.load import load
from tests.strategy.strategies import FILES, KEYS, TODAY, reference

USD = 1_000_000_000
PACIFIC = "America/Los_Angeles"


@dataclass(frozen=True)
class Row:
    """What is expected of one model."""

    key: str
    wire_id: str
    billing: Billing
    words: set[str]
    counters: list[tuple[str, int, str]]
    cooldown_ms: int | None = None


def row_of(model: Model) -> Row:
    counters = [(counter.key, counter.limit, counter.zone) for counter in model.counters]
    words = set(model.capabilities)
    cooldown = model.cooldown_on_limit_ms
    return Row(model.key, model.wire_id, model.billing, words, counters, cooldown)


FREE, SUBSCRIPTION, METERED = Billing.FREE, Billing.SUBSCRIPTION, Billing.METERED
PREMIUM_CAP = [("nanos/month:layer/premium_reserve", 5 * USD, "UTC")]
DEEPSEEK = Row(
    "deepseek/default/deepseek-chat", "deepseek-chat", FREE, {"code-generation", "debugging"}, []
)
HAIKU = Row(
    "anthropic/default/claude-3-haiku",
    "claude-3-haiku-20240307",
    METERED,
    {"complex-reasoning", "architecture"},
    PREMIUM_CAP,
)
MINI, GPT_4O = "openai/default/gpt-4o-mini", "openai/default/gpt-4o"
GEMINI_1, GEMINI_2 = "google/default/gemini-flash", "google/default/gemini-2.0-flash"
GLM = "nano-gpt/default/glm-5"
GLM_CAP = [("nanos/month:nano-gpt/glm-5", 8 * USD, "UTC")]
EXPECTED = {
    1: [
        Row(
            MINI,
            "gpt-4o-mini",
            FREE,
            {"parsing", "formatting", "simple-tasks"},
            [(f"requests/day:{MINI}", 50, "UTC")],
        ),
        Row(
            GEMINI_1,
            "gemini-flash-latest",
            FREE,
            {"parsing", "formatting", "planning"},
            [(f"requests/day:{GEMINI_1}", 100, PACIFIC)],
        ),
        DEEPSEEK,
        Row(GLM, "zai-org/glm-5", SUBSCRIPTION, {"moderate-complexity", "code-gen"}, GLM_CAP),
        Row(
            "minimax/default/minimax-v2-pro",
            "MiniMax-M2.7",
            SUBSCRIPTION,
            {"complex-tasks", "reasoning"},
            [("nanos/month:minimax/minimax-v2-pro", 10 * USD, "UTC")],
        ),
        HAIKU,
        Row(GPT_4O, "gpt-4o", METERED, {"multi-file-refactor", "debugging"}, PREMIUM_CAP),
    ],
    2: [
        Row(
            MINI,
            "gpt-4o-mini",
            FREE,
            {"simple-tasks", "parsing"},
            [(f"requests/day:{MINI}", 50, "UTC"), (f"tokens/day:{MINI}", 100_000, "UTC")],
            86_400_000,
        ),
        Row(
            GEMINI_2,
            "gemini-2.0-flash",
            FREE,
            {"planning", "simple-reasoning"},
            [
                (f"requests/day:{GEMINI_2}", 100, PACIFIC),
                (f"tokens/day:{GEMINI_2}", 200_000, PACIFIC),
            ],
        ),
        DEEPSEEK,
        Row(
            "openrouter/default/minimax/minimax-v2-pro",
            "minimax/minimax-m2.7",
            SUBSCRIPTION,
            {"moderate-reasoning", "code-gen"},
            [("nanos/month:openrouter/minimax/minimax-v2-pro", 10 * USD, "UTC")],
        ),
        Row(GLM, "zai-org/glm-5", SUBSCRIPTION, {"complex-tasks"}, GLM_CAP),
        HAIKU,
        Row(GPT_4O, "gpt-4o", METERED, {"multi-file-analysis", "refactoring"}, PREMIUM_CAP),
    ],
}


@pytest.mark.parametrize("version", [1, 2])
def test_r16_r18_models_with_counters_caps_and_billing(version: int) -> None:
    catalog = reference(version).catalog

    assert [row_of(model) for model in catalog.models] == EXPECTED[version]
    assert [model.position for model in catalog.models] == list(range(7))
    assert [model.layer_index for model in catalog.models] == [0, 0, 0, 1, 1, 2, 2]


def test_r16_layers_of_the_first_form() -> None:
    layers = reference(1).catalog.layers

    named = [(layer.name, layer.index, layer.priority, layer.fee_nanos) for layer in layers]
    assert named == [
        ("free_primary", 0, 1, 0),
        ("budget_fallback", 1, 2, 18 * USD),
        ("premium_reserve", 2, 3, 5 * USD),
    ]
    assert [layer.triggers for layer in layers] == [
        (),
        (LayerTrigger("free_primary", Condition.EXHAUSTED, "free_primary.exhausted", 33),),
        (
            LayerTrigger("budget_fallback", Condition.EXHAUSTED, "budget_fallback.exhausted", 46),
            ComplexityTrigger(Comparison.GT, 8_000_000, "task.complexity > 8", 47),
        ),
    ]


def test_r16_layers_of_the_second_form_without_stated_fees() -> None:
    layers = reference(2).catalog.layers

    assert [(layer.name, layer.fee_nanos) for layer in layers] == [
        ("free_primary", 0),
        ("budget_subscription", 18 * USD),
        ("premium_reserve", 0),
    ]
    assert [[trigger.text for trigger in layer.triggers] for layer in layers] == [
        [],
        ["free_primary.rate_limit_exceeded", "free_primary.all_models_unavailable"],
        ["budget_subscription.exhausted", "task.complexity_score > 8"],
    ]


def test_r4_scoring_and_threshold() -> None:
    assert reference(1).catalog.scoring == Scoring(300_000, 400_000, 300_000, 8_000_000)
    assert reference(2).catalog.scoring == Scoring(300_000, 700_000, 100_000, 8_000_000)


@pytest.mark.parametrize("version", [1, 2])
def test_r7_rules_are_the_defaults_that_both_files_state(version: int) -> None:
    rules = reference(version).catalog.rules

    assert rules == Rules(daily_report=version == 2)
    assert rules.on_rate_limit is OnRateLimit.NEXT_LAYER
    assert rules.on_complexity is OnComplexity.JUMP
    assert rules.on_all_exhausted is OnAllExhausted.NOTIFY_AND_WAIT
    assert rules.on_outage is OnOutage.SKIP
    assert rules.on_budget_alert is OnBudgetAlert.NOTIFY
    assert rules.alert_percents == (80, 100)


@pytest.mark.parametrize("version", [1, 2])
def test_r15_the_baseline_is_the_dearest_model_of_the_last_layer(version: int) -> None:
    baseline = reference(version).catalog.baseline

    assert baseline is not None
    assert baseline.key == GPT_4O
    assert (baseline.price.input_picos, baseline.price.output_picos) == (2_500_000, 10_000_000)


@pytest.mark.parametrize("version", [1, 2])
def test_r15_reports_compare_with_the_dearest_model_of_each_layer(version: int) -> None:
    catalog = reference(version).catalog

    assert catalog.baselines[0] is catalog.baseline
    assert {model.layer for model in catalog.baselines} == {layer.name for layer in catalog.layers}
    assert not any(model.price.is_zero for model in catalog.baselines)


@pytest.mark.parametrize("version", [1, 2])
def test_r17_every_pair_has_a_sourced_price(version: int) -> None:
    models = reference(version).catalog.models

    assert all("2026-11-23" in model.price.source for model in models)
    assert not any(notice.code == "PRICE_UNKNOWN" for notice in reference(version).notices)


def test_r28_data_policies() -> None:
    policies = {m.provider: m.data for m in reference(1).catalog.models}

    assert policies["google"] is DataPolicy.TRAINS
    assert policies["openai"] is policies["anthropic"] is DataPolicy.NO_TRAINING
    assert policies["deepseek"] is policies["minimax"] is DataPolicy.UNKNOWN


def test_r34_retired_models_are_reported_with_their_successors() -> None:
    def retired(version: int) -> list[tuple[int, str]]:
        found = [n for n in reference(version).notices if n.code == "RETIRED_MODEL"]
        return [(notice.line, notice.mend.split("`")[1]) for notice in found]

    assert retired(1) == [(16, "model: deepseek-flash"), (39, "model: claude-haiku-4-5-20251001")]
    assert retired(2) == [
        (16, "model: gemini-3.1-flash-lite"),
        (22, "model: deepseek-flash"),
        (45, "model: claude-haiku-4-5-20251001"),
    ]


def test_no_key_is_without_effect() -> None:
    listed = {v: [(n.key, n.line) for n in reference(v).not_yet_in_effect] for v in (1, 2)}

    assert listed == {1: [], 2: []}


def test_dialects_that_are_not_built_and_missing_keys_make_models_absent() -> None:
    file = FILES / "fallback-v1.yaml"
    found = load(file, environ=KEYS, built_dialects=frozenset({"openai"}), today=TODAY)
    with_keys = {m.provider: m.absence for m in found.catalog.models}
    without = {m.provider: m.absence for m in reference(1, {}).catalog.models}
    assumed = {m.provider: m.absence for m in reference(1, {}, assume_keys=True).catalog.models}

    absent = {name for name, absence in with_keys.items() if absence}
    assert absent == {"google", "anthropic"}
    assert {a.kind for a in with_keys.values() if a} == {AbsenceKind.NOT_BUILT}
    openai = without["openai"]
    assert openai is not None
    assert (openai.kind, openai.detail) == (AbsenceKind.NO_KEY, "set OPENAI_API_KEY")
    assert assumed["openai"] is None
    assert all(without.values())


def test_no_key_is_ever_shown() -> None:
    found = reference(1)

    assert found.endpoints["openai", "default"].secret is not None
    assert "key-" not in repr(found).replace("(not shown)", "")
