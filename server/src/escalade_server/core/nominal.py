"""The nominal task that status and alerts are judged by: one request, one token (R5)."""

from dataclasses import replace

from escalade_server.core.agents import limited
from escalade_server.core.catalog import Catalog
from escalade_server.core.experience import Experience
from escalade_server.core.need import EVERYWHERE, need_of
from escalade_server.core.policy import View
from escalade_server.core.standing import Standing
from escalade_server.core.task import Constraints, Request, Task


def nominal_view(
    catalog: Catalog, standing: Standing, now_ms: int, agent: str | None = None
) -> View:
    """What the verdicts of the nominal task are made from: a giant one raised false alarms (R5).

    For an operator no limit of a caller is in its way; for an agent, its own are.
    """
    limits = Constraints(consented_layers=("*",)) if agent is None else Constraints()
    request = Request("", Task(), (), constraints=limits, agent=agent or "", input_tokens=1)
    need = need_of(limited(request, catalog), catalog, catalog.other_type, 0, 0)
    nominal = replace(need, output_bound=0, slack_tokens=0, jumped_to=EVERYWHERE)
    return View(nominal, Experience(), standing, now_ms, require=False)
