"""What else a provider may answer with, and its price: the dearer of the two is booked (U30)."""

from collections.abc import Iterable
from dataclasses import replace

from escalade_server.core.catalog import Layer
from escalade_server.core.money import Price
from escalade_server.strategy.prices import overlay


def with_siblings(layers: Iterable[Layer]) -> list[Layer]:
    """Tell every model the prices of the others that its provider is known to serve.

    Known are the models of the strategy and the rows that this project states itself.
    """
    layers = list(layers)
    known: dict[str, dict[str, Price]] = {}
    for (provider, wire_id), row in overlay().items():
        known.setdefault(provider, {})[wire_id] = row.price
    for layer in layers:
        for model in layer.models:
            known.setdefault(model.provider, {})[model.wire_id] = model.price
    return [
        replace(
            layer,
            models=tuple(
                replace(
                    model,
                    siblings=tuple(
                        (wire_id, price)
                        for wire_id, price in known[model.provider].items()
                        if wire_id != model.wire_id
                    ),
                )
                for model in layer.models
            ),
        )
        for layer in layers
    ]
