"""The caller's trace goes along, in the headers of W3C, if OpenTelemetry's API is installed."""

import importlib
from collections.abc import Callable
from functools import cache

Inject = Callable[[dict[str, str]], None]


@cache
def _inject() -> Inject | None:
    """OpenTelemetry's way to write the current context; None if it is not installed."""
    try:
        module = importlib.import_module("opentelemetry.propagate")
    except ImportError:
        return None
    inject: Inject = module.inject
    return inject


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """The headers of the current trace, by the propagators that the application chose."""
    inject = _inject()
    if inject is None:
        return ()
    carrier: dict[str, str] = {}
    inject(carrier)
    return tuple(
        (key.lower(), value)
        for key, value in carrier.items()
        if value.isascii() and value.isprintable()
    )
