"""Requests and rules as they are drawn for the three reference layers."""

from hypothesis import strategies as st

from escalade_server.core.rules import OnOutage, OnRateLimit, OnTargetExhausted, Rules
from escalade_server.core.task import (
    Constraints,
    Delivery,
    Message,
    OnInterruption,
    Request,
    Role,
    Task,
    Text,
)
from tests.core.builders import T0

requests = st.builds(
    Request,
    id=st.just("r1"),
    task=st.builds(
        Task,
        type=st.sampled_from(["parse", "debug", "architecture", "whatever", ""]),
        files=st.sampled_from([None, 0, 10]),
        tokens=st.sampled_from([None, 0, 50_000]),
    ),
    messages=st.just((Message(Role.USER, (Text("Why does this fail?"),)),)),
    constraints=st.builds(
        Constraints,
        free_only=st.booleans(),
        lowest_layer=st.sampled_from(["", "", "budget"]),
        highest_layer=st.sampled_from(["", "", "budget", "premium"]),
        may_downgrade=st.sampled_from([None, True, False]),
        spend_limit_nanos=st.sampled_from([None, 0, 1_000_000, 10_000_000]),
    ),
    delivery=st.sampled_from(Delivery),
    on_interruption=st.sampled_from(OnInterruption),
    deadline_ms=st.sampled_from([T0, T0 + 10_000, T0 + 300_000]),
)
rules_of_strategies = st.builds(
    Rules,
    on_rate_limit=st.sampled_from(OnRateLimit),
    on_outage=st.sampled_from(OnOutage),
    on_target_exhausted=st.sampled_from(OnTargetExhausted),
)
