"""`escalade ledger`: shows what was spent, and enters what was spent elsewhere; audited (R18)."""

import os
import pwd
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import click

from escalade_server import bootstrap
from escalade_server.bootstrap import (
    AnyLedgerDesk,
    Counter,
    StartError,
    StoreError,
    StrategyErrors,
    Unit,
)
from escalade_server.cli import output
from escalade_server.cli.output import CommandError

NANOS_PER_USD = 1_000_000_000
NANOS = f"{Unit.NANOS.value}/"

state_option = click.option(
    "--state", help="The ledger: a file, or redis://HOST.  [default: escalade.sqlite3]"
)
strategy_option = click.option(
    "--strategy", type=click.Path(), help="Names the counters, and takes the state from there."
)
reason_option = click.option("--reason", required=True, help="Why; the audit keeps it.")


@click.group("ledger")
def command() -> None:
    """Show what was spent, and enter what was spent elsewhere.

    A server may run meanwhile, and follows within a second. COUNTER is a key or a name as `show`
    prints it. VALUE is a number of requests or tokens, or dollars: 1.50 or $1.50. Every change is
    kept with its old and new value, who made it, when, and why.
    """


@command.command("show")
@state_option
@strategy_option
@output.json_option
def show(*, state: str | None, strategy: str | None, as_json: bool) -> None:
    """Show every counter of which something is spent or held now, and what people changed."""
    with _desk(state, strategy) as (desk, counters):
        standings, changes = desk.standings(), desk.changes()
    limits = {counter.key: counter for counter in counters}
    if as_json:
        output.print_json(
            {
                "counters": [
                    {
                        "counter": one.key,
                        "name": limits[one.key].label if one.key in limits else None,
                        "unit": one.unit.value,
                        "period": one.period.value,
                        "window": one.window,
                        "spent": one.spent,
                        "held": one.held,
                        "limit": limits[one.key].limit if one.key in limits else None,
                        "ends": _iso(one.ends_ms),
                    }
                    for one in standings
                ],
                "audit": [
                    change._asdict() | {"at": _iso(change.at_ms), "unit": _unit(change.counter)}
                    for change in changes
                ],
            }
        )
        return
    out = output.console()
    rows = [
        (
            one.key,
            limits[one.key].label if one.key in limits else "",
            _amount(one.key, one.spent),
            _amount(one.key, one.held),
            _amount(one.key, limits[one.key].limit) if one.key in limits else "",
            _time(one.ends_ms),
        )
        for one in standings
    ]
    columns = ("counter", "name", "spent", "held", "limit", "ends (UTC)")
    out.print(output.table(columns, rows, out))
    if changes:
        entries = [
            (
                _time(each.at_ms),
                each.who,
                each.counter,
                _amount(each.counter, each.old),
                _amount(each.counter, each.new),
                each.reason,
            )
            for each in changes
        ]
        titles = ("when (UTC)", "who", "counter", "old", "new", "why")
        out.print(output.table(titles, entries, out))


@command.command("set")
@click.argument("counter")
@click.argument("value")
@reason_option
@state_option
@strategy_option
@output.json_option
def set_(
    *,
    counter: str,
    value: str,
    reason: str,
    state: str | None,
    strategy: str | None,
    as_json: bool,
) -> None:
    """Set what is spent of COUNTER in its window to VALUE."""
    _enter(counter, value, reason, (state, strategy), is_change=False, as_json=as_json)


@command.command("adjust", context_settings={"ignore_unknown_options": True})
@click.argument("counter")
@click.argument("value")
@reason_option
@state_option
@strategy_option
@output.json_option
def adjust(
    *,
    counter: str,
    value: str,
    reason: str,
    state: str | None,
    strategy: str | None,
    as_json: bool,
) -> None:
    """Add VALUE to what is spent of COUNTER in its window: +1.50 or -1.50."""
    _enter(counter, value, reason, (state, strategy), is_change=True, as_json=as_json)


def _enter(
    name: str,
    text: str,
    reason: str,
    where: tuple[str | None, str | None],
    *,
    is_change: bool,
    as_json: bool,
) -> None:
    if not reason.strip():
        raise click.BadParameter("say why: the audit keeps it", param_hint="--reason")
    with _desk(*where) as (desk, counters):
        known = _known(name, counters)
        if known is None and "/" not in name:  # as every key has: it was meant as a name
            raise CommandError(_unknown(name, counters))
        key = known.key if known is not None else name
        value = _value(key, text)
        change = desk.enter(
            key, value, is_change=is_change, who=_who(), reason=reason.strip(), known=known
        )
    if as_json:
        told = change._asdict() | {"at": _iso(change.at_ms), "unit": _unit(change.counter)}
        output.print_json(told)
        return
    old, new = _amount(key, change.old), _amount(key, change.new)
    output.say(output.console(), f"{key}, {change.window}: {old} → {new}, by {change.who}.")


def _known(name: str, counters: Iterable[Counter]) -> Counter | None:
    """Find a counter of the strategy by its key, or by its name if only one has it."""
    found = [each for each in counters if name in {each.key, each.label}]
    by_key = [each for each in found if each.key == name]
    if by_key or len(found) == 1:
        return (by_key or found)[0]
    if found:
        keys = ", ".join(each.key for each in found)
        raise CommandError(f"{name!r} is the name of several counters: {keys}.")
    return None


def _unknown(name: str, counters: Iterable[Counter]) -> str:
    names = ", ".join(f'"{each.label}"' for each in counters)
    there = f"there are {names}" if names else "give --strategy for the names of its counters"
    return f"no counter is named {name!r}: {there}."


def _value(key: str, text: str) -> int:
    is_money = key.startswith(NANOS)
    try:
        number = Decimal(text.strip().replace("$", "", 1).replace("_", "").replace(",", ""))
    except InvalidOperation:
        number = Decimal("nan")
    scaled = number * NANOS_PER_USD if is_money else number
    if not scaled.is_finite() or scaled != scaled.to_integral_value():
        what = "dollars, such as 1.50" if is_money else "a whole number"
        raise click.BadParameter(f"{text!r} is not {what}", param_hint="VALUE")
    return int(scaled)


def _who() -> str:
    """Name the user of the operating system, and who became it."""
    name = pwd.getpwuid(os.getuid()).pw_name
    before = os.environ.get("SUDO_USER")
    return f"{name} (by sudo from {before})" if before else name


@contextmanager
def _desk(
    state: str | None, strategy: str | None
) -> Iterator[tuple[AnyLedgerDesk, Sequence[Counter]]]:
    try:
        desk, counters = bootstrap.ledger_desk(state, strategy)
        try:
            yield desk, counters
        finally:
            desk.close()
    except StrategyErrors as errors:
        raise CommandError(f"{strategy} does not load:\n{errors}") from errors
    except (StartError, StoreError) as error:
        raise CommandError(f"{error}.") from error


def _unit(key: str) -> str:
    return key.partition("/")[0]


def _amount(key: str, value: int) -> str:
    return output.usd(value) if key.startswith(NANOS) else f"{value:,}"


def _time(instant_ms: int) -> str:
    return f"{datetime.fromtimestamp(instant_ms / 1_000, UTC):%Y-%m-%d %H:%M}"


def _iso(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).isoformat()
