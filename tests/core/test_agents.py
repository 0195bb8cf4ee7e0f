from dataclasses import replace

import pytest

from escalade_server.core import policy
from escalade_server.core.agents import limited
from escalade_server.core.catalog import Agent, Counter, CounterScope, Model, Period, Unit
from escalade_server.core.experience import Experience
from escalade_server.core.ledger import denial
from escalade_server.core.need import Need, need_of
from escalade_server.core.standing import Balance, Cause, Denial, Standing, Verdict, VerdictClass
from escalade_server.core.task import Constraints, DataDemand, Request, Task
from tests.core.builders import DAY, OTHER, T0, request, three_layers

STRATEGY = three_layers()
MINI, FLASH, GLM, M2, GPT = STRATEGY.models
RATE = Counter("requests/day:agent/bot", Unit.REQUESTS, Period.DAY, 5, CounterScope.AGENT, "bot")
CAP = Counter("nanos/month:agent/bot", Unit.NANOS, Period.MONTH, 10**9, CounterScope.AGENT, "cap")
D = DataDemand


def merged(own: Agent, limits: Constraints, demand: DataDemand = D.NONE) -> Request:
    strategy = replace(STRATEGY, agents={own.name: own})
    asked = request(task=Task(data_demand=demand), constraints=limits)
    return limited(replace(asked, agent=own.name), strategy)


def test_a_caller_that_the_strategy_does_not_name_keeps_its_own_limits() -> None:
    asked = replace(request(constraints=Constraints(free_only=True)), agent="somebody")

    assert limited(asked, replace(STRATEGY, agents={"bot": Agent("bot", free_only=True)})) is asked


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        (Agent("bot", free_only=True), Constraints(), Constraints(free_only=True)),
        (Agent("bot"), Constraints(free_only=True), Constraints(free_only=True)),
        (Agent("bot", spend_limit_nanos=5), Constraints(), Constraints(spend_limit_nanos=5)),
        (
            Agent("bot", spend_limit_nanos=5), Constraints(spend_limit_nanos=9),
            Constraints(spend_limit_nanos=5),
        ),
        (
            Agent("bot", spend_limit_nanos=5), Constraints(spend_limit_nanos=0),
            Constraints(spend_limit_nanos=0),
        ),
        (
            Agent("bot", forbidden=frozenset({"b", "a"})), Constraints(denied_models=("mini",)),
            Constraints(denied_models=("mini", "a", "b")),
        ),
        (Agent("bot", may_downgrade=False), Constraints(), Constraints(may_downgrade=False)),
        (
            Agent("bot", may_downgrade=False), Constraints(may_downgrade=True),
            Constraints(may_downgrade=False),
        ),
        (
            Agent("bot", may_downgrade=True), Constraints(may_downgrade=False),
            Constraints(may_downgrade=False),
        ),
        (Agent("bot", may_downgrade=True), Constraints(), Constraints(may_downgrade=True)),
        (
            Agent("bot", consented_layers=("premium",)), Constraints(consented_layers=("budget",)),
            Constraints(consented_layers=("budget", "premium")),
        ),
    ],
)  # fmt: skip
def test_of_two_limits_the_stricter_holds(
    own: Agent, limits: Constraints, expected: Constraints
) -> None:
    assert merged(own, limits).constraints == expected


@pytest.mark.parametrize("own", D)
@pytest.mark.parametrize("asked", D)
def test_r28_of_two_demands_for_the_data_the_stronger_holds(
    own: DataDemand, asked: DataDemand
) -> None:
    found = merged(Agent("bot", data_demand=own), Constraints(), asked)

    assert found.task.data_demand is max(own, asked, key=lambda each: each.value)


@pytest.mark.parametrize("trusted", [True, False])
def test_r33_reports_steer_others_only_if_the_agent_is_trusted(trusted: bool) -> None:  # noqa: FBT001
    assert merged(Agent("bot", trusted_reports=trusted), Constraints()).trusted_reports is trusted


def needed(*counters: Counter) -> Need:
    strategy = replace(STRATEGY, agents={"bot": Agent("bot", counters=counters)})
    return need_of(replace(request(), agent="bot"), strategy, OTHER, 10, 0)


def test_r15_an_agents_cap_counts_what_paid_models_are_worth() -> None:
    wanted = needed(RATE, CAP)

    assert wanted.candidate(MINI, None).counters == (*MINI.counters, RATE)
    assert wanted.candidate(GLM, None).counters == (*GLM.counters, RATE, CAP)
    assert needed().candidate(GLM, None).counters is GLM.counters


def judged(model: Model, standing: Standing) -> Verdict:
    layer = STRATEGY.layers[model.layer_index]
    view = policy.view(needed(RATE, CAP), Experience(), standing, T0, require=False)
    return policy.judge(model, layer, view)[0]


def test_a_full_counter_of_an_agent_is_in_the_way_of_every_model() -> None:
    full = Standing({RATE.key: Balance("d", 4, 1, DAY)})
    for model in STRATEGY.models:
        found = judged(model, full)
        assert (found.cls, found.counter) == (VerdictClass.HELD, RATE)
    spent = judged(MINI, Standing({RATE.key: Balance("d", 5, 0, DAY)}))
    assert (spent.cls, spent.cause, spent.until_ms) == (VerdictClass.RATE, Cause.WINDOW_FULL, DAY)


def test_the_store_refuses_by_an_agents_counter_and_it_is_told_so() -> None:
    candidate = needed(RATE, CAP).candidate(GLM, None)
    rows = [Balance("w", 0, 0, DAY), Balance("d", 5, 0, DAY), Balance("m", 0, 0, DAY)]
    refused = denial(candidate, rows)

    assert refused == Denial(GLM.position, RATE.key, rows[1], 1, held_only=False, never_fits=False)
    (skip,) = policy.refused((candidate,), (refused,))
    assert skip.verdict.counter is RATE
