"""Values of ``${NAME}`` may be keys: errors show the name in their place, cut short or whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from escalade_server.strategy.errors import StrategyError, StrategyErrors
from escalade_server.strategy.yaml_nodes import PLACEHOLDER

SECRET_CHARACTERS_MIN = 8
"""A value, or a beginning of one, that is shorter is no secret: ``${ZONE}``, ``${PORT}``."""


@contextmanager
def unshown(text: str | bytes, environ: Mapping[str, str]) -> Iterator[None]:
    """Take the values of a file's placeholders out of the errors that its loading raises."""
    try:
        yield
    except StrategyErrors as refused:
        told = text if isinstance(text, str) else text.decode(errors="replace")
        values = {name: environ[name] for name in PLACEHOLDER.findall(told) if name in environ}
        raise StrategyErrors([_without(error, values) for error in refused]) from None


def _without(error: StrategyError, values: Mapping[str, str]) -> StrategyError:
    for name, value in values.items():
        error = replace(
            error,
            key=_masked(error.key, name, value),
            problem=_masked(error.problem, name, value),
            found=_masked(error.found, name, value),
            allowed=_masked(error.allowed, name, value),
            mend=_masked(error.mend, name, value),
        )
    return error


def _masked(text: str, name: str, value: str) -> str:
    for length in range(min(len(value), len(text)), SECRET_CHARACTERS_MIN - 1, -1):
        if value[:length] in text:
            return text.replace(value[:length], "${" + name + "}")
    return text
