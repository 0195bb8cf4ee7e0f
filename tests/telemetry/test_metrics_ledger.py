"""What the metrics add up is what the ledger has booked, whatever happened on the way."""

import pytest

from escalade_server.telemetry import catalogue
from escalade_server.telemetry.instruments import Metric
from escalade_server.telemetry.metrics import Metrics
from tests.telemetry.journeys import played, watched, wild


def added_up(metrics: Metrics, metric: Metric, *last: str) -> float:
    """Add the series up whose last labels are these, in the units of the core."""
    series = metrics.counters[metric.name]._series
    return sum(
        count.value for labels, count in series.items() if labels[len(labels) - len(last) :] == last
    )


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(60))
async def test_money_and_tokens_are_those_of_the_ledger(seed: int) -> None:
    (world, asked), metrics = wild(seed), Metrics()
    callers = await played(watched(world, metrics), asked)
    booked = {order.reservation_id: order for order in world.store.settles}.values()
    assert added_up(metrics, catalogue.LIST_VALUE) == sum(order.nanos for order in booked)
    assert added_up(metrics, catalogue.COST) == sum(order.charged_nanos for order in booked)
    assert added_up(metrics, catalogue.AGENT_COST) == sum(order.charged_nanos for order in booked)
    for kind, tokens in (("input", "input_tokens"), ("output", "output_tokens")):
        counted = added_up(metrics, catalogue.TOKENS, kind)
        assert counted == sum(getattr(order.usage, tokens) for order in booked)
    assert added_up(metrics, catalogue.REQUESTS) == len(callers) == len(asked)
    called = sum(len(caller.outcome.report.attempts) for caller in callers if caller.outcome)
    assert added_up(metrics, catalogue.ATTEMPTS) == called
    assert metrics.failed == 0
