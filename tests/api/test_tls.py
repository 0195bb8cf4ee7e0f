"""TLS: who is let in by certificate, what is refused, and renewal without a restart (P14, D19)."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from grpc import aio

from escalade.v1 import router_service_pb2_grpc
from escalade_server.api.callers import certificate_name
from escalade_server.api.server import BindError, ServerOptions, build_server
from escalade_server.api.tls import TlsFiles
from escalade_server.core.catalog import Agent, Catalog, Rank
from tests.api.test_access import Tokens, bearer
from tests.api.world import CATALOG, FakeEngine, Told, answer_hello, ask, listen

HERE = Path(__file__).with_name("certificates")
ALICE = "spiffe://fleet/agent/alice"
NAMED = replace(CATALOG, agents={ALICE: Agent(ALICE), "bob": Agent("bob", rank=Rank.OPERATOR)})


def pem(name: str) -> bytes:
    return (HERE / f"{name}.pem").read_bytes()


def install(folder: Path, name: str) -> TlsFiles:
    """Put a certificate and its key where the server looks, as a renewal does: in one move."""
    for part in ("chain", "key"):
        fresh = folder / f"{part}.new"
        fresh.write_bytes(pem(name))
        fresh.rename(folder / part)
    return TlsFiles(str(folder / "chain"), str(folder / "key"))


@dataclass
class Served:
    engine: FakeEngine
    port: int
    told: list[str]

    @asynccontextmanager
    async def channel(self, who: str | None = None) -> AsyncIterator[aio.Channel]:
        own = (pem(who), pem(who)) if who else (None, None)
        credentials = grpc.ssl_channel_credentials(pem("authority"), *own)
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            yield channel

    async def complete(self, who: str | None = None, token: str = "") -> Told:
        async with self.channel(who) as channel:
            stub = router_service_pb2_grpc.RouterServiceStub(channel)
            metadata = bearer(token) if token else None
            return await listen(stub.Complete(ask(), metadata=metadata, timeout=10))


@asynccontextmanager
async def serving(tls: TlsFiles, catalog: Catalog = CATALOG) -> AsyncIterator[Served]:
    engine, told = FakeEngine(answer_hello), list[str]()
    engine.catalog = catalog
    options = ServerOptions(port=0, tls=tls, auth_required=True)
    server = build_server(engine, options, tokens=Tokens(), tls_told=told.append)
    try:
        yield Served(engine, await server.start(), told)
    finally:
        await server.stop(0)


async def test_a_token_over_tls(tmp_path: Path) -> None:
    async with serving(install(tmp_path, "server")) as served:
        told = await served.complete(token="ops")
        nobody = await served.complete()

    assert told.kinds[-1] == "finished"
    assert nobody.reason == "CALLER_UNKNOWN"


@pytest.mark.parametrize(
    ("who", "agent"), [("alice", ALICE), ("bob", "bob"), ("two-names", None), ("mallory", None)]
)
async def test_an_agent_is_known_by_its_certificate(
    tmp_path: Path, who: str, agent: str | None
) -> None:
    files = replace(install(tmp_path, "server"), client_ca=str(HERE / "authority.pem"))
    async with serving(files, NAMED) as served:
        told = await served.complete(who)

    assert [run.request.agent for run in served.engine.runs] == ([agent] if agent else [])
    if who == "two-names":
        assert told.reason == "CALLER_UNKNOWN"
    elif agent is None:
        assert told.code is grpc.StatusCode.UNAVAILABLE, "the handshake itself fails"


async def test_a_client_without_certificate_comes_to_no_call(tmp_path: Path) -> None:
    files = replace(install(tmp_path, "server"), client_ca=str(HERE / "authority.pem"))
    async with serving(files) as served:
        told = await served.complete(token="ops")

    assert told.code is grpc.StatusCode.UNAVAILABLE
    assert not served.engine.runs


async def test_a_certificate_of_an_agent_that_is_not_listed_opens_nothing(tmp_path: Path) -> None:
    files = replace(install(tmp_path, "server"), client_ca=str(HERE / "authority.pem"))
    async with serving(files, replace(CATALOG, agents={"carol": Agent("carol")})) as served:
        assert (await served.complete("bob")).reason == "CALLER_UNKNOWN"


async def test_of_certificate_and_token_the_token_says_who(tmp_path: Path) -> None:
    files = replace(install(tmp_path, "server"), client_ca=str(HERE / "authority.pem"))
    async with serving(files) as served:
        assert (await served.complete("bob", token="alice")).kinds[-1] == "finished"
        assert (await served.complete("bob", token="revoked")).reason == "CALLER_UNKNOWN"

    assert [run.request.agent for run in served.engine.runs] == ["alice"]


@pytest.mark.parametrize(
    ("proven", "name"),
    [
        ({}, ""),
        ({"x509_common_name": [b"bob"]}, "bob"),
        ({"x509_common_name": [b"bob"], "peer_uri": [b"urn:alice"]}, "urn:alice"),
        ({"x509_common_name": [b"bob"], "peer_uri": [b"urn:a", b"urn:b"]}, ""),
        ({"x509_common_name": [b"a", b"b"]}, ""),
    ],
)
def test_a_certificate_names_one_agent_or_none(proven: dict[str, list[bytes]], name: str) -> None:
    assert certificate_name(proven) == name


async def serial(port: int) -> bytes:
    """Shake hands, and answer the certificate that is shown."""
    context = ssl.create_default_context(cafile=HERE / "authority.pem")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: ssl.SSLSocket = writer.get_extra_info("ssl_object")
    found = shown.getpeercert(binary_form=True)
    writer.close()
    assert found
    return found


def der(name: str) -> bytes:
    text = pem(name).decode()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])


async def test_p14_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    async with serving(install(tmp_path, "server")) as served, served.channel() as channel:
        stub = router_service_pb2_grpc.RouterServiceStub(channel)
        await listen(stub.Complete(ask(), metadata=bearer("ops"), timeout=10))
        assert await serial(served.port) == der("server")
        install(tmp_path, "renewed")
        assert await serial(served.port) == der("renewed")
        told = await listen(stub.Complete(ask(), metadata=bearer("ops"), timeout=10))
        assert told.kinds[-1] == "finished", "a connection that was open goes on"
        assert served.told == [""]


async def test_a_bad_renewal_is_told_once_and_the_old_certificate_goes_on(tmp_path: Path) -> None:
    async with serving(install(tmp_path, "server")) as served:
        (tmp_path / "key").write_bytes(pem("renewed"))
        for _ in range(3):
            assert await serial(served.port) == der("server")
        assert len(served.told) == 1
        assert "cannot serve TLS" in served.told[0]
        (tmp_path / "key").unlink()
        assert await serial(served.port) == der("server")
        install(tmp_path, "renewed")
        assert await serial(served.port) == der("renewed")
        assert served.told[-1] == ""


async def test_d19_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    async with serving(install(tmp_path, "server")) as served:
        context = ssl.create_default_context(cafile=HERE / "authority.pem")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
        writer.close()


@pytest.mark.parametrize("wrong", ["missing", "of another", "no PEM", "encrypted", "client CA"])
async def test_files_that_cannot_serve_stop_the_start(tmp_path: Path, wrong: str) -> None:
    files = install(tmp_path, "server")
    key = tmp_path / "key"
    match wrong:
        case "missing":
            key.unlink()
        case "of another":
            key.write_bytes(pem("renewed"))
        case "no PEM":
            key.write_bytes(b"what?")
        case "encrypted":
            key.write_bytes(pem("encrypted-key"))
        case _:
            files = replace(files, client_ca=str(tmp_path / "nowhere"))
    server = build_server(FakeEngine(), ServerOptions(port=0, tls=files))
    with pytest.raises(BindError, match="cannot serve TLS"):
        await server.start()
    await server.stop(0)


TLS = TlsFiles(os.fspath(HERE / "server.pem"), os.fspath(HERE / "server.pem"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (ServerOptions(), "not authenticated"),
        (ServerOptions(tls=TLS), "not authenticated"),
        (ServerOptions(auth_required=True), "in the clear"),
        (ServerOptions(auth_required=True, tls=TLS), None),
        (ServerOptions(auth_required=True, allow_insecure=True), None),
        (ServerOptions(allow_insecure=True), None),
    ],
)
async def test_d1_d19_beyond_loopback_only_with_protection_or_on_ones_own_word(
    options: ServerOptions, why: str | None
) -> None:
    """The address is of a net for documents: nothing can listen there, so nothing ever does."""
    server = build_server(FakeEngine(), replace(options, host="192.0.2.1", port=0))
    with pytest.raises(BindError, match=why or "cannot listen"):
        await server.start()
    await server.stop(0)
