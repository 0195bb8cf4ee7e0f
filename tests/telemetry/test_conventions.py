"""What we emit is what OpenTelemetry publishes: against the list here, and its own package."""

import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import (
    GenAiOperationNameValues,
    GenAiProviderNameValues,
)

from escalade_server.core.task import Delivery, FormatKind, ResponseFormat, Sampling
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.spans import Span, SpanKind, spans_of
from tests.core.builders import request
from tests.telemetry.journeys import AROUND, Recorder, bumpy, played, watched, wild

LIST = tomllib.loads(Path(__file__).with_name("conventions.toml").read_text())
CHAT = LIST["gen_ai"]["chat"]
RPC = LIST["semantic_conventions"]["rpc_server"]
RESOURCE = LIST["semantic_conventions"]["resource"]
OURS = "escalade."


def published() -> set[str]:
    """Every attribute of OpenTelemetry's own package of names, at the version pinned for us."""
    found: set[str] = set()
    packages: tuple[ModuleType, ...] = (incubating, stable)
    for package in packages:
        for made in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{made.name}")
            found |= {v for k, v in vars(module).items() if k.isupper() and isinstance(v, str)}
    return found


def listed() -> set[str]:
    groups = (CHAT, RPC, RESOURCE, LIST["http"])
    lists = ("required", "conditional", "recommended", "content", "known")
    return {name for group in groups for part in lists for name in group.get(part, ())}


def constants() -> dict[str, str]:
    return {k: v for k, v in vars(c).items() if k.isupper() and isinstance(v, str)}


async def every_span() -> list[Span]:
    """Spans of many tasks, with all that a caller may ask for."""
    found: list[Span] = []
    everything = Sampling(0.5, 0.9, 7, ("end",), 0.1, 0.2)
    for seed in range(20):
        (world, asked), seen = wild(seed), Recorder()
        more = [replace(each, sampling=everything) for each in asked]
        more[0] = replace(more[0], response_format=ResponseFormat(FormatKind.JSON))
        await played(watched(world, seen), more)
        for journey in seen.journeys.values():
            found += spans_of(journey, AROUND)
    return found


def names_of(spans: list[Span]) -> Iterator[tuple[Span, set[str]]]:
    for span in spans:
        yield span, {name for name, _ in span.attributes}


def test_versions_are_those_of_the_list() -> None:
    assert LIST["semantic_conventions"]["version"] == c.SEMCONV_VERSION
    assert LIST["gen_ai"]["commit"] == c.GENAI_COMMIT
    assert c.SCHEMA_URL.endswith(f"/{c.SEMCONV_VERSION}")


def test_the_list_is_what_the_package_of_names_has() -> None:
    assert listed() <= published()


def test_every_name_that_is_not_ours_is_listed() -> None:
    roots = {name.partition(".")[0] for name in listed()}
    borrowed = {value for value in constants().values() if value.partition(".")[0] in roots}

    assert borrowed <= listed()
    assert not borrowed & set(CHAT["outdated"])


def test_values_are_of_the_closed_lists() -> None:
    known = {value.value for value in GenAiProviderNameValues}

    assert GenAiOperationNameValues.CHAT.value == c.CHAT
    providers = LIST["gen_ai"]["provider"]
    assert set(c.PROVIDERS.values()) <= set(providers["names"])
    assert set(providers["names"]) - set(providers["newer"]) == known
    assert set(RPC["error_codes"]) == c.RPC_SERVER_ERRORS


@pytest.mark.looptime
async def test_attempts_are_chat_spans_by_the_list() -> None:
    chats = [
        (span, names)
        for span, names in names_of(await every_span())
        if span.kind is SpanKind.CLIENT
    ]
    allowed = {name for part in ("required", "conditional", "recommended") for name in CHAT[part]}
    allowed |= set(LIST["http"]["known"])
    seen: set[str] = set()
    for span, names in chats:
        told = dict(span.attributes)
        assert set(CHAT["required"]) <= names
        assert {name for name in names if not name.startswith(OURS)} <= allowed
        assert span.name == f"{told[c.OPERATION]} {told[c.REQUEST_MODEL]}"
        if span.error is not None:
            assert c.ERROR_TYPE in names
        seen |= names
    missing = allowed - seen
    assert missing == {
        # What no record has, or nobody asks for.
        "gen_ai.conversation.id", "gen_ai.request.choice.count", "gen_ai.request.top_k",
        "gen_ai.request.stop_sequences", "gen_ai.response.id", "gen_ai.response.model",
        "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.reasoning.output_tokens", "http.response.status_code",
    }  # fmt: skip


@pytest.mark.looptime
async def test_server_spans_are_those_of_rpc_by_the_list() -> None:
    allowed = {name for part in ("required", "conditional", "recommended") for name in RPC[part]}
    for span, names in names_of(await every_span()):
        if span.kind is SpanKind.CLIENT:
            continue
        foreign = {name for name in names if not name.startswith(OURS)}
        if span.kind is SpanKind.INTERNAL:
            assert not foreign, "routing is ours alone"
            continue
        told = dict(span.attributes)
        assert set(RPC["required"]) <= names
        assert foreign <= allowed
        assert span.name == told[c.RPC_METHOD]
        failed = told[c.RPC_STATUS] in RPC["error_codes"]
        assert (span.error is not None) is failed
        assert (told.get(c.ERROR_TYPE) == told[c.RPC_STATUS]) is failed


@pytest.mark.looptime
async def test_a_model_that_the_caller_calls_itself_is_no_call_of_ours() -> None:
    world, seen = bumpy(), Recorder()
    watched(world, seen).start(replace(request(), delivery=Delivery.ROUTE), leaves_at=2)
    await world.rest()

    [journey] = seen.journeys.values()
    spans = spans_of(journey, AROUND)
    assert spans[0].name.endswith("/Route")
    assert {span.kind for span in spans} == {SpanKind.SERVER, SpanKind.INTERNAL}
