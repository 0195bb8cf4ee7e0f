"""What a caller wants done, in neutral terms: no vendor's names, no wire types."""

from dataclasses import dataclass, field
from enum import Enum

from escalade_server.core.gates import Wish
from escalade_server.core.session import Evidence, Step
from escalade_server.core.tracing import TraceContext

MICRO = 1_000_000


class Role(Enum):
    """Who wrote a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text. ``cache_hint`` asks the vendor to cache the prompt up to and including it."""

    text: str
    cache_hint: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An inline image. URLs are not accepted: the service fetches nothing a caller names (D4)."""

    media_type: str
    data: bytes
    cache_hint: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool. ``arguments_json`` is kept verbatim, valid or not (U27)."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered to the call with the same id."""

    call_id: str
    text: str
    is_error: bool = False
    cache_hint: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning text that a model made visible."""

    text: str


@dataclass(frozen=True, slots=True)
class ProviderState:
    """Opaque state of a vendor; goes back to the same dialect and model only (DESIGN 6)."""

    dialect: str
    model: str
    data: bytes


Part = Text | Image | ToolCall | ToolResult | Reasoning | ProviderState


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters_json`` is a JSON schema."""

    name: str
    description: str
    parameters_json: str


class ToolMode(Enum):
    """Whether the model may, must not or must call a tool; NAMED forces one."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``name`` is set for NAMED only."""

    mode: ToolMode = ToolMode.AUTO
    name: str = ""


class FormatKind(Enum):
    """The form an answer must have."""

    TEXT = "text"
    JSON = "json"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """``schema_json`` and ``name`` are set for JSON_SCHEMA only."""

    kind: FormatKind = FormatKind.TEXT
    name: str = ""
    schema_json: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; None means the model's own default, never zero (R30)."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


class Feature(Enum):
    """What a request may need of a model beyond text."""

    TOOLS = "tools"
    IMAGES = "images"
    JSON_SCHEMA = "json_schema"


class Effort(Enum):
    """How much reasoning is asked for."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class OnInterruption(Enum):
    """What to do when a model breaks after its first delta (DESIGN 6, guarantee 3)."""

    RESTART = "restart"
    FAIL = "fail"


class Delivery(Enum):
    """STREAM passes deltas on; WHOLE gives the answer in one piece with the ending.

    ROUTE gives no answer at all: the caller calls the selected model itself, and reports (R32).
    """

    STREAM = "stream"
    WHOLE = "whole"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class Constraints:
    """Limits a caller sets for one task; None or empty means: the strategy's own."""

    lowest_layer: str = ""
    highest_layer: str = ""
    allowed_models: tuple[str, ...] = ()
    """Model ids, or ``provider/model``; empty allows all."""
    denied_models: tuple[str, ...] = ()
    spend_limit_nanos: int | None = None
    """List value of paid layers, over all attempts (R15); 0 means ``free_only`` (R30)."""
    free_only: bool = False
    may_downgrade: bool | None = None
    may_wait: bool | None = None
    max_wait_ms: int | None = None
    consented_layers: tuple[str, ...] = ()
    """Layers with ``consent: required`` that the caller agrees to pay for; ``*`` means all."""


NO_LIMITS = Constraints()
"""Of the many requests that set none."""


class DataDemand(Enum):
    """What caller or agent demands for the data of a task, the stronger the higher (R28)."""

    NONE = 0
    NO_TRAINING = 1
    """Only models that do not train on it."""
    PRIVATE = 2
    """Only models that run locally."""


@dataclass(frozen=True, slots=True)
class Task:
    """What decides where a request starts: stated by the caller, the rest estimated."""

    type: str = ""
    files: int | None = None
    tokens: int | None = None
    complexity_micro: int | None = None
    """A stated complexity in micro-points, 0 to 10,000,000; it replaces the score (R3)."""
    capabilities: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    session_id: str = ""
    data_demand: DataDemand = DataDemand.NONE
    evidence: tuple[Evidence, ...] = ()
    """Of struggle, since the last step of its session (R29)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of ``Complete``: a task, its messages and how the answer must look."""

    id: str
    task: Task
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
    sampling: Sampling = field(default_factory=Sampling)
    effort: Effort | None = None
    output_tokens_max: int | None = None
    constraints: Constraints = NO_LIMITS
    on_interruption: OnInterruption = OnInterruption.RESTART
    delivery: Delivery = Delivery.STREAM
    agent: str = ""
    trusted_reports: bool = True
    """What this caller reports of models it called itself holds for everyone (R33)."""
    deadline_ms: int = 0
    """Unix ms at which the core gives up: the caller's deadline less its margin (P9, R22)."""
    ends_ms: int = 0
    """Unix ms at which work and waits together must be over (P9); 0: ``deadline_ms`` itself."""
    waiting_since_ms: int = 0
    """Unix ms since which it waits, before its stream broke; 0: it did not (R22)."""
    input_tokens: int | None = None
    """Of a call that the caller makes itself: the input it grants itself (R32)."""
    features: frozenset[Feature] = frozenset()
    """Of such a call: what it needs of a model, beside what messages and tools show."""
    quality: Wish | None = None
    """What its answer must pass, beyond what the strategy asks for (R21)."""
    trace: TraceContext | None = None
    """Its caller's trace, where the caller has one."""
    content: str = ""
    """Hash of what is asked under a caller's own id (R27); empty: the id is ours, and unique."""
    session: Step | None = None
    """Of what session this is a step, and what is known of that (R29)."""


class FinishReason(Enum):
    """Why a model stopped; the provider's own word decides (R26)."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt. ``input`` includes cached and cache_write; ``output`` reasoning."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens that count against a token window (R13)."""
        return self.input_tokens + self.output_tokens


class Basis(Enum):
    """Where the figures of an attempt come from."""

    NONE = "none"
    REPORTED = "reported"
    ESTIMATED = "estimated"
    RESERVED = "reserved"
