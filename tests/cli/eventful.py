"""A server on which one task meets nearly everything, for the tests of what shows it.

Rate limit, fallback, a layer without a model left, an escalation, an answer that fails its gate,
and the premium model at the end. ``python -m tests.cli.eventful FOLDER`` draws the pictures of it
that the README shows.
"""

import asyncio
import io
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import escalade
from escalade.v1 import operations_service_pb2 as wire
from escalade.v1.escalation_pb2 import ModelRef
from escalade_server.cli import feed
from escalade_server.cli.status_screen import Screen
from escalade_server.cli.status_watch import money_of
from escalade_server.cli.waterfall import waterfall_of
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from escalade_server.report.waterfall import as_html
from tests.faults.served import KEY, PRICE, Served, served
from tests.report.browser import drawn

REQUEST_ID = "invoice-4711"
CHEAP, DEAR = "price: {input: 40, output: 160}", "price: {input: 100, output: 400}"
STRATEGY = f"""
fallback_strategy:
  layers:
    - name: free_primary
      models:
        - {{provider: openai, model: gpt-4o-mini, rate_limit: 50/day}}
        - {{provider: deepseek, model: deepseek-chat, rate_limit: 40/day}}
    - name: budget_subscription
      models:
        - {{provider: nano-gpt, model: qwen3-coder, monthly_cap: 8_usd, {CHEAP}, billing: metered}}
    - name: premium_reserve
      monthly_cap: 5_usd
      models:
        - {{provider: openai, model: gpt-4o, {DEAR}}}
providers:
  openai: {{base_url: <openai>, api_key_env: {KEY}}}
  deepseek: {{base_url: <deepseek>, api_key_env: {KEY}}}
  nano-gpt: {{base_url: <nano-gpt>, api_key_env: {KEY}}}
"""
PROSE = "Sure! Here is the invoice as JSON, as you asked for."
JSON = '{"invoice": 4711, "total": "118.20 EUR", "lines": 3}'


def providers() -> dict[str, dict[str, ModelScript]]:
    """Script the models: two that refuse, one that chats, one that can do it."""
    limited = Fault(kind=FaultKind.RATE_LIMIT, on_requests=(1,), retry_after_ms=120_000)
    down = Fault(kind=FaultKind.SERVER_ERROR, on_requests=(1,))
    slow = ModelScript(first_token_ms=60, chunk_interval_ms=15, price=PRICE, obeys_format=False)
    return {
        "openai": {
            "gpt-4o-mini": ModelScript(faults=(limited,)),
            "gpt-4o": replace(slow, text=JSON),
        },
        "deepseek": {"deepseek-chat": ModelScript(faults=(down,))},
        "nano-gpt": {"qwen3-coder": replace(slow, text=PROSE)},
    }


@asynccontextmanager
async def eventful(
    folder: Path, log: io.StringIO | None = None
) -> AsyncIterator[tuple[Served, escalade.AsyncClient]]:
    """Serve it, and run the task once."""
    async with (
        served(folder, STRATEGY, providers(), log) as world,
        escalade.AsyncClient(world.running.target) as client,
    ):
        answer = await client.complete(
            "Write the invoice as JSON.",
            task=escalade.Task("format"),
            response_format="json",
            quality=escalade.QualityDemands(gates=["invalid_json"]),
            request_id=REQUEST_ID,
        )
        assert answer.text == JSON
        yield world, client


async def pictures(folder: Path) -> None:
    """Draw the trace of the task, and the screen of the server after it."""
    with tempfile.TemporaryDirectory() as home:
        async with eventful(Path(home)) as (_, client):
            for number in range(9):
                await client.complete("Parse this.", request_id=f"parse-{number}")
            await client.set_model_state(
                wire.MODEL_ACTION_DISABLE, ModelRef(model="deepseek-chat"), note="odd answers"
            )
            trace = as_html(waterfall_of(await client.trace(REQUEST_ID)))
            status = await screen_of(client)
        for name, page, height in (("trace", trace, 820), ("status", status, 380)):
            path = Path(home) / f"{name}.html"
            path.write_text(page, encoding="utf-8")
            (folder / f"{name}.png").write_bytes(drawn(path, width=1000, height=height))


async def screen_of(client: escalade.AsyncClient) -> str:
    """Draw the screen of ``escalade status --watch`` as a page."""
    shown = Screen("127.0.0.1:50051")
    shown.status = await client.status()
    shown.month = shown.today = money_of(await client.usage_report())
    async for response in feed.follow(client, feed.START, print):
        for entry in response.entries:
            shown.add(entry)
        break
    with io.StringIO() as nowhere:
        out = Console(file=nowhere, record=True, width=100, height=24, force_terminal=True)
        out.print(shown.draw(out))
        svg = out.export_svg(title="escalade status --watch")
    return f'<!doctype html><meta charset="utf-8"><body style="margin:0">{svg}</body>'


if __name__ == "__main__":
    asyncio.run(pictures(Path(sys.argv[1])))
