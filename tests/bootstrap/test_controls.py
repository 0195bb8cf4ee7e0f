"""``SetModelState`` over the wire: status, tasks, feed and log follow, and agents may not."""

import io
import json
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import operations_service_pb2 as wire
from escalade.v1 import operations_service_pb2_grpc
from escalade_server.provider_simulator import ModelScript
from tests.api.world import told
from tests.faults.served import KEY, Served, served
from tests.stores.world import NOW_MS

STRATEGY = f"""
fallback_strategy:
  layers:
    - name: free
      models:
        - {{provider: openai, model: first, rate_limit: 50/day}}
        - {{provider: deepseek, model: second, rate_limit: 50/day}}
providers:
  openai: {{base_url: <openai>, api_key_env: {KEY}}}
  deepseek: {{base_url: <deepseek>, api_key_env: {KEY}}}
"""
PROVIDERS = {"openai": {"first": ModelScript()}, "deepseek": {"second": ModelScript()}}
PAST = Timestamp(seconds=NOW_MS // 1_000 - 1_000_000_000)
FAR = Timestamp(seconds=4_000_000_000)
FIRST = e.ModelRef(provider="openai", model="first")


def stub(world: Served) -> "operations_service_pb2_grpc.OperationsServiceAsyncStub":
    return operations_service_pb2_grpc.OperationsServiceStub(world.channel)


async def test_tasks_pass_by_what_is_set_aside_and_come_back(tmp_path: Path) -> None:
    log = io.StringIO()
    async with served(tmp_path, STRATEGY, PROVIDERS, log) as world:
        call = stub(world).SetModelState
        set_aside = await call(
            wire.SetModelStateRequest(
                target=FIRST, action=wire.MODEL_ACTION_DISABLE, until=FAR, note="odd answers"
            )
        )
        [status] = set_aside.models
        assert (status.target.model, status.disabled, status.reason) == ("first", True, "disabled")
        assert status.verdict == e.VERDICT_CLASS_DOWN
        assert status.detail == "set aside by an operator: odd answers"
        assert status.until.seconds == FAR.seconds
        assert await world.model("first") == status
        await world.ask()
        assert world.calls() == {"second": 1}

        back = await call(wire.SetModelStateRequest(target=FIRST, action=wire.MODEL_ACTION_ENABLE))
        assert [(m.disabled, m.verdict) for m in back.models] == [(False, e.VERDICT_CLASS_OK)]
        await world.ask()
        assert world.calls() == {"first": 1, "second": 1}

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    acts = [line for line in lines if line["event"] == "operator.acted"]
    assert [(act["action"], act["models"], act["detail"]) for act in acts] == [
        ("disable", ["openai/default/first"], "odd answers"),
        ("enable", ["openai/default/first"], ""),
    ]


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (wire.SetModelStateRequest(target=FIRST), "INVALID_ARGUMENT", "action: say DISABLE"),
        (
            wire.SetModelStateRequest(
                target=e.ModelRef(layer="free"), action=wire.MODEL_ACTION_DISABLE
            ),
            "INVALID_ARGUMENT",
            "target: name a provider",
        ),
        (
            wire.SetModelStateRequest(target=FIRST, action=wire.MODEL_ACTION_DISABLE, until=PAST),
            "INVALID_ARGUMENT",
            "until: is over already",
        ),
        (
            wire.SetModelStateRequest(target=FIRST, action=wire.MODEL_ACTION_ENABLE, until=FAR),
            "INVALID_ARGUMENT",
            "until: only DISABLE",
        ),
        (
            wire.SetModelStateRequest(
                target=FIRST, action=wire.MODEL_ACTION_DISABLE, note="x" * 201
            ),
            "INVALID_ARGUMENT",
            "note: 201 characters",
        ),
        (
            wire.SetModelStateRequest(
                target=e.ModelRef(provider="openai", model="third"),
                action=wire.MODEL_ACTION_DISABLE,
            ),
            "NOT_FOUND",
            "no model that is openai/third",
        ),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_its_mend(
    tmp_path: Path, request_: wire.SetModelStateRequest, code: str, words: str
) -> None:
    async with served(tmp_path, STRATEGY, PROVIDERS) as world:
        ended = await told(stub(world).SetModelState(request_), [])
        assert ended.code is grpc.StatusCode[code]
        assert words in ended.message
        assert not (await world.model("first")).disabled
