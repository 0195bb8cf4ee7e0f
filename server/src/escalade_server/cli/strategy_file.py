"""Loads a strategy for a command; a bad file ends the command with every error it has."""

from escalade_server import bootstrap
from escalade_server.bootstrap import Loaded, StrategyErrors
from escalade_server.cli.output import CommandError


def load(path: str, *, assume_keys: bool = False) -> Loaded:
    """Load a strategy file, or end the command."""
    try:
        return bootstrap.load_strategy(path, assume_keys=assume_keys)
    except StrategyErrors as errors:
        count = len(errors.errors)
        noun = "error" if count == 1 else "errors"
        raise CommandError(f"{path} has {count} {noun}:\n{errors}") from errors
