"""Fault C9: what does not exist and what is not yours are refused in the same words, for as long.

Of every name that a caller can send: a credential, a layer, a model, a reservation.
"""

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc import aio

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import router_service_pb2 as r
from escalade_server import bootstrap
from escalade_server.core.catalog import Rank
from escalade_server.provider_simulator import ModelScript
from tests.api.world import Told, ask, listen
from tests.faults.served import KEY, Served, served

STRATEGY = f"""\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      cost_per_month: 0
      models:
        - {{provider: openai, model: mini}}
    - name: dear
      priority: 2
      monthly_cap: $5
      models:
        - {{provider: openai, model: maxi, price: {{input: 1, output: 2}}}}
providers:
  openai: {{base_url: <openai>, api_key_env: {KEY}}}
agents:
  alice: {{}}
  bob: {{layers: [free]}}
"""
READY = {"openai": {"mini": ModelScript(), "maxi": ModelScript()}}


@dataclass
class Inside:
    """The server, and a token for each agent."""

    world: Served
    tokens: dict[str, str]

    def headers(self, who: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.tokens[who]}"),)

    async def ask(self, who: str, **limits: Any) -> Told:
        request = ask(constraints=e.Constraints(**limits))
        return await listen(self.world.router.Complete(request, metadata=self.headers(who)))


@asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[Inside]:
    async with served(folder, STRATEGY, READY) as world:
        desk = bootstrap.token_desk(world.running.state, None)
        tokens = {name: desk.create(name, Rank.AGENT, None)[0] for name in ("alice", "bob")}
        revoked, token = desk.create("alice", Rank.AGENT, None)
        desk.revoke(token.key_id)
        desk.close()
        flipped = tokens["alice"][:-1] + ("0" if tokens["alice"][-1] != "0" else "1")
        tokens |= {"revoked": revoked, "forged": flipped, "made up": "esc_00_" + "0" * 64}
        yield Inside(world, tokens)


def words(told: Told, *names: str) -> tuple[object, ...]:
    """Everything that a refusal says, without what the caller wrote itself and its own id."""
    assert told.status is not None
    text = status_pb2.Status.SerializeToString(told.status).decode(errors="replace")
    for name in names:
        text = text.replace(name, "*" * 4)
    return told.code, told.reason, tuple(told.kinds), text


@pytest.mark.fault("C9")
@pytest.mark.parametrize("field", ["lowest_layer", "highest_layer", "consented_layers"])
async def test_a_layer_that_is_closed_and_one_that_is_not_there(tmp_path: Path, field: str) -> None:
    many = field.endswith("s")
    async with inside(tmp_path) as it:
        closed = await it.ask("bob", **{field: ["dear"] if many else "dear"})
        absent = await it.ask("bob", **{field: ["deer"] if many else "deer"})
        nobody = await it.ask("alice", **{field: ["deer"] if many else "deer"})
        theirs = await it.ask("alice", **{field: ["dear"] if many else "dear"})
        calls = it.world.calls()
    assert words(closed, "dear") == words(absent, "deer")
    assert (closed.code, closed.reason) == (grpc.StatusCode.PERMISSION_DENIED, "LAYER_FORBIDDEN")
    assert "dear" not in str(absent.status), "what is closed is not listed either"
    assert nobody.code is grpc.StatusCode.NOT_FOUND
    assert theirs.code is grpc.StatusCode.OK
    assert sum(calls.values()) == 1


@pytest.mark.fault("C9")
@pytest.mark.parametrize("field", ["allowed_models", "denied_models"])
async def test_a_model_that_is_closed_and_one_that_is_not_there(tmp_path: Path, field: str) -> None:
    async with inside(tmp_path) as it:
        closed = await it.ask("bob", **{field: ["maxi"]})
        absent = await it.ask("bob", **{field: ["mixi"]})
        nobody = await it.ask("alice", **{field: ["mixi"]})
        calls = it.world.calls()
    assert words(closed, "maxi") == words(absent, "mixi")
    assert closed.code is grpc.StatusCode.PERMISSION_DENIED
    assert nobody.code is grpc.StatusCode.NOT_FOUND
    assert calls == {}


@pytest.mark.fault("C9")
async def test_a_credential_that_is_anothers_late_and_one_that_never_was(tmp_path: Path) -> None:
    async with inside(tmp_path) as it:
        told = {who: await it.ask(who) for who in ("revoked", "forged", "made up")}
        calls = it.world.calls()
    assert len({words(each) for each in told.values()}) == 1
    assert {each.code for each in told.values()} == {grpc.StatusCode.UNAUTHENTICATED}
    assert calls == {}


async def report(it: Inside, who: str, reservation: str) -> tuple[grpc.StatusCode, str]:
    outcome = r.Outcome(not_sent=r.OutcomeNotSent())
    request = r.ReportOutcomeRequest(reservation_id=reservation, outcome=outcome)
    try:
        await it.world.router.ReportOutcome(request, metadata=it.headers(who))
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.fault("C9")
async def test_a_reservation_of_anothers_and_one_that_never_was(tmp_path: Path) -> None:
    async with inside(tmp_path) as it:
        call = it.world.router.Route(metadata=it.headers("alice"))
        await call.write(r.RouteRequest(task=e.Task(type="parse")))
        reservation = ""
        while not reservation:
            response = await call.read()
            assert isinstance(response, r.RouteResponse)
            for event in response.events:
                reservation = reservation or event.selected.reservation_id
        never = "0" * 32 + ".1"
        anothers, absent = await report(it, "bob", reservation), await report(it, "bob", never)
        took_s: dict[str, list[float]] = {reservation: [], never: []}
        for _ in range(60):
            for each, times in took_s.items():
                begun = time.process_time()  # what others take of the machine says nothing
                await report(it, "bob", each)
                times.append(time.process_time() - begun)
        own = await report(it, "alice", reservation)
        await call.done_writing()
        call.cancel()
    assert anothers == absent
    assert anothers[0] is grpc.StatusCode.NOT_FOUND
    assert own == (grpc.StatusCode.OK, ""), "it was there all the time"
    one, other = (statistics.median(times) for times in took_s.values())
    assert max(one, other) < 2 * min(one, other), "no clock tells them apart, either"
