"""The strategy as this process has it: its keys, and the dialects that are built."""

import os

from escalade_server.providers.registry import CODECS
from escalade_server.strategy.load import Loaded, load

DIALECTS = frozenset(CODECS)


def load_strategy(path: str, *, assume_keys: bool = False) -> Loaded:
    """Load a strategy with the keys of this process's environment.

    Raises:
        StrategyErrors: everything that is wrong with the file.
    """
    return load(path, environ=os.environ, built_dialects=DIALECTS, assume_keys=assume_keys)


def missing_keys(loaded: Loaded) -> dict[tuple[str, str], str]:
    """Say which accounts, by (provider, account), have no usable key, and why (R12)."""
    return {where: found.missing for where, found in loaded.endpoints.items() if found.missing}
