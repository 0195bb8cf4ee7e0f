"""Reads and checks a chat completion request, as strictly as OpenAI does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from escalade_server.provider_simulator.answer import (
    BYTES_PER_TOKEN,
    IMAGE_TOKENS,
    Question,
    ToolOffer,
    digest_of,
    tokens_of,
)
from escalade_server.provider_simulator.dialect import BadRequestError
from escalade_server.provider_simulator.vendors import Vendor

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class TextPart(Struct, tag="text", tag_field="type"):
    """Text."""

    text: str


class ImageUrl(Struct):
    """A picture, inline or by address."""

    url: Annotated[str, Meta(pattern="^(data:image/[a-z+.-]+;base64,|https?://)")]
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Struct, tag="image_url", tag_field="type"):
    """An image in a user's message."""

    image_url: ImageUrl


class RefusalPart(Struct, tag="refusal", tag_field="type"):
    """A refusal that the assistant gave earlier."""

    refusal: str


class CalledFunction(Struct):
    """What an earlier tool call called."""

    name: Name
    arguments: str


class CalledTool(Struct):
    """An earlier tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class SystemMessage(Struct, tag="system", tag_field="role"):
    """Instructions."""

    content: str | list[TextPart]
    name: str | None = None


class DeveloperMessage(Struct, tag="developer", tag_field="role"):
    """Instructions, by their newer name."""

    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Struct, tag="user", tag_field="role"):
    """What a person says."""

    content: str | list[TextPart | ImagePart]
    name: str | None = None


class AssistantMessage(Struct, tag="assistant", tag_field="role"):
    """What the model said."""

    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    tool_calls: list[CalledTool] | None = None
    name: str | None = None


class ToolMessage(Struct, tag="tool", tag_field="role"):
    """What a tool gave back."""

    content: str | list[TextPart]
    tool_call_id: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(Struct):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool; only functions exist."""

    type: Literal["function"]
    function: Function


class NamedFunction(Struct):
    """The name in a tool choice."""

    name: str


class NamedChoice(Struct):
    """The caller wants this tool called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Struct, tag="text", tag_field="type"):
    """Plain text."""


class ObjectFormat(Struct, tag="json_object", tag_field="type"):
    """Any JSON object."""


class JsonSchema(Struct):
    """A named schema."""

    name: Name
    schema: dict[str, object] | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Struct, tag="json_schema", tag_field="type"):
    """JSON of a schema."""

    json_schema: JsonSchema


class StreamOptions(Struct):
    """What else a stream tells."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Struct, kw_only=True):
    """The request, of a vendor that ignores what it does not know."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    user: str | None = None


class StrictChatRequest(ChatRequest, forbid_unknown_fields=True, kw_only=True):
    """The request as OpenAI takes it: the rest of its parameters, and no others."""

    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    prediction: dict[str, object] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None
    web_search_options: dict[str, object] | None = None


def read_request(body: bytes, vendor: Vendor) -> Question:
    """Reads a request of `vendor`.

    Raises:
        BadRequestError: with OpenAI's words, where the shape or the order of messages is wrong.
    """
    kind = StrictChatRequest if vendor.strict_parameters else ChatRequest
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise bad_shape(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = (
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly.)"
        )
        raise BadRequestError(detail) from None
    check_options(request)
    check_tool_order(request.messages)
    return question_of(request)


def bad_shape(problem: str) -> BadRequestError:
    """The library's complaint, in the vendor's words."""
    unknown = re.fullmatch(r"Object contains unknown field `([^`]*)`", problem)
    if unknown:
        return BadRequestError(f"Unrecognized request argument supplied: {unknown[1]}")
    missing = re.fullmatch(r"Object missing required field `([^`]*)`", problem)
    if missing:
        return BadRequestError(f"Missing required parameter: '{missing[1]}'.", missing[1])
    complaint, _, place = problem.partition(" - at `$.")
    param = place.rstrip("`")
    if not param:
        return BadRequestError(complaint)
    return BadRequestError(f"Invalid value for '{param}': {complaint}.", param)


def check_options(request: ChatRequest) -> None:
    """Parameters that need each other."""
    if request.stream_options is not None and not request.stream:
        detail = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise BadRequestError(detail, "stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        detail = (
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        )
        raise BadRequestError(detail, "max_tokens")
    if request.tools is not None and not request.tools:
        detail = "Invalid 'tools': empty array. Expected an array with minimum length 1."
        raise BadRequestError(detail, "tools")
    if request.tool_choice is not None and not request.tools:
        detail = "'tool_choice' is only allowed when 'tools' are specified."
        raise BadRequestError(detail, "tool_choice")
    if isinstance(request.tool_choice, NamedChoice):
        name = request.tool_choice.function.name
        if all(tool.function.name != name for tool in request.tools or ()):
            detail = f"Tool choice '{name}' not found in 'tools' parameter."
            raise BadRequestError(detail, "tool_choice")
    if isinstance(request.response_format, ObjectFormat):
        texts = (text for message in request.messages for text in texts_of(message))
        if not any("json" in text.lower() for text in texts):
            detail = (
                "'messages' must contain the word 'json' in some form, to use "
                "'response_format' of type 'json_object'."
            )
            raise BadRequestError(detail, "messages")


def check_tool_order(messages: Sequence[Message]) -> None:
    """Results of tools follow their calls, and every call has its result."""
    open_ids: set[str] = set()
    for place, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_ids:
                detail = (
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceeding message with 'tool_calls'."
                )
                raise BadRequestError(detail, f"messages.[{place}].role")
            open_ids.discard(message.tool_call_id)
            continue
        require_answered(open_ids, place)
        if isinstance(message, AssistantMessage):
            if message.content is None and not message.tool_calls and message.refusal is None:
                detail = "Invalid value for 'content': expected a string, got null."
                raise BadRequestError(detail, f"messages.[{place}].content")
            open_ids = {call.id for call in message.tool_calls or ()}
    require_answered(open_ids, len(messages))


def require_answered(open_ids: set[str], place: int) -> None:
    """Refuses calls that got no result before message `place`."""
    if open_ids:
        detail = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(sorted(open_ids))
        )
        raise BadRequestError(detail, f"messages.[{place}].role")


def texts_of(message: Message) -> Iterator[str]:
    """All texts of a message, those of earlier tool calls too."""
    content = message.content
    if isinstance(content, str):
        yield content
    else:
        for part in content or ():
            if isinstance(part, TextPart):
                yield part.text
            elif isinstance(part, RefusalPart):
                yield part.refusal
    if isinstance(message, AssistantMessage):
        for call in message.tool_calls or ():
            yield call.function.name
            yield call.function.arguments


def images_in(messages: Sequence[Message]) -> int:
    """How many images there are."""
    return sum(
        isinstance(part, ImagePart)
        for message in messages
        if isinstance(message, UserMessage) and not isinstance(message.content, str)
        for part in message.content
    )


def question_of(request: ChatRequest) -> Question:
    """The request without its dialect."""
    texts = [text for message in request.messages for text in texts_of(message)]
    size = sum(len(text.encode()) for text in texts)
    if request.tools:
        size += len(msgspec.json.encode(request.tools))
    schema: object = None
    if isinstance(request.response_format, SchemaFormat):
        schema = request.response_format.json_schema.schema
        size += len(msgspec.json.encode(schema))
    size += images_in(request.messages) * IMAGE_TOKENS * BYTES_PER_TOKEN
    choice = request.tool_choice
    options = request.stream_options
    last = request.messages[-1]
    return Question(
        model=request.model,
        stream=bool(request.stream),
        usage_asked=options is not None and options.include_usage,
        input_tokens=tokens_of(size),
        digest=digest_of(texts),
        last_text=" ".join(texts_of(last)),
        output_tokens_max=request.max_completion_tokens or request.max_tokens,
        tools=tuple(
            ToolOffer(tool.function.name, tool.function.parameters or {"type": "object"})
            for tool in request.tools or ()
        ),
        tool_choice=choice.function.name if isinstance(choice, NamedChoice) else choice or "auto",
        after_tools=isinstance(last, ToolMessage),
        as_json=isinstance(request.response_format, ObjectFormat | SchemaFormat),
        schema=schema,
    )
