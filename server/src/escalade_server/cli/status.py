"""`escalade status`: layers, models, quotas and caps of a running server, once or live."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import click
from rich.console import Console
from rich.text import Text

import escalade
from escalade.v1.escalation_pb2 import ModelRef, Quota, QuotaUnit, VerdictClass
from escalade.v1.operations_service_pb2 import (
    Billing,
    CircuitState,
    GetStatusResponse,
    ModelStatus,
    Waiter,
)
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused
from escalade_server.cli.status_watch import watch

TIMEOUT_S = 10.0
TIME = "%m-%d %H:%M"
WAITERS_MOST = 20
NARROW = 100
"""Columns below which bars are short, so that names keep their line."""
NANOS = QuotaUnit.QUOTA_UNIT_NANO_USD
OK = VerdictClass.VERDICT_CLASS_OK


@click.command("status")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@click.option("--watch", "live", is_flag=True, help="Keep showing it, and events as they come.")
@output.json_option
def command(*, target: str, live: bool, as_json: bool) -> None:
    """Show layers, models, quotas and caps of a running server.

    With --watch a terminal shows them live, until Ctrl+C; elsewhere, and with --json, lines follow
    as things happen.
    """
    try:
        if live:
            asyncio.run(watch(target, as_json=as_json, say=_say, to_json=_as_json))
            return
        with connect(target) as client:
            status = client.status(timeout=TIMEOUT_S)
    except KeyboardInterrupt:
        return
    except escalade.EscaladeError as error:
        raise refused(error, target) from error
    if as_json:
        output.print_json(_as_json(status))
    else:
        _say(status)


def _say(status: GetStatusResponse) -> None:
    out = output.console()
    rows = [row for layer in status.layers for row in model_rows(layer.name, layer.models)]
    out.print(output.table(("layer", "model", "billing", "state", "why"), rows, out))
    quotas = list(_quota_rows(status, out))
    if quotas:
        out.print(
            output.table(("quota", "used", "spent", "held", "limit", "resets (UTC)"), quotas, out)
        )
    if status.waiter_count:
        soonest = min((w.earliest.ToDatetime() for w in status.waiters), default=None)
        when = "" if soonest is None else f", until {soonest:{TIME}} UTC at the soonest"
        tasks = "1 task waits" if status.waiter_count == 1 else f"{status.waiter_count} tasks wait"
        output.say(out, f"{tasks} for capacity{when}", "yellow")
        shown = status.waiters[:WAITERS_MOST]
        if shown:
            heads = ("place", "agent", "request", "since (UTC)", "not before", "class", "rule")
            out.print(output.table(heads, map(_waiter_row, shown), out))
        if shown and status.waiter_count > len(shown):
            output.say(out, f"and {status.waiter_count - len(shown)} more", "dim")
    for key in status.strategy.not_in_effect:
        output.say(out, key, "dim")
    if status.strategy.refused_why:
        when = f"{status.strategy.refused.ToDatetime():{TIME}} UTC"
        why = status.strategy.refused_why
        output.say(out, f"The strategy file of {when} is refused: {why}", "bold red")
    draining = ", draining" if status.draining else ""
    version = f"escalade {status.version}"
    output.say(out, f"{version}, {status.in_flight_count} tasks in flight{draining}")


def model_rows(layer: str, models: Iterable[ModelStatus]) -> Iterator[Sequence[str | Text]]:
    """Write models as rows: where, what, how paid for, whether it is up, and if not, why."""
    for model in models:
        ok = model.verdict == OK
        state = "ok" if ok else _word(VerdictClass.Name(model.verdict), "VERDICT_CLASS_")
        yield (
            layer,
            _named(model.target),
            _word(Billing.Name(model.billing), "BILLING_"),
            Text(state, "green" if ok else "yellow"),
            "" if ok else _why(model),
        )


def _named(target: ModelRef) -> str:
    """Name a model as people do, with its account where the provider has several."""
    return str(escalade.Model(target.layer, target.provider, target.model, target.account))


def _why(model: ModelStatus) -> str:
    until = f", until {model.until.ToDatetime():{TIME}} UTC" if model.HasField("until") else ""
    return f"{model.detail or model.reason}{until}"


def _quota_rows(status: GetStatusResponse, out: Console) -> Iterator[Sequence[str | Text]]:
    """Each quota once: accounts' and layers' stand at several models."""
    seen, width = set[str](), 10 if out.width < NARROW else 20
    for quota in _quotas(status):
        if quota.name in seen:
            continue
        seen.add(quota.name)
        yield (
            quota.name,
            output.bar(quota.spent, quota.held, quota.limit, out, width),
            _amount(quota, quota.spent),
            _amount(quota, quota.held),
            _amount(quota, quota.limit),
            f"{quota.resets.ToDatetime():{TIME}}" if quota.HasField("resets") else "",
        )


def _quotas(status: GetStatusResponse) -> Iterator[Quota]:
    for layer in status.layers:
        for model in layer.models:
            yield from model.quotas
        yield from layer.quotas
    yield from status.quotas


def _waiter_row(waiter: Waiter) -> Sequence[str]:
    earliest = waiter.earliest.ToDatetime() if waiter.HasField("earliest") else None
    return (
        str(waiter.position),
        waiter.agent,
        waiter.request_id,
        f"{waiter.since.ToDatetime():{TIME}}",
        "" if earliest is None else f"{earliest:{TIME}}",
        _word(VerdictClass.Name(waiter.reason), "VERDICT_CLASS_"),
        waiter.rule,
    )


def _amount(quota: Quota, value: int) -> str:
    return output.usd(value) if quota.unit == NANOS else f"{value:,}"


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _as_json(status: GetStatusResponse) -> dict[str, object]:
    return {
        "now": status.now.ToJsonString(),
        "started": status.started.ToJsonString(),
        "version": status.version,
        "draining": status.draining,
        "strategy_sha256": status.strategy.sha256,
        "not_in_effect": list(status.strategy.not_in_effect),
        "strategy_refused_why": status.strategy.refused_why,
        "strategy_refused_count": status.strategy.refused_count,
        "in_flight_count": status.in_flight_count,
        "waiter_count": status.waiter_count,
        "waiters": [
            {
                "agent": one.agent,
                "request_id": one.request_id,
                "since": one.since.ToJsonString(),
                "earliest": one.earliest.ToJsonString(),
                "rule": one.rule,
                "position": one.position,
            }
            for one in status.waiters
        ],
        "layers": [
            {
                "name": layer.name,
                "priority": layer.priority,
                "billing": _word(Billing.Name(layer.billing), "BILLING_"),
                "exhausted": layer.exhausted,
                "until": layer.until.ToJsonString() if layer.HasField("until") else None,
                "quotas": [_quota_json(quota) for quota in layer.quotas],
                "models": [model_json(model) for model in layer.models],
            }
            for layer in status.layers
        ],
        "quotas": [_quota_json(quota) for quota in status.quotas],
    }


def model_json(model: ModelStatus) -> dict[str, object]:
    """Turn a model into plain data."""
    return {
        "provider": model.target.provider,
        "account": model.target.account,
        "model": model.target.model,
        "billing": _word(Billing.Name(model.billing), "BILLING_"),
        "verdict": _word(VerdictClass.Name(model.verdict), "VERDICT_CLASS_"),
        "reason": model.reason,
        "detail": model.detail,
        "until": model.until.ToJsonString() if model.HasField("until") else None,
        "disabled": model.disabled,
        "circuit": _word(CircuitState.Name(model.circuit), "CIRCUIT_STATE_"),
        "in_flight_count": model.in_flight_count,
        "quotas": [_quota_json(quota) for quota in model.quotas],
    }


def _quota_json(quota: Quota) -> dict[str, object]:
    return {
        "name": quota.name,
        "scope": quota.scope,
        "unit": _word(QuotaUnit.Name(quota.unit), "QUOTA_UNIT_"),
        "period": quota.period,
        "limit": quota.limit,
        "spent": quota.spent,
        "held": quota.held,
        "resets": quota.resets.ToJsonString() if quota.HasField("resets") else None,
    }
