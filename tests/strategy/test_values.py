"""Each value of every key does something that the key's other values do not.

The keys and their values are read from the schema that is shipped, so a new one without a row
here fails. Where a key takes one word beside free values, or free values alone that a rule names,
examples stand for these.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from escalade_server.strategy.model import schema
from tests.strategy import values as v

Table = Mapping[str, object]
NOBODY = "the task may not be trained on, the model does not promise that"
TRAINED = "the task may not be trained on, the model is trained on what it is told"
AWAY = "the task is private, the model is not local"
DATA: Table = {
    "local": ["", "", ""],
    "no_training": ["", "", AWAY],
    "unknown": ["", NOBODY, AWAY],
    "trains": ["", TRAINED, AWAY],
}
GATES: Table = {
    "empty": ["empty"],
    "truncated": ["empty", "cut"],
    "refusal": ["empty", "refused"],
    "invalid_json": ["empty", "prose"],
    "json_schema": ["empty", "other JSON"],
    "tool_call": ["empty", "bad call"],
    "too_short": ["empty", "short"],
    "pattern": ["empty", "cut", "refused", "prose", "other JSON", "bad call", "short", "plain"],
}
LOADS: Table = {"true": "loads", "false": "refused"}
MATCHING: Table = {
    "prefer": ["gpt-4o-mini", "gpt-4.1-mini", "gemini-2.0-flash"],
    "require": ["gpt-4o-mini"],
}
ROWS: Mapping[str, tuple[Callable[[str], object], Table]] = {
    "EscalationLogic.rate_limit_hit": (
        v.rate_limit_hit,
        {"next_layer": "glm-5", "next_model": "fails"},
    ),
    "EscalationLogic.complexity_high": (
        v.complexity_high,
        {"jump_to_premium": "gpt-4o", "next_layer": "glm-5", "ignore": "gpt-4o-mini"},
    ),
    "EscalationLogic.on_target_exhausted": (
        v.on_target_exhausted,
        {"downgrade": "glm-5", "wait": "waits, people are told", "fail": "fails"},
    ),
    "EscalationLogic.budget_alert": (
        v.budget_alert,
        {"notify_user": (True, "log+hook"), "log": (True, "log"), "off": (False, "log")},
    ),
    "EscalationLogic.never_fail_silently": (v.never_silent, LOADS),
    "FailureHandling.on_all_layers_exhausted": (
        v.on_all_exhausted,
        {"notify_user_and_wait": "waits, people are told", "wait": "waits", "fail": "fails"},
    ),
    "FailureHandling.on_provider_outage": (
        v.on_outage,
        {
            "skip_to_next_provider": "gemini-2.0-flash",
            "next_layer": "glm-5",
            "retry_then_skip": "gpt-4o-mini",
        },
    ),
    "FailureHandling.log_escalation_events": (
        v.log_escalations,
        {"true": ["task.escalated"], "false": []},
    ),
    "Monitoring.track_token_usage": (v.track_tokens, {"true": True, "false": False}),
    "Monitoring.alert_at_budget_80_percent": (
        v.alert_at_80,
        {"true": [80, 100], "false": [100]},
    ),
    "Monitoring.daily_usage_report": (v.daily_report, {"true": "made", "false": "not made"}),
    "StrategyFile.capability_matching": (v.capability_matching, MATCHING),
    "Strategy.capability_matching": (v.capability_matching_inside, MATCHING),
    "TaskType.start": (
        v.task_start,
        {"first": "gpt-4o-mini", "last": "gpt-4o", "2": "glm-5"},
    ),
    "Layer.reserved_for_complexity": (
        v.reserved,
        {"0%": ("gpt-4o", "gpt-4o"), "70%": ("fails", "gpt-4o")},
    ),
    "Timeouts.hold_patience": (v.hold_patience, {"0s": "glm-5", "5s": "pauses"}),
    "Sessions.sticky": (v.sticky, {"true": "gemini-2.0-flash", "false": "gpt-4o-mini"}),
    "Sessions.evidence": (v.evidence, {"true": "glm-5", "false": "gpt-4o-mini"}),
    "Layer.consent": (v.consent, {"required": "fails", "not_required": "gpt-4o"}),
    "Model.billing": (
        v.model_billing,
        {"free": (True, 0), "subscription": (False, 0), "metered": (False, 21_000)},
    ),
    "Layer.billing": (
        v.layer_billing,
        {"free": (True, 0), "subscription": (False, 0), "metered": (False, 350_000)},
    ),
    "Model.data": (v.model_data, DATA),
    "Layer.data": (v.layer_data, DATA),
    "Provider.data": (v.provider_data, DATA),
    "Model.features": (
        v.features,
        {"tools": ["a tool"], "images": ["an image"], "json_schema": ["a schema"]},
    ),
    "Agent.data": (
        v.agent_data,
        {
            "any": ["openai", "google", "glm-5"],
            "no_training": ["openai", "google", "fails"],
            "private": ["openai", "fails"],
        },
    ),
    "Agent.role": (v.agent_role, {"agent": "works", "operator": "works and steers"}),
    "Agent.free_only": (v.agent_free_only, {"true": "fails", "false": "glm-5"}),
    "Agent.may_downgrade": (v.agent_may_downgrade, {"true": "glm-5", "false": "fails"}),
    "Agent.trusted_reports": (
        v.agent_trusted,
        {
            "true": ["openai/default/gpt-4o-mini"],
            "false": ["openai/default/gpt-4o-mini of agent bot"],
        },
    ),
    "Provider.dialect": (
        v.dialect,
        {
            "openai": "completions",
            "anthropic": "messages",
            "gemini": "glm-5:streamGenerateContent",
        },
    ),
    "Price.i_know": (v.price_i_know, LOADS),
    "Webhook.body": (
        v.webhook_body,
        {"plain": "data of notice 1", "slack": "a text"},
    ),
    "Notifications.log": (v.notify_log, {"true": "log+hook", "false": "hook"}),
    "Demands.gates": (v.type_gates, GATES),
    "Quality.gates": (v.quality_gates, GATES),
    "Quality.on_unmet": (v.on_unmet, {"fail": "fails", "deliver": "delivers"}),
    **{
        f"RateLimit.{unit}_per_{period}": (
            partial(v.window, f"{unit}_per_{period}"),
            {"unlimited": [], "7": [(unit, period, 7)]},
        )
        for unit in ("requests", "tokens")
        for period in ("second", "minute", "hour", "day", "week", "month")
    },
}
SCHEMA: Any = schema()


def words(node: Any) -> Iterator[str]:
    """List the words that a part of the schema takes, and no others."""
    if "$ref" in node:
        target = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
        yield from words(target) if "properties" not in target else ()
    if node.get("type") == "boolean":
        yield from ("true", "false")
    if "const" in node:
        yield node["const"]
    yield from node.get("enum", ())
    for part in (*node.get("anyOf", ()), *([node["items"]] if "items" in node else ())):
        yield from words(part)


SECTIONS = {**SCHEMA["$defs"], "StrategyFile": SCHEMA}
VALUES = [
    (f"{section}.{key}", word)
    for section, node in SECTIONS.items()
    for key, part in node.get("properties", {}).items()
    for word in dict.fromkeys(words(part))
]
EXAMPLES = [(key, word) for key, (_, table) in ROWS.items() for word in table]


def test_the_schema_was_read() -> None:
    assert len(VALUES) > 80
    assert ("EscalationLogic.rate_limit_hit", "next_model") in VALUES
    assert ("Sessions.sticky", "false") in VALUES


@pytest.mark.parametrize(("key", "value"), [*dict.fromkeys([*VALUES, *EXAMPLES])])
def test_a_value_does_what_it_says(key: str, value: str) -> None:
    observe, table = ROWS[key]
    assert observe(value) == table[value]


@pytest.mark.parametrize("key", ROWS)
def test_no_two_values_of_a_key_do_the_same(key: str) -> None:
    _, table = ROWS[key]
    outcomes = list(table.values())
    assert len(outcomes) > 1
    assert all(outcomes.count(each) == 1 for each in outcomes)


def test_no_row_is_left_over() -> None:
    keys = {
        f"{name}.{key}" for name, node in SECTIONS.items() for key in node.get("properties", ())
    }
    assert set(ROWS) <= keys
