"""The strategy as this process has it: its keys, and the dialects that are built."""

import os
from collections.abc import Mapping

from escalade_server.checks.gates import pattern_error
from escalade_server.providers.registry import CODECS
from escalade_server.strategy.load import Loaded, load

DIALECTS = frozenset(CODECS)


def load_strategy(
    path: str, *, environ: Mapping[str, str] | None = None, assume_keys: bool = False
) -> Loaded:
    """Load a strategy with the keys of an environment; default is this process's.

    Raises:
        StrategyErrors: everything that is wrong with the file.
    """
    return load(
        path,
        environ=os.environ if environ is None else environ,
        built_dialects=DIALECTS,
        pattern_error=pattern_error,
        assume_keys=assume_keys,
    )


def missing_keys(loaded: Loaded) -> dict[tuple[str, str], str]:
    """Say which accounts, by (provider, account), have no usable key, and why (R12)."""
    return {where: found.missing for where, found in loaded.endpoints.items() if found.missing}
