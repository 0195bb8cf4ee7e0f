"""Who may call a real server: tokens made while it runs, limits of agents, refusals to start."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

import escalade
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Rank, StartError, TlsFiles, token_desk
from escalade_server.bootstrap.state import auth_required
from escalade_server.engine.clock import SystemClock
from escalade_server.stores.tokens import SqliteTokens
from tests.bootstrap.test_bootstrap import NOBODY, events, options, serving, simulated

CERTIFICATES = Path(__file__).resolve().parents[1] / "api" / "certificates"
CERTIFICATE = str(CERTIFICATES / "server.pem")
FOLLOWS_S, LOOK_S = 30.0, 0.05
"""A server knows what changed in the tokens within this time."""


def pem(name: str) -> bytes:
    return (CERTIFICATES / f"{name}.pem").read_bytes()


def content(folder: Path) -> bytes:
    """Answer all that stands in the files of a folder."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def has_tokens(folder: Path) -> bool:
    return any(path.suffix == ".tokens" for path in folder.iterdir())


def with_agents(folder: Path, url: str, agents: str) -> Options:
    told = options(folder, url)
    with Path(told.strategy).open("a") as file:
        file.write(f"agents:\n{agents}")
    return told


def client(target: str, token: str | None = None) -> escalade.AsyncClient:
    return escalade.AsyncClient(target, token=token)


async def until_known(agent: escalade.AsyncClient, *, known: bool) -> None:
    """Ask until the server follows what became of the agent's token."""
    async with asyncio.timeout(FOLLOWS_S):
        while True:
            try:
                assert (await agent.complete("Hello.")).text
                if known:
                    return
            except escalade.CallerUnknown:
                if not known:
                    return
            await asyncio.sleep(LOOK_S)


async def test_d1_tokens_come_and_go_while_the_server_runs(tmp_path: Path) -> None:
    log = io.StringIO()
    async with simulated() as simulator:
        told = with_agents(tmp_path, simulator.provider_url("openai"), "  alice: {}\n")
        told = replace(told, log_level="debug")
        async with serving(told, log) as running:
            assert running.nobody_known
            async with client(running.target) as nobody:
                with pytest.raises(escalade.EscaladeError, match="the caller is not known"):
                    await nobody.complete("Hello.")
            desk = token_desk(told.state, None)
            text, token = desk.create("alice", Rank.AGENT, None)
            async with client(running.target, text) as alice:
                await until_known(alice, known=True)
                desk.revoke(token.key_id)
                await until_known(alice, known=False)
            desk.close()
    assert "auth.no_token" in events(log)
    agents = [json.loads(line).get("agent") for line in log.getvalue().splitlines()]
    assert "alice" in agents


async def test_d2_d6_a_token_is_in_no_file_no_log_and_no_error(tmp_path: Path) -> None:
    log, said = io.StringIO(), list[str]()
    async with simulated() as simulator:
        url = simulator.provider_url("openai")
        told = replace(with_agents(tmp_path, url, "  alice: {}\n"), log_level="debug")
        desk = token_desk(told.state, None)
        text, token = desk.create("alice", Rank.AGENT, None)
        async with serving(told, log) as running:
            async with client(running.target, text) as alice:
                answer = await alice.complete("Hello.")
                said += [repr(answer), repr(alice), repr(await alice.status())]
                with pytest.raises(escalade.EscaladeError) as refused:
                    await alice.complete("Hello.", request_id="not a good id")
                said.append(repr(refused.value) + str(vars(refused.value)))
            desk.revoke(token.key_id)
            async with client(running.target, text) as alice:
                await until_known(alice, known=False)
                with pytest.raises(escalade.EscaladeError) as unknown:
                    await alice.complete("Hello.")
                said.append(repr(unknown.value) + str(vars(unknown.value)))
            said += [repr(running), repr(running.engine), repr(vars(running.engine)), repr(token)]
            files = content(tmp_path)
        desk.close()
    files += content(tmp_path)
    secret = text.rpartition("_")[2]

    assert token.key_id.encode() in files, "it did look where tokens are"
    assert "task.finished" in events(log)
    assert secret.encode() not in files
    assert secret not in log.getvalue()
    assert not [one for one in said if secret in one]


async def test_a_laptop_needs_no_account(tmp_path: Path) -> None:
    async with (
        simulated() as simulator,
        serving(options(tmp_path, simulator.provider_url("openai"))) as running,
        client(running.target) as anyone,
    ):
        assert not running.nobody_known
        assert (await anyone.complete("Hello.")).text
        assert (await anyone.status()).layers
    assert not has_tokens(tmp_path)


async def test_d14_an_agents_limit_holds_at_any_concurrency(tmp_path: Path) -> None:
    async with simulated() as simulator:
        url = simulator.provider_url("openai")
        told = with_agents(tmp_path, url, "  alice: {rate_limit: 3/day}\n  bob: {}\n")
        desk = token_desk(told.state, None)
        tokens = {name: desk.create(name, Rank.AGENT, None)[0] for name in ("alice", "bob")}
        ops, _ = desk.create("ops", Rank.OPERATOR, None)
        desk.close()
        async with (
            serving(told) as running,
            client(running.target, tokens["alice"]) as alice,
            client(running.target, tokens["bob"]) as bob,
            client(running.target, ops) as operator,
        ):
            calls = [alice.complete("Hello.", timeout=20) for _ in range(12)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert (await bob.complete("Hello.")).text
            own = (await alice.status()).quotas
            seen = {quota.name: quota.spent for quota in (await operator.status()).quotas}
    answers = [each for each in ended if isinstance(each, escalade.Answer)]
    refusals = {each.reason for each in ended if isinstance(each, escalade.EscaladeError)}

    assert len(answers) == 3
    assert refusals == {"RATE_LIMITED"}
    assert [(quota.scope, quota.spent, quota.held, quota.limit) for quota in own] == [
        ("agent", 3, 0, 3)
    ]
    assert seen == {own[0].name: 3}


@pytest.mark.parametrize(
    ("changed", "agents", "made", "required"),
    [
        ({}, False, False, False),
        ({}, True, False, True),
        ({}, False, True, True),
        ({"tls": TlsFiles("c", "k")}, False, False, False),
        ({"tls": TlsFiles("c", "k", "ca")}, False, False, True),
        ({"host": "192.0.2.1"}, False, False, True),
        ({"auth": "optional"}, True, True, False),
        ({"auth": "optional", "host": "192.0.2.1"}, False, False, False),
        ({"auth": "required"}, False, False, True),
    ],
)
def test_callers_must_be_known_as_soon_as_there_is_anybody_to_know(
    tmp_path: Path, changed: dict[str, object], *, agents: bool, made: bool, required: bool
) -> None:
    told = with_agents(tmp_path, NOBODY, "  a: {}\n") if agents else options(tmp_path, NOBODY)
    loaded = bootstrap.load_strategy(told.strategy)
    desk = token_desk(told.state, None)
    if made:  # one that was revoked counts: with the last token gone nothing is opened
        desk.revoke(desk.create("a", Rank.AGENT, None)[1].key_id)
    tokens = SqliteTokens(f"{told.state}.tokens", SystemClock())

    assert auth_required(replace(told, **changed), loaded, tokens) is required  # type: ignore[arg-type]
    tokens.close()
    desk.close()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, "in the clear"),
        ({"auth": "optional"}, "not authenticated"),
        ({"auth": "optional", "tls": TlsFiles(CERTIFICATE, CERTIFICATE)}, "not authenticated"),
        ({"tls": TlsFiles("nowhere", "nowhere")}, "cannot serve TLS"),
        ({"allow_insecure": True}, "cannot listen"),
        ({"tls": TlsFiles(CERTIFICATE, CERTIFICATE)}, "cannot listen"),
    ],
)
async def test_d1_it_does_not_start_open_to_other_machines(
    tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    """Nothing can listen on that address, which is of a net for documents: so nothing does."""
    told = replace(options(tmp_path, NOBODY), host="192.0.2.1", **changed)  # type: ignore[arg-type]
    with pytest.raises(StartError, match=why):
        async with serving(told):
            pass


async def test_tokens_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    told = options(tmp_path, NOBODY)
    (tmp_path / "state.sqlite3.tokens").write_bytes(b"no database" * 500)
    with pytest.raises(StartError, match=r"the tokens in .* cannot be read"):
        async with serving(told):
            pass


async def test_d19_what_became_of_new_certificates_is_logged(tmp_path: Path) -> None:
    log, own = io.StringIO(), tmp_path / "own.pem"
    own.write_bytes(pem("server"))
    trusted = escalade.Tls(pem("authority"))
    told = replace(options(tmp_path, NOBODY), tls=TlsFiles(str(own), str(own)))
    async with serving(told, log) as running:
        for fresh in (pem("renewed"), b"broken"):
            own.write_bytes(fresh)
            async with escalade.AsyncClient(running.target, tls=trusted) as anyone:
                assert (await anyone.status()).version
    found = events(log)
    assert found.count("tls.renewed") == 1
    assert found.count("tls.not_renewed") == 1
