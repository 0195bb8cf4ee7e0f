"""Usage read off what the providers' SDKs answer, as objects and as plain JSON."""

import enum
from types import SimpleNamespace as Made

import pytest

import escalade
from escalade import Usage
from escalade._usage import Reading, reading_of

CHAT = {
    "model": "gpt-x",
    "choices": [{"finish_reason": "tool_calls"}],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}
RESPONSES = {
    "model": "gpt-x",
    "usage": {
        "input_tokens": 10,
        "output_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
}
MESSAGES = {
    "model": "claude-x",
    "stop_reason": "max_tokens",
    "usage": {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 1,
    },
}
GEMINI = {
    "modelVersion": "gemini-x",
    "candidates": [{"finishReason": "SAFETY"}],
    "usageMetadata": {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 2,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 3,
        "cachedContentTokenCount": 4,
    },
}
READINGS = [
    (CHAT, Reading(Usage(10, 5, 4, 1, 2), "tool_calls", "gpt-x")),
    (RESPONSES, Reading(Usage(10, 5, 4, None, 2), None, "gpt-x")),
    (MESSAGES, Reading(Usage(15, 5, 4, 1), "length", "claude-x")),
    (GEMINI, Reading(Usage(12, 8, 4, None, 3), "content_filter", "gemini-x")),
    ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 3},
     Reading(Usage(9, 1, 3))),
    ({"promptTokenCount": 3}, Reading(Usage(3, 0))),
    ({"prompt_tokens": 2, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9},
      "completion_tokens_details": {"reasoning_tokens": 9}},
     Reading(Usage(2, 1, 2, None, 1))),
    ({"model": "gpt-x", "choices": [], "usage": None}, Reading(None, None, "gpt-x")),
    ({"model": "gpt-x", "choices": [{"finish_reason": "odd"}]}, Reading(None, None, "gpt-x")),
]  # fmt: skip


def as_objects(told: object) -> object:
    if isinstance(told, dict):
        return Made(**{name: as_objects(value) for name, value in told.items()})
    return [as_objects(one) for one in told] if isinstance(told, list) else told


@pytest.mark.parametrize(("told", "reading"), READINGS)
def test_every_vendors_answer_is_read(told: object, reading: Reading) -> None:
    assert reading_of(told) == reading
    assert reading_of(as_objects(told)) == reading


def test_nothing_is_nothing_and_ours_is_ours() -> None:
    assert reading_of(None) == Reading()
    assert reading_of(Usage(1, 2)) == Reading(Usage(1, 2))


def test_a_finish_reason_may_be_an_enum() -> None:
    class FinishReason(enum.Enum):
        MAX_TOKENS = "MAX_TOKENS"

    told = Made(candidates=[Made(finish_reason=FinishReason.MAX_TOKENS)], usage_metadata=None)

    assert reading_of(told) == Reading(None, "length")


def test_a_name_that_is_too_long_is_cut() -> None:
    assert len(reading_of({"model": "x\n" * 999}).model) == 256


@pytest.mark.parametrize(
    "told",
    [object(), {}, "text", {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": True}],
)
def test_what_says_nothing_is_a_mistake(told: object) -> None:
    with pytest.raises(escalade.UsageError, match="no usage is known"):
        reading_of(told)
