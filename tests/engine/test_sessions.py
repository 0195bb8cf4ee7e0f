"""Sessions in the engine: who is recalled, who is not, and what a store in trouble costs (R29)."""

import asyncio
from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog
from escalade_server.core.facts import Assessed, Finished
from escalade_server.core.rules import Rules
from escalade_server.core.session import Evidence, EvidenceKind, Session, Step
from escalade_server.core.task import Request, Task
from escalade_server.engine.ports import StoreError
from escalade_server.engine.sessions import Sessions, SessionStore
from tests.core.builders import request, three_layers
from tests.engine.shell import FakeCaller, LoopClock, World

pytestmark = pytest.mark.looptime
CHECK = Evidence(EvidenceKind.FAILED_CHECK, "test_a")
OFF = Rules(session_sticky=False, session_evidence=False)


class FakeSessions:
    """Keeps sessions; counts who asks, and fails or hangs as it is told."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, Session]] = {}
        self.asked = 0
        self.fails = self.hangs = False

    async def session(self, key: str, now_ms: int) -> Session | None:
        self.asked += 1
        if self.fails:
            raise StoreError("no")
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        kept = self.kept.get(key)
        return kept[1] if kept is not None and kept[1].until_ms > now_ms else None

    async def keep_session(self, key: str, agent: str, session: Session, now_ms: int) -> None:
        del now_ms
        if self.fails:
            raise StoreError("no")
        self.kept[key] = agent, session


class Lab:
    """An engine with sessions."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.world, self.store = World(catalog or three_layers()), FakeSessions()
        store: SessionStore = self.store
        self.world.engine.sessions = Sessions(store, LoopClock(), "secret")

    async def ask(self, asked: Request) -> tuple[str, FakeCaller]:
        """Answer in which layer a step started."""
        asked = await self.world.engine.recalled(asked)
        caller = await self.world.ask(asked)
        assert isinstance(caller.outcome, Finished)
        [seen] = [fact for fact in caller.heard if isinstance(fact, Assessed)]
        return seen.assessment.start_layer, caller


def step(
    *evidence: Evidence, name: str = "s", agent: str = "", text: str = "Hello there."
) -> Request:
    task = Task(type="parse", files=0, tokens=0, session_id=name, evidence=evidence)
    return replace(request(text, task=task), agent=agent)


async def test_evidence_raises_three_steps() -> None:
    lab = Lab()
    started = [(await lab.ask(step(CHECK)))[0]]
    started += [(await lab.ask(step()))[0] for _ in range(4)]
    assert started == ["budget", "budget", "budget", "free", "free"]


async def test_two_agents_with_one_name_do_not_meet() -> None:
    lab = Lab()
    assert (await lab.ask(step(CHECK, agent="a")))[0] == "budget"
    assert (await lab.ask(step(agent="b")))[0] == "free"
    assert (await lab.ask(step(agent="a", name="other")))[0] == "free"
    assert (await lab.ask(step(agent="a")))[0] == "budget"
    assert sorted(agent for agent, _ in lab.store.kept.values()) == ["a", "a", "b"]
    assert not any("other" in key for key in lab.store.kept)


async def test_the_same_question_again_is_seen_by_the_server() -> None:
    lab = Lab()
    asked = step(text="Why does the build of the billing service fail on main since today?")
    assert (await lab.ask(asked))[0] == "free"
    assert (await lab.ask(asked))[0] == "budget"
    [(_, kept)] = lab.store.kept.values()
    assert kept.question


async def test_a_session_ends_after_its_time() -> None:
    lab = Lab(three_layers(Rules(session_ttl_ms=60_000)))
    await lab.ask(step(CHECK))
    await asyncio.sleep(61)
    late = replace(step(), deadline_ms=step().deadline_ms + 3_600_000)
    assert (await lab.ask(late))[0] == "free"


@pytest.mark.parametrize(
    ("catalog", "asked"),
    [(three_layers(), request()), (three_layers(OFF), step(CHECK))],
    ids=["none", "off"],
)
async def test_who_has_no_session_asks_nobody(catalog: Catalog, asked: Request) -> None:
    lab = Lab(catalog)
    assert await lab.world.engine.recalled(asked) is asked
    await lab.ask(asked)
    assert (lab.store.asked, lab.store.kept) == (0, {})


async def test_without_sessions_a_name_is_no_more_than_a_name() -> None:
    world = World(three_layers())
    asked = step(CHECK)
    assert await world.engine.recalled(asked) is asked


async def test_evidence_off_keeps_the_model_only() -> None:
    lab = Lab(three_layers(Rules(session_evidence=False)))
    assert (await lab.ask(step(CHECK)))[0] == "free"
    [(_, kept)] = lab.store.kept.values()
    assert (kept.model, kept.raised, kept.signs) == ("openai/default/mini", 0, ())


async def test_a_store_that_fails_costs_the_session_and_nothing_else() -> None:
    lab = Lab()
    lab.store.fails = True
    assert (await lab.ask(step(CHECK)))[0] == "free"
    lab.store.fails = False
    assert (await lab.ask(step()))[0] == "free"


async def test_a_store_that_hangs_is_waited_for_a_moment() -> None:
    lab = Lab()
    lab.store.hangs = True
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert (await lab.world.engine.recalled(step(CHECK))).session is None
    assert loop.time() - begun == pytest.approx(2.0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_a_task_without_an_answer_told_is_kept_too() -> None:
    lab = Lab()
    asked = await lab.world.engine.recalled(step(CHECK))
    assert isinstance(asked.session, Step)
    await lab.world.ask(asked, leaves_at=1)
    [(_, kept)] = lab.store.kept.values()
    assert (kept.raised, kept.clean) == (1, 0)
    assert (await lab.ask(step(CHECK)))[0] == "budget"
