"""The strategy as this process has it: its keys, and the dialects that are built."""

import os
from collections.abc import Mapping
from functools import partial

from escalade_server.checks.gates import pattern_error
from escalade_server.providers.registry import CODECS
from escalade_server.strategy.load import Loaded, load, loads

DIALECTS = frozenset(CODECS)


def load_strategy(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    assume_keys: bool = False,
    text: bytes | None = None,
) -> Loaded:
    """Load a strategy with the keys of an environment; default is this process's.

    With a ``text`` it is taken for the file's.

    Raises:
        StrategyErrors: everything that is wrong with the file.
    """
    read = partial(load, path) if text is None else partial(loads, text, file=path)
    return read(
        environ=os.environ if environ is None else environ,
        built_dialects=DIALECTS,
        pattern_error=pattern_error,
        assume_keys=assume_keys,
    )


def secrets_of(loaded: Loaded) -> list[str]:
    """List what must never be written: keys of providers, addresses and keys of webhooks."""
    keys = [found.secret for found in loaded.endpoints.values()]
    keys += [secret for hook in loaded.sinks.hooks for secret in (hook.url, hook.key)]
    return [secret.reveal() for secret in keys if secret is not None]


def missing_keys(loaded: Loaded) -> dict[tuple[str, str], str]:
    """Say which accounts, by (provider, account), have no usable key, and why (R12)."""
    return {where: found.missing for where, found in loaded.endpoints.items() if found.missing}
