"""A ladder of four layers with one model each, and walks up it."""

from escalade_server.core import walk
from escalade_server.core.catalog import Catalog
from escalade_server.core.experience import Experience
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Balance
from escalade_server.core.task import Request
from escalade_server.core.triggers import ComplexityTrigger, LayerTrigger
from escalade_server.core.walk import Walk
from tests.core.builders import DAY, catalog, model, per_day, request
from tests.core.parts import look


def begun(strategy: Catalog, req: Request | None = None, seen: Experience | None = None) -> Walk:
    asked = req or request()
    return walk.begin(strategy, asked, look(strategy, asked), seen or Experience())


def full(*keys: str, spent: int = 50, held: int = 0) -> dict[str, Balance]:
    return {key: Balance("today", spent, held, DAY) for key in keys}


def ladder(*triggers: LayerTrigger | ComplexityTrigger, rules: Rules | None = None) -> Catalog:
    """Make four layers of one model each; ``triggers`` stand on the third."""
    return catalog(
        ("one", (model("a/1", counters=(per_day("a", "1", 50),)),), ()),
        ("two", (model("b/2", counters=(per_day("b", "2", 50),)),), ()),
        ("three", (model("c/3", counters=(per_day("c", "3", 50),)),), triggers),
        ("four", (model("d/4", capabilities=("architecture",)),), ()),
        rules=rules,
    )


ONE, TWO, THREE = (f"requests/day:{p}/default/{n}" for p, n in (("a", 1), ("b", 2), ("c", 3)))
