"""Reads and checks a request to Gemini's generateContent, as strictly as Google does.

Names may be spelt in camel case or with underscores, as everywhere in Google's JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

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

VERBATIM = frozenset(
    {"args", "response", "properties", "parametersJsonSchema", "responseJsonSchema", "labels"}
)
"""Fields whose insides are the caller's own names."""
NO_SIGNATURE = frozenset(
    {"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"}
)
"""What a caller may send with a call that another model made."""
SIGNED_FROM = "gemini-3"
"""Models of this generation want their signatures back; older ones may go without."""
JSON_MIME = "application/json"


class Wire(Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A message of the API."""


class InlineData(Wire):
    """A picture in the request."""

    mime_type: Annotated[str, Meta(pattern="^(image|audio|video|application|text)/")]
    data: str


class FileData(Wire):
    """A picture by its address."""

    file_uri: str
    mime_type: str | None = None


class FunctionCall(Wire):
    """An earlier call."""

    name: str
    args: dict[str, object] = {}
    id: str | None = None


class FunctionResponse(Wire):
    """What a function gave back."""

    name: Annotated[str, Meta(min_length=1)]
    response: dict[str, object]
    id: str | None = None


class Part(Wire):
    """One part of a turn: exactly one kind of content, and what the model thought of it."""

    text: str | None = None
    inline_data: InlineData | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool = False
    thought_signature: str | None = None

    @property
    def kinds(self) -> int:
        """How many kinds of content it has."""
        found = (self.text, self.inline_data, self.file_data, self.function_call)
        return sum(one is not None for one in (*found, self.function_response))


class Content(Wire):
    """One turn."""

    parts: list[Part] = []
    role: str | None = None


class Schema(Wire):
    """What of OpenAPI's schemas exists here."""

    type: str | None = None
    format: str | None = None
    title: str | None = None
    description: str | None = None
    nullable: bool | None = None
    enum: list[str] | None = None
    max_items: int | str | None = None
    min_items: int | str | None = None
    properties: dict[str, Schema] | None = None
    required: list[str] | None = None
    min_properties: int | str | None = None
    max_properties: int | str | None = None
    min_length: int | str | None = None
    max_length: int | str | None = None
    pattern: str | None = None
    example: object = None
    any_of: list[Schema] | None = None
    property_ordering: list[str] | None = None
    default: object = None
    items: Schema | None = None
    minimum: float | None = None
    maximum: float | None = None


class Function(Wire):
    """A function that the model may call."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}$")]
    description: str = ""
    parameters: Schema | None = None
    parameters_json_schema: dict[str, object] | None = None
    response: Schema | None = None


class Tool(Wire):
    """Functions."""

    function_declarations: list[Function] = []


class CallingConfig(Wire):
    """Whether functions are to be called."""

    mode: Literal["AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"] = "AUTO"
    allowed_function_names: list[str] = []


class ToolConfig(Wire):
    """How tools are used."""

    function_calling_config: CallingConfig = field(default_factory=CallingConfig)


class ThinkingConfig(Wire):
    """How much the model reasons, and whether it shows it."""

    include_thoughts: bool = False
    thinking_budget: Annotated[int, Meta(ge=-1)] | None = None
    thinking_level: (
        Literal["minimal", "low", "medium", "high", "MINIMAL", "LOW", "MEDIUM", "HIGH"] | None
    ) = None


class GenerationConfig(Wire):
    """How the answer is to be."""

    stop_sequences: Annotated[list[str], Meta(max_length=5)] = []
    response_mime_type: Literal["text/plain", "application/json", "text/x.enum"] | None = None
    response_schema: Schema | None = None
    response_json_schema: dict[str, object] | None = None
    candidate_count: Annotated[int, Meta(ge=1, le=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    thinking_config: ThinkingConfig | None = None


class Safety(Wire):
    """How much of a harm is let through."""

    category: str
    threshold: str


class Request(Wire):
    """The request."""

    contents: list[Content] = []
    system_instruction: Content | None = None
    tools: list[Tool] = []
    tool_config: ToolConfig = field(default_factory=ToolConfig)
    safety_settings: list[Safety] = []
    generation_config: GenerationConfig = field(default_factory=GenerationConfig)
    cached_content: str | None = None
    labels: dict[str, str] = {}
    model: str | None = None

    @property
    def functions(self) -> Sequence[Function]:
        """All functions of all tools."""
        return [function for tool in self.tools for function in tool.function_declarations]


def read_request(body: bytes, model: str, *, stream: bool, as_array: bool) -> Question:
    """Reads a request to a model.

    Raises:
        BadRequestError: with Google's words, where the shape or the order of turns is wrong.
    """
    try:
        request = msgspec.convert(camelled(msgspec.json.decode(body)), Request)
    except msgspec.ValidationError as error:
        raise bad_shape(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = "Invalid JSON payload received. Unexpected end of string."
        raise BadRequestError(detail) from None
    check_config(request)
    check_parts(request.contents, model)
    check_turns(request.contents)
    check_calls(request.contents)
    if model.startswith(SIGNED_FROM):
        check_signed(request.contents, model)
    return question_of(request, model, stream=stream, as_array=as_array)


def camelled(value: object) -> object:
    """The value with the names of its fields in camel case."""
    if isinstance(value, list):
        return [camelled(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {
        re.sub(r"_([a-z])", lambda found: found[1].upper(), str(key)): item
        for key, item in value.items()
    }
    return {key: item if key in VERBATIM else camelled(item) for key, item in named.items()}


def bad_shape(problem: str) -> BadRequestError:
    """The library's complaint, in the vendor's words."""
    complaint, _, place = problem.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `([^`]*)`", complaint)
    if unknown:
        where = f" at '{place}'" if place else ""
        complaint = f'Unknown name "{unknown[1]}"{where}: Cannot find field.'
    elif place:
        complaint = f"Invalid value at '{place}': {complaint}"
    return BadRequestError(f"Invalid JSON payload received. {complaint}", place or None)


def check_config(request: Request) -> None:
    """Parameters that need each other."""
    config = request.generation_config
    as_json = config.response_mime_type == JSON_MIME
    shaped = config.response_schema is not None or config.response_json_schema is not None
    if shaped and not as_json:
        detail = "only available for requests with response mime type: 'application/json'"
        raise BadRequestError(
            f"* GenerateContentRequest.generation_config.response_schema: {detail}"
        )
    if config.response_schema is not None and config.response_json_schema is not None:
        raise BadRequestError("only one of response_schema and response_json_schema may be set")
    if as_json and request.functions:
        detail = "Function calling with a response mime type: 'application/json' is unsupported"
        raise BadRequestError(detail)
    calling = request.tool_config.function_calling_config
    names = [function.name for function in request.functions]
    if len(set(names)) < len(names):
        raise BadRequestError("Duplicate function declaration found")
    if calling.mode == "ANY" and not names:
        detail = "Function calling config is set without function_declarations."
        raise BadRequestError(detail)
    if not set(calling.allowed_function_names) <= set(names):
        detail = "allowed_function_names should be a subset of the declared functions."
        raise BadRequestError(detail)
    if calling.allowed_function_names and calling.mode not in {"ANY", "VALIDATED"}:
        detail = "allowed_function_names should only be set when the mode is ANY or VALIDATED."
        raise BadRequestError(detail)


def check_parts(contents: Sequence[Content], model: str) -> None:
    """Every turn has parts, every part one kind of content; signatures come back unaltered."""
    if not contents:
        raise BadRequestError("* GenerateContentRequest.contents: contents is not specified")
    for place, content in enumerate(contents):
        where = f"GenerateContentRequest.contents[{place}].parts"
        if not content.parts:
            raise BadRequestError(f"* {where}: contents.parts must not be empty.")
        for index, part in enumerate(content.parts):
            if part.kinds != 1:
                detail = "required oneof field 'data' must have one initialized field"
                raise BadRequestError(f"* {where}[{index}].data: {detail}")
            signature = part.thought_signature
            if signature is None or signature in NO_SIGNATURE:
                continue
            if not is_signed(signature, model, signed_of(part.function_call)):
                raise BadRequestError("Corrupted thought signature.")


def signed_of(call: FunctionCall | None) -> str:
    """What a signature is of: the call it stands at, or the turn's thoughts as a whole."""
    if call is None:
        return ""
    return f"{call.name} {msgspec.json.encode(call.args, order='sorted').decode()}"


def check_turns(contents: Sequence[Content]) -> None:
    """Roles are known ones, and the last word is the caller's."""
    if any(content.role not in {None, "user", "model", "function"} for content in contents):
        raise BadRequestError("Please use a valid role: user, model.")
    if contents[-1].role == "model":
        detail = (
            "Please ensure that multiturn requests end with a user turn or a function response."
        )
        raise BadRequestError(detail)
    for content in contents:
        for part in content.parts:
            if part.function_call and content.role != "model":
                raise BadRequestError("Please ensure that function calls have the role model.")
            if part.function_response and content.role == "model":
                raise BadRequestError("Please ensure that function responses have the role user.")


def check_calls(contents: Sequence[Content]) -> None:
    """Calls follow a turn of the user; right after them comes one response for each."""
    calls: list[FunctionCall] = []
    before: Content | None = None
    for content in contents:
        responses = [part.function_response for part in content.parts if part.function_response]
        if responses and not calls:
            detail = (
                "Please ensure that function response turn comes immediately after a function "
                "call turn."
            )
            raise BadRequestError(detail)
        if len(responses) != len(calls):
            detail = (
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn."
            )
            raise BadRequestError(detail)
        if sorted(call.name for call in calls) != sorted(one.name for one in responses):
            detail = "Please ensure that function responses have the names of their calls."
            raise BadRequestError(detail)
        calls = [part.function_call for part in content.parts if part.function_call]
        if calls and (before is None or before.role == "model"):
            detail = (
                "Please ensure that function call turn comes immediately after a user turn or "
                "after a function response turn."
            )
            raise BadRequestError(detail)
        before = content


def check_signed(contents: Sequence[Content], model: str) -> None:
    """The first call of every step since the user last spoke carries its signature."""
    for content in reversed(contents):
        if content.role != "model" and not any(part.function_response for part in content.parts):
            return
        first = next((part for part in content.parts if part.function_call), None)
        if first is not None and first.thought_signature is None:
            assert first.function_call is not None
            detail = (
                f"Function call is missing a thought_signature in functionCall parts. "
                f"This is required for tools to work correctly ({model}, "
                f"function call `{first.function_call.name}`)."
            )
            raise BadRequestError(detail)


def texts_of(content: Content) -> Iterator[str]:
    """All texts of a turn, those of calls and responses too."""
    for part in content.parts:
        if part.text is not None:
            yield part.text
        elif part.function_call is not None:
            yield part.function_call.name
            yield msgspec.json.encode(part.function_call.args).decode()
        elif part.function_response is not None:
            yield msgspec.json.encode(part.function_response.response).decode()


def plain_schema(schema: object) -> object:
    """An OpenAPI schema as a JSON schema: types in small letters, nulls named."""
    if isinstance(schema, list):
        return [plain_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value.lower() if key == "type" and isinstance(value, str) else plain_schema(value)
        for key, value in schema.items()
        if value is not None
    }


def schema_of(schema: Schema | None, json_schema: dict[str, object] | None) -> object:
    """The one of two schemas that was given, as JSON schema."""
    return plain_schema(msgspec.to_builtins(schema)) if schema is not None else json_schema


def question_of(request: Request, model: str, *, stream: bool, as_array: bool) -> Question:
    """The request without its dialect."""
    contents = [
        *([request.system_instruction] if request.system_instruction else ()),
        *request.contents,
    ]
    texts = [text for content in contents for text in texts_of(content)]
    parts = [part for content in contents for part in content.parts]
    size = sum(len(text.encode()) for text in texts)
    images = sum(bool(part.inline_data or part.file_data) for part in parts)
    size += images * IMAGE_TOKENS * BYTES_PER_TOKEN
    if request.functions:
        size += len(msgspec.json.encode(request.functions))
    config = request.generation_config
    schema = schema_of(config.response_schema, config.response_json_schema)
    if schema is not None:
        size += len(msgspec.json.encode(schema))
    thinking = config.thinking_config or ThinkingConfig()
    last = request.contents[-1]
    return Question(
        model=model,
        stream=stream,
        usage_asked=True,
        input_tokens=tokens_of(size),
        digest=digest_of(texts),
        last_text=" ".join(texts_of(last)),
        output_tokens_max=config.max_output_tokens,
        tools=tuple(
            ToolOffer(
                function.name,
                schema_of(function.parameters, function.parameters_json_schema)
                or {"type": "object"},
            )
            for function in request.functions
        ),
        tool_choice=choice_of(request.tool_config.function_calling_config),
        after_tools=any(part.function_response for part in last.parts),
        as_json=config.response_mime_type == JSON_MIME,
        schema=schema,
        thinks=thinking.thinking_budget != 0,
        thoughts_told=thinking.include_thoughts,
        as_array=as_array,
    )


def choice_of(config: CallingConfig) -> str:
    """The choice in this simulator's words."""
    if config.mode == "ANY":
        names = config.allowed_function_names
        return names[0] if len(names) == 1 else "required"
    return "none" if config.mode == "NONE" else "auto"
