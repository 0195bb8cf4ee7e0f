"""Reads and checks a request to Anthropic Messages, as strictly as Anthropic does."""

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
from escalade_server.provider_simulator.signatures import is_signed

CACHE_MARKS_MAX = 4
Text = Annotated[str, Meta(min_length=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
CallId = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]+$")]


class Part(Struct, forbid_unknown_fields=True, kw_only=True):
    """What all parts of a request may carry."""

    cache_control: CacheMark | None = None


class CacheMark(Struct, forbid_unknown_fields=True):
    """The caller wants the prompt up to here kept."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class TextBlock(Part, tag="text", tag_field="type"):
    """Text."""

    text: Text
    citations: list[object] | None = None


class InlineSource(Struct, tag="base64", tag_field="type", forbid_unknown_fields=True):
    """A picture in the request."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Text


class UrlSource(Struct, tag="url", tag_field="type", forbid_unknown_fields=True):
    """A picture by its address."""

    url: Annotated[str, Meta(pattern="^https?://")]


class ImageBlock(Part, tag="image", tag_field="type"):
    """A picture."""

    source: InlineSource | UrlSource


class ToolUseBlock(Part, tag="tool_use", tag_field="type"):
    """An earlier call."""

    id: CallId
    name: str
    input: dict[str, object]


class ToolResultBlock(Part, tag="tool_result", tag_field="type"):
    """What a tool gave back."""

    tool_use_id: CallId
    content: str | list[TextBlock | ImageBlock] = ""
    is_error: bool | None = None


class ThinkingBlock(Struct, tag="thinking", tag_field="type", forbid_unknown_fields=True):
    """Earlier reasoning with its signature."""

    thinking: str
    signature: str


class RedactedBlock(Struct, tag="redacted_thinking", tag_field="type", forbid_unknown_fields=True):
    """Earlier reasoning that was not shown."""

    data: str


Block = TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedBlock
Thought = ThinkingBlock | RedactedBlock


class Message(Struct, forbid_unknown_fields=True):
    """One turn; turns of the same role in a row are one."""

    role: Literal["user", "assistant"]
    content: str | list[Block]

    @property
    def blocks(self) -> Sequence[Block]:
        """The content as blocks."""
        return [TextBlock(text=self.content)] if isinstance(self.content, str) else self.content


class Tool(Part):
    """A tool of the caller's own."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,128}$")]
    input_schema: dict[str, object]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None


class ToolChoice(Struct, forbid_unknown_fields=True):
    """Which tool is to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, forbid_unknown_fields=True):
    """Whether the model reasons."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1024)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class Format(Struct, forbid_unknown_fields=True):
    """The JSON schema of the answer."""

    type: Literal["json_schema"]
    schema: dict[str, object]


class OutputConfig(Struct, forbid_unknown_fields=True):
    """How the answer is to be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class Metadata(Struct, forbid_unknown_fields=True):
    """Whom the request is for."""

    user_id: str | None = None


class Request(Struct, forbid_unknown_fields=True, kw_only=True):
    """The request."""

    model: Text
    max_tokens: Annotated[int, Meta(ge=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: CacheMark | None = None

    @property
    def thinks(self) -> bool:
        """Whether the model may reason."""
        return self.thinking is not None and self.thinking.type != "disabled"


def read_request(body: bytes) -> Question:
    """Reads a request.

    Raises:
        BadRequestError: with Anthropic's words, where the shape or the order of blocks is wrong.
    """
    try:
        request = msgspec.json.decode(body, type=Request)
    except msgspec.ValidationError as error:
        raise bad_shape(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = "The request body is not valid JSON"
        raise BadRequestError(detail) from None
    check_thinking(request)
    check_tools(request)
    check_cache_marks(request)
    check_blocks(request)
    check_calls(request.messages, with_tools=bool(request.tools))
    return question_of(request)


def bad_shape(problem: str) -> BadRequestError:
    """The library's complaint, in the vendor's words: place, colon, what is wrong."""
    complaint, _, place = problem.partition(" - at `$")
    place = re.sub(r"\[(\d+)\]", r".\1", place.rstrip("`")).lstrip(".")
    place = place.replace("[...]", ".0")
    unknown = re.fullmatch(r"Object contains unknown field `([^`]*)`", complaint)
    missing = re.fullmatch(r"Object missing required field `([^`]*)`", complaint)
    name = unknown or missing
    if name is not None:
        place = f"{place}.{name[1]}".lstrip(".")
        complaint = "Extra inputs are not permitted" if unknown else "Field required"
    return BadRequestError(f"{place}: {complaint}" if place else complaint, place or None)


def refuse(place: str, detail: str) -> BadRequestError:
    """A complaint about one place."""
    return BadRequestError(f"{place}: {detail}", place)


def check_thinking(request: Request) -> None:
    """Reasoning needs room, and leaves no choice of temperature or tool."""
    thinking = request.thinking
    if thinking is None or thinking.type == "disabled":
        return
    if thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise refuse("thinking.enabled.budget_tokens", "Field required")
        if thinking.budget_tokens >= request.max_tokens:
            detail = "`max_tokens` must be greater than `thinking.budget_tokens`."
            raise BadRequestError(detail, "max_tokens")
    if request.temperature not in {None, 1}:
        detail = "`temperature` may only be set to 1 when thinking is enabled."
        raise BadRequestError(detail, "temperature")
    if request.tool_choice is not None and request.tool_choice.type in {"any", "tool"}:
        detail = "Thinking may not be enabled when tool_choice forces tool use."
        raise BadRequestError(detail, "tool_choice")


def check_tools(request: Request) -> None:
    """Tools have names of their own, and a choice has tools."""
    names = [tool.name for tool in request.tools or ()]
    if len(set(names)) < len(names):
        raise refuse("tools", "Tool names must be unique.")
    choice = request.tool_choice
    if choice is None:
        return
    if not names:
        raise BadRequestError("tool_choice may only be specified while providing tools.")
    if choice.type == "tool" and choice.name is None:
        raise refuse("tool_choice.tool.name", "Field required")
    if choice.type == "tool" and choice.name not in names:
        raise BadRequestError(f"Tool '{choice.name}' not found in provided tools", "tool_choice")


def check_cache_marks(request: Request) -> None:
    """At most four marks."""
    parts: list[object] = [*(request.tools or ()), request]
    if isinstance(request.system, list):
        parts += request.system
    parts += (block for message in request.messages for block in message.blocks)
    marks = sum(getattr(part, "cache_control", None) is not None for part in parts)
    if marks > CACHE_MARKS_MAX:
        detail = f"A maximum of {CACHE_MARKS_MAX} blocks with cache_control may be provided. "
        raise BadRequestError(f"{detail}Found {marks}.")


def check_blocks(request: Request) -> None:
    """Who may say what; signatures come back as they were given."""
    last = len(request.messages) - 1
    if request.messages[0].role != "user":
        raise refuse("messages", 'first message must use the "user" role')
    for place, message in enumerate(request.messages):
        assistant = message.role == "assistant"
        if not message.content and not (assistant and place == last):
            detail = "all messages must have non-empty content except for the optional final "
            raise refuse(f"messages.{place}", f"{detail}assistant message")
        for index, block in enumerate(message.blocks if message.content else ()):
            where = f"messages.{place}.content.{index}"
            if isinstance(block, ToolUseBlock | Thought) and not assistant:
                raise refuse(where, "this block can only be in `assistant` messages")
            if isinstance(block, ToolResultBlock | ImageBlock) and assistant:
                raise refuse(where, "this block can only be in `user` messages")
            if isinstance(block, ThinkingBlock) and not is_signed(
                block.signature, request.model, block.thinking
            ):
                raise refuse(where, "Invalid `signature` in `thinking` block")
            if isinstance(block, RedactedBlock) and not is_signed(block.data, request.model, ""):
                raise refuse(where, "Invalid `data` in `redacted_thinking` block")
    final = request.messages[-1]
    if final.role == "assistant":
        check_prefill(request, final)
    if request.thinking is not None and request.thinking.type == "enabled":
        check_thoughts_kept(request.messages)


def check_prefill(request: Request, final: Message) -> None:
    """An answer begun by the caller."""
    if request.thinks:
        detail = "messages: assistant messages cannot be prefilled when thinking is enabled."
        raise BadRequestError(detail, "messages")
    last = final.blocks[-1] if final.content else None
    if isinstance(last, TextBlock) and last.text != last.text.rstrip():
        raise refuse("messages", "final assistant content cannot end with trailing whitespace")


def check_thoughts_kept(messages: Sequence[Message]) -> None:
    """A step that called tools begins with its reasoning, while its results are handed in."""
    if not any(isinstance(block, ToolResultBlock) for block in messages[-1].blocks):
        return
    for place in reversed(range(len(messages))):
        blocks = messages[place].blocks
        if messages[place].role == "assistant":
            if not isinstance(blocks[0], Thought):
                kind = "tool_use" if isinstance(blocks[0], ToolUseBlock) else "text"
                detail = (
                    f"Expected `thinking` or `redacted_thinking`, but found `{kind}`. When "
                    "`thinking` is enabled, a final `assistant` message must start with a "
                    "thinking block (preceeding the lastmost set of `tool_use` and "
                    "`tool_result` blocks)."
                )
                raise refuse(f"messages.{place}.content.0.type", detail)
            return


def check_calls(messages: Sequence[Message], *, with_tools: bool) -> None:
    """Results come first in the message right after their calls, and every call has its result."""
    open_ids: set[str] = set()
    seen: set[str] = set()
    for place, message in enumerate(merged(messages)):
        results = [block for block in message.blocks if isinstance(block, ToolResultBlock)]
        for index, result in enumerate(results):
            if result.tool_use_id not in open_ids:
                detail = (
                    f"unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{result.tool_use_id}. Each `tool_result` block must have a corresponding "
                    "`tool_use` block in the previous message."
                )
                raise refuse(f"messages.{place}.content.{index}", detail)
        first = message.blocks[: len(results)]
        answered = {block.tool_use_id for block in first if isinstance(block, ToolResultBlock)}
        require_answered(open_ids - answered, place)
        open_ids = {block.id for block in message.blocks if isinstance(block, ToolUseBlock)}
        if open_ids & seen:
            raise refuse("messages", "`tool_use` ids must be unique")
        seen |= open_ids
    require_answered(open_ids, len(messages))
    if seen and not with_tools:
        detail = "Requests which include `tool_use` or `tool_result` blocks must define tools"
        raise BadRequestError(detail, "tools")


def require_answered(open_ids: set[str], place: int) -> None:
    """Refuses calls that got no result in message `place`."""
    if open_ids:
        detail = (
            "`tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(sorted(open_ids))}. Each `tool_use` block must have a corresponding "
            "`tool_result` block in the next message."
        )
        raise refuse(f"messages.{max(0, place - 1)}", detail)


def merged(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages, those of one role in a row as one."""
    role: Literal["user", "assistant"] = "user"
    blocks: list[Block] = []
    for message in messages:
        if message.role != role and blocks:
            yield Message(role, blocks)
            blocks = []
        role = message.role
        blocks = [*blocks, *message.blocks]
    yield Message(role, blocks)


def texts_of(blocks: Sequence[Block]) -> Iterator[str]:
    """All texts of a message, those of calls and results too."""
    for block in blocks:
        match block:
            case TextBlock():
                yield block.text
            case ToolUseBlock():
                yield block.name
                yield msgspec.json.encode(block.input).decode()
            case ToolResultBlock():
                if isinstance(block.content, str):
                    yield block.content
                else:
                    yield from texts_of(block.content)
            case ThinkingBlock():
                yield block.thinking
            case _:
                pass


def images_in(blocks: Sequence[Block]) -> int:
    """How many pictures there are, those in results too."""
    return sum(
        isinstance(block, ImageBlock)
        or (
            isinstance(block, ToolResultBlock)
            and not isinstance(block.content, str)
            and images_in(block.content)
        )
        for block in blocks
    )


def question_of(request: Request) -> Question:
    """The request without its dialect."""
    system = request.system or ()
    texts = [system] if isinstance(system, str) else list(texts_of(system))
    for message in request.messages:
        texts += texts_of(message.blocks)
    size = sum(len(text.encode()) for text in texts)
    images = sum(images_in(message.blocks) for message in request.messages)
    size += images * IMAGE_TOKENS * BYTES_PER_TOKEN
    if request.tools:
        size += len(msgspec.json.encode(request.tools))
    form = request.output_format or (request.output_config and request.output_config.format)
    if form:
        size += len(msgspec.json.encode(form.schema))
    last = request.messages[-1].blocks
    return Question(
        model=request.model,
        stream=bool(request.stream),
        usage_asked=True,
        input_tokens=tokens_of(size),
        digest=digest_of(texts),
        last_text=" ".join(texts_of(last)),
        output_tokens_max=request.max_tokens,
        tools=tuple(ToolOffer(tool.name, tool.input_schema) for tool in request.tools or ()),
        tool_choice=choice_of(request.tool_choice),
        after_tools=any(isinstance(block, ToolResultBlock) for block in last),
        as_json=form is not None,
        schema=form.schema if form else None,
        thinks=request.thinks,
    )


def choice_of(choice: ToolChoice | None) -> str:
    """The choice in this simulator's words."""
    if choice is None:
        return "auto"
    return {"any": "required", "tool": choice.name or ""}.get(choice.type, choice.type)
