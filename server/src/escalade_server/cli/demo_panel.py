"""The panel of `escalade demo`: a bar for every quota and cap, from GetStatus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from escalade.v1.escalation_pb2 import Quota, QuotaUnit, VerdictClass
from escalade.v1.operations_service_pb2 import (
    CircuitState,
    GetStatusResponse,
    LayerStatus,
    ModelStatus,
)
from escalade_server.cli import output

NARROW, WIDE = 12, 27
"""Width of a bar and of a state, on a terminal of 80 columns and of 120."""
WIDE_FROM = 110
NANOS = QuotaUnit.QUOTA_UNIT_NANO_USD
OK = VerdictClass.VERDICT_CLASS_OK
COLOURS = ("green", "yellow", "magenta")
"""By layer, from the first on: what is free, what has a flat fee, what is paid by use."""
STATES = {"window_full": "used up", "cap_spent": "no room left", "cooldown": "set aside"}


def colour(status: GetStatusResponse | None, layer: str) -> str:
    """The colour of a layer; cyan beyond the third."""
    names = [] if status is None else [known.name for known in status.layers]
    place = names.index(layer) if layer in names else len(COLOURS)
    return COLOURS[place] if place < len(COLOURS) else "cyan"


def short(model: str) -> str:
    """A model's name without its maker."""
    return model.rpartition("/")[2]


def bars(status: GetStatusResponse, out: Console) -> Table:
    """Lay out every layer and model: what is used of its tightest quota, and whether it is up."""
    width = WIDE if out.width >= WIDE_FROM else NARROW
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=19)
    grid.add_column(width=16, no_wrap=True)
    grid.add_column(width=width)
    grid.add_column(width=16, justify="right")
    grid.add_column(width=width, no_wrap=True)
    for layer in status.layers:
        for row in _rows(status, layer, out, width):
            grid.add_row(*row)
    return grid


def _rows(
    status: GetStatusResponse, layer: LayerStatus, out: Console, width: int
) -> Iterator[list[Text]]:
    style = colour(status, layer.name)
    label = Text(layer.name, style)
    tight = tightest(layer.quotas)
    for place, model in enumerate(layer.models):
        quota = tightest(model.quotas)
        if quota is None and tight is not None:  # the layer's own cap is what limits its models
            quota = tight if place == 0 else None
            shared = Text("  same cap", "dim") if place else None
        else:
            shared = None if quota else Text("unlimited", "dim")
        yield [
            label if place == 0 else Text(""),
            Text(short(model.target.model)),
            shared or _bar(quota, style, out, width),
            Text(_use(quota), "dim"),
            _state(model, is_wide=width == WIDE),
        ]


def tightest(quotas: Iterable[Quota]) -> Quota | None:
    """The quota of which the greatest share is used."""
    return max(quotas, key=lambda q: (q.spent + q.held) / max(q.limit, 1), default=None)


def _bar(quota: Quota | None, style: str, out: Console, width: int) -> Text:
    if quota is None:
        return Text("")
    return Text(output.bar(quota.spent, quota.held, quota.limit, out, width), style)


def _use(quota: Quota | None) -> str:
    if quota is None:
        return ""
    if quota.unit == NANOS:
        return f"{output.usd(quota.spent + quota.held)}/{output.usd(quota.limit)}"
    unit = "req" if quota.unit == QuotaUnit.QUOTA_UNIT_REQUESTS else "tok"
    return f"{quota.spent + quota.held:,}/{quota.limit:,} {unit}"


def _state(model: ModelStatus, *, is_wide: bool) -> Text:
    if model.circuit == CircuitState.CIRCUIT_STATE_HALF_OPEN:
        return Text("to be probed", "bold yellow")
    if model.verdict == OK:
        return Text("ok", "dim green")
    state = Text(STATES.get(model.reason, model.reason.replace("_", " ")), "bold red")
    if is_wide and model.HasField("until"):
        state.append(f" until {model.until.ToDatetime():%b %d %H:%M}", "red")
    return state
