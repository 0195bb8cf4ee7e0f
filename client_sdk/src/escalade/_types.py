"""What a caller says: messages, tools, the task, and limits. Frozen, typed, without gRPC."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
ToolMode = Literal["auto", "none", "required"]
ReasoningEffort = Literal["none", "low", "medium", "high"]
Gate = Literal[
    "empty",
    "truncated",
    "invalid_json",
    "schema_violation",
    "tool_call_invalid",
    "too_short",
    "pattern_missing",
]
EvidenceKind = Literal["repeated_tool_error", "failed_check", "rephrased_question", "output_cut"]
DataDemand = Literal["no_training", "private"]


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text. `cache_hint` asks the vendor to cache the prompt up to and including it."""

    text: str
    cache_hint: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image inline, such as `Image("image/png", path.read_bytes())`; nothing is fetched."""

    media_type: str
    data: bytes = field(repr=False)
    cache_hint: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool. `arguments_json` is verbatim as the model wrote it."""

    id: str
    name: str
    arguments_json: str

    def arguments(self) -> dict[str, object]:
        """Parse the arguments.

        Raises:
            ValueError: The model wrote something that is not a JSON object.
        """
        parsed: object = json.loads(self.arguments_json)
        if not isinstance(parsed, dict):
            raise ValueError(  # noqa: TRY004 - the model's mistake, as invalid JSON is
                f"the arguments of {self.name} are not a JSON object"
            )
        return parsed


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered, as text, to the call of this id."""

    tool_call_id: str
    text: str
    is_error: bool = False
    cache_hint: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning that a model made visible."""

    text: str


@dataclass(frozen=True, slots=True)
class ProviderState:
    """Opaque state that a vendor wants back in the next request; keep it as it is."""

    dialect: str
    model: str
    data: bytes = field(repr=False)


Part = Text | Image | ToolCall | ToolResult | Reasoning | ProviderState


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `Message.user("Why?", image)` is the short way."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def system(cls, text: str) -> "Message":
        """Make an instruction of the application."""
        return cls("system", (Text(text),))

    @classmethod
    def user(cls, *parts: str | Part) -> "Message":
        """Make a message of the user from texts and images."""
        return cls("user", _parts(parts))

    @classmethod
    def assistant(cls, *parts: str | Part) -> "Message":
        """Make an answer of a model; for a real one, `Answer.message` is complete and at hand."""
        return cls("assistant", _parts(parts))

    @classmethod
    def tool(cls, *results: ToolResult) -> "Message":
        """Make the message that returns the results of tools."""
        return cls("tool", results)

    @property
    def text(self) -> str:
        """Join the text parts."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


def _parts(parts: Sequence[str | Part]) -> tuple[Part, ...]:
    return tuple(Text(part) if isinstance(part, str) else part for part in parts)


Messages = str | Message | Sequence[Message]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The JSON schema that the answer must obey, at most 32 levels deep."""

    schema: Mapping[str, object]
    name: str = "answer"


ResponseFormat = Literal["text", "json"] | JsonSchema


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model draws its words. What is None leaves the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sign of struggle in the session; one `signal_id` never raises the layer twice.

    Without one, the sign is that of this request alone.
    """

    kind: EvidenceKind
    signal_id: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done. What is absent is estimated from the messages.

    Attributes:
        type: Such as debug, refactor or plan; usual spellings are understood.
        files: The files affected; only their number counts, they are never opened.
        file_count: That number, instead of the list.
        tokens: The estimated context in tokens, for the score only.
        complexity: 0 to 10; replaces the score.
        capabilities: What the model must have, all of it; replaces the need of the type.
        labels: The caller's own.
        session_id: The session whose step this is.
        evidence: Signs of struggle since the session's last step.
        data_demand: How models must handle the data; private admits local models only.
    """

    type: str = ""
    files: Sequence[str] = ()
    file_count: int | None = None
    tokens: int | None = None
    complexity: float | None = None
    capabilities: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    session_id: str = ""
    evidence: Sequence[Evidence] = ()
    data_demand: DataDemand | None = None


@dataclass(frozen=True, slots=True)
class Constraints:
    """Limits of one task. What is absent follows the strategy, which a task may only narrow.

    Attributes:
        free_only: Admits free layers only, at any failure.
        spend_limit_usd: Limits the list value spent on paid layers; 0 means free_only.
        lowest_layer: The lowest layer that may answer.
        highest_layer: The highest layer that may answer.
        allowed_models: The only models allowed, as "model" or "provider/model".
        denied_models: Models that are denied, likewise.
        may_downgrade: Whether a layer below the target may answer when that is exhausted.
        may_wait: Whether the task may wait for capacity.
        max_wait: Limits the time spent waiting.
        work_timeout: Limits the time spent working; 5 minutes unless told.
        consented_layers: Layers with required consent that the caller agrees to pay for;
            "*" means all.
    """

    free_only: bool | None = None
    spend_limit_usd: Decimal | float | str | None = None
    lowest_layer: str = ""
    highest_layer: str = ""
    allowed_models: Sequence[str] = ()
    denied_models: Sequence[str] = ()
    may_downgrade: bool | None = None
    may_wait: bool | None = None
    max_wait: timedelta | None = None
    work_timeout: timedelta | None = None
    consented_layers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class QualityDemands:
    """Quality demanded beyond the strategy's. A failed gate escalates, charged and listed.

    Attributes:
        gates: Gates to add.
        must_contain: Literal texts that the answer must contain.
        min_length_chars: The least length in Unicode code points.
        max_escalations: Limits escalations for quality.
        on_unmet: What happens when no model meets the demands: fail, or deliver the last
            answer, marked in `Answer.quality`.
    """

    gates: Sequence[Gate] = ()
    must_contain: Sequence[str] = ()
    min_length_chars: int | None = None
    max_escalations: int | None = None
    on_unmet: Literal["fail", "deliver"] | None = None
