"""Bad files are refused whole: the line, the key, the mend (faults G, R34)."""

import pytest

from escalade_server.strategy.errors import StrategyErrors
from tests.strategy.strategies import GOOD, changed, loaded, with_more

CAP = "      monthly_cap: 5_usd\n"
RATE = "rate_limit: 50/day"
TOP = "fallback_strategy"
LAYER, MODEL = f"{TOP}.layers[0]", f"{TOP}.layers[0].models[0]"
PREMIUM = f"{TOP}.layers[1]"
TRIGGER = "        - free.exhausted\n"
MEAN_CAP = 'did you mean "monthly_cap"?'

CASES = [
    # typos of keys, at every depth (G4)
    (changed(CAP, "      montly_cap: 5_usd\n"), 19, f"{PREMIUM}.montly_cap", MEAN_CAP),
    (changed(RATE, "ratelimit: 50/day"), 7, f"{MODEL}.ratelimit", 'did you mean "rate_limit"?'),
    (changed("layers:", "layer:"), 2, f"{TOP}.layer", 'did you mean "layers"?'),
    (changed(TOP + ":", "fallback_stratgy:"), 1, "fallback_stratgy", f'did you mean "{TOP}"?'),
    (with_more("provders: {}\n"), 20, "provders", 'did you mean "providers"?'),
    (with_more("circuit_breaker:\n  failure: 3\n"), 21, "circuit_breaker.failure", "failures"),
    (with_more("providers:\n  openai:\n    baseurl: x\n"), 22, "openai.baseurl", "base_url"),
    (with_more("agents:\n  a:\n    freeonly: true\n"), 22, "agents.a.freeonly", "free_only"),
    (changed(RATE, "rate_limit: {requests_per_dya: 5}"), 7, "requests_per_dya", "per_day"),
    (with_more("task_types:\n  x: {dept: 3}\n"), 21, "task_types.x.dept", "depth"),
    (changed("model: gpt-4o-mini", "model: m\n          api_key: x"), 7, "api_key", "api_key_env"),
    (changed(CAP, "      <<: {a: b}\n"), 19, f"{PREMIUM}.<<", "merge keys"),
    (
        with_more("notifications: {webhooks: [{url: x}]}\n"),
        20,
        "notifications.webhooks[0].url",
        "write `url_env:` or `url_file:`",
    ),
    # a known key in the wrong place
    ("version: 2.0\n" + GOOD, 1, "version", "it belongs into `fallback_strategy:`"),
    (
        changed(RATE, RATE + "\n          cooldown_on_limit: 24h"),
        8,
        f"{MODEL}.cooldown_on_limit",
        "it belongs into `rate_limit:`",
    ),
    (with_more("max_wait: 1h\n"), 20, "max_wait", "it belongs into `failure_handling:`"),
    # what YAML itself may hold (G1 and G3 and G14)
    (changed(CAP, CAP + CAP), 20, f"{PREMIUM}.monthly_cap", "already on line 19"),
    (changed("5_usd", "!money 5"), 19, f"{PREMIUM}.monthly_cap", "remove the tag"),
    (changed("5_usd", "${CAP_USD}"), 19, f"{PREMIUM}.monthly_cap", "set CAP_USD"),
    (changed("monthly_cap: 5_usd", "monthly_cap:"), 19, f"{PREMIUM}.monthly_cap", "give it one"),
    (changed("5_usd", ".inf"), 19, f"{PREMIUM}.monthly_cap", 'write "unlimited"'),
    (changed("5_usd", "12:30"), 19, f"{PREMIUM}.monthly_cap", "8_usd"),
    (changed("name: free", "name: on_"), 17, f"{PREMIUM}.trigger[0]", "on_"),
    (GOOD + "  timeouts: {idle: 1s}\ntimeouts: {idle: 2s}\n", 21, "timeouts", "line 20"),
    (with_more("task_types: {debug: {start: 0}}\n"), 20, "debug.start", "from 1"),
    (with_more("task_types: {debug: {depth: 11}}\n"), 20, "debug.depth", "0 to 10"),
    # G7 says money and limits
    (changed("5_usd", "none"), 19, f"{PREMIUM}.monthly_cap", 'did you mean "unlimited"?'),
    (changed("5_usd", "-5"), 19, f"{PREMIUM}.monthly_cap", "0 or more"),
    (changed("5_usd", "5_eur"), 19, f"{PREMIUM}.monthly_cap", "8_usd"),
    (changed("5_usd", "true"), 19, f"{PREMIUM}.monthly_cap", "8_usd"),
    (changed("5_usd", "[5]"), 19, f"{PREMIUM}.monthly_cap", "8_usd"),
    (changed("5_usd", "9000001"), 19, f"{PREMIUM}.monthly_cap", "at most 9000000"),
    (changed(CAP, CAP + "      monthly_budget: 5\n"), 20, "monthly_budget", "on line 19"),
    (changed("50/day", "50/dya"), 7, f"{MODEL}.rate_limit", 'did you mean "day"?'),
    (changed("50/day", "50"), 7, f"{MODEL}.rate_limit", "50/day"),
    (changed("50/day", "-1"), 7, f"{MODEL}.rate_limit", "unlimited"),
    (changed("50/day", "[50]"), 7, f"{MODEL}.rate_limit", "keys with values"),
    (changed("50/day", "{requests_per_day: '50'}"), 7, "requests_per_day", "whole number"),
    (changed("50/day", "{tokens_per_day: 1.5}"), 7, "tokens_per_day", "whole number"),
    (changed("50/day", "{cooldown_on_limit: 24}"), 7, "cooldown_on_limit", "write 24s"),
    # G6 bounds prices
    (changed(RATE, "price: {input: 1001, output: 1}"), 7, "price.input", "i_know: true"),
    (changed(RATE, "price: {input: -1, output: 1}"), 7, "price.input", "dollars"),
    (changed(RATE, "price: {input: 1}"), 7, "price.output", "add `output:`"),
    # names and values
    (changed("- free.exhausted", "- fre.exhausted"), 17, "trigger[0]", 'did you mean "free"?'),
    (changed("free.exhausted", "free.exausted"), 17, "trigger[0]", 'mean "exhausted"?'),
    (changed("complexity > 8", "complexity > 80"), 18, "trigger[1]", "from 0 to 10"),
    (changed("complexity > 8", "complexity => 8"), 18, "trigger[1]", "complexity > 8"),
    (
        changed(
            "provider: openai\n          model: gpt-4o\n", "provider: opnai\n          model: b\n"
        ),
        13,
        "layers[1].models[0].provider",
        'did you mean "openai"?',
    ),
    (changed("[parsing]", "parsing"), 8, f"{MODEL}.capabilities", "[one, two]"),
    (changed("model: gpt-4o-mini", "model: 4"), 6, f"{MODEL}.model", "put it into quotes"),
    (changed("          model: gpt-4o-mini\n", ""), 5, f"{MODEL}.model", "add `model:`"),
    (with_more("capability_matching: requir\n"), 20, "capability_matching", '"require"'),
    (
        GOOD + "  escalation_logic: {rate_limit_hit: nextlayer}\n",
        20,
        "rate_limit_hit",
        "next_layer",
    ),
    (
        GOOD + "  escalation_logic: {never_fail_silently: false}\n",
        20,
        "never_fail_silently",
        "promises",
    ),
    (GOOD + "  monitoring: {track_token_usage: 'yes'}\n", 20, "track_token_usage", "true, false"),
    (GOOD + "reporting: {zone: Europe/Berlim}\n", 20, "zone", "Europe/Berlin"),
    (
        GOOD + "  monitoring: {alert_at_budget_percent: [80, 120]}\n",
        20,
        "alert_at_budget_percent[1]",
        "0 to 100",
    ),
    (
        GOOD + "  complexity_scoring: {file_count_weight: 0.1234567}\n",
        20,
        "file_count_weight",
        "6 decimals",
    ),
    (GOOD + "  timeouts: {idle: 45}\n", 20, "timeouts.idle", "write 45s"),
    (with_more("task_types: {debug: {start: third}}\n"), 20, "task_types.debug.start", "first"),
    # the whole of it (R34 and G11)
    (GOOD + '  version: "3.0"\n', 20, f"{TOP}.version", "1.x, 2.x"),
    (GOOD + "  version: 3\n", 20, f"{TOP}.version", "1.x, 2.x"),
    (changed("priority: 2", "priority: 1"), 15, f"{PREMIUM}.priority", "line 9"),
    (
        changed("      priority: 1\n", "").replace("priority: 2", "priority: 1"),
        14,
        f"{PREMIUM}.priority",
        "line",
    ),
    (changed("name: premium", "name: free"), 11, f"{PREMIUM}.name", "line 3"),
    (changed("model: gpt-4o\n", "model: gpt-4o-mini\n"), 14, "layers[1].models[0].model", "line 6"),
    ("fallback_strategy:\n  layers: []\n", 2, f"{TOP}.layers", "one entry or more"),
    ("fallback_strategy:\n  layers:\n  - {name: a, models: []}\n", 3, "layers[0].models", "one"),
    (
        "layers: []\n" + GOOD,
        1,
        "layers",
        "put it under",
    ),
    # providers and keys
    (with_more("providers:\n  sim: {dialect: openai}\n"), 21, "providers.sim", "base_url"),
    (with_more("providers:\n  layer: {base_url: 'http://h'}\n"), 21, "providers.layer", "another"),
    (with_more("providers:\n  openai: {reset_zone: Europe/Berln}\n"), 21, "reset_zone", "Berlin"),
    (with_more("providers:\n  openai: {dialect: opnai}\n"), 21, "openai.dialect", '"openai"'),
    (with_more("providers:\n  openai: {base_url: ftp://h}\n"), 21, "base_url", "https://host"),
    (with_more("providers:\n  openai: {base_url: 'https://u:p@h'}\n"), 21, "base_url", "host"),
    (
        with_more("providers:\n  openai: {api_key_env: A, api_key_file: b}\n"),
        21,
        "api_key_file",
        "line 21",
    ),
    (with_more("reporting: {baseline: openai/gpt-4}\n"), 20, "reporting.baseline", "openai/gpt-4o"),
    (with_more("capability_matching: require\n"), 20, "capability_matching", "some model"),
]


@pytest.mark.parametrize(("text", "line", "key", "mend"), CASES)
def test_a_bad_file_is_refused_with_line_key_and_mend(
    text: str, line: int, key: str, mend: str
) -> None:
    with pytest.raises(StrategyErrors) as caught:
        loaded(text)

    matching = [e for e in caught.value if e.line == line and e.key.endswith(key)]
    assert matching, str(caught.value)
    assert any(mend in f"{e.allowed} {e.mend}" for e in matching), str(caught.value)
    assert str(caught.value).startswith("s.yaml:")


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40


def test_the_good_file_is_good() -> None:
    assert [layer.name for layer in loaded(GOOD).catalog.layers] == ["free", "premium"]


def test_errors_of_every_kind_are_collected_in_order() -> None:
    text = GOOD.replace("50/day", "50/dya").replace("free.exhausted", "fre.exhausted")
    text = text.replace("priority: 2", "priority: 1").replace(CAP, "      montly_cap: 1\n")

    with pytest.raises(StrategyErrors) as caught:
        loaded(text)

    assert [error.line for error in caught.value] == [7, 15, 17, 19]


def test_an_error_reads_as_two_lines() -> None:
    with pytest.raises(StrategyErrors) as caught:
        loaded(changed("50/day", "50/dya"))

    assert str(caught.value) == (
        's.yaml:7:23: fallback_strategy.layers[0].models[0].rate_limit: "dya" is not a period '
        '(found "50/dya")\n'
        "    allowed: 50/day (second, minute, hour, day, week, month), unlimited, or "
        'requests_per_day: 50; did you mean "day"?'
    )


@pytest.mark.parametrize(
    "text",
    [
        "providers: {openai: {api_key_env: sk-proj-CANARY}}\n",
        "providers: {openai: {api_key: sk-proj-CANARY}}\n",
        "providers: {openai: {accounts: {a: {api_key_env: 'sk CANARY'}}}}\n",
        "providers: {openai: {base_url: 'https://u:CANARY@h/v1'}}\n",
        "notifications: {webhooks: [{url: 'https://hooks/CANARY'}]}\n",
    ],
)
def test_d6_a_key_in_the_wrong_place_is_never_echoed(text: str) -> None:
    with pytest.raises(StrategyErrors) as caught:
        loaded(with_more(text))

    assert "CANARY" not in str(caught.value)
