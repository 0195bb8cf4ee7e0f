"""Targets: what providers send. Server-sent events, answers of the three dialects, errors."""

import dataclasses
from collections.abc import Mapping, Sequence

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure
from escalade_server.engine.ports import RawEvidence, TransportFault
from escalade_server.providers.codec import Decoder
from escalade_server.providers.evidence import EvidenceClassifier
from escalade_server.providers.registry import CODECS
from escalade_server.providers.resets import AHEAD_MS_MAX
from escalade_server.providers.sse import SseDecoder
from tests.fuzz import whatwg
from tests.fuzz.pieces import NOW_MS, said_to_people, splits
from tests.providers.candidates import candidate
from tests.providers.golden_cases import Json, decode, merged

MODELS: Mapping[str, Sequence[tuple[str, str]]] = {
    "openai": (
        ("openai", "gpt-4o"),
        ("deepseek", "deepseek-reasoner"),
        ("minimax", "m2"),
        ("openrouter", "z-ai/glm-5"),
        ("nano-gpt", "glm-5"),
        ("ollama", "qwen3"),
        ("vllm", "m"),
    ),
    "anthropic": (("anthropic", "claude-sonnet-4-6"),),
    "gemini": (("google", "gemini-2.5-flash"), ("google", "gemini-3-flash-preview")),
}
"""Vendors with ways of their own, by dialect; an input's first byte chooses one."""

WHOLE, HTML = 0x40, 0x80
"""In an answer's first byte: the answer was not asked for as a stream; it calls itself HTML."""
NEAR_WINDOW = 0x80
"""In an error's first byte: the request nearly fills the model's window."""
DETAIL_CHARS_MAX = 240
OF_TOOL_CALL = 64
"""Characters that a decoder adds to a tool call of its own: an id where the vendor gives none."""

# ----------------------------------------------------------------------- server-sent events


def sse(data: bytes) -> None:
    """Ours tells what the standard tells, in every split; its bounds hold alike in every split."""
    whole = told(SseDecoder(), [data])
    assert [event.decode() for event in whole[0]] == whatwg.events(data)
    small = told(bounded(), [data])
    assert all(len(event) <= 40 * 3 for event in small[0])  # a bad byte becomes three
    for split in splits(data):
        assert told(SseDecoder(), split) == whole
        assert told(bounded(), split) == small


def bounded() -> SseDecoder:
    """Ours, with bounds that any stream meets."""
    return SseDecoder(line_bytes_max=24, event_bytes_max=40, noise_bytes_max=60)


def told(decoder: SseDecoder, split: list[bytes]) -> tuple[list[bytes], object]:
    """The events of a stream, and what else a decoder tells of it."""
    events = [event for chunk in split for event in decoder.feed(chunk)]
    decoder.close()
    counted = (decoder.replaced, decoder.comments, decoder.unknown)
    return events, (decoder.violation, decoder.truncated, *counted)


# ----------------------------------------------------------------------------------- answers


def answers_of_openai(data: bytes) -> None:
    """Hold an answer in the OpenAI dialect."""
    answer("openai", data)


def answers_of_anthropic(data: bytes) -> None:
    """Hold an answer in the Anthropic dialect."""
    answer("anthropic", data)


def answers_of_gemini(data: bytes) -> None:
    """Hold an answer in the Gemini dialect."""
    answer("gemini", data)


def answer(dialect: str, data: bytes) -> None:
    """Any bytes tell the same in every split, end in one way, and grow to nothing larger."""
    flags, body = data[0] if data else 0, data[1:]
    whole = heard(dialect, flags, [body])
    for split in splits(body):
        assert heard(dialect, flags, split) == whole
    # Neither is an ending, too: the core takes it as a stream that was cut (R26).
    assert whole["finish"] is None or whole["failure"] is None, "a whole answer does not break"
    assert written(whole) <= 2 * len(body), "what is told is not longer than what was sent"


def heard(dialect: str, flags: int, chunks: list[bytes]) -> Json:
    """What a reader has at the end; on the way, that an end is an end."""
    decoder = decoder_of(dialect, flags)
    events = decode(decoder, chunks)
    assert decoder.finished
    assert decoder.feed(b'data: {"choices":[{"delta":{"content":"late"}}]}\n\n') is None
    assert decoder.close() is None
    for event in events:
        if isinstance(event, Failure):
            hold(event)
        elif event.usage is not None:
            assert min(dataclasses.astuple(event.usage)) >= 0
        if not isinstance(event, Failure) and event.finish is not None:
            said_to_people(event.finish.detail, 64)
    return merged(events)


def decoder_of(dialect: str, flags: int) -> Decoder:
    """Make the decoder that the flags ask for."""
    models = MODELS[dialect]
    provider, wire_id = models[(flags & 0x3F) % len(models)]
    return CODECS[dialect].decoder(
        candidate(provider, wire_id, dialect=dialect),
        3,
        streamed=not flags & WHOLE,
        content_type="text/html" if flags & HTML else "text/event-stream",
        now_ms=NOW_MS,
    )


def written(whole: Json) -> int:
    """Count the characters of all deltas, less what we put there ourselves."""
    count = 0
    for delta in whole["deltas"]:
        ((kind, value),) = delta.items()
        if kind == "tool":
            count += max(sum(map(len, value[1:])) - OF_TOOL_CALL, 0)
        elif kind in {"text", "reasoning"}:
            count += len(value)
    return count


# ------------------------------------------------------------------------------------ errors


def errors(data: bytes) -> None:
    """Any status, headers and body have one class, an instant in bounds, and words of ours."""
    head, _, body = data.partition(b"\0")
    flags, high, low, *_ = *head[:3], 0, 0, 0
    status = 100 + (high << 8 | low) % 500
    lines = (line.partition(":") for line in head[3:].decode("latin-1").split("\n"))
    headers = {name.strip().lower(): value.strip() for name, _, value in lines}
    everyone = [(dialect, *model) for dialect, models in MODELS.items() for model in models]
    dialect, provider, wire_id = everyone[(flags & 0x3F) % len(everyone)]
    asked = candidate(provider, wire_id, dialect=dialect)
    if flags & NEAR_WINDOW:
        asked = Candidate(dataclasses.replace(asked.model, context_tokens=700), 600, 0, 100)
    first = CODECS[dialect].classify(asked, status, headers, body, NOW_MS)
    hold(first)
    assert first.http_status in {status, 0} or 200 <= status < 300
    assert CODECS[dialect].classify(asked, status, headers, body, NOW_MS) == first
    faults = (None, *TransportFault)
    evidence = RawEvidence(status if flags & 1 else 0, headers, body, faults[low % len(faults)])
    hold(EvidenceClassifier().classify(asked.model, evidence, NOW_MS))


def hold(failure: Failure) -> None:
    """Hold what a failure may carry."""
    said_to_people(failure.detail, DETAIL_CHARS_MAX)
    said_to_people(failure.code, 64)
    assert failure.detail
    reset = failure.reset_at_ms
    # A calendar month is the longest window that is named, and it may be left an hour late.
    assert reset is None or NOW_MS <= reset <= NOW_MS + AHEAD_MS_MAX
