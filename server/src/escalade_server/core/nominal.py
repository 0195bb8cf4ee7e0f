"""The nominal task that status and alerts are judged by: one request, one token (R5)."""

from escalade_server.core.agents import limited
from escalade_server.core.catalog import Catalog, Model
from escalade_server.core.commands import Candidate
from escalade_server.core.experience import Experience
from escalade_server.core.money import worst_cost_nanos
from escalade_server.core.need import Need, need_of
from escalade_server.core.policy import View
from escalade_server.core.standing import Standing
from escalade_server.core.task import Constraints, Request, Task


class NominalNeed(Need):
    """The need of a task of one request and one token: a giant one raises no false alarm (R5)."""

    __slots__ = ()

    def candidate(self, model: Model, _output_mean: int | None) -> Candidate:
        """Bound the nominal call."""
        own = self.extra if model.is_paid else self.extra_free
        return Candidate(model, 1, worst_cost_nanos(1, 0, model.price), 1, own)


def nominal_view(
    catalog: Catalog, standing: Standing, now_ms: int, agent: str | None = None
) -> View:
    """What the verdicts of the nominal task are made from.

    For an operator no limit of a caller is in its way; for an agent, its own are.
    """
    limits = Constraints(consented_layers=("*",)) if agent is None else Constraints()
    request = Request(
        id="", task=Task(), messages=(), output_tokens_max=1, constraints=limits, agent=agent or ""
    )
    request = limited(request, catalog)
    need = NominalNeed(*need_of(request, catalog, catalog.other_type, 0))
    return View(need, Experience(), standing, now_ms, require=False)
