"""Anthropic and Gemini over real sockets against their simulation, which refuses what they do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from escalade_server.core.answer import Fold
from escalade_server.core.commands import CallModel
from escalade_server.core.events import ChunkArrived, Finish
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import (
    Effort,
    FinishReason,
    FormatKind,
    Image,
    Message,
    Part,
    ProviderState,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
    Usage,
)
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.ports import ProviderFailure
from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
    ToolCallScript,
)
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.http import HttpClient
from escalade_server.providers.registry import ProviderRegistry
from tests.providers.candidates import candidate

KEY = "sk-canary-0123456789"
C = FailureClass
K = FaultKind
DIALECTS = {"openai": "openai", "deepseek": "openai", "anthropic": "anthropic", "google": "gemini"}
# A model that thinks by a budget, or as it sees fit; one that wants signatures, and one that may.
MODELS = [
    ("anthropic", "claude-haiku-4-5"),
    ("anthropic", "claude-sonnet-4-6"),
    ("anthropic", "claude-3-haiku-20240307"),
    ("google", "gemini-3-flash-preview"),
    ("google", "gemini-2.5-flash"),
]
THINKING = [model for model in MODELS if "3-haiku" not in model[1]]
SCHEMA = (
    '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], '
    '"additionalProperties": false}'
)
NOW = Tool("now", "Tells the time.", '{"type": "object", "properties": {}}')
USER = Message(Role.USER, (Text("What time is it?"),))


@dataclass
class Told:
    """An answer, as its caller has it."""

    parts: tuple[Part, ...]
    finish: Finish | None
    usage: Usage | None
    failure: Failure | None

    def all(self, kind: type[Part]) -> list[Part]:
        return [part for part in self.parts if isinstance(part, kind)]


@dataclass
class Fleet:
    """Simulated vendors, and calls to them."""

    simulator: Simulator
    http: HttpClient

    async def ask(self, vendor: str, model: str, request: Request) -> Told:
        endpoint = Endpoint(vendor, "default", self.simulator.provider_url(vendor), KEY)
        dialect = DIALECTS[vendor]
        providers = ProviderRegistry.over_http([(dialect, endpoint)], self.http, SystemClock())
        order = CallModel(1, candidate(vendor, model, 40_000, dialect))
        fold, finish, usage, failure = Fold(keep=True), None, None, None
        try:
            async for chunk in providers.of(order.candidate.model).call(order, request):
                assert isinstance(chunk, ChunkArrived)
                fold.add(chunk.deltas)
                finish, usage = chunk.finish or finish, chunk.usage or usage
        except ProviderFailure as broken:
            failure = broken.failure
        return Told(fold.parts(), finish, usage, failure)


@asynccontextmanager
async def fleet(http: HttpClient, script: ModelScript) -> AsyncIterator[Fleet]:
    models = {model: script for _, model in MODELS} | {"deepseek-reasoner": script}
    vendors = {vendor: ProviderScript(models=models) for vendor in DIALECTS}
    simulator = Simulator(Scenario(providers=vendors))
    await simulator.start()
    try:
        yield Fleet(simulator, http)
    finally:
        await simulator.stop()


def asking(
    *messages: Message, effort: Effort | None = None, tools: tuple[Tool, ...] = ()
) -> Request:
    return Request("r1", Task(), messages, tools=tools, effort=effort)


@pytest.mark.parametrize(("vendor", "model"), MODELS)
async def test_an_answer_comes_whole(client: HttpClient, vendor: str, model: str) -> None:
    async with fleet(client, ModelScript(text="Hello there")) as vendors:
        told = await vendors.ask(vendor, model, asking(USER))
    assert told.failure is None
    assert told.all(Text) == [Text("Hello there")]
    assert told.finish == Finish(FinishReason.STOP)
    assert told.usage is not None
    assert told.usage.input_tokens > 0
    assert told.usage.output_tokens > 0


@pytest.mark.parametrize(("vendor", "model"), THINKING)
async def test_reasoning_is_shown_and_counted(client: HttpClient, vendor: str, model: str) -> None:
    script = ModelScript(text="Hello there", reasoning="Hm, let me think")
    async with fleet(client, script) as vendors:
        told = await vendors.ask(vendor, model, asking(USER, effort=Effort.HIGH))
    assert told.failure is None
    assert told.all(Reasoning) == [Reasoning("Hm, let me think")]
    assert told.usage is not None
    assert told.usage.output_tokens > 2
    if vendor == "google":
        assert told.usage.output_tokens > told.usage.reasoning_tokens > 0


@pytest.mark.parametrize(("vendor", "model"), MODELS)
async def test_the_cache_is_inside_the_input(client: HttpClient, vendor: str, model: str) -> None:
    script = ModelScript(text="Hi", cached_input_percent=50)
    long = Message(Role.USER, (Text("word " * 2_000, cache_hint=True),))
    async with fleet(client, script) as vendors:
        told = await vendors.ask(vendor, model, asking(long))
    assert told.usage is not None
    assert told.usage.input_tokens > told.usage.cached_tokens > 0


@pytest.mark.parametrize(("vendor", "model"), MODELS)
@pytest.mark.parametrize("effort", [None, Effort.HIGH])
async def test_a_tool_is_called_in_two_steps(
    client: HttpClient, vendor: str, model: str, effort: Effort | None
) -> None:
    script = ModelScript(
        text="Done", reasoning="I need the time", tool_calls=(ToolCallScript(name="now"),)
    )
    async with fleet(client, script) as vendors:
        first = await vendors.ask(vendor, model, asking(USER, effort=effort, tools=(NOW,)))
        assert first.failure is None
        assert first.finish == Finish(FinishReason.TOOL_CALLS)
        (call,) = first.all(ToolCall)
        assert isinstance(call, ToolCall)
        assert call.name == "now"
        result = Message(Role.TOOL, (ToolResult(call.id, "12:00"),))
        messages = (USER, Message(Role.ASSISTANT, first.parts), result)
        second = await vendors.ask(vendor, model, asking(*messages, effort=effort, tools=(NOW,)))
    assert second.failure is None
    assert second.finish is not None


@pytest.mark.parametrize(("vendor", "model"), MODELS)
@pytest.mark.parametrize("before", ["deepseek", "anthropic", "google"])
async def test_a_tool_task_goes_on_at_another_vendor(
    client: HttpClient, before: str, vendor: str, model: str
) -> None:
    """The golden case of DESIGN 6: ids fit, and the state of the first model stays behind."""
    script = ModelScript(
        text="Done", reasoning="I need the time", tool_calls=(ToolCallScript(name="now"),)
    )
    earlier = {
        "deepseek": "deepseek-reasoner",
        "anthropic": "claude-sonnet-4-6",
        "google": "gemini-3-flash-preview",
    }[before]
    async with fleet(client, script) as vendors:
        asked = asking(USER, effort=Effort.HIGH, tools=(NOW,))
        first = await vendors.ask(before, earlier, asked)
        assert first.failure is None
        assert first.all(ProviderState)
        (call,) = first.all(ToolCall)
        assert isinstance(call, ToolCall)
        result = Message(Role.TOOL, (ToolResult(call.id, "12:00"),))
        messages = (USER, Message(Role.ASSISTANT, first.parts), result)
        second = await vendors.ask(
            vendor, model, asking(*messages, effort=Effort.HIGH, tools=(NOW,))
        )
    assert second.failure is None
    assert second.finish is not None


@pytest.mark.parametrize(("vendor", "model"), MODELS)
async def test_a_schema_gets_an_answer_that_is_text(
    client: HttpClient, vendor: str, model: str
) -> None:
    wanted = ResponseFormat(FormatKind.JSON_SCHEMA, "sum", SCHEMA)
    request = Request("r1", Task(), (USER,), response_format=wanted)
    async with fleet(client, ModelScript()) as vendors:
        told = await vendors.ask(vendor, model, request)
    assert told.failure is None
    assert told.finish == Finish(FinishReason.STOP)
    (text,) = told.all(Text)
    assert isinstance(text, Text)
    assert text.text.replace(" ", "").startswith('{"n":')
    assert not told.all(ToolCall)


@pytest.mark.parametrize(("vendor", "model"), MODELS)
async def test_all_that_a_request_may_hold_is_accepted(
    client: HttpClient, vendor: str, model: str
) -> None:
    request = Request(
        "r1",
        Task(),
        (
            Message(Role.SYSTEM, (Text("Be brief.", cache_hint=True),)),
            Message(Role.USER, (Text("Look:"), Image("image/png", b"\x89PNG\r\n\x1a\n"))),
        ),
        tools=(NOW,),
        tool_choice=ToolChoice(ToolMode.REQUIRED),
        sampling=Sampling(0.5, 0.9, 7, ("END",)),
        effort=Effort.MEDIUM,
    )
    script = ModelScript(text="Hi", tool_calls=(ToolCallScript(name="now"),))
    async with fleet(client, script) as vendors:
        told = await vendors.ask(vendor, model, request)
    assert told.failure is None
    assert told.finish == Finish(FinishReason.TOOL_CALLS)


COMMON = {
    K.RATE_LIMIT: C.RATE_SHORT,
    K.TOKENS_LIMIT: C.RATE_SHORT,
    K.BALANCE: C.BALANCE,
    K.BALANCE_LEGACY: C.BALANCE,
    K.OVERLOADED: C.OVERLOADED,
    K.SERVER_ERROR: C.OUTAGE,
    K.GATEWAY_TIMEOUT: C.TIMEOUT,
    K.UNAUTHORIZED: C.AUTH,
    K.FORBIDDEN: C.FORBIDDEN,
    K.MODEL_GONE: C.MODEL_GONE,
    K.CONTEXT_LENGTH: C.CONTEXT,
    K.BAD_REQUEST: C.BAD_REQUEST,
    K.REDIRECT: C.FORBIDDEN,
    K.RESET: C.OUTAGE,
    K.HTML_200: C.PROTOCOL,
    K.EMPTY_200: C.PROTOCOL,
    K.CUT: C.PROTOCOL,
    K.BARE_END: C.PROTOCOL,
    K.GARBAGE_JSON: C.PROTOCOL,
    K.DEEP_JSON: C.PROTOCOL,
    K.ENDLESS_LINE: C.PROTOCOL,
    K.HUGE_EVENT: C.PROTOCOL,
    K.ERROR_FRAME: C.OVERLOADED,
}
OWN = {
    "anthropic": {
        K.SLOW_DOWN: C.RATE_SHORT,
        K.SPEND_LIMIT: C.SPEND_CAP,
        K.CONTRACT_LIMIT: C.SPEND_CAP,
        K.USAGE_LIMIT: C.SPEND_CAP,
        K.PROJECT_SPEND_LIMIT: C.SPEND_CAP,
        K.LINKED_BILLING: C.BALANCE,
        K.LINKED_SPEND_LIMIT: C.SPEND_CAP,
        K.BUSY_529: C.OVERLOADED,
        K.ON_HOLD: C.FORBIDDEN,
        K.TOO_LARGE: C.TOO_LARGE,
        K.WINDOW_EXCEEDED: C.CONTEXT,
    },
    "google": {
        K.DAY_LIMIT: C.QUOTA_WINDOW,
        K.TOKENS_DAY_LIMIT: C.QUOTA_WINDOW,
        K.NOT_IN_TIER: C.MODEL_GONE,
        K.SPEND_WINDOW: C.RATE_SHORT,
        K.ARRAY_BODY: C.OVERLOADED,
        K.PERMISSION_DENIED: C.AUTH,
        K.MALFORMED_CALL: C.PROTOCOL,
        K.ACCOUNT_LIMITED: C.FORBIDDEN,
    },
}
ANSWERS = {
    "anthropic": {K.REFUSAL: FinishReason.REFUSAL},
    "google": {
        K.CONTENT_FILTER: FinishReason.CONTENT_FILTER,
        K.PROMPT_FILTERED: FinishReason.CONTENT_FILTER,
    },
}
HARMLESS = (K.KEEP_ALIVE_COMMENTS, K.CRLF_FRAMES, K.BYTE_ORDER_MARK, K.SPLIT_BYTES)


@pytest.mark.parametrize("vendor", OWN)
async def test_every_signal_of_a_vendor_is_understood(client: HttpClient, vendor: str) -> None:
    model = dict(MODELS[::-1])[vendor]
    async with fleet(client, ModelScript()) as vendors:

        async def seen(kind: FaultKind) -> Told:
            script = ModelScript(text="Hello there, friend", faults=(Fault(kind=kind),))
            vendors.simulator.script(vendor, model, script)
            return await vendors.ask(vendor, model, asking(USER))

        for kind, cls in (COMMON | OWN[vendor]).items():
            told = await seen(kind)
            assert told.failure is not None, kind
            assert told.failure.cls is cls, kind
        for kind, reason in ANSWERS[vendor].items():
            told = await seen(kind)
            assert told.failure is None, kind
            assert told.finish is not None
            assert told.finish.reason is reason
            assert told.finish.detail
        for kind in HARMLESS:
            told = await seen(kind)
            assert told.failure is None, kind
            assert told.finish == Finish(FinishReason.STOP), kind
            assert told.all(Text) == [Text("Hello there, friend")], kind
        assert (await seen(K.NO_FINISH_REASON)).finish is None
