"""Bars of a running server, from GetStatus: for `escalade demo` and `escalade status --watch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

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
from escalade_server.core.money import NANOS_PER_USD

NARROW, WIDE, STATE_WIDE = 12, 24, 30
"""Width of a bar, on a terminal of 80 columns and of 110; of a state, which is as narrow on 80."""
WIDE_FROM = 110
NAME, MODEL, USE = 19, 16, 16
NANOS = QuotaUnit.QUOTA_UNIT_NANO_USD
OK = VerdictClass.VERDICT_CLASS_OK
COLOURS = ("green", "yellow", "magenta")
"""By layer, from the first on: what is free, what has a flat fee, what is paid by use."""
STATES = {
    "window_full": "used up",
    "cap_spent": "no room left",
    "cooldown": "set aside",
    "disabled": "disabled",
}
UNITS = {
    QuotaUnit.QUOTA_UNIT_REQUESTS: "req",
    QuotaUnit.QUOTA_UNIT_TOKENS: "tok",
}
Row = tuple[Text, Text, Text, Text, Text]
_KILO, _MEGA = 1_000, 1_000_000


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
    return grid([row for layer in status.layers for row in tight_rows(status, layer, out)], out)


def grid(rows: Iterable[Row], out: Console) -> Table:
    """Lay out rows in columns that stay where they are."""
    made = Table.grid(padding=(0, 1))
    made.add_column(width=NAME, no_wrap=True)
    made.add_column(width=MODEL, no_wrap=True)
    made.add_column(width=_bar_width(out))
    made.add_column(width=USE, justify="right", no_wrap=True)
    made.add_column(width=STATE_WIDE if out.width >= WIDE_FROM else NARROW, no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def tight_rows(status: GetStatusResponse, layer: LayerStatus, out: Console) -> Iterator[Row]:
    """A row for each model, with its tightest quota; the layer's cap where it has none."""
    style = colour(status, layer.name)
    tight = tightest(layer.quotas)
    for place, model in enumerate(layer.models):
        quota = tightest(model.quotas)
        if quota is None and tight is not None:  # the layer's own cap is what limits its models
            quota = tight if place == 0 else None
            shared = Text("  same cap", "dim") if place else None
        else:
            shared = None if quota else Text("unlimited", "dim")
        yield (
            Text(layer.name if place == 0 else "", style),
            Text(short(model.target.model)),
            shared or bar(quota, style, out),
            Text(use(quota), "dim"),
            state(model, out),
        )


def all_rows(status: GetStatusResponse, layer: LayerStatus, out: Console) -> Iterator[Row]:
    """A row for every quota of every model, and for the caps of the layer."""
    style, label = colour(status, layer.name), layer.name
    for model in layer.models:
        name, up = Text(short(model.target.model)), state(model, out)
        if not model.quotas:
            none = Text("layer's cap" if layer.quotas else "unlimited", "dim")
            yield Text(label, style), name, none, Text(""), up
        for place, quota in enumerate(model.quotas):
            if place:
                name, up, label = Text(f"  each {quota.period}", "dim"), Text(""), ""
            yield Text(label, style), name, bar(quota, style, out), Text(use(quota), "dim"), up
        label = ""
    yield from quota_rows(layer.quotas, label, style, out)


def quota_rows(quotas: Sequence[Quota], label: str, style: str, out: Console) -> Iterator[Row]:
    """A row for each of these quotas, which no single model has."""
    for quota in quotas:
        name = Text(f"{quota.period} cap" if quota.unit == NANOS else f"each {quota.period}", "dim")
        yield Text(label, style), name, bar(quota, style, out), Text(use(quota), "dim"), Text("")
        label = ""


def agent_rows(quotas: Iterable[Quota], style: str, out: Console) -> Iterator[Row]:
    """The rows of agents' own quotas, each agent by its name."""
    by_agent: dict[str, list[Quota]] = {}
    for quota in quotas:
        by_agent.setdefault(_agent(quota), []).append(quota)
    for agent, own in by_agent.items():
        yield from quota_rows(own, f"agent {agent}", style, out)


def _agent(quota: Quota) -> str:
    """Whose it is: it is named `bo requests/day` or `bo monthly cap`."""
    if quota.unit == NANOS:
        return quota.name.removesuffix(f" {quota.period}ly cap")
    return quota.name.rpartition(" ")[0]


def tightest(quotas: Iterable[Quota]) -> Quota | None:
    """The quota of which the greatest share is used."""
    return max(quotas, key=lambda q: (q.spent + q.held) / max(q.limit, 1), default=None)


def bar(quota: Quota | None, style: str, out: Console) -> Text:
    """Draw a quota, what is held apart from what is spent."""
    if quota is None:
        return Text("")
    return Text(output.bar(quota.spent, quota.held, quota.limit, out, _bar_width(out)), style)


def use(quota: Quota | None) -> str:
    """Say what is spent, what is held beside it, and the limit; as exactly as there is room."""
    if quota is None:
        return ""
    told = ""
    for write in _MONEYS if quota.unit == NANOS else _COUNTS:
        held = f"+{write(quota.held)}" if quota.held else ""
        told = f"{write(quota.spent)}{held}/{write(quota.limit)}"
        told = f"{told} {UNITS[quota.unit]}" if quota.unit in UNITS else f"${told.lstrip('$')}"
        if len(told) <= USE:
            break
    return told


def state(model: ModelStatus, out: Console) -> Text:
    """Say whether a model is up; on a wide terminal also until when it is not."""
    if probed(model):
        return Text("to be probed", "bold yellow")
    if model.verdict == OK:
        return Text("ok", "dim green")
    made = Text(STATES.get(model.reason, model.reason.replace("_", " ")), "bold red")
    if out.width >= WIDE_FROM and model.HasField("until"):
        made.append(f" until {model.until.ToDatetime():%m-%d %H:%M}", "red")
    return made


def probed(model: ModelStatus) -> bool:
    """Whether its next call is a probe, and nothing else stands against it."""
    half = model.circuit == CircuitState.CIRCUIT_STATE_HALF_OPEN
    return half and (model.verdict == OK or model.reason == "circuit_open")


def _bar_width(out: Console) -> int:
    return WIDE if out.width >= WIDE_FROM else NARROW


def _money(nanos: int) -> str:
    """Dollars, as short as they can be told apart."""
    return output.usd(nanos).removesuffix(".00")


def _dollars(nanos: int, places: int) -> str:
    """Dollars without their sign, to so many places."""
    told = f"{nanos / NANOS_PER_USD:.{places}f}"
    return told.rstrip("0").rstrip(".") if places else told


def _count(value: int) -> str:
    """A count in at most five characters."""
    if value >= 10 * _MEGA:
        return f"{value / _MEGA:.0f}M"
    if value >= _MEGA:
        return f"{value / _MEGA:.1f}M"
    return f"{value / _KILO:.0f}k" if value >= 10 * _KILO else f"{value:,}"


def _rough(value: int, places: int) -> str:
    """A count in thousands, to so many places."""
    if value >= _MEGA:
        return f"{value / _MEGA:.0f}M"
    if value < _KILO:
        return f"{value}"
    return f"{value / _KILO:.{places if value < 10 * _KILO else 0}f}".removesuffix(".0") + "k"


_COUNTS: Sequence[Callable[[int], str]] = (
    _count, *(partial(_rough, places=places) for places in (1, 0)),
)  # fmt: skip
_MONEYS: Sequence[Callable[[int], str]] = (
    _money, *(partial(_dollars, places=places) for places in (4, 3, 2, 1, 0)),
)  # fmt: skip
"""From exact to short: the limit must never be what is cut off."""
