"""Every RPC × every kind of credential, through a real server (D1-D3)."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import operations_service_pb2, router_service_pb2
from escalade_server.api.callers import ACCESS, Access
from escalade_server.api.server import HEALTH_NAMES, ServerOptions
from escalade_server.core.catalog import Agent, CounterScope, Rank, Unit
from escalade_server.core.standing import Balance, Standing
from escalade_server.engine.ports import Spend, StoreError, Token
from escalade_server.engine.tokens import digest_of
from tests.api.world import (
    CATALOG,
    MODELS,
    NOW_MS,
    World,
    answer_hello,
    ask,
    counter,
    listen,
    world,
)

SERVICES = (
    *router_service_pb2.DESCRIPTOR.services_by_name.values(),
    *operations_service_pb2.DESCRIPTOR.services_by_name.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
)
METHODS: Mapping[str, MethodDescriptor] = {
    method.full_name: method for service in SERVICES for method in service.methods
}
REQUIRED = ServerOptions(port=0, reflection=True, auth_required=True)
UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNKNOWN")
ROLE = (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")

ALICE_RATE = counter("requests/day:agent/alice", CounterScope.AGENT)
BOB_CAP = counter("nanos/month:agent/bob", CounterScope.AGENT, Unit.NANOS, 9)
ALICE = Agent("alice", counters=(ALICE_RATE,), calls_max=1)
BOB = Agent("bob", counters=(BOB_CAP,), forbidden=frozenset({MODELS[2].key}))
AGENTS = replace(CATALOG, agents={"alice": ALICE, "bob": BOB})


def text_of(name: str) -> str:
    return f"esc_{name.encode().hex()}_{name.encode().hex():0>64}"


class Tokens:
    """Tokens in memory; each is named like its agent, or by what is wrong with it."""

    def __init__(self) -> None:
        self.broken = False
        made = (
            Token("alice", "alice", Rank.AGENT, b"", NOW_MS),
            Token("bob", "bob", Rank.AGENT, b"", NOW_MS),
            Token("ops", "ops", Rank.OPERATOR, b"", NOW_MS),
            Token("unlisted", "unlisted", Rank.AGENT, b"", NOW_MS),
            Token("expired", "alice", Rank.OPERATOR, b"", 0, NOW_MS),
            Token("revoked", "alice", Rank.OPERATOR, b"", 0, None, NOW_MS - 1),
        )
        self.known = {
            t.key_id.encode().hex(): replace(t, digest=digest_of(text_of(t.key_id))) for t in made
        }

    def find(self, key_id: str) -> Token | None:
        if self.broken:
            raise StoreError("the disk is gone")
        return self.known.get(key_id)

    def all(self) -> tuple[Token, ...]:
        return tuple(self.known.values())

    def add(self, token: Token, now_ms: int) -> None:
        raise AssertionError

    def replace(self, old: Token, token: Token, now_ms: int) -> None:
        raise AssertionError

    def revoke(self, key_id: str, now_ms: int) -> Token:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


Headers = tuple[tuple[str, str], ...]


def bearer(name: str) -> Headers:
    return (("authorization", f"Bearer {text_of(name)}"),)


STRANGERS: Mapping[str, Headers] = {
    "none": (),
    "empty": (("authorization", ""),),
    "no scheme": (("authorization", text_of("ops")),),
    "other scheme": (("authorization", f"Basic {text_of('ops')}"),),
    "no token": (("authorization", "Bearer "),),
    "nonsense": (("authorization", "Bearer nonsense"),),
    "unknown id": bearer("nobody"),
    "wrong secret": (("authorization", f"Bearer {text_of('ops')[:-1]}0"),),
    "two headers": bearer("ops") * 2,
    "expired": bearer("expired"),
    "revoked": bearer("revoked"),
    "agent that the strategy does not list": bearer("unlisted"),
}


@dataclass
class Ending:
    code: grpc.StatusCode
    reason: str = ""
    message: str = ""


async def call(channel: Any, name: str, headers: Headers) -> Ending:
    """Call any method with an empty request, and say how it ended, or that it answered."""
    method = METHODS[name]
    path = f"/{method.containing_service.full_name}/{method.name}"
    request = b""
    if method.input_type is health_pb2.HealthCheckRequest.DESCRIPTOR:
        request = health_pb2.HealthCheckRequest(service=HEALTH_NAMES[1]).SerializeToString()
    sent: Any
    if method.client_streaming:
        sent = channel.stream_stream(path)(metadata=headers, timeout=20)
        with suppress(aio.AioRpcError):
            await sent.write(request)
            await sent.done_writing()
    elif method.server_streaming:
        sent = channel.unary_stream(path)(request, metadata=headers, timeout=20)
    else:
        sent = channel.unary_unary(path)(request, metadata=headers, timeout=20)
        with suppress(aio.AioRpcError):
            await sent
        return await ending(sent)
    with suppress(aio.AioRpcError):
        if await sent.read() is not aio.EOF:
            sent.cancel()
            return Ending(grpc.StatusCode.OK)
    return await ending(sent)


async def ending(sent: Any) -> Ending:
    trailers = dict(await sent.trailing_metadata() or ())
    reason = ""
    for packed in status_pb2.Status.FromString(
        trailers.get("grpc-status-details-bin", b"")
    ).details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            reason = info.reason
    return Ending(await sent.code(), reason, await sent.details() or "")


@pytest.fixture
async def served() -> AsyncIterator[World]:
    async with world(answer_hello, options=REQUIRED, tokens=Tokens(), catalog=AGENTS) as w:
        yield w


def test_the_table_of_rights_is_total() -> None:
    assert set(ACCESS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
async def test_d1_a_stranger_calls_nothing(served: World, name: str) -> None:
    found = {kind: await call(served.channel, name, shown) for kind, shown in STRANGERS.items()}

    assert {kind: (each.code, each.reason) for kind, each in found.items()} == dict.fromkeys(
        STRANGERS, UNKNOWN
    )
    assert len({each.message for each in found.values()}) == 1, "nothing tells them apart"
    assert not served.engine.runs


@pytest.mark.parametrize("name", METHODS)
async def test_d3_an_agent_calls_what_agents_may(served: World, name: str) -> None:
    found = await call(served.channel, name, bearer("alice"))

    refused = ACCESS[name] is Access.OPERATOR
    assert ((found.code, found.reason) == ROLE) is refused
    assert found.code is not grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", METHODS)
async def test_an_operator_calls_everything(served: World, name: str) -> None:
    found = await call(served.channel, name, bearer("ops"))

    assert found.code not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shown", ["nonsense", "expired", "revoked", "wrong secret"])
async def test_a_bad_credential_is_refused_where_none_is_needed(name: str, shown: str) -> None:
    async with world(options=ServerOptions(port=0, reflection=True), tokens=Tokens()) as w:
        bad = await call(w.channel, name, STRANGERS[shown])
        none = await call(w.channel, name, ())

    assert (bad.code, bad.reason) == UNKNOWN
    assert none.code not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


async def test_a_probe_needs_no_credential(served: World) -> None:
    check: Any = served.channel.unary_unary("/grpc.health.v1.Health/Check")
    for shown in ((), STRANGERS["nonsense"]):
        answer = health_pb2.HealthCheckResponse.FromString(await check(b"", metadata=shown))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_d10_reflection_is_off_by_default() -> None:
    async with world(options=replace(REQUIRED, reflection=False), tokens=Tokens()) as w:
        name = "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo"
        assert (await call(w.channel, name, bearer("ops"))).code is grpc.StatusCode.UNIMPLEMENTED


async def test_without_tokens_no_token_opens_anything() -> None:
    async with world(options=REQUIRED) as w:
        found = await call(w.channel, "escalade.v1.RouterService.Complete", bearer("ops"))
        assert (found.code, found.reason) == UNKNOWN


async def test_tokens_that_cannot_be_read_let_nobody_in() -> None:
    tokens = Tokens()
    tokens.broken = True
    async with world(options=REQUIRED, tokens=tokens) as w:
        found = await call(w.channel, "escalade.v1.RouterService.Complete", bearer("ops"))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
        assert "disk" not in found.message


async def test_without_agents_in_the_strategy_any_token_counts() -> None:
    async with world(answer_hello, options=REQUIRED, tokens=Tokens()) as w:
        told = await listen(w.router.Complete(ask(), metadata=bearer("unlisted")))
        assert told.kinds[-1] == "finished"
        assert w.engine.runs[0].request.agent == "unlisted"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_task_carries_the_name_of_its_agent(served: World, scheme: str) -> None:
    shown = (("authorization", f"{scheme} {text_of('bob')}"),)
    told = await listen(served.router.Complete(ask(), metadata=shown))

    assert told.kinds[-1] == "finished"
    assert served.engine.runs[0].request.agent == "bob"


async def test_nobody_in_particular_has_no_name() -> None:
    async with world(answer_hello) as w:
        await listen(w.router.Complete(ask()))
        assert w.engine.runs[0].request.agent == ""


async def test_a_demand_for_a_closed_layer_is_refused(served: World) -> None:
    wanted = ask(constraints=e.Constraints(lowest_layer="plan"))
    told = await listen(served.router.Complete(wanted, metadata=bearer("bob")))

    assert told.code is grpc.StatusCode.PERMISSION_DENIED
    assert told.reason == "LAYER_FORBIDDEN"
    assert told.kinds == ["failed"]
    assert not served.engine.runs
    other = await listen(served.router.Complete(wanted, metadata=bearer("alice")))
    assert other.kinds[-1] == "finished"


async def test_d15_an_agent_has_so_many_calls_at_once() -> None:
    async with world(options=REQUIRED, tokens=Tokens(), catalog=AGENTS) as w:
        first = w.router.Complete(ask(), metadata=bearer("alice"))
        await w.engine.started.wait()
        second = await listen(w.router.Complete(ask(), metadata=bearer("alice")))
        assert (second.code, second.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "RATE_LIMITED",
        )
        (violation,) = second.detail(error_details_pb2.QuotaFailure).violations
        assert (violation.subject, violation.description) == ("agent/alice", "1 calls at once")
        assert second.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1
        w.engine.script = answer_hello
        other = await listen(w.router.Complete(ask(), metadata=bearer("bob")))
        assert other.kinds[-1] == "finished", "another agent's calls are its own"
        first.cancel()
        await w.api.calls.idle()
        again = await listen(w.router.Complete(ask(), metadata=bearer("alice")))
        assert again.kinds[-1] == "finished"


async def status(w: World, who: str) -> operations_service_pb2.GetStatusResponse:
    wanted = operations_service_pb2.GetStatusRequest()
    return await w.operations.GetStatus(wanted, metadata=bearer(who), timeout=20)


def quotas(shown: operations_service_pb2.GetStatusResponse) -> set[str]:
    found = {quota.name for quota in shown.quotas}
    for layer in shown.layers:
        found |= {quota.name for quota in layer.quotas}
        found |= {quota.name for model in layer.models for quota in model.quotas}
    return found


async def test_d3_agents_see_their_own_counters_and_operators_see_all(served: World) -> None:
    served.engine.spends_now = (
        Spend(ALICE_RATE, 7, 1, NOW_MS + 9),
        Spend(BOB_CAP, 3, 0, NOW_MS + 9),
    )
    shared = {"mini/day label", "flash/day label", "glm/day label", "all/cap label",
              "layer1/cap label"}  # fmt: skip

    ops, alice, bob = [await status(served, who) for who in ("ops", "alice", "bob")]

    assert quotas(ops) == {ALICE_RATE.label, BOB_CAP.label, *shared}
    assert quotas(alice) == {ALICE_RATE.label}
    assert quotas(bob) == {BOB_CAP.label}
    assert [(quota.spent, quota.held) for quota in alice.quotas] == [(7, 1)]


async def test_d3_what_others_used_is_not_told_to_an_agent(served: World) -> None:
    rate = MODELS[0].counters[0]
    served.engine.standing_now = Standing({rate.key: Balance("d", 50, 0, NOW_MS + 60_000)})

    ops, alice, bob = [await status(served, who) for who in ("ops", "alice", "bob")]

    assert ops.layers[0].models[0].detail == "50 of 50 requests today"
    for shown in (alice, bob):
        mini = shown.layers[0].models[0]
        assert (mini.verdict, mini.reason, mini.detail) == (
            e.VERDICT_CLASS_RATE, "window_full", "",
        )  # fmt: skip
        assert mini.until.ToMilliseconds() == NOW_MS + 60_000
    glm = bob.layers[1].models[0]
    assert (glm.verdict, glm.reason) == (e.VERDICT_CLASS_POLICY, "constraint")


async def test_an_agent_sees_why_its_own_counter_is_in_the_way(served: World) -> None:
    full = Balance("d", 50, 0, NOW_MS + 60_000)
    served.engine.standing_now = Standing({ALICE_RATE.key: full})

    alice, bob = [await status(served, who) for who in ("alice", "bob")]

    assert {model.detail for model in alice.layers[0].models} == {"50 of 50 requests today"}
    assert {model.verdict for model in bob.layers[0].models} == {e.VERDICT_CLASS_OK}


async def test_an_agent_counts_its_own_calls_only() -> None:
    async with world(options=REQUIRED, tokens=Tokens(), catalog=AGENTS) as w:
        running = w.router.Complete(ask(), metadata=bearer("bob"))
        await w.engine.started.wait()
        counts = [(await status(w, who)).in_flight_count for who in ("ops", "alice", "bob")]
        assert counts == [1, 0, 1]
        running.cancel()
