"""A server whose counters are leased in chunks."""

import asyncio
import io
from pathlib import Path

import grpc
import pytest

import escalade
from escalade.v1.router_service_pb2 import CompleteRequest
from escalade.v1.router_service_pb2_grpc import RouterServiceStub
from escalade_server.bootstrap import StartError
from escalade_server.bootstrap.leasing import journals_of, leased
from escalade_server.stores.leased import LeasedStore
from tests.bootstrap.test_bootstrap import options, serving, simulated
from tests.stores.servers import serving as redis_serving

CALLS = 49


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("escalade.db", ("escalade.db", False)),
        ("sqlite:escalade.db?leases=on", ("sqlite:escalade.db", True)),
        ("a?b.db", ("a?b.db", False)),
        ("redis://h?name=x&leases=on&journal=j", ("redis://h?name=x&journal=j", True)),
        ("redis://h?leases=off", ("redis://h", False)),
    ],
)
def test_the_setting_is_taken_out_of_the_state(state: str, found: tuple[str, bool]) -> None:
    assert leased(state) == found


def test_what_cannot_be_leased_says_why() -> None:
    with pytest.raises(StartError, match="on or off"):
        leased("escalade.db?leases=yes")
    with pytest.raises(StartError, match="journal=FILE"):
        journals_of(None, None, is_server=True)
    with pytest.raises(StartError, match="in memory"):
        journals_of(None, None, is_server=False)
    assert journals_of("a.db", None, is_server=False) == "a.db.leases"
    assert journals_of(None, "j", is_server=True) == "j.leases"


async def test_a_leased_quota_is_kept_to_the_call_over_a_restart(tmp_path: Path) -> None:
    """Calls without a request id: 49 of 50 a day, then one more, and no other."""
    state = f"{tmp_path / 'state.db'}?leases=on"
    async with simulated() as simulator:
        told = options(tmp_path, simulator.provider_url("openai"), state=state)
        async with serving(told) as running:
            store = running.engine.store
            assert isinstance(store, LeasedStore)
            async with grpc.aio.insecure_channel(running.target) as channel:
                router = RouterServiceStub(channel)

                async def call() -> str:
                    asked = CompleteRequest()
                    asked.task.type = "parse"
                    asked.messages.add(role=1).parts.add(text="Parse this.")
                    events = [each async for told in router.Complete(asked) for each in told.events]
                    return str(events[-1].WhichOneof("kind"))

                assert set(await asyncio.gather(*(call() for _ in range(CALLS)))) == {"finished"}
            [usage] = (await store.usage("2000-01-01", "3000-01-01")).rows
            assert (usage.use.requests, usage.use.tasks) == (CALLS, CALLS)
            assert store._chunks.known, "some of them were spent from a lease"
        async with (
            serving(told, io.StringIO()) as running,
            escalade.AsyncClient(running.target) as client,
        ):
            await client.complete("The fiftieth.")
            with pytest.raises(escalade.StatusError, match="every layer is exhausted"):
                await client.complete("One too many.", timeout=60)
            spends = running.engine.spends()
            assert [(each.spent, each.held) for each in spends] == [(50, 0)]
    assert (tmp_path / "state.db.leases-1").exists()


async def test_without_its_redis_a_leasing_server_goes_on_with_free_models(tmp_path: Path) -> None:
    log = io.StringIO()
    with redis_serving("valkey", tmp_path) as redis:
        state = f"{redis.url}?deadline_ms=20000&leases=on&journal={tmp_path / 'journal'}"
        async with simulated() as simulator:
            told = options(tmp_path, simulator.provider_url("openai"), state=state)
            async with (
                serving(told, log) as running,
                escalade.AsyncClient(running.target) as client,
            ):
                await client.complete("One.")
                redis.stop()
                assert (await client.complete("Two.", timeout=60)).text
                [layer] = (await client.status()).layers
                assert not layer.exhausted
                redis.start()
    assert "ledger.failing" in log.getvalue()
    assert "server.not_ready" not in log.getvalue(), "it serves"
