"""What no strategy, no failure and no order of events may break: money and the way of a task."""

from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.catalog import DataPolicy
from escalade_server.core.commands import CallModel, Reserve, Settle
from escalade_server.core.task import Constraints, DataDemand
from escalade_server.core.trace import AttemptStatus
from tests.core.lives import Life, limited_agents
from tests.core.parts import diary

FREE = st.sampled_from([Constraints(free_only=True), Constraints(spend_limit_nanos=0)])
KEPT = {
    DataDemand.NONE: {*DataPolicy},
    DataDemand.NO_TRAINING: {DataPolicy.LOCAL, DataPolicy.NO_TRAINING},
    DataDemand.PRIVATE: {DataPolicy.LOCAL},
}
SPEND = st.builds(
    Constraints, spend_limit_nanos=st.sampled_from([1, 10_000, 16_000, 100_000, 4_000_000])
)


@given(st.data())
def test_r16_a_free_only_task_never_reaches_a_layer_that_costs_money(data: st.DataObject) -> None:
    life = Life(data, FREE)

    assert not [m for m in life.called if life.catalog.layers[m.layer_index].is_paid]
    assert all(c.charged_nanos == 0 for c in life.play.log if isinstance(c, Settle))


@given(st.data())
def test_d3_r28_no_task_goes_beyond_the_limits_of_its_agent(data: st.DataObject) -> None:
    life = Life(data, FREE | SPEND | st.just(Constraints()), limited_agents)
    (own,) = life.catalog.agents.values()

    paid = [m for m in life.called if life.catalog.layers[m.layer_index].is_paid]
    assert not paid or not (own.free_only or own.spend_limit_nanos == 0)
    assert not own.forbidden & {m.key for m in life.called}
    assert all(m.data in KEPT[own.data_demand] for m in life.called)
    for each in life.called:
        layer = life.catalog.layers[each.layer_index]
        agreed = life.request.constraints.consented_layers
        assert not layer.consent_required or {"*", layer.name} & {*agreed}
    for held in [c.candidates for c in life.play.log if isinstance(c, Reserve)]:
        assert all({*own.counters} <= {*c.counters} for c in held if c.model.is_paid)


@given(st.data())
def test_r15_a_task_never_exceeds_its_spend_limit(data: st.DataObject) -> None:
    life = Life(data, SPEND)

    paid = {
        c.attempt for c in life.play.log if isinstance(c, CallModel) and c.candidate.model.is_paid
    }
    spent = sum(c.nanos for c in life.play.log if isinstance(c, Settle) and c.attempt in paid)
    most = life.request.constraints.spend_limit_nanos
    assert most is not None
    assert spent <= most


@given(st.data())
def test_r5_r10_no_call_against_a_verdict(data: st.DataObject) -> None:
    life = Life(data, st.just(Constraints()))

    pages = diary(life.catalog, life.request)
    for each in life.called:
        layer = life.catalog.layers[each.layer_index]
        agreed = life.request.constraints.consented_layers
        assert not layer.consent_required or "*" in agreed or layer.name in agreed
        assert each.data in KEPT[life.request.task.data_demand]
        assert layer.index >= pages.look.need.lowest
    outcome = life.play.outcome
    if outcome is None:
        return
    rejected = -1
    for attempt in outcome.report.attempts:
        assert attempt.model.layer_index > rejected, "never below a layer that failed its gate"
        if attempt.status is AttemptStatus.REJECTED:
            rejected = attempt.model.layer_index


@given(st.data())
def test_every_task_comes_to_its_end_with_its_books_closed(data: st.DataObject) -> None:
    life = Life(data, SPEND | FREE | st.just(Constraints()))
    for _ in range(200):
        if life.play.cascade.closed:
            break
        life.step()

    assert life.play.cascade.closed
    assert life.play.outcome is not None
