"""Candidates as the codecs' tests need them: a model of a vendor, and nothing else of note."""

from escalade_server.core.catalog import Billing, Model
from escalade_server.core.commands import Candidate
from escalade_server.core.money import Price


def candidate(
    provider: str,
    wire_id: str,
    output_tokens_max: int = 4_096,
    dialect: str = "openai",
    account: str = "default",
) -> Candidate:
    model = Model(
        provider=provider,
        account=account,
        id=wire_id,
        wire_id=wire_id,
        dialect=dialect,
        layer="free",
        layer_index=0,
        position=0,
        capabilities=frozenset(),
        counters=(),
        price=Price(1_000_000, 2_000_000),
        billing=Billing.FREE,
    )
    return Candidate(model, tokens=600, nanos=0, output_tokens_max=output_tokens_max)
