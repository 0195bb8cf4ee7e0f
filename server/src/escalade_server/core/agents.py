"""What an agent's own limits make of its request: of two limits the stricter holds."""

from dataclasses import replace

from escalade_server.core.catalog import Catalog
from escalade_server.core.task import Request


def limited(request: Request, catalog: Catalog) -> Request:
    """Lay the limits of the request's agent over the request's own; neither loosens the other.

    Consent is the exception, because it is granted and not limited: an agent's stands beside
    what the request states (DESIGN 4).
    """
    agent = catalog.agents.get(request.agent)
    if agent is None:
        return request
    limits, task = request.constraints, request.task
    demand = max(task.data_demand, agent.data_demand, key=lambda each: each.value)
    return replace(
        request,
        trusted_reports=agent.trusted_reports,
        task=task if demand is task.data_demand else replace(task, data_demand=demand),
        constraints=replace(
            limits,
            denied_models=(*limits.denied_models, *sorted(agent.forbidden)),
            free_only=limits.free_only or agent.free_only,
            spend_limit_nanos=_smaller(limits.spend_limit_nanos, agent.spend_limit_nanos),
            may_downgrade=_narrower(asked=limits.may_downgrade, own=agent.may_downgrade),
            consented_layers=(*limits.consented_layers, *agent.consented_layers),
        ),
    )


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _narrower(*, asked: bool | None, own: bool | None) -> bool | None:
    """The agent's own word is the default, and its no is final."""
    if own is False or asked is None:
        return own
    return asked
