"""The `agents:` section: what it becomes in the core, and what is refused."""

import pytest

from escalade_server.core.catalog import Agent, CounterScope, Period, Rank, Unit
from escalade_server.core.task import DataDemand
from escalade_server.strategy.errors import StrategyErrors
from tests.strategy.strategies import GOOD, loaded, with_more


def agents(text: str) -> dict[str, Agent]:
    return dict(loaded(with_more(f"agents:\n{text}")).catalog.agents)


def keys(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_no_section_means_no_agents_and_an_empty_entry_no_limits() -> None:
    assert loaded(GOOD).catalog.agents == {}
    assert agents("  bot: {}\n") == {"bot": Agent("bot")}


def test_every_key_of_an_agent_takes_effect() -> None:
    found = agents(
        "  spiffe://fleet/bot:\n"
        "    role: operator\n"
        "    free_only: true\n"
        "    consent: [premium]\n"
        "    data: no_training\n"
        "    may_downgrade: false\n"
        "    spend_limit_per_task: $0.05\n"
        "    monthly_cap: 5_usd\n"
        "    cap_resets: day 14\n"
        "    rate_limit: {requests_per_day: 100, tokens_per_minute: 5000}\n"
        "    concurrency: 3\n"
        "    trusted_reports: true\n"
    )["spiffe://fleet/bot"]

    assert found.rank is Rank.OPERATOR
    assert found.free_only
    assert found.consented_layers == ("premium",)
    assert found.data_demand is DataDemand.NO_TRAINING
    assert found.may_downgrade is False
    assert found.spend_limit_nanos == 50_000_000
    assert found.calls_max == 3
    assert found.trusted_reports
    assert [
        (c.key, c.unit, c.period, c.limit, c.scope, c.reset_day) for c in found.counters
    ] == [
        ("requests/day:agent/spiffe://fleet/bot", Unit.REQUESTS, Period.DAY, 100,
         CounterScope.AGENT, 1),
        ("tokens/minute:agent/spiffe://fleet/bot", Unit.TOKENS, Period.MINUTE, 5_000,
         CounterScope.AGENT, 1),
        ("nanos/month:agent/spiffe://fleet/bot", Unit.NANOS, Period.MONTH, 5_000_000_000,
         CounterScope.AGENT, 14),
    ]  # fmt: skip


def test_the_short_form_of_a_rate_holds_for_agents_too() -> None:
    (counter,) = agents("  bot: {rate_limit: 50/hour}\n")["bot"].counters

    assert (counter.unit, counter.period, counter.limit) == (Unit.REQUESTS, Period.HOUR, 50)
    assert counter.label == "bot requests/hour"


MODELS = [model.key for model in loaded(GOOD).catalog.models]
CHEAP, DEAR = MODELS[0], MODELS[-1]
CHEAP_ID, DEAR_ID = (key.rpartition("/")[2] for key in (CHEAP, DEAR))


@pytest.mark.parametrize(
    ("entry", "forbidden"),
    [
        (f"layers: [{loaded(GOOD).catalog.layers[0].name}]", {*MODELS} - {CHEAP}),
        (f"models: [{CHEAP_ID}]", {*MODELS} - {CHEAP}),
        (f"denied_models: [{DEAR_ID}]", {DEAR}),
        (f"denied_models: [{DEAR}]", {DEAR}),
        (f"models: [{CHEAP_ID}], denied_models: [{CHEAP_ID}]", {*MODELS}),
        (f"layers: [premium], models: [{CHEAP_ID}]", {*MODELS}),
    ],
)
def test_each_list_only_narrows_what_an_agent_may_use(entry: str, forbidden: set[str]) -> None:
    assert agents(f"  bot: {{{entry}}}\n")["bot"].forbidden == forbidden


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("layers: [premum]", 'did you mean "premium"?'),
        ("layers: []", "the list is empty"),
        ("models: []", "the list is empty"),
        ("consent: [premum]", "no such layer in the file"),
        ("models: [nobody]", "no such model in the file"),
        ("denied_models: [nobody]", "no such model in the file"),
        ("rate_limit: {requests_per_day: 1, cooldown_on_limit: 1h}", "it rests models, not agents"),
        ("token: esc_1_2", "escalade token create"),
        ("role: admin", "not a known value"),
        ("data: secret", "not a known value"),
    ],
)
def test_a_mistake_opens_nothing(entry: str, said: str) -> None:
    with pytest.raises(StrategyErrors) as caught:
        agents(f"  bot: {{{entry}}}\n")

    assert said in str(caught.value)
    assert "esc_1_2" not in str(caught.value)


def test_consent_to_all_is_a_star() -> None:
    assert agents('  bot: {consent: ["*"]}\n')["bot"].consented_layers == ("*",)


def test_no_provider_may_take_the_name_that_agents_counters_have() -> None:
    with pytest.raises(StrategyErrors, match="the name is taken by counters"):
        loaded(with_more("providers: {agent: {base_url: http://127.0.0.1/v1}}\n"))
