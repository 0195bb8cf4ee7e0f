"""Where fuzzing starts: the fixtures of the other tests, as inputs of the targets.

They are written out for each run, so that a new golden case is a new seed. The committed corpus
holds only what was found from there.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from escalade.v1 import completion_pb2
from escalade.v1.router_service_pb2 import CompleteRequest
from escalade_server.core import task
from tests.fuzz import wire
from tests.providers import signal_cases
from tests.providers.golden_cases import GOLDEN, folders, load, request

TESTS = Path(__file__).resolve().parents[1]


def sse() -> Iterator[bytes]:
    """Every answer of every dialect, and the corners of the standard."""
    for dialect in wire.MODELS:
        yield from (path.read_bytes() for path in (GOLDEN / dialect).glob("*/response.sse"))
    yield b"data: a\r\n\ndata:b\r\n\rdata\ndata:  c\n\r\n: ping\nid: 1\nretry: 2\nevent: e\n\n"
    yield b"\xef\xbb\xbfdata: \xe2\x80\xa8\xf0\x9f\x98\x80\xf0\x9f\xff\xed\xa0\x80\r\r"


def answers(dialect: str) -> Iterator[bytes]:
    """Every golden answer of a dialect, by the vendor it came from."""
    vendors = [vendor for vendor, _ in wire.MODELS[dialect]]
    for folder in folders(dialect, "events.json"):
        told = load(folder / "events.json")
        (path,) = folder.glob("response.*")
        flags = vendors.index(told["provider"])
        flags |= 0 if told.get("streamed", True) else wire.WHOLE
        flags |= wire.HTML if "html" in told.get("content_type", "") else 0
        yield bytes([flags]) + path.read_bytes()


def errors() -> Iterator[bytes]:
    """Every error that a vendor is known to send."""
    vendors = [model[0] for models in wire.MODELS.values() for model in models]
    for case in signal_cases.cases():
        flags = vendors.index(case.vendor) if case.vendor in vendors else 0
        flags |= wire.NEAR_WINDOW if case.near_window else 0
        status = (case.status - 100) % 500
        headers = "\n".join(f"{name}: {value}" for name, value in case.headers.items())
        yield bytes([flags, status >> 8, status & 255]) + headers.encode() + b"\0" + case.raw


def strategy() -> Iterator[bytes]:
    """The reference files, and one with every key."""
    yield from (path.read_bytes() for path in sorted((TESTS / "strategies").glob("*.yaml")))
    yield RICH.encode()


def parse() -> Iterator[bytes]:
    """One value of each form, and what people write instead."""
    return (text.encode() for text in VALUES.split("|"))


def resets() -> Iterator[bytes]:
    """One instant in each form."""
    return (text.encode() for text in INSTANTS.split("|"))


def requests() -> Iterator[bytes]:
    """The golden requests, as a caller sends them."""
    for dialect in wire.MODELS:
        for folder in folders(dialect, "request.json"):
            yield on_the_wire(request(load(folder / "request.json"))).SerializeToString()


def on_the_wire(asked: task.Request) -> CompleteRequest:
    """Write a neutral request as a caller does; state and images go as they are."""
    made = CompleteRequest()
    for message in asked.messages:
        role = completion_pb2.Role.Value(f"ROLE_{message.role.name}")
        made.messages.add(role=role, parts=[_part(part) for part in message.parts])
    for tool in asked.tools:
        made.tools.add(
            name=tool.name,
            description=tool.description,
            parameters_json_schema=tool.parameters_json,
        )
    form = asked.response_format
    if form.kind is task.FormatKind.JSON:
        made.response_format.json.SetInParent()
    elif form.kind is task.FormatKind.JSON_SCHEMA:
        made.response_format.json_schema.name = form.name
        made.response_format.json_schema.schema_json = form.schema_json
    if asked.tool_choice.mode is task.ToolMode.NAMED:
        made.tool_choice.tool_name = asked.tool_choice.name
    if asked.effort is not None:
        made.reasoning_effort = completion_pb2.ReasoningEffort.Value(
            f"REASONING_EFFORT_{asked.effort.name}"
        )
    made.sampling.stop.extend(asked.sampling.stop)
    if asked.sampling.temperature is not None:
        made.sampling.temperature = asked.sampling.temperature
    return made


def _part(part: task.Part) -> completion_pb2.Part:
    made = completion_pb2.Part()
    match part:
        case task.Text(text, hint):
            made.text, made.cache_hint = text, hint
        case task.Image(media_type, data, hint):
            made.image.media_type, made.image.data, made.cache_hint = media_type, data, hint
        case task.ToolCall(call_id, name, arguments):
            made.tool_call.id, made.tool_call.name = call_id, name
            made.tool_call.arguments_json = arguments
        case task.ToolResult(call_id, text, is_error, hint):
            made.tool_result.tool_call_id, made.tool_result.text = call_id, text
            made.tool_result.is_error, made.cache_hint = is_error, hint
        case task.Reasoning(text):
            made.reasoning.text = text
        case task.ProviderState(dialect, model, data):
            made.provider_state.dialect, made.provider_state.model = dialect, model
            made.provider_state.data = data
    return made


VALUES = (
    "8_usd|8 USD|$8.50|.5|unlimited|0|-1|24h|90s|1h30m|500ms|2w|1.5d|70%|101%|50/day|"
    "1000 tokens/minute|5 per hour|9/m|day 14|day 29|free.exhausted|paid.rate_limit_exceeded|"
    "premium.reserve.budget_exhausted|free.all_models_unavailable|task.complexity > 8|"
    "task.complexity_score >= 7.5|task.complexity = 8|fre.exhausted|none|1e3|9000000|0.000000001"
)
INSTANTS = (
    "2|86400|0.5|-3|1e400|nan|inf|6m0s|1h2m3.5s|12ms|7d|Wed, 25 Nov 2026 08:00:00 GMT|"
    "Wed, 25 Nov 2026 08:00:00 -0800|2026-11-25T08:00:00Z|2026-11-25 08:00:00.5+01:00|1795586460|"
    "1795586460000|It resets at 2026-11-25T08:00:00Z.|available on 2026-11-25 at 08:00 UTC|"
    "Please try again in 6m0s.|try again in 20ms|9999-12-31T23:59:59Z|0001-01-01T00:00:00+14:00"
)
RICH = """\
version: 1
fallback_strategy:
  name: rich
  layers:
    - name: free
      priority: 1
      models:
        - {provider: openai, model: gpt-4o-mini, rate_limit: 50/day, capabilities: [parsing]}
        - provider: ollama
          model: qwen3
          rate_limit: {requests_per_minute: 5, tokens_per_day: unlimited, cooldown_on_limit: 24h}
    - name: paid
      priority: 2
      trigger: [free.exhausted, task.complexity > 8]
      monthly_cap: 5_usd
      consent: required
      models:
        - {provider: anthropic, model: claude-3-haiku, price: {input: 0.25, output: 1.25}}
  escalation_logic: {rate_limit_hit: next_layer, threshold_for_premium: 8}
  failure_handling: {on_all_layers_exhausted: fail}
complexity_scoring: {files: 0.3}
timeouts: {idle: 45s}
agents: {ci: {free_only: true}}
task_types: {debug: {depth: 7, start: 1}}
providers:
  openai: {base_url: "https://${KEY}.example.test/v1", api_key_env: OPENAI_API_KEY}
"""

SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "sse": sse,
    "openai": lambda: answers("openai"),
    "anthropic": lambda: answers("anthropic"),
    "gemini": lambda: answers("gemini"),
    "errors": errors,
    "strategy": strategy,
    "parse": parse,
    "resets": resets,
    "requests": requests,
}
