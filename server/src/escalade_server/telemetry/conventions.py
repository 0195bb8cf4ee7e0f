"""Every name that a span carries, once. Published names are pinned to a version, ours are ours.

``tests/telemetry/conventions.toml`` lists the published ones with their source; a test compares.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SEMCONV_VERSION: Final = "1.44.0"
"""Of open-telemetry/semantic-conventions: ``rpc.*``, ``error.*``, ``server.*``, ``service.*``."""
GENAI_COMMIT: Final = "9430220"
"""Of open-telemetry/semantic-conventions-genai: ``gen_ai.*`` (status: development)."""
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# ------------------------------------------------------------------ published: RPC and general
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"
"""Becomes ``rpc.status_code`` after 1.44.0."""
GRPC: Final = "grpc"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
HTTP_STATUS: Final = "http.response.status_code"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE: Final = "service.instance.id"

# ------------------------------------------------------------------ published: generative AI
OPERATION: Final = "gen_ai.operation.name"
CHAT: Final = "chat"
PROVIDER: Final = "gen_ai.provider.name"
CONVERSATION: Final = "gen_ai.conversation.id"
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
"""Seconds."""
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
"""The last two are content: opt-in, and off by default."""

PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "azure": "azure.ai.openai",
        "azure-openai": "azure.ai.openai",
        "bedrock": "aws.bedrock",
        "gemini": "gcp.gemini",
        "google": "gcp.gemini",
        "mistral": "mistral_ai",
        "moonshot": "moonshot_ai",
        "vertex": "gcp.vertex_ai",
        "xai": "x_ai",
    }
)
"""The published name of a provider where a strategy's usual one is another."""
RPC_SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that are errors of a server span; with any other the span's status stays unset."""

# ------------------------------------------------------------------ ours
METHODS: Final = "escalade.v1.RouterService/"
REQUEST_ID: Final = "escalade.request_id"
AGENT: Final = "escalade.agent"
TASK_TYPE: Final = "escalade.task.type"
SCORE: Final = "escalade.task.score"
THRESHOLD: Final = "escalade.task.threshold"
TARGET_LAYER: Final = "escalade.task.target_layer"
START_LAYER: Final = "escalade.task.start_layer"
CLAMPED_BY: Final = "escalade.task.clamped_by"
OUTCOME: Final = "escalade.outcome"
"""``answered``, or the reason of the failure."""
REPLAYED: Final = "escalade.replayed"
UNMET: Final = "escalade.gate.unmet"
STORY: Final = "escalade.story"
ATTEMPTS: Final = "escalade.attempts"
LAYER_PATH: Final = "escalade.layer_path"
WAITED_MS: Final = "escalade.waited_ms"
RETRY_AT_MS: Final = "escalade.retry_at_ms"
LAYER: Final = "escalade.layer"
MODEL: Final = "escalade.model"
FROM: Final = "escalade.escalation.from"
TO: Final = "escalade.escalation.to"
REASON: Final = "escalade.escalation.reason"
DETAIL: Final = "escalade.escalation.detail"
KIND: Final = "escalade.escalation.kind"
FAILED_ATTEMPT: Final = "escalade.escalation.failed_attempt"
ATTEMPT: Final = "escalade.attempt"
ATTEMPT_STATUS: Final = "escalade.attempt.status"
ATTEMPT_DETAIL: Final = "escalade.attempt.detail"
RESERVATION: Final = "escalade.reservation_id"
BASIS: Final = "escalade.usage.basis"
LIST_COST: Final = "escalade.cost.list_nano_usd"
CHARGED_COST: Final = "escalade.cost.charged_nano_usd"
GATE: Final = "escalade.gate"
GATE_PASSED: Final = "escalade.gate.passed"
GATE_DETAIL: Final = "escalade.gate.detail"
WAIT_REASON: Final = "escalade.wait.reason"
WAIT_RULE: Final = "escalade.wait.rule"
WAIT_DETAIL: Final = "escalade.wait.detail"
WAIT_EARLIEST_MS: Final = "escalade.wait.earliest_ms"
WAIT_POSITION: Final = "escalade.wait.position"
PASSED_OVER: Final = "escalade.passed_over"
FAILURE: Final = "escalade.failure"
FROM_MODEL: Final = "escalade.from_model"
TO_MODEL: Final = "escalade.to_model"
ALERT: Final = "escalade.alert"
ALERT_DETAIL: Final = "escalade.alert.detail"

# Names of spans and events
SPAN_ASSESS: Final = "assess"
SPAN_LAYER: Final = "layer"
SPAN_WAIT: Final = "wait"
SPAN_QUEUED: Final = "queued"
"""A mark of no length, sent when a wait begins: ``wait`` itself is sent when it is over."""
SPAN_SETTLE: Final = "settle"
EVENT_SELECTED: Final = "escalade.selected"
EVENT_FALLBACK: Final = "escalade.fallback"
EVENT_RETRACTED: Final = "escalade.retracted"
EVENT_GATE: Final = "escalade.gate"
EVENT_ALERT: Final = "escalade.alert"
EVENT_FIRST_CHUNK: Final = "escalade.first_chunk"
