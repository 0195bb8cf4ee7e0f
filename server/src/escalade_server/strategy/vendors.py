"""What is known of the vendors: data, each fact with its source in a comment (DESIGN 3).

Addresses and key names are the vendors' public ones. Everything here can be overridden by
``providers:`` in the file.
"""

from dataclasses import dataclass, field

from escalade_server.core.catalog import DataPolicy
from escalade_server.core.task import Feature

TOOLS_AND_JSON = frozenset({Feature.TOOLS, Feature.JSON_SCHEMA})
ALL_FEATURES = frozenset(Feature)


@dataclass(frozen=True, slots=True)
class Vendor:
    """One built-in provider. ``aliases`` hold only names that never were ids (R34)."""

    base_url: str
    dialect: str
    key_names: tuple[str, ...]
    """Environment variables that may hold the key, the first is the one to name to people."""
    price_id: str = ""
    """Its id in genai-prices; empty: not in there."""
    zone: str = "UTC"
    bills_after_cancel: bool = False
    data: DataPolicy = DataPolicy.UNKNOWN
    data_when_free: DataPolicy | None = None
    features: frozenset[Feature] = ALL_FEATURES
    is_local: bool = False
    aliases: dict[str, str] = field(default_factory=dict)


VENDORS: dict[str, Vendor] = {
    "openai": Vendor(
        "https://api.openai.com/v1",
        "openai",
        ("OPENAI_API_KEY",),
        "openai",
        data=DataPolicy.NO_TRAINING,  # platform.openai.com/docs/guides/your-data
    ),
    "google": Vendor(
        "https://generativelanguage.googleapis.com/v1beta",
        "gemini",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "google",
        # ai.google.dev/gemini-api/docs/rate-limits: a day's requests reset at midnight Pacific
        zone="America/Los_Angeles",
        bills_after_cancel=True,  # as listed at openrouter.ai/docs, stream cancellation
        data=DataPolicy.NO_TRAINING,  # ai.google.dev/gemini-api/terms: paid services
        data_when_free=DataPolicy.TRAINS,  # the same terms: unpaid services
        aliases={"gemini-flash": "gemini-flash-latest"},
    ),
    "deepseek": Vendor(
        "https://api.deepseek.com",
        "openai",
        ("DEEPSEEK_API_KEY",),
        "deepseek",
        features=frozenset({Feature.TOOLS}),  # api-docs.deepseek.com: JSON mode, no schema
    ),
    "openrouter": Vendor(
        "https://openrouter.ai/api/v1",
        "openai",
        ("OPENROUTER_API_KEY",),
        "openrouter",
        aliases={"minimax/minimax-v2-pro": "minimax/minimax-m2.7"},
    ),
    "nano-gpt": Vendor(
        "https://nano-gpt.com/api/v1",
        "openai",
        ("NANO_GPT_API_KEY", "NANOGPT_API_KEY"),
        aliases={"glm-5": "zai-org/glm-5"},  # docs.nano-gpt.com: ids carry the maker's name
    ),
    "minimax": Vendor(
        "https://api.minimax.io/v1",
        "openai",
        ("MINIMAX_API_KEY",),
        "minimax",
        bills_after_cancel=True,  # as listed at openrouter.ai/docs, stream cancellation
        features=frozenset({Feature.TOOLS}),  # platform.minimax.io: no response schema for M2
        aliases={"minimax-v2-pro": "MiniMax-M2.7"},
    ),
    "anthropic": Vendor(
        "https://api.anthropic.com",
        "anthropic",
        ("ANTHROPIC_API_KEY",),
        "anthropic",
        data=DataPolicy.NO_TRAINING,  # anthropic.com/legal/commercial-terms
        aliases={"claude-3-haiku": "claude-3-haiku-20240307"},
    ),
    "ollama": Vendor(
        "http://127.0.0.1:11434/v1",
        "openai",
        (),
        data=DataPolicy.LOCAL,
        is_local=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Retired:
    """A model that its vendor has switched off, and what the vendor names instead (R34)."""

    since: str
    successor: str
    source: str


RETIRED: dict[tuple[str, str], Retired] = {
    ("google", "gemini-2.0-flash"): Retired(
        "2026-06-01", "gemini-3.1-flash-lite", "firebase.google.com/docs/ai-logic/models"
    ),
    ("google", "gemini-2.0-flash-lite"): Retired(
        "2026-06-01", "gemini-3.1-flash-lite", "firebase.google.com/docs/ai-logic/models"
    ),
    ("deepseek", "deepseek-chat"): Retired("2026-07-24", "deepseek-flash", "api-docs.deepseek.com"),
    ("deepseek", "deepseek-reasoner"): Retired(
        "2026-07-24", "deepseek-flash", "api-docs.deepseek.com"
    ),
    ("anthropic", "claude-3-haiku-20240307"): Retired(
        "2026-04-20",
        "claude-haiku-4-5-20251001",
        "platform.claude.com/docs/en/about-claude/model-deprecations",
    ),
}
"""By provider and wire id."""

FREE_TIERS: dict[str, str] = {
    "google": r"(models/)?gemini-.*flash.*",  # ai.google.dev/gemini-api/docs/pricing
    "openrouter": r".*:free",  # openrouter.ai/docs: variants named :free
    "ollama": r".*",  # runs on one's own machine
}
"""Wire ids that a vendor serves for nothing, within limits; as of 2026-11 (R16)."""

ONE_QUOTA: dict[str, str] = {
    "openrouter": r".*:free",  # openrouter.ai/docs/api-reference/limits: by account, not by model
}
"""Models that a vendor counts together, per account, whatever limits the file gives each (G10)."""
