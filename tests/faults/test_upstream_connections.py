"""Rows U before the first byte: names, ports and certificates (U1, U2), and what is asked (U21)."""

import asyncio
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp.abc import ResolveResult

from escalade_server.providers.http import CONNECT_TIMEOUT_MS
from tests.faults.upstream import EVENTS, HEALTHY, Upstream, answers, body_of, upstream
from tests.providers.raw_server import Peer

HERE = Path(__file__).parent
OF_NOBODY_KNOWN = HERE.parent / "api" / "certificates" / "server.pem"
OF_ANOTHER_HOST = HERE.parent / "providers" / "loopback.pem"
EXPIRED = HERE / "expired.pem"
"""Self-signed for 127.0.0.1, and good for the first of January 2020 only."""


async def never(peer: Peer) -> None:
    """Nobody is there, so nobody asks."""
    raise AssertionError(await peer.request())


async def is_out(world: Upstream, detail: str) -> None:
    """The first model cannot be reached: nothing is due, its circuit opens, the second answers."""
    answer = await world.complete()

    first, second = answer.attempts
    assert answer.text == HEALTHY
    assert (first.failure_class, second.model.model) == ("OUTAGE", "model-2")
    assert detail in first.detail
    assert [e.reason for e in answer.escalations] == ["OUTAGE"]
    assert world.is_open
    assert (first.list_nanos, world.cap.spent, (await world.quiet()).held) == (0, 0, 0)


# ---------------------------------------------------------------------------------- names, ports


@pytest.mark.fault("U1")
async def test_a_port_where_nobody_listens_is_an_outage(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with upstream(tmp_path, never, url=f"http://127.0.0.1:{port}/v1") as world:
        await is_out(world, "connection refused")


class Names:
    """A resolver that knows no name, or is slow, or knows them all; it counts the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = asyncio.Event()
        self.knows = True

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        await self.answer.wait()
        if not self.knows:
            raise OSError(None, "no such name")
        flags = socket.AddressInfo.AI_NUMERICHOST
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0,
                              flags=flags)]  # fmt: skip


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()

    async def resolve(
        _self: object, host: str, port: int, family: socket.AddressFamily
    ) -> list[ResolveResult]:
        return await made.resolve(host, port, family)

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
    return made


NAMED = "http://provider.test:{port}/v1"


@pytest.mark.fault("U1")
async def test_an_unknown_name_is_an_outage(tmp_path: Path, names: Names) -> None:
    names.knows = False
    names.answer.set()
    async with upstream(tmp_path, never, url=NAMED) as world:
        await is_out(world, "not known to DNS")


@pytest.mark.fault("U1")
async def test_a_slow_look_up_ends_with_the_time_to_connect(tmp_path: Path, names: Names) -> None:
    async with upstream(tmp_path, never, url=NAMED, timeouts="connect: 200ms") as world:
        await is_out(world, "no connection in time")
        names.answer.set()
    assert CONNECT_TIMEOUT_MS <= 5_000


@pytest.mark.fault("U1")
async def test_a_name_is_remembered_and_not_for_long(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.answer.set()
    async with upstream(tmp_path, answers(body_of("Once")), url=NAMED) as world:
        for _ in range(3):
            assert (await world.complete()).text == "Once"
        assert world.faulty.connections == 3
        assert names.asked == ["provider.test"]
        later = asyncio.get_running_loop().time() + 30
        monkeypatch.setattr("aiohttp.connector.monotonic", lambda: later)
        assert (await world.complete()).text == "Once"
        assert names.asked == ["provider.test"] * 2


# ---------------------------------------------------------------------------------- certificates


@pytest.mark.fault("U2")
@pytest.mark.parametrize(
    ("certificate", "is_trusted", "host", "detail"),
    [
        (OF_NOBODY_KNOWN, False, "127.0.0.1", "unable to get local issuer certificate"),
        (OF_ANOTHER_HOST, False, "127.0.0.1", "self-signed certificate"),
        (OF_ANOTHER_HOST, True, "localhost", "Hostname mismatch"),
        (EXPIRED, True, "127.0.0.1", "certificate has expired"),
    ],
    ids=["nobody known", "self-signed", "another host", "expired"],
)
async def test_a_certificate_that_is_not_good_is_an_outage_and_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Path,
    is_trusted: bool,  # noqa: FBT001 - of the table
    host: str,
    detail: str,
) -> None:
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    url = f"https://{host}:{{port}}/v1"
    async with upstream(tmp_path, never, url=url, tls=context) as world:
        await is_out(world, detail)

        assert world.faulty.heads == [], "nothing of the request was shown"
        assert world.alerts() == ["PROVIDER"]
    (line,) = world.logged("task.alert")  # the log is closed by now
    assert detail in str(line["detail"])


# -------------------------------------------------------------------------------- what is asked


@pytest.mark.fault("U21")
async def test_plain_bytes_are_asked_for(tmp_path: Path) -> None:
    async with upstream(tmp_path, answers(body_of("Once"), headers=EVENTS)) as world:
        await world.complete()
    (head,) = world.faulty.heads
    assert b"\r\naccept-encoding: identity\r\n" in head.lower()
