"""What a caller says, turned into the wire's request; mistakes are found here, before any I/O."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from escalade._errors import UsageError
from escalade._proto import NANOS_IN_USD
from escalade._types import (
    Constraints,
    Image,
    JsonSchema,
    Message,
    Messages,
    Part,
    ProviderState,
    QualityDemands,
    Reasoning,
    ReasoningEffort,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    Text,
    Tool,
    ToolCall,
    ToolMode,
    ToolResult,
)
from escalade.v1 import completion_pb2, escalation_pb2, router_service_pb2

INT64_MAX = 2**63 - 1
K = TypeVar("K")
V = TypeVar("V")

GATES: Mapping[str, completion_pb2.Gate.ValueType] = MappingProxyType(
    {
        name.removeprefix("GATE_").lower(): value
        for name, value in completion_pb2.Gate.items()
        if value
    }
)
SIGNS: Mapping[str, escalation_pb2.EvidenceKind.ValueType] = MappingProxyType(
    {
        name.removeprefix("EVIDENCE_KIND_").lower(): value
        for name, value in escalation_pb2.EvidenceKind.items()
        if value
    }
)
ROLES: Mapping[Role, completion_pb2.Role.ValueType] = MappingProxyType(
    {
        "system": completion_pb2.ROLE_SYSTEM,
        "user": completion_pb2.ROLE_USER,
        "assistant": completion_pb2.ROLE_ASSISTANT,
        "tool": completion_pb2.ROLE_TOOL,
    }
)


def request_to_proto(
    messages: Messages,
    *,
    task: Task | str | None,
    system: str | None,
    tools: Sequence[Tool],
    tool_choice: ToolMode | Tool | None,
    response_format: ResponseFormat | None,
    temperature: float | None,
    sampling: Sampling | None,
    reasoning_effort: ReasoningEffort | None,
    max_output_tokens: int | None,
    constraints: Constraints | None,
    quality: QualityDemands | None,
    request_id: str,
    resume_token: str,
    whole: bool,
    may_restart: bool,
    flush_interval: timedelta | None = None,
) -> router_service_pb2.CompleteRequest:
    """Build the request.

    Raises:
        UsageError: Something cannot be sent: no message, an amount that is none, a value out of
            range, a schema that is not JSON.
    """
    if sampling is not None and temperature is not None:
        raise UsageError("temperature stands twice: beside sampling and possibly in it")
    conversation = [Message.system(system)] if system is not None else []
    conversation += conversation_of(messages)
    try:
        return router_service_pb2.CompleteRequest(
            task=task_to_proto(Task(task) if isinstance(task, str) else task or Task()),
            messages=[message_to_proto(message) for message in conversation],
            tools=[tool_to_proto(tool) for tool in tools],
            tool_choice=_tool_choice(tool_choice),
            response_format=_response_format(response_format),
            sampling=sampling_to_proto(sampling or Sampling(temperature=temperature)),
            reasoning_effort=_reasoning_effort(reasoning_effort),
            max_output_tokens=max_output_tokens,
            constraints=constraints_to_proto(constraints) if constraints else None,
            quality=quality_to_proto(quality) if quality else None,
            on_interruption=(
                completion_pb2.ON_INTERRUPTION_RESTART
                if may_restart
                else completion_pb2.ON_INTERRUPTION_FAIL
            ),
            delivery=completion_pb2.DELIVERY_WHOLE if whole else completion_pb2.DELIVERY_STREAM,
            flush_interval=duration_to_proto(flush_interval),
            request_id=request_id,
            resume_token=resume_token,
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the request cannot be sent: {error}") from error


def conversation_of(messages: Messages) -> list[Message]:
    if isinstance(messages, str):
        return [Message.user(messages)]
    try:
        conversation = [messages] if isinstance(messages, Message) else list(messages)
    except TypeError:
        what = f"a text or Messages, not {type(messages).__name__}"
        raise UsageError(f"a conversation is {what}") from None
    if not conversation:
        raise UsageError("there is no message to answer")
    for message in conversation:
        if not isinstance(message, Message):
            raise UsageError(
                f"a conversation holds Messages, not {type(message).__name__}:"
                ' write Message.user("Why?"), Message.system(...), Message.assistant(...)'
            )
    return conversation


def message_to_proto(message: Message) -> completion_pb2.Message:
    """Write a message."""
    role = ROLES.get(message.role)
    if role is None:
        raise UsageError(f"the role {message.role!r} is none of {', '.join(ROLES)}")
    return completion_pb2.Message(role=role, parts=[part_to_proto(part) for part in message.parts])


def part_to_proto(part: Part) -> completion_pb2.Part:
    """Write a piece of a message."""
    match part:
        case Text(text, cache_hint):
            return completion_pb2.Part(text=text, cache_hint=cache_hint or None)
        case Image(media_type, data, cache_hint):
            image = completion_pb2.Image(media_type=media_type, data=data)
            return completion_pb2.Part(image=image, cache_hint=cache_hint or None)
        case ToolCall(id_, name, arguments):
            call = completion_pb2.ToolCall(id=id_, name=name, arguments_json=arguments)
            return completion_pb2.Part(tool_call=call)
        case ToolResult(call_id, text, is_error, cache_hint):
            result = completion_pb2.ToolResult(
                tool_call_id=call_id, text=text, is_error=is_error or None
            )
            return completion_pb2.Part(tool_result=result, cache_hint=cache_hint or None)
        case Reasoning(text):
            return completion_pb2.Part(reasoning=completion_pb2.Reasoning(text=text))
        case ProviderState(dialect, model, data):
            state = completion_pb2.ProviderState(dialect=dialect, model=model, data=data)
            return completion_pb2.Part(provider_state=state)


def part_from_proto(part: completion_pb2.Part) -> Part | None:
    """Read a piece of an answer; None for kinds of a newer server."""
    match part.WhichOneof("kind"):
        case "text":
            return Text(part.text)
        case "image":
            return Image(part.image.media_type, part.image.data)
        case "tool_call":
            return ToolCall(part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json)
        case "tool_result":
            result = part.tool_result
            return ToolResult(result.tool_call_id, result.text, result.is_error)
        case "reasoning":
            return Reasoning(part.reasoning.text)
        case "provider_state":
            state = part.provider_state
            return ProviderState(state.dialect, state.model, state.data)
        case _:
            return None


def task_to_proto(task: Task) -> escalation_pb2.Task:
    """Write the task."""
    demands = {
        None: escalation_pb2.DATA_DEMAND_UNSPECIFIED,
        "no_training": escalation_pb2.DATA_DEMAND_NO_TRAINING,
        "private": escalation_pb2.DATA_DEMAND_PRIVATE,
    }
    return escalation_pb2.Task(
        type=task.type,
        files=words_of(task.files, "files"),
        file_count=task.file_count,
        tokens=task.tokens,
        complexity=task.complexity,
        capabilities=words_of(task.capabilities, "capabilities"),
        labels=task.labels,
        session_id=task.session_id,
        evidence=[
            escalation_pb2.Evidence(
                kind=value_of(SIGNS, sign.kind, "evidence"),
                signal_id=sign.signal_id,
            )
            for sign in task.evidence
        ],
        data_demand=value_of(demands, task.data_demand, "data_demand"),
    )


def tool_to_proto(tool: Tool) -> completion_pb2.Tool:
    """Write a tool; one without parameters takes an empty object."""
    schema = tool.parameters or {"type": "object", "properties": {}}
    return completion_pb2.Tool(
        name=tool.name, description=tool.description, parameters_json_schema=_json(schema)
    )


def _tool_choice(choice: ToolMode | Tool | None) -> completion_pb2.ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, Tool):
        return completion_pb2.ToolChoice(tool_name=choice.name)
    modes = {
        "auto": completion_pb2.TOOL_MODE_AUTO,
        "none": completion_pb2.TOOL_MODE_NONE,
        "required": completion_pb2.TOOL_MODE_REQUIRED,
    }
    return completion_pb2.ToolChoice(mode=value_of(modes, choice, "tool_choice"))


def _response_format(form: ResponseFormat | None) -> completion_pb2.ResponseFormat | None:
    if form is None:
        return None
    if isinstance(form, Mapping):
        raise UsageError("response_format is a dict: a schema is JsonSchema(...); or write 'json'")
    if isinstance(form, JsonSchema):
        schema = completion_pb2.JsonSchemaFormat(name=form.name, schema_json=_json(form.schema))
        return completion_pb2.ResponseFormat(json_schema=schema)
    forms = {
        "text": completion_pb2.ResponseFormat(text=completion_pb2.TextFormat()),
        "json": completion_pb2.ResponseFormat(json=completion_pb2.JsonFormat()),
    }
    return value_of(forms, form, "response_format")


def sampling_to_proto(sampling: Sampling) -> completion_pb2.Sampling | None:
    """Write the sampling; nothing if nothing is set."""
    made = completion_pb2.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        stop=words_of(sampling.stop, "stop"),
    )
    return made if made.ListFields() else None


def _reasoning_effort(
    effort: ReasoningEffort | None,
) -> completion_pb2.ReasoningEffort.ValueType:
    efforts = {
        None: completion_pb2.REASONING_EFFORT_UNSPECIFIED,
        "none": completion_pb2.REASONING_EFFORT_NONE,
        "low": completion_pb2.REASONING_EFFORT_LOW,
        "medium": completion_pb2.REASONING_EFFORT_MEDIUM,
        "high": completion_pb2.REASONING_EFFORT_HIGH,
    }
    return value_of(efforts, effort, "reasoning_effort")


def constraints_to_proto(constraints: Constraints) -> escalation_pb2.Constraints:
    """Write the limits."""
    limit = constraints.spend_limit_usd
    return escalation_pb2.Constraints(
        lowest_layer=constraints.lowest_layer,
        highest_layer=constraints.highest_layer,
        allowed_models=words_of(constraints.allowed_models, "allowed_models"),
        denied_models=words_of(constraints.denied_models, "denied_models"),
        spend_limit_nano_usd=None if limit is None else nanos_of(limit),
        free_only=constraints.free_only,
        may_downgrade=constraints.may_downgrade,
        may_wait=constraints.may_wait,
        max_wait=duration_to_proto(constraints.max_wait),
        timeout=duration_to_proto(constraints.work_timeout),
        consented_layers=words_of(constraints.consented_layers, "consented_layers"),
    )


def quality_to_proto(quality: QualityDemands) -> completion_pb2.QualityDemands:
    """Write the demands on quality."""
    unmet = {
        None: completion_pb2.ON_UNMET_UNSPECIFIED,
        "fail": completion_pb2.ON_UNMET_FAIL,
        "deliver": completion_pb2.ON_UNMET_DELIVER,
    }
    gates = words_of(quality.gates, "gates")
    return completion_pb2.QualityDemands(
        gates=[value_of(GATES, gate, "gates") for gate in gates],
        must_contain=words_of(quality.must_contain, "must_contain"),
        min_length_chars=quality.min_length_chars,
        max_escalations=quality.max_escalations,
        on_unmet=value_of(unmet, quality.on_unmet, "on_unmet"),
    )


def nanos_of(usd: Decimal | float | str) -> int:
    """Turn dollars into nano-dollars, exactly; a float counts as the number it prints as."""
    try:
        nanos = Decimal(str(usd)) * NANOS_IN_USD
        whole = int(nanos)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise UsageError(f"{usd!r} is no amount of US dollars") from error
    if whole != nanos or not 0 <= whole <= INT64_MAX:
        raise UsageError(f"{usd!r} USD is negative, too large, or finer than a nano-dollar")
    return whole


def duration_to_proto(duration: timedelta | None) -> Duration | None:
    """Turn a duration into the wire's."""
    if duration is None:
        return None
    if duration < timedelta(0):
        raise UsageError(f"a duration of {duration} is negative")
    made = Duration()
    made.FromTimedelta(duration)
    return made


def seconds_of(timeout: float | None) -> float | None:
    """Check a timeout in seconds."""
    if timeout is None:
        return None
    try:
        is_time = math.isfinite(timeout) and timeout > 0
    except TypeError:
        is_time = False
    if not is_time:
        raise UsageError(f"a timeout of {timeout!r} is no time to wait: write seconds, such as 30")
    return timeout


def words_of(words: Sequence[str], name: str) -> list[str]:
    if isinstance(words, str):
        raise UsageError(f"{name} is a list of texts, not the one text {words!r}")
    return list(words)


def value_of(table: Mapping[K, V], key: K, name: str) -> V:
    if key not in table:
        known = ", ".join(repr(word) for word in table)
        raise UsageError(f"{name} is {key!r}; known are {known}")
    return table[key]


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, allow_nan=False)
