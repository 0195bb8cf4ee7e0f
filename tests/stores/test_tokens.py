"""Tokens: what is kept, what is never kept, and who sees a change when (D2).

In a file of their own, and in Redis, from where servers are told (``test_redis_shared``).
"""

import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from escalade_server.core.catalog import Rank
from escalade_server.engine.ports import StoreError, Token, TokenStore
from escalade_server.engine.tokens import TokenDesk, digest_of, holder
from escalade_server.stores.redis_link import place_of
from escalade_server.stores.redis_tokens import RedisTokens
from escalade_server.stores.tokens import APPLICATION_ID, LOOK_MS, SqliteTokens
from tests.stores.servers import Server
from tests.stores.world import KEEPING, HandClock, numbers


class Numbers:
    """Chance that counts."""

    def __init__(self) -> None:
        self.drawn = 0

    def key_id(self) -> str:
        self.drawn += 1
        return f"{self.drawn:016x}"

    def secret(self) -> str:
        return f"{self.drawn:064x}"


class World:
    """An operator's desk and who asks for tokens, over one file or server."""

    def __init__(self, folder: Path, server: Server | None = None) -> None:
        self.path = folder / "state.sqlite3.tokens"
        self.clock = HandClock()
        self.place = place_of(f"{server.url}?name=ledger-{next(numbers)}") if server else None
        self.desk = TokenDesk(self.store(), self.clock, Numbers())
        self.served = self.store()

    def store(self) -> TokenStore:
        return RedisTokens(self.place) if self.place else SqliteTokens(self.path, self.clock)

    def close(self) -> None:
        self.desk.close()
        self.served.close()

    def knows(self, text: str) -> Token | None:
        return holder(text, self.served, self.clock.at_ms)

    def later(self, more_ms: int = LOOK_MS) -> None:
        self.clock.at_ms += more_ms


everywhere = pytest.mark.parametrize("world", KEEPING, indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    kind = getattr(request, "param", "sqlite")
    made = World(tmp_path, None if kind == "sqlite" else request.getfixturevalue(kind))
    yield made
    made.close()


def test_a_running_server_learns_of_new_and_revoked_tokens_by_itself(world: World) -> None:
    assert world.knows(f"esc_{1:016x}_{1:064x}") is None
    assert not world.path.exists(), "a server that knows nobody makes no file"
    text, token = world.desk.create("alice", Rank.AGENT, None)
    assert text == f"esc_{1:016x}_{1:064x}"
    world.later()
    assert world.knows(text) == token
    assert token.agent == "alice"
    world.desk.revoke(token.key_id)
    assert world.knows(text) == token, "as of a quarter of a second ago"
    world.later()
    assert world.knows(text) is None
    assert world.served.find(token.key_id) is not None


def test_a_look_costs_nothing_while_nothing_changes(world: World) -> None:
    text, _ = world.desk.create("alice", Rank.AGENT, None)
    first = world.knows(text)
    for _ in range(3):
        world.later()
        assert world.knows(text) is first


@everywhere
@pytest.mark.parametrize(
    "text",
    [
        "", "esc", "esc__", "esc_0000000000000001_", f"esc_{1:016x}_{2:064x}",
        f"esc_{2:016x}_{1:064x}", f"ESC_{1:016x}_{1:064x}", f"esc_{1:016x}_{1:064x} ",
        f"esc_{1:016x}_{1:063x}", f"xxx_{1:016x}_{1:064x}", f"esc_{1:016x}_{1:064x}\n",
        "esc_" + "1" * 10_000, "é" * 9, "\udcff",
    ],
)  # fmt: skip
def test_only_the_whole_text_opens(world: World, text: str) -> None:
    world.desk.create("alice", Rank.AGENT, None)

    assert world.knows(text) is None


@everywhere
def test_a_token_ends_with_its_life(world: World) -> None:
    text, token = world.desk.create("alice", Rank.OPERATOR, 1_000)
    assert token.rank is Rank.OPERATOR
    world.later(999)
    assert world.knows(text) == token
    world.later(1)
    assert world.knows(text) is None


@everywhere
def test_a_rotation_leaves_both_live_for_the_overlap(world: World) -> None:
    old_text, old = world.desk.create("alice", Rank.OPERATOR, None)
    new_text, new = world.desk.rotate(old.key_id, None, 60_000)
    world.later(59_999)
    assert world.knows(old_text)
    assert world.knows(new_text) == new
    assert (new.agent, new.rank) == (old.agent, old.rank)
    world.later(1)
    assert world.knows(old_text) is None
    assert world.knows(new_text) == new


@everywhere
def test_an_overlap_never_lengthens_a_life(world: World) -> None:
    _, old = world.desk.create("alice", Rank.AGENT, 1_000)
    world.desk.rotate(old.key_id, None, 60_000)

    assert [t.expires_ms for t in world.desk.all()] == [old.expires_ms, None]


@everywhere
def test_an_agent_has_two_live_tokens_at_most(world: World) -> None:
    _, first = world.desk.create("alice", Rank.AGENT, 1_000)
    world.desk.create("alice", Rank.AGENT, None)
    world.desk.create("bob", Rank.AGENT, None)
    with pytest.raises(StoreError, match="alice has 2 live tokens"):
        world.desk.create("alice", Rank.AGENT, None)
    with pytest.raises(StoreError, match="alice has 2 live tokens"):
        world.desk.rotate(first.key_id, None, 0)
    assert len(world.desk.all()) == 3
    assert world.desk.all()[0].expires_ms == first.expires_ms
    world.later(1_000)
    world.desk.create("alice", Rank.AGENT, None)


@everywhere
def test_a_token_that_is_gone_is_not_rotated_and_stays_revoked(world: World) -> None:
    _, token = world.desk.create("alice", Rank.AGENT, None)
    first = world.desk.revoke(token.key_id)
    world.later(5)
    assert world.desk.revoke(token.key_id) == first
    for key_id in (token.key_id, "f" * 16):
        with pytest.raises(StoreError, match="there is no live token"):
            world.desk.rotate(key_id, None, 0)
    with pytest.raises(StoreError, match="there is no token ffff"):
        world.desk.revoke("f" * 16)


@pytest.mark.parametrize("name", ["", "two words", "x" * 101, "tab\t", "é"])
def test_an_agents_name_is_plain(world: World, name: str) -> None:
    with pytest.raises(StoreError, match="an agent's name"):
        world.desk.create(name, Rank.AGENT, None)
    assert not world.path.exists()


def test_d2_only_a_hash_is_kept_and_only_the_owner_reads_it(world: World) -> None:
    text, token = world.desk.create("alice", Rank.AGENT, None)
    world.desk.close()
    secret = text.rpartition("_")[2]
    for file in world.path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert token.digest == digest_of(text)
    assert token.digest.hex() not in repr(token)
    assert secret not in repr(token) + str(vars(type(token)))


def test_a_file_that_was_taken_away_knows_nobody_and_a_new_one_counts(world: World) -> None:
    text, _ = world.desk.create("alice", Rank.AGENT, None)
    assert world.knows(text)
    world.desk.close()
    world.path.unlink()
    world.later()
    assert world.knows(text) is None
    again, _ = TokenDesk(SqliteTokens(world.path, world.clock), world.clock, Numbers()).create(
        "bob", Rank.AGENT, None
    )
    world.later()
    found = world.knows(again)
    assert found is not None
    assert found.agent == "bob"


def test_a_file_that_cannot_be_read_lets_nobody_in(world: World) -> None:
    world.path.write_bytes(b"no database at all" * 100)
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be read"):
            world.knows(f"esc_{1:016x}_{1:064x}")
    with pytest.raises(StoreError, match="cannot be read"):
        world.desk.create("alice", Rank.AGENT, None)


def test_another_programs_file_is_left_as_it_is(world: World) -> None:
    with apsw.Connection(str(world.path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StoreError, match="no file of tokens"):
        world.desk.all()
    with pytest.raises(StoreError, match="another program"):
        world.desk.create("alice", Rank.AGENT, None)


def test_while_a_command_writes_the_server_goes_on_with_what_it_knew(world: World) -> None:
    text, token = world.desk.create("alice", Rank.AGENT, None)
    assert world.knows(text) == token
    other = apsw.Connection(str(world.path))
    other.execute("BEGIN EXCLUSIVE")
    world.later()
    assert world.knows(text) == token
    other.execute("UPDATE tokens SET revoked_ms = 1")
    other.execute("COMMIT")
    assert world.knows(text) is None, "it looks again at once"
    other.close()


def test_the_file_is_marked_as_ours(world: World) -> None:
    world.desk.create("alice", Rank.AGENT, None)
    other = apsw.Connection(str(world.path))
    assert other.execute("PRAGMA application_id").get == APPLICATION_ID
    other.close()
