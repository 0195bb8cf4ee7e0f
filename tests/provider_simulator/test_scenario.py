"""Scenarios from files, what is refused in them, and the one that is played by default."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Quota,
    Scenario,
    ScenarioError,
    Simulator,
    ToolCallScript,
    default_scenario,
    load_scenario,
)
from escalade_server.provider_simulator.answer import split
from escalade_server.provider_simulator.json_instance import instance_of
from escalade_server.provider_simulator.quota import window_of
from tests.provider_simulator.calls import playing

STRATEGIES = Path(__file__).parents[1] / "strategies"

WHOLE = """
seed: 7
providers:
  openai:
    api_keys: [sk-1]
    models:
      gpt-4o:
        text: Hello.
        tokens_per_second: 80
        price: {input_pico: 2500000, output_pico: 10000000}
        quotas: [{limit: 50, per: day, zone: America/Los_Angeles, refusal: spend_limit}]
        replies: {rain: wet}
        tool_calls: [{name: f, arguments: '{"a": 1}'}]
        faults:
          - {kind: cut, on_requests: [20, 21], after_chunks: 3}
"""


def test_a_scenario_from_a_file_is_the_one_built_in_python() -> None:
    model = ModelScript(
        text="Hello.",
        tokens_per_second=80,
        price=Price(input_pico=2_500_000, output_pico=10_000_000),
        quotas=(Quota(limit=50, zone="America/Los_Angeles", refusal=FaultKind.SPEND_LIMIT),),
        replies={"rain": "wet"},
        tool_calls=(ToolCallScript(name="f", arguments='{"a": 1}'),),
        faults=(Fault(kind=FaultKind.CUT, on_requests=(20, 21), after_chunks=3),),
    )
    provider = ProviderScript(models={"gpt-4o": model}, api_keys=("sk-1",))
    expected = Scenario(providers={"openai": provider}, seed=7)

    assert load_scenario(WHOLE) == expected
    assert load_scenario(json.dumps(yaml.safe_load(WHOLE))) == expected


BAD = [
    ("providers: [", "not YAML"),
    ("", "scenario: expected keys and values, found None"),
    ("seed: 1", "scenario: the key 'providers' is missing"),
    ("providers: {a: {models: {m: {latncy: 1}}}}", "providers.a.models.m: unknown key 'latncy'"),
    ("providers: {a: {models: {m: {chunk: 1}}}}", "did you mean 'chunks'?"),
    (
        "providers: {a: {models: {m: {chunks: many}}}}",
        "providers.a.models.m.chunks: Expected `int | null`, got `str`, found 'many'",
    ),
    (
        "providers: {a: {models: {m: {faults: [{kind: sulk}]}}}}",
        "providers.a.models.m.faults.0.kind: Invalid enum value 'sulk'",
    ),
    ("providers: {a: {models: {m: {quotas: [{limit: 1, per: year}]}}}}", "quotas.0.per"),
    ("providers: {a: {models: {m: {quotas: [{limit: -1}]}}}}", "quotas.0.limit: -1 is too small"),
    ("providers: {a: {models: {m: {quotas: [{limit: 1, zone: Mars}]}}}}", "'Mars' is not an IANA"),
    ("providers: {a: {models: {m: {quotas: [{limit: 1, refusal: cut}]}}}}", "no HTTP error"),
    ("providers: {a: {models: {m: {faults: [{kind: cut, every: 0}]}}}}", "every: 0 is too small"),
    ("providers: {a: {models: {m: {cached_input_percent: 101}}}}", "more than 100"),
    ("providers: {a: {models: {m: {tokens_per_second: 0}}}}", "must be above 0"),
    ("providers: {openai: {models: {m: {faults: [{kind: plan_window}]}}}}", "openai has no"),
    ("providers: {a: {vendor: acme, models: {}}}", "vendor 'acme' is not one of openai"),
    ("providers: {a: {dialect: klingon, models: {}}}", "providers.a.dialect: Invalid enum value"),
    (
        "providers: {a: {dialect: anthropic, models: {m: {faults: [{kind: array_body}]}}}}",
        "anthropic has no 'array_body'",
    ),
    (
        "providers: {a: {vendor: openai, dialect: gemini, models: {}}}",
        "vendor 'openai' does not speak 'gemini'",
    ),
    ("providers: {a/b: {models: {}}}", "one step of a path"),
    ("providers: {a: {models: {}}, a: {models: {}}}", "line 1: the key 'a' comes twice"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_bad_scenarios_are_refused_with_their_place(text: str, words: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(text)

    assert words in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("providers: {a: {models: {m: {chunks: x, texts: y}}}, b: {}}")

    assert len(str(caught.value).splitlines()) == 3


def test_a_bad_scenario_cannot_be_played() -> None:
    with pytest.raises(ScenarioError):
        Simulator(Scenario(providers={"x": ProviderScript(models={}, vendor="acme")}))


def pairs_of(name: str) -> list[tuple[str, str, object]]:
    layers = yaml.safe_load((STRATEGIES / name).read_text())["fallback_strategy"]["layers"]
    models = [model for layer in layers for model in layer["models"]]
    return [(m["provider"], m["model"], m.get("rate_limit")) for m in models]


@pytest.mark.parametrize("name", ["fallback-v1.yaml", "fallback-v2.yaml"])
async def test_the_default_scenario_plays_every_model_of_the_reference_strategies(
    name: str,
) -> None:
    scenario = default_scenario()
    async with playing(Simulator(scenario)) as caller:
        for provider, model, limit in pairs_of(name):
            reply = await caller.chat(provider, model)
            assert reply.status == 200, reply.body
            script = scenario.providers[provider].models[model]
            limits = {(quota.of, quota.per): quota.limit for quota in script.quotas}
            if isinstance(limit, dict):
                assert limits["requests", "day"] == limit["requests_per_day"]
                assert limits["tokens", "day"] == limit["tokens_per_day"]
            elif isinstance(limit, str) and limit != "unlimited":
                assert f"{limits['requests', 'day']}/day" == limit
            else:
                assert limits == {}


async def test_the_default_scenario_has_three_dialects_at_home() -> None:
    async with playing(Simulator(default_scenario())) as caller:
        message = await caller.message(model="claude-3-haiku")
        generated = await caller.generate(model="gemini-flash")
        homes = {
            name: caller.simulator.provider_url(name).removeprefix(caller.simulator.base_url)
            for name in ("openai", "google", "anthropic")
        }

    assert message.json["type"] == "message"
    assert generated.json["candidates"][0]["finishReason"] == "STOP"
    assert homes == {
        "openai": "/openai/v1",
        "google": "/google/v1beta",
        "anthropic": "/anthropic/v1",
    }


@pytest.mark.parametrize(
    ("dialect", "url"), [("anthropic", "/acme/v1"), ("gemini", "/acme/v1beta"), (None, "/acme/v1")]
)
async def test_a_provider_of_any_name_speaks_the_stated_dialect(
    dialect: str | None, url: str
) -> None:
    script = {"dialect": dialect, "models": {"m": {"faults": [{"kind": "day_limit"}]}}}
    scenario = load_scenario(json.dumps({"providers": {"acme": script}}))
    async with playing(Simulator(scenario)) as caller:
        if dialect == "anthropic":
            reply = await caller.message("acme")
        else:
            reply = await (caller.generate if dialect else caller.chat)("acme")

        assert caller.simulator.provider_url("acme").endswith(url)
    assert reply.status == 429
    daily = {"anthropic": b"daily rate limit", "gemini": b"PerDay", None: b"requests per day"}
    assert daily[dialect] in reply.body


def ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def test_a_pacific_day_of_25_hours() -> None:
    quota = Quota(limit=1, zone="America/Los_Angeles")

    start, end = window_of(quota, ms(datetime(2026, 11, 1, 12, tzinfo=UTC)))

    assert start == ms(datetime(2026, 11, 1, 7, tzinfo=UTC))
    assert end == ms(datetime(2026, 11, 2, 8, tzinfo=UTC))


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001  (made aware below)
    st.sampled_from(["second", "minute", "hour", "day", "month"]),
    st.sampled_from(["UTC", "America/Los_Angeles", "Asia/Kolkata"]),
)
def test_windows_hold_their_instant_and_follow_each_other(
    instant: datetime, per: str, zone: str
) -> None:
    provider = {"models": {"m": {"quotas": [{"limit": 1, "per": per, "zone": zone}]}}}
    scenario = load_scenario(json.dumps({"providers": {"openai": provider}}))
    quota = scenario.providers["openai"].models["m"].quotas[0]
    now_ms = ms(instant.replace(tzinfo=UTC))

    start, end = window_of(quota, now_ms)

    assert start <= now_ms < end
    assert window_of(quota, start) == (start, end)
    assert window_of(quota, end)[0] == end
    if per in {"day", "month"}:
        local = datetime.fromtimestamp(start / 1000, ZoneInfo(zone))
        assert (local.hour, local.minute) == (0, 0)
        assert timedelta(milliseconds=end - start) <= timedelta(days=31, hours=1)


@given(st.text(), st.none() | st.integers(1, 20))
def test_pieces_make_the_text(text: str, pieces: int | None) -> None:
    found = split(text, pieces)

    assert "".join(found) == text
    assert pieces is None or len(found) <= pieces


TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
    "$ref": "#/$defs/tree",
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, {"answer": "w"}),
        ({"const": 4}, 4),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": ["integer", "null"], "minimum": 2.5}, 3),
        ({"type": "integer", "exclusiveMinimum": 2, "multipleOf": 5}, 5),
        ({"type": "number", "maximum": -1}, -1),
        ({"type": "integer"}, 0),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"type": "string", "minLength": 3}, "w.."),
        ({"type": "string", "maxLength": 0}, ""),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "array"}, []),
        ({"type": "array", "minItems": 2, "items": {"type": "integer"}}, [0, 0]),
        ({"oneOf": [{"type": "null"}, {"type": "string"}]}, None),
        (
            {
                "allOf": [{"properties": {"a": {"const": 1}}}, {"required": ["a"]}],
                "type": "object",
            },
            {"a": 1},
        ),
        ({}, "w"),
    ],
)
def test_least_values_of_schemas(schema: object, expected: object) -> None:
    assert instance_of(schema, "w") == expected


def test_a_recursive_schema_ends() -> None:
    assert len(json.dumps(instance_of(TREE, "w"))) < 1_000
