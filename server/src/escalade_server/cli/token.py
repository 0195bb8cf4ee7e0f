"""`escalade token`: makes and ends the bearer tokens of agents and operators."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from escalade_server import bootstrap
from escalade_server.bootstrap import Rank, StartError, StoreError, StrategyErrors, Token, TokenDesk
from escalade_server.cli import output
from escalade_server.cli.output import CommandError

NEVER = "never"
DEFAULT_LIFE = "90d"


class Life(output.Duration):
    """A duration, or `never`, which is None in seconds: infinite."""

    name = "life"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn the text into seconds."""
        return float("inf") if value == NEVER else super().convert(value, param, ctx)


state_option = click.option(
    "--state", help="The ledger: a file, or redis://HOST.  [default: escalade.sqlite3]"
)
strategy_option = click.option("--strategy", type=click.Path(), help="Takes the state from there.")
life_option = click.option(
    "--expires", type=Life(), default=DEFAULT_LIFE, show_default=True, help="Or `never`."
)


@click.group("token")
def command() -> None:
    """Make and end the bearer tokens of agents and operators.

    A running server follows within a second. A token is shown once; only its hash is kept.
    """


@command.command("create")
@click.argument("agent")
@click.option(
    "--role", type=click.Choice([r.value for r in Rank]), default="agent", show_default=True
)
@life_option
@state_option
@strategy_option
@output.json_option
def create(
    *, agent: str, role: str, expires: float, state: str | None, strategy: str | None, as_json: bool
) -> None:
    """Make a token for AGENT, and show it this once."""
    with _desk(state, strategy) as desk:
        text, token = desk.create(agent, Rank(role), _life_ms(expires))
    _show(text, token, as_json=as_json)


@command.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=output.Duration(),
    default="24h",
    show_default=True,
    help="How long the old one goes on.",
)
@life_option
@state_option
@strategy_option
@output.json_option
def rotate(
    *,
    key_id: str,
    overlap: float,
    expires: float,
    state: str | None,
    strategy: str | None,
    as_json: bool,
) -> None:
    """Make the successor of a token, and show it this once; the old one ends after the overlap."""
    with _desk(state, strategy) as desk:
        text, token = desk.rotate(key_id, _life_ms(expires), round(overlap * 1_000))
    _show(text, token, as_json=as_json)


@command.command("revoke")
@click.argument("key_id")
@state_option
@strategy_option
@output.json_option
def revoke(*, key_id: str, state: str | None, strategy: str | None, as_json: bool) -> None:
    """End a token at once."""
    with _desk(state, strategy) as desk:
        token = desk.revoke(key_id)
    if as_json:
        output.print_json(_as_json(token))
    else:
        output.say(output.console(), f"{key_id} of {token.agent} opens nothing any more.")


@command.command("list")
@state_option
@strategy_option
@output.json_option
def list_(*, state: str | None, strategy: str | None, as_json: bool) -> None:
    """List all tokens; none of them can be shown again."""
    with _desk(state, strategy) as desk:
        tokens = desk.all()
    if as_json:
        output.print_json([_as_json(token) for token in tokens])
        return
    out = output.console()
    rows = [
        (t.key_id, t.agent, t.rank.value, _state(t), _day(t.created_ms), _day(t.expires_ms))
        for t in tokens
    ]
    columns = ("key id", "agent", "role", "state", "created (UTC)", "expires (UTC)")
    out.print(output.table(columns, rows, out))


@contextmanager
def _desk(state: str | None, strategy: str | None) -> Iterator[TokenDesk]:
    try:
        desk = bootstrap.token_desk(state, strategy)
        try:
            yield desk
        finally:
            desk.close()
    except StrategyErrors as errors:
        raise CommandError(f"{strategy} does not load:\n{errors}") from errors
    except (StartError, StoreError) as error:
        raise CommandError(f"{error}.") from error


def _life_ms(life_s: float) -> int | None:
    return None if life_s == float("inf") else round(life_s * 1_000)


def _show(text: str, token: Token, *, as_json: bool) -> None:
    if as_json:
        output.print_json(_as_json(token) | {"token": text})
        return
    click.echo(text)
    until = f"until {_day(token.expires_ms)} UTC" if token.expires_ms else "without an end"
    click.echo(
        f"For {token.rank.value} {token.agent}, {until}. It is not shown again: keep it where"
        " secrets are kept.",
        err=True,
    )


def _state(token: Token) -> str:
    if token.revoked_ms is not None:
        return "revoked"
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    return "live" if token.is_live(now_ms) else "expired"


def _day(instant_ms: int | None) -> str:
    if instant_ms is None:
        return NEVER
    return f"{datetime.fromtimestamp(instant_ms / 1_000, UTC):%Y-%m-%d %H:%M}"


def _iso(instant_ms: int | None) -> str | None:
    return None if instant_ms is None else datetime.fromtimestamp(instant_ms / 1e3, UTC).isoformat()


def _as_json(token: Token) -> dict[str, object]:
    return {
        "key_id": token.key_id,
        "agent": token.agent,
        "role": token.rank.value,
        "state": _state(token),
        "created": _iso(token.created_ms),
        "expires": _iso(token.expires_ms),
        "revoked": _iso(token.revoked_ms),
    }
