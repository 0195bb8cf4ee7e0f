"""Usage, finish reason and model, read off what a provider's SDK answered, whichever it is.

Objects of openai (chat completions, responses), anthropic and google-genai are known by their
attributes, and plain JSON of the same APIs by its keys: no SDK is imported.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, cast

from escalade._errors import UsageError
from escalade._proto import one_line
from escalade._record import Usage

Finish = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]
MODEL_CHARS_MAX = 256

# What the vendors say in lower case; what is not here stays unsaid.
FINISHES: Mapping[str, Finish] = MappingProxyType(
    {
        "stop": "stop",
        "end_turn": "stop",
        "stop_sequence": "stop",
        "length": "length",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "tool_use": "tool_calls",
        "content_filter": "content_filter",
        "safety": "content_filter",
        "recitation": "content_filter",
        "blocklist": "content_filter",
        "prohibited_content": "content_filter",
        "spii": "content_filter",
        "refusal": "refusal",
    }
)


class Reading(NamedTuple):
    """What an answer says of itself."""

    usage: Usage | None = None
    finish: Finish | None = None
    model: str = ""


def reading_of(told: object) -> Reading:
    """Read a whole answer, or its usage alone.

    Raises:
        UsageError: It is neither, as far as this package knows.
    """
    if told is None:
        return Reading()
    if isinstance(told, Usage):
        return Reading(told)
    finish = _finish(told)
    model = _of(told, "model", "model_version", "modelVersion")
    named = one_line(model)[:MODEL_CHARS_MAX] if isinstance(model, str) else ""
    inner = _of(told, "usage", "usage_metadata", "usageMetadata")
    usage = _usage(told if inner is None else inner)
    if usage is None and finish is None and not named:
        raise UsageError(f"no usage is known in a {type(told).__name__}; pass an escalade.Usage")
    return Reading(usage, finish, named)


def _usage(told: object) -> Usage | None:
    """Counts as we count: all input with its cached parts, all output with its reasoning."""
    prompt, made = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    if prompt is not None and made is not None:
        inputs, outputs = _of(told, "prompt_tokens_details"), _of(told, "completion_tokens_details")
        return _bounded(
            prompt,
            made,
            _count(inputs, "cached_tokens") or _count(told, "prompt_cache_hit_tokens"),
            _count(inputs, "cache_write_tokens"),
            _count(outputs, "reasoning_tokens"),
        )
    prompt, made = _count(told, "input_tokens"), _count(told, "output_tokens")
    if prompt is not None and made is not None:
        return _input_output(told, prompt, made)
    prompt = _count(told, "prompt_token_count", "promptTokenCount")
    if prompt is None:
        return None
    thoughts = _count(told, "thoughts_token_count", "thoughtsTokenCount")
    return _bounded(
        prompt + (_count(told, "tool_use_prompt_token_count", "toolUsePromptTokenCount") or 0),
        (_count(told, "candidates_token_count", "candidatesTokenCount") or 0) + (thoughts or 0),
        _count(told, "cached_content_token_count", "cachedContentTokenCount"),
        None,
        thoughts,
    )


def _input_output(told: object, prompt: int, made: int) -> Usage | None:
    """Two vendors use these words: one counts what was cached inside the input, one beside it."""
    inputs, outputs = _of(told, "input_tokens_details"), _of(told, "output_tokens_details")
    cached = _count(inputs, "cached_tokens")
    written = _count(inputs, "cache_write_tokens")
    if inputs is None:
        cached = _count(told, "cache_read_input_tokens")
        written = _count(told, "cache_creation_input_tokens")
        prompt += (cached or 0) + (written or 0)
    reasoning = _count(outputs, "reasoning_tokens", "thinking_tokens")
    return _bounded(prompt, made, cached, written, reasoning)


def _bounded(
    inputs: int, outputs: int, cached: int | None, written: int | None, reasoning: int | None
) -> Usage:
    """Parts larger than their whole are cut down to it."""
    cached = None if cached is None else min(cached, inputs)
    return Usage(
        inputs,
        outputs,
        cached,
        None if written is None else min(written, inputs - (cached or 0)),
        None if reasoning is None else min(reasoning, outputs),
    )


def _finish(told: object) -> Finish | None:
    word = _of(told, "stop_reason")
    if word is None:
        choices = _of(told, "choices", "candidates")
        first = choices[0] if isinstance(choices, list | tuple) and choices else None
        word = _of(first, "finish_reason", "finishReason")
    word = _of(word, "value") or word  # an enum's
    return FINISHES.get(word.lower()) if isinstance(word, str) else None


def _count(holder: object, *names: str) -> int | None:
    value = _of(holder, *names)
    known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return cast("int", value) if known else None


def _of(holder: object, *names: str) -> object:
    """The first of these attributes or keys that is set."""
    for name in names:
        if isinstance(holder, Mapping):
            value: object = holder.get(name)
        else:
            value = getattr(holder, name, None)
        if value is not None:
            return value
    return None
