"""Every metric, once: its name, labels, and what it means. ``docs/metrics.md`` is made of it.

Names of generative AI and RPC metrics are the published ones, as Prometheus writes them; a test
compares them with ``conventions``. All others begin with ``escalade_``.
"""

from typing import Final

from escalade_server.telemetry.conventions import (
    ERROR_TYPE,
    OPERATION,
    PROVIDER,
    REQUEST_MODEL,
    RPC_METHOD,
    RPC_STATUS,
    RPC_SYSTEM,
)
from escalade_server.telemetry.instruments import Kind, Merge, Metric

_MS, _NANOS, _MICROS = 1e-3, 1e-9, 1e-6
_MODEL = ("layer", "provider", "model")
_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

LONG_MS: Final = (
    50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000,
)  # fmt: skip
FIRST_MS: Final = (50, 100, 200, 300, 500, 750, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000)
GENAI_MS: Final = (
    10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 10_240, 20_480, 40_960, 81_920,
)  # fmt: skip
"""The published advice for durations."""
GENAI_TOKENS: Final = tuple(4**power for power in range(14))
"""The published advice for tokens."""
WAIT_MS: Final = (1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000)
DECISION_US: Final = (10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000)
STORE_US: Final = (
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
)  # fmt: skip
LAG_US: Final = (1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000)


def _named(attribute: str) -> str:
    """Write the name of an attribute as Prometheus does."""
    return attribute.replace(".", "_")


# -------------------------------------------------------------------------------------- tasks
REQUESTS: Final = Metric(
    "escalade_requests", _C,
    "Tasks that ended. result: ok, unmet (answered, below its quality demand), replayed, or the"
    " reason of the failure. layer: where the answer came from.",
    ("result", "layer", "task_type"),
)  # fmt: skip
AGENT_REQUESTS: Final = Metric(
    "escalade_agent_requests", _C, "Tasks that ended, by agent; the first 50 have a name.",
    ("agent",),
)  # fmt: skip
AGENT_COST: Final = Metric(
    "escalade_agent_cost_usd", _C, "What was charged, by agent.", ("agent",), _NANOS
)
ESCALATIONS: Final = Metric(
    "escalade_escalations", _C,
    "Changes of layer. kind: initial (started above the first layer), failure, or downgrade.",
    ("from_layer", "to_layer", "reason", "kind"),
)  # fmt: skip
FALLBACKS: Final = Metric(
    "escalade_fallbacks", _C, "Moves to another model of the layer, by the model that failed.",
    (*_MODEL, "failure"),
)  # fmt: skip
TASK_SECONDS: Final = Metric(
    "escalade_task_duration_seconds", _H, "A task from its start to its end, waits included.",
    ("result",), _MS, LONG_MS,
)  # fmt: skip
FIRST_TOKEN: Final = Metric(
    "escalade_time_to_first_token_seconds", _H,
    "From the start of a task to the first token of the model that answered it.",
    ("layer",), _MS, FIRST_MS,
)  # fmt: skip
WAITS: Final = Metric(
    "escalade_waits", _C, "Tasks told to wait for capacity, by what is exhausted.", ("reason",)
)
WAITED: Final = Metric(
    "escalade_wait_duration_seconds", _H, "How long tasks that waited did.", (), _MS, WAIT_MS
)
GATES: Final = Metric(
    "escalade_gate_verdicts", _C, "What quality gates said of answers: passed or failed.",
    ("gate", "verdict"),
)  # fmt: skip
RETRACTIONS: Final = Metric(
    "escalade_retractions", _C, "Answers that broke after their first token; they are void.",
    (*_MODEL, "failure"),
)  # fmt: skip
ALERTS: Final = Metric(
    "escalade_alerts", _C,
    "Things a person was told, by kind; of several servers the one that tells them counts.",
    ("kind",),
)  # fmt: skip

# ------------------------------------------------------------------------- attempts and money
ATTEMPTS: Final = Metric(
    "escalade_attempts", _C, "Calls of models. failure: its class; none for an answer.",
    (*_MODEL, "status", "failure"),
)  # fmt: skip
UNCLASSIFIED: Final = Metric(
    "escalade_unclassified_signals", _C,
    "Failures that no row of the tables explains: a provider says something new.",
    ("provider", "model"),
)  # fmt: skip
ODD_ANSWERS: Final = Metric(
    "escalade_odd_answers", _C,
    "Answers with broken text, unknown events or usage beyond belief, by oddity.",
    ("provider", "model", "oddity"),
)  # fmt: skip
TOKENS: Final = Metric(
    "escalade_tokens", _C,
    "Tokens of all attempts. kind: input, output, and of these cached, cache_write, reasoning.",
    (*_MODEL, "kind"),
)  # fmt: skip
COST: Final = Metric(
    "escalade_cost_usd", _C,
    "What was charged. What a provider bills after its caller has left is in the ledger only.",
    _MODEL, _NANOS,
)  # fmt: skip
LIST_VALUE: Final = Metric(
    "escalade_list_value_usd", _C, "What the same would cost at list price; caps count this.",
    _MODEL, _NANOS,
)  # fmt: skip
BASELINE: Final = Metric(
    "escalade_baseline_usd", _C,
    "What the answered tasks would have cost on the one premium model of comparison.",
    (), _NANOS,
)  # fmt: skip
SAVINGS: Final = Metric(
    "escalade_savings_usd", _G,
    "Saved since the start: the baseline less what was charged for the tasks compared with it;"
    " flat fees not counted.",
    (), _NANOS,
)  # fmt: skip

# ------------------------------------------------------------------------- published elsewhere
_GENAI = (_named(OPERATION), _named(PROVIDER), _named(REQUEST_MODEL))
GENAI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - a name
GENAI_USAGE: Final = Metric(
    "gen_ai_client_token_usage", _H, "Tokens of one call: gen_ai.client.token.usage.",
    (*_GENAI, _named(GENAI_TOKEN_TYPE)), 1, GENAI_TOKENS,
)  # fmt: skip
GENAI_SECONDS: Final = Metric(
    "gen_ai_client_operation_duration_seconds", _H,
    "One call of a model: gen_ai.client.operation.duration.",
    (*_GENAI, _named(ERROR_TYPE)), _MS, GENAI_MS,
)  # fmt: skip
GENAI_FIRST: Final = Metric(
    "gen_ai_client_operation_time_to_first_chunk_seconds", _H,
    "One call to its first token: gen_ai.client.operation.time_to_first_chunk.",
    _GENAI, _MS, GENAI_MS,
)  # fmt: skip
RPC_SECONDS: Final = Metric(
    "rpc_server_call_duration_seconds", _H, "One RPC of a caller: rpc.server.call.duration.",
    (_named(RPC_SYSTEM), _named(RPC_METHOD), _named(RPC_STATUS)), 1,
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)  # fmt: skip

# ------------------------------------------------------------------------------- how things are
QUOTA_USED: Final = Metric(
    "escalade_quota_used_ratio", _G,
    "How much of a quota or cap is used. state: spent, or held by what runs.",
    ("quota", "scope", "unit", "period", "state"), merge=Merge.MAX,
)  # fmt: skip
QUOTA_RESETS: Final = Metric(
    "escalade_quota_reset_timestamp_seconds", _G, "When the window of a quota or cap ends.",
    ("quota",), _MS, merge=Merge.MAX,
)  # fmt: skip
LAYER_MODELS: Final = Metric(
    "escalade_layer_models", _G,
    "Models of a layer by what stands against one ordinary task; ok: nothing.",
    ("layer", "verdict"), merge=Merge.MAX,
)  # fmt: skip
COOLDOWNS: Final = Metric(
    "escalade_cooldown_until_timestamp_seconds", _G,
    "Models, accounts and providers set aside, and until when (+Inf: until a person acts).",
    ("subject", "reason"), _MS, merge=Merge.MAX,
)  # fmt: skip
CIRCUITS: Final = Metric(
    "escalade_circuits", _G, "Circuits that are open or half_open; a closed one has no series.",
    ("subject", "state"), merge=Merge.MAX,
)  # fmt: skip
UNPRICED: Final = Metric(
    "escalade_models_without_price", _G,
    "Models of the strategy whose price had to be guessed.", (), merge=Merge.MAX,
)  # fmt: skip
WAITERS: Final = Metric("escalade_waiters", _G, "Tasks that wait for capacity now.")
IN_FLIGHT: Final = Metric("escalade_calls_in_flight", _G, "Calls of callers that are open now.")
ATTEMPTS_IN_FLIGHT: Final = Metric(
    "escalade_attempts_in_flight", _G, "Calls of models that are open now.", _MODEL
)
BACKLOG: Final = Metric(
    "escalade_settlement_backlog", _G,
    "Tasks whose caller has its ending, and whose books are not closed yet.",
)  # fmt: skip
READY: Final = Metric("escalade_ready", _G, "1: the server takes calls; 0: it does not.")
BUILD: Final = Metric("escalade_build_info", _G, "The version.", ("version",), merge=Merge.MAX)
STRATEGY: Final = Metric(
    "escalade_strategy_info", _G, "The strategy in force, by its hash.", ("sha256",),
    merge=Merge.MAX,
)  # fmt: skip

# -------------------------------------------------------------------------------- self-knowledge
DECISION: Final = Metric(
    "escalade_decision_duration_seconds", _H,
    "From the admission of a task to its first order: score, walk and verdicts.",
    (), _MICROS, DECISION_US,
)  # fmt: skip
STORE: Final = Metric(
    "escalade_store_duration_seconds", _H,
    "Round trips to the ledger, until durable; at most one in 10 ms is measured.",
    ("operation",), _MICROS, STORE_US,
)  # fmt: skip
LOOP_LAG: Final = Metric(
    "escalade_event_loop_lag_seconds", _H, "How late the event loop ran what was due, 20 a second.",
    (), _MICROS, LAG_US,
)  # fmt: skip
LEDGER_FAILING: Final = Metric(
    "escalade_ledger_failing", _G, "1: the ledger cannot be written, and settlements wait.",
    merge=Merge.MAX,
)  # fmt: skip
LEDGER_ERRORS: Final = Metric(
    "escalade_ledger_errors", _C, "How often the ledger ceased to be writable."
)
DEATHS: Final = Metric("escalade_background_restarts", _C, "Background work that died.")
MISTAKES: Final = Metric("escalade_mistakes", _C, "Mistakes of ours; each is a line of the log.")
LINES_LOST: Final = Metric("escalade_log_lines_lost", _C, "Lines that nobody took in time.")
SPANS_LOST: Final = Metric(
    "escalade_trace_spans_dropped", _C, "Spans that the exporter could not deliver."
)

FED: Final = (
    REQUESTS, AGENT_REQUESTS, AGENT_COST, ESCALATIONS, FALLBACKS, TASK_SECONDS, FIRST_TOKEN, WAITS,
    WAITED, GATES, RETRACTIONS, ALERTS, ATTEMPTS, UNCLASSIFIED, ODD_ANSWERS, TOKENS, COST,
    LIST_VALUE, BASELINE, GENAI_USAGE, GENAI_SECONDS, GENAI_FIRST, RPC_SECONDS, DECISION, STORE,
    LOOP_LAG, LEDGER_ERRORS,
)  # fmt: skip
"""What is counted as it happens."""
SAMPLED: Final = (
    SAVINGS, QUOTA_USED, QUOTA_RESETS, LAYER_MODELS, COOLDOWNS, CIRCUITS, UNPRICED, WAITERS,
    IN_FLIGHT, ATTEMPTS_IN_FLIGHT, BACKLOG, READY, BUILD, STRATEGY, LEDGER_FAILING, DEATHS,
    MISTAKES, LINES_LOST, SPANS_LOST,
)  # fmt: skip
"""What is looked at when it is asked for."""
METRICS: Final = (*FED, *SAMPLED)
