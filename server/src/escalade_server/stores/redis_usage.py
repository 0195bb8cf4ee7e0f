"""Each day's use in Redis: sums in one hash a day, added up by the scripts that book (R15).

A field is named for what it counts: ``u`` with the place in ``Use`` and the JSON of (layer, model,
agent, task type); ``e`` for changes of layer, ``b`` for baselines.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from escalade_server.core.catalog import Model
from escalade_server.core.commands import Settle
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis
from escalade_server.engine.usage import ChangeCount, UsageRow, UsageTables, Use
from escalade_server.stores.usage import Sums

_FIELDS = Use._fields
_TASKS = _FIELDS.index("tasks")
_decode = msgspec.json.Decoder(list[str]).decode


def _json(*names: str) -> str:
    return msgspec.json.encode(names).decode()


def use_of(model: Model, agent: str, task_type: str) -> str:
    """Name the row of one model for an agent and a type of task."""
    return _json(model.layer, model.key, agent, task_type)


def told_of(order: Settle) -> tuple[int, ...]:
    """Write a settlement in the order of ``Use``, as far as attempts are concerned."""
    use = order.usage
    known = order.basis is Basis.REPORTED
    return (
        order.requests, use.input_tokens, use.cached_tokens, use.cache_write_tokens,
        use.output_tokens, use.reasoning_tokens, order.tokens - use.total_tokens, order.nanos,
        order.charged_nanos, 0 if known else order.nanos,
    )  # fmt: skip


def tally_of(tally: Tally | None) -> list[tuple[str, int]]:
    """Write a task as fields of its day with what they get."""
    if tally is None:
        return []
    row = _json(tally.layer, tally.model, tally.agent, tally.task_type)
    amounts = (1, 0 if tally.model else 1, tally.fallbacks, tally.waits, tally.waited_ms)
    return [
        *((f"u{_TASKS + 1 + place}{row}", amount) for place, amount in enumerate(amounts)),
        *((f"e{_json(tally.agent, *change)}", 1) for change in tally.escalations),
        *((f"b{_json(tally.agent, model)}", nanos) for model, nanos in tally.baselines),
    ]


def sums_of(sums: Sums) -> list[tuple[str, list[tuple[str, int]]]]:
    """Write sums as fields of their days with what they get."""
    days: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for (day, *names), amounts in sums.use.items():
        row = _json(*names)
        days[day] += [(f"u{place}{row}", amount) for place, amount in enumerate(amounts, 1)]
    for (day, *change), times in sums.changes.items():
        days[day].append((f"e{_json(*change)}", times))
    for (day, *of), nanos in sums.baselines.items():
        days[day].append((f"b{_json(*of)}", nanos))
    return list(days.items())


def tables_of(
    days: Sequence[tuple[str, Sequence[str]]], agent: str | None, first_day: str
) -> UsageTables:
    """Sum up days, each given as its fields and what they hold, one after the other."""
    rows: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0] * len(_FIELDS))
    by_day: dict[str, list[int]] = {}
    changes: dict[tuple[str, str, str], int] = defaultdict(int)
    baselines: dict[str, int] = defaultdict(int)
    for day, fields in days:
        for name, amount in zip(fields[::2], fields[1::2], strict=True):
            kind, (place, text) = name[0], _split(name[1:])
            names = _decode(text)
            if agent is not None and agent != (names[2] if kind == "u" else names[0]):
                continue
            if kind == "u":
                layer, model, who, task_type = names
                rows[layer, model, who, task_type][place - 1] += int(amount)
                by_day.setdefault(day, [0] * len(_FIELDS))[place - 1] += int(amount)
            elif kind == "e":
                _, before, after, reason = names
                changes[before, after, reason] += int(amount)
            else:
                baselines[names[1]] += int(amount)
    counted = [ChangeCount(*change, times) for change, times in changes.items()]
    return UsageTables(
        tuple([UsageRow(*names, Use(*sums)) for names, sums in sorted(rows.items())]),
        tuple([(day, Use(*sums)) for day, sums in sorted(by_day.items())]),
        tuple(sorted(counted, key=lambda each: (-each.times, each[:3]))),
        tuple(sorted(baselines.items())),
        first_day,
    )


def _split(text: str) -> tuple[int, str]:
    at = text.index("[")
    return int(text[:at] or 0), text[at:]
