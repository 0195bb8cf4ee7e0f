"""The provider's own count: quotas under load, clients that leave, money, control from outside."""

import asyncio
import json

import pytest

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Quota,
    Scenario,
    Simulator,
)
from tests.provider_simulator.calls import (
    KEY,
    PATIENT_S,
    QUIET_S,
    Caller,
    one_model,
    playing,
    settled,
)

K = FaultKind
BODY = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "12345678"}]}
).encode()


async def leave_after(caller: Caller, pieces: int) -> None:
    """Reads until so many pieces of text have come, then closes the connection."""
    url = caller.simulator.provider_url("openai") + "/chat/completions"
    seen = b""
    async with caller.session.post(url, data=BODY, headers=KEY) as response:
        while seen.count(b'"content":"1234') < pieces:
            seen += await response.content.readany()
        response.close()


async def test_of_200_concurrent_requests_exactly_50_are_answered() -> None:
    script = ModelScript(
        quotas=(Quota(limit=50),), first_token_ms=20, chunk_interval_ms=1, chunks=4
    )
    async with playing(one_model(script)) as caller:
        replies = await asyncio.gather(
            *(caller.chat(stream=place % 2 == 0) for place in range(200))
        )

        assert sum(reply.status == 200 for reply in replies) == 50
        assert sum(reply.status == 429 for reply in replies) == 150
        counted = caller.simulator.ledger().of("openai", "m")
        assert counted.requests_received == 200
        assert counted.requests_billed == counted.requests_finished == 50
        assert counted.requests_refused == 150


PRICE = Price(input_pico=150_000, output_pico=600_000)
FAST = ModelScript(text="1234 567 " * 16, chunk_interval_ms=30, price=PRICE)


async def test_a_client_that_leaves_pays_what_was_generated() -> None:
    async with playing(one_model(FAST)) as caller:
        await leave_after(caller, 3)
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "m").requests_billed)
        counted = ledger().of("openai", "m")

        whole = 16 * 9 // 4
        assert counted.input_tokens == 2
        assert 5 <= counted.output_tokens < whole
        assert counted.cost_pico == 2 * 150_000 + counted.output_tokens * 600_000
        assert (counted.disconnects, counted.requests_finished) == (1, 0)
        assert counted.streams_open == 0


async def test_some_vendors_bill_to_the_end() -> None:
    script = ModelScript(
        text=FAST.text, chunk_interval_ms=30, price=PRICE, bills_after_disconnect=True
    )
    async with playing(one_model(script)) as caller:
        await leave_after(caller, 1)
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "m").requests_billed)

        assert ledger().of("openai", "m").output_tokens == 36
        assert ledger().of("openai", "m").disconnects == 1


@pytest.mark.parametrize(("bills_on", "tokens"), [(False, 0), (True, 36)])
async def test_leaving_before_the_first_token(*, bills_on: bool, tokens: int) -> None:
    script = ModelScript(text=FAST.text, first_token_ms=5_000, bills_after_disconnect=bills_on)
    async with playing(one_model(script)) as caller:
        for stream in (True, False):
            reply = await caller.chat(stream=stream, quiet_s=QUIET_S)
            assert reply.end == "silent"
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "m").requests_billed == 2)
        counted = ledger().of("openai", "m")

        assert (counted.input_tokens, counted.output_tokens) == (2, 2 * tokens)
        assert counted.disconnects == 2


async def test_half_of_many_clients_leave_and_the_count_is_the_sum() -> None:
    async with playing(one_model(FAST)) as caller:
        leaving = [leave_after(caller, 1) for _ in range(25)]
        staying = [caller.chat(body=BODY) for _ in range(25)]
        replies, _ = await asyncio.gather(asyncio.gather(*staying), asyncio.gather(*leaving))
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "m").requests_billed == 50)
        counted = ledger().of("openai", "m")

        assert {reply.text for reply in replies} == {FAST.text}
        assert (counted.disconnects, counted.requests_finished) == (25, 25)
        assert counted.input_tokens == 50 * 2
        assert 25 * 36 + 25 * 2 <= counted.output_tokens < 50 * 36


async def test_work_that_was_done_for_nobody_is_billed_when_the_script_says_so() -> None:
    fault = Fault(kind=K.RESET, billed=True)
    cut = Fault(kind=K.CUT, billed=True)
    models = {
        "m": ModelScript(text="12345678", faults=(fault,)),
        "n": ModelScript(text="1234567 " * 4, faults=(cut,)),
    }
    async with playing(
        Simulator(Scenario(providers={"openai": ProviderScript(models=models)}))
    ) as caller:
        assert (await caller.chat()).end == "reset"
        assert (await caller.chat(model="n", stream=True)).end == "reset"
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "n").requests_billed)

        assert ledger().of("openai", "m").output_tokens == 2
        assert ledger().of("openai", "n").output_tokens == 8
        assert ledger().of("openai", "n").disconnects == 0


async def test_cached_input_has_its_own_price_and_nanos_round_up() -> None:
    price = Price(input_pico=1_000, cached_input_pico=100, output_pico=1)
    script = ModelScript(text="1234", cached_input_percent=75, price=price)
    async with playing(one_model(script)) as caller:
        await caller.chat(messages=[{"role": "user", "content": "x" * 16}])

        counted = caller.simulator.ledger().of("openai", "m")
        assert (counted.input_tokens, counted.cached_input_tokens) == (4, 3)
        assert counted.cost_pico == 1_301
        assert counted.cost_nanos == caller.simulator.ledger().cost_nanos == 2


async def test_too_many_at_once_are_refused_and_leaked_streams_count() -> None:
    script = ModelScript(concurrent_max=1, faults=(Fault(kind=K.STALL, on_requests=(1,)),))
    async with playing(one_model(script, "deepseek")) as caller:
        leak = asyncio.create_task(caller.chat("deepseek", stream=True))
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("deepseek", "m").streams_open)
        refused = await caller.chat("deepseek")
        leak.cancel()
        await settled(lambda: not ledger().of("deepseek", "m").streams_open)

        assert refused.status == 429
        assert "concurrent" in refused.json["error"]["message"]
        assert (await caller.chat("deepseek")).status == 200


async def test_an_outage_cuts_open_streams_without_blaming_the_client() -> None:
    async with playing(one_model(FAST)) as caller:
        call = asyncio.create_task(caller.chat(body=BODY))
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "m").streams_open)
        await asyncio.sleep(0.03)
        caller.simulator.break_provider("openai")
        reply = await call
        await settled(lambda: ledger().of("openai", "m").requests_billed)

        assert reply.end == "reset"
        assert ledger().of("openai", "m").disconnects == 0


async def test_scripts_change_live_and_counts_stay() -> None:
    quota = (Quota(limit=3),)
    fault = Fault(kind=K.SERVER_ERROR, on_requests=(1,))
    async with playing(one_model(ModelScript(quotas=quota))) as caller:
        assert (await caller.chat()).status == 200
        caller.simulator.script("openai", "m", ModelScript(quotas=quota, faults=(fault,)))
        found = [(await caller.chat()).status for _ in range(4)]
        caller.simulator.script("openai", "new", ModelScript())

        assert found == [500, 200, 200, 429]
        assert (await caller.chat(model="new")).status == 200
        assert caller.simulator.ledger().of("openai", "m").requests_received == 5


SCENARIO = """
providers:
  deepseek:
    models:
      m: {text: changed, quotas: [{limit: 1}]}
  openai:
    models:
      m: {text: as well}
"""


async def test_control_from_another_process() -> None:
    async with playing(one_model(ModelScript(price=PRICE))) as caller:
        await caller.chat()
        ledger = await caller.get("/_simulator/ledger")
        account = next(found for found in ledger["accounts"] if found["model"] == "m")
        assert account["provider"] == "openai"
        assert account["requests_billed"] == 1
        assert account["cost_nanos"] == ledger["cost_nanos"] > 0

        assert (await caller.post("/_simulator/break?provider=openai")).status == 200
        assert (await caller.chat()).end == "reset"
        broken = await caller.post("/_simulator/break?provider=openai&kind=server_error")
        assert broken.status == 200
        assert (await caller.chat()).status == 500
        assert (await caller.post("/_simulator/mend?provider=openai")).status == 200
        assert (await caller.chat()).status == 200

        assert (await caller.post("/_simulator/scenario", SCENARIO.encode())).status == 200
        changed = (await caller.chat("deepseek")).json
        assert changed["choices"][0]["message"]["content"] == "changed"
        assert (await caller.chat("deepseek")).status == 429
        assert caller.simulator.ledger().of("openai", "m").requests_billed == 2


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("break?provider=nobody", 404, "no such provider"),
        ("mend", 404, "no such provider"),
        ("break?provider=openai&kind=nonsense", 400, "nonsense"),
        ("break?provider=openai&kind=cut", 400, "needs an answer"),
        ("scenario", 400, "scenario: expected keys and values"),
        ("explode", 404, "no such control"),
    ],
)
async def test_control_says_what_is_wrong(path: str, status: int, words: str) -> None:
    async with playing(one_model(ModelScript())) as caller:
        reply = await caller.post(f"/_simulator/{path}")

        assert reply.status == status
        assert words in reply.json["error"]
        assert (await caller.chat()).status == 200


async def test_stopping_ends_what_is_open_at_once() -> None:
    script = ModelScript(faults=(Fault(kind=K.SILENCE),))
    simulator = one_model(script)
    async with playing(simulator) as caller:
        call = asyncio.create_task(caller.chat())
        await settled(lambda: simulator.ledger().of("openai", "m").requests_received)
        async with asyncio.timeout(PATIENT_S):
            await simulator.stop()
            assert (await call).end == "reset"
