"""Callers of one process, each with one task after the other; half of them leave in mid-answer.

`python -m tests.crowd.callers TARGET COUNT SEED SECONDS`; prints what they saw, as JSON.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

import grpc
from grpc import aio

from escalade.v1 import router_service_pb2_grpc
from tests.api.world import ask, told

CONNECTIONS = 16
"""More than one, so that the kernel spreads them over the workers."""
DEADLINE_S = 120.0
REFUSALS_MAX = 12
"""A caller gives up after so many in a row: nothing is left."""
PAUSE_S = 0.5


async def caller(
    stub: Any,
    chance: random.Random,
    seen: Counter[str],
    until_s: float,
    *,
    leaves: bool,
) -> None:
    """Ask until nothing is left, or the time is over."""
    clock, refusals = asyncio.get_running_loop(), 0
    while refusals < REFUSALS_MAX and clock.time() < until_s:
        call = stub.Complete(ask("Say something.", max_output_tokens=60), timeout=DEADLINE_S)
        responses, deltas, patience = [], 0, chance.randrange(4)
        try:
            async for response in call:
                responses.append(response)
                deltas += any(event.HasField("delta") for event in response.events)
                if leaves and deltas > patience:
                    call.cancel()
        except (aio.AioRpcError, asyncio.CancelledError):
            pass
        if leaves and deltas > patience:
            seen["left in mid-answer"] += 1
            refusals = 0
            continue
        end = await told(call, responses)
        if end.code is grpc.StatusCode.OK:
            seen["answered"] += 1
            refusals = 0
            continue
        seen[f"refused: {end.reason or end.code.name}"] += 1
        refusals += 1
        await asyncio.sleep(PAUSE_S * (0.5 + chance.random()))


async def main(target: str, count: int, seed: int, seconds: float) -> Counter[str]:
    """Let them ask, all at the same time."""
    seen: Counter[str] = Counter()
    channels = [
        aio.insecure_channel(
            target, options=[("grpc.use_local_subchannel_pool", 1), ("escalade.number", number)]
        )
        for number in range(CONNECTIONS)
    ]
    stubs = [router_service_pb2_grpc.RouterServiceStub(channel) for channel in channels]
    until_s = asyncio.get_running_loop().time() + seconds
    works = [
        caller(
            stubs[number % CONNECTIONS], random.Random(f"{seed}.{number}"), seen, until_s,
            leaves=number % 2 == 1,
        )
        for number in range(count)
    ]  # fmt: skip
    await asyncio.gather(*works)
    for channel in channels:
        await channel.close()
    return seen


if __name__ == "__main__":
    _, at, callers, nth, limit = sys.argv
    print(json.dumps(asyncio.run(main(at, int(callers), int(nth), float(limit)))))
