"""`escalade check`: is a strategy file right, and what is worth saying of it?"""

from dataclasses import asdict

import click

from escalade_server import bootstrap
from escalade_server.bootstrap import Loaded, StrategyErrors
from escalade_server.cli import output
from escalade_server.cli.output import Exit

STYLES = {"warning": "yellow", "advice": "cyan", "info": "dim"}


@click.command("check")
@click.argument("file", type=click.Path())
@output.json_option
@click.pass_context
def command(ctx: click.Context, *, file: str, as_json: bool) -> None:
    """Check a strategy FILE. Exit code 0: it loads; 1: it has errors."""
    try:
        loaded = bootstrap.load_strategy(file)
    except StrategyErrors as errors:
        _say_errors(file, errors, as_json=as_json)
        ctx.exit(Exit.FAILED)
    if as_json:
        output.print_json(
            {
                "file": file,
                "valid": True,
                "errors": [],
                "notices": [
                    asdict(notice) | {"level": notice.level.value} for notice in loaded.notices
                ],
                "not_yet_in_effect": [asdict(key) for key in loaded.not_yet_in_effect],
            }
        )
    else:
        _say(file, loaded)


def _say_errors(file: str, errors: StrategyErrors, *, as_json: bool) -> None:
    if as_json:
        found = [asdict(error) for error in errors]
        output.print_json(
            {
                "file": file,
                "valid": False,
                "errors": found,
                "notices": [],
                "not_yet_in_effect": [],
            }
        )
        return
    for error in errors:
        click.echo(click.style("error ", fg="red") + str(error), err=True)
    count = len(errors.errors)
    click.echo(f"{file} does not load: {count} error{'s' if count > 1 else ''}.", err=True)


def _say(file: str, loaded: Loaded) -> None:
    out = output.console()
    for notice in loaded.notices:
        output.say(out, str(notice), STYLES[notice.level.value])
    for key in loaded.not_yet_in_effect:
        output.say(out, str(key))
    layers = loaded.catalog.layers
    models = sum(len(layer.models) for layer in layers)
    output.say(out, f"{file} loads: {len(layers)} layers, {models} models.", "green")
