"""Everything is exhausted, and hundreds wait: over a road that is cut, and a server that restarts.

Three agents, one process of theirs. Each provider refuses its first call and names an instant that
lies ahead; from then on their layers admit a few tasks a second. All the while the road cuts every
stream, and the server is stopped or killed. What the providers counted is the truth.
"""

import asyncio
import base64
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import escalade
from escalade_server.bootstrap import Rank, token_desk
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.e2e.test_repeats import until
from tests.e2e.world import World, world
from tests.notify.receiver import Receiver, receiving
from tests.stores.world import audit, rows
from tests.waiters.road import Road

AGENTS = {"north": 3, "south": 2, "west": 1}
"""Their tasks, in sixths of all."""
STATUS_OF = 150
"""So many tasks wait when the service is asked how things stand."""
OPEN = 0
MAC_BYTES = 32
SENT = """
SELECT request_id, agent, state, admitted_ms, figures <> '',
    iif(model NOT LIKE '%/gpt-4o', 0, iif(state < 2, nanos, used_nanos))
FROM reservations WHERE used_requests OR state < 2 ORDER BY number
"""
STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models: [{{provider: openai, model: gpt-4o-mini, rate_limit: {rate}/second}}]
    - name: plan
      priority: 2
      trigger: free.exhausted
      models: [{{provider: nano-gpt, model: glm-5, rate_limit: {rate}/second}}]
    - name: premium
      priority: 3
      trigger: plan.exhausted
      monthly_cap: 100_usd
      models: [{{provider: openai, model: gpt-4o, rate_limit: {rate}/second}}]
  failure_handling: {{on_all_layers_exhausted: notify_user_and_wait}}
agents: {{north: {{}}, south: {{}}, west: {{}}}}
notifications: {{webhooks: [{{url_file: hook.txt}}], log: false}}
"""
MODELS = ("openai/gpt-4o-mini", "nano-gpt/glm-5", "openai/gpt-4o")


@dataclass(frozen=True, slots=True)
class Plan:
    """How many wait, and what they go through."""

    waiters: int
    restarts: int
    kills: int
    """So many of the restarts are by SIGKILL, at most every second one; the others are drained."""
    cut_s: float
    """A stream lives so long."""
    rate: int
    """Of each of the three layers, calls a second, once they have reopened."""

    @property
    def closed_s(self) -> float:
        """For so long all layers are shut, by the word of their providers."""
        return 4 * self.cut_s

    @property
    def gap_s(self) -> float:
        """From a start of the server to its next end: most streams live through several."""
        return 0.4 * self.cut_s


@dataclass(slots=True)
class Asked:
    """One task, as its caller saw it."""

    agent: str
    id: str
    since: set[int] = field(default_factory=set)
    """Since when it waits, as its tokens say; one instant, if it never lost its place."""
    breaks: int = 0
    end: escalade.Answer | escalade.EscaladeError | None = None

    def hear(self, event: escalade.Announcement) -> None:
        if isinstance(event, escalade.Waiting):
            body = base64.urlsafe_b64decode(event.resume_token)[MAC_BYTES:]
            self.since.add(json.loads(body)["s"])
        elif isinstance(event, escalade.Reconnected):
            self.breaks += 1


@dataclass(frozen=True, slots=True)
class Row:
    """One reservation that was sent, in order of admission."""

    id: str
    agent: str
    state: int
    admitted_ms: int
    answered: bool
    """It is what its request id was charged for (R27)."""
    paid_nanos: int
    """What a call of the paid layer is booked with, or holds, while its cost is in doubt."""


@dataclass(slots=True)
class Seen:
    """What came of it all."""

    plan: Plan
    tasks: list[Asked]
    restarts: Counter[str] = field(default_factory=Counter)
    """While somebody waited, by how."""
    cuts: int = 0
    notices: list[dict[str, object]] = field(default_factory=list)
    status_s: list[float] = field(default_factory=list)
    finished: int = 0
    """Answers that the providers told to their end."""
    billed: int = 0
    """Answers that they began."""
    paid_nanos: int = 0
    """What the provider of the paid layer bills."""
    rows: list[Row] = field(default_factory=list)
    took_s: float = 0.0


async def queue(folder: Path, plan: Plan) -> Seen:
    """Let them wait, and go through it all."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    desk = token_desk(str(folder / "state.sqlite3"), None)
    tokens = {name: desk.create(name, Rank.AGENT, None)[0] for name in AGENTS}
    tokens["operator"] = desk.create("operator", Rank.OPERATOR, None)[0]
    closed = Fault(
        kind=FaultKind.RATE_LIMIT, on_requests=(1,), retry_after_ms=round(plan.closed_s * 1_000)
    )
    script = ModelScript(text="At last.", first_token_ms=150, faults=(closed,))
    strategy = STRATEGY.format(rate=plan.rate)
    async with receiving() as receiver:
        _hook(folder, receiver)
        async with world(folder, strategy, dict.fromkeys(MODELS, script)) as made:
            seen = Seen(plan, [])
            async with _road(made, plan) as road, AsyncExitStack() as stack:
                clients = {
                    name: await stack.enter_async_context(
                        escalade.AsyncClient(f"127.0.0.1:{road.port}", token=token)
                    )
                    for name, token in tokens.items()
                }
                await _waited(made, road, clients, seen)
                seen.cuts = road.cuts
            ledger = made.simulator.ledger()
            seen.finished = sum(account.requests_finished for account in ledger.accounts.values())
            seen.billed = sum(account.requests_billed for account in ledger.accounts.values())
            seen.paid_nanos = made.account("openai", "gpt-4o").cost_nanos
        seen.notices = [json.loads(body) for body in receiver.bodies]
    audit(folder / "state.sqlite3")
    seen.rows = [
        Row(str(id_), str(agent), int(str(state)), int(str(at_ms)), bool(answered), int(str(nanos)))
        for id_, agent, state, at_ms, answered, nanos in rows(folder / "state.sqlite3", SENT)
    ]
    seen.took_s = loop.time() - began_s
    return seen


def _hook(folder: Path, receiver: Receiver) -> None:
    file = folder / "hook.txt"
    file.write_text(receiver.url)
    file.chmod(0o600)


@asynccontextmanager
async def _road(made: World, plan: Plan) -> AsyncIterator[Road]:
    road = Road(plan.cut_s)
    await road.start(_port(made))
    try:
        yield road
    finally:
        await road.close()


def _port(made: World) -> int:
    return int(made.target.rpartition(":")[2])


def _dealt(count: int) -> Iterator[Asked]:
    """Deal tasks to the agents, in turns, as they would come."""
    turns = [name for name, share in AGENTS.items() for _ in range(share)]
    for number in range(count):
        agent = turns[number % len(turns)]
        yield Asked(agent, f"{agent}-{number:04}")


async def _waited(
    made: World, road: Road, clients: dict[str, escalade.AsyncClient], seen: Seen
) -> None:
    """Ask, and restart the server while they wait, until everyone has an end."""
    works = []
    for task in _dealt(seen.plan.waiters):
        seen.tasks.append(task)
        works.append(asyncio.ensure_future(_ask(clients[task.agent], task)))
        if len(works) == 1:  # it meets every refusal; the others find all layers closed
            await until(lambda: seen.tasks[0].since or seen.tasks[0].end)
    looking = asyncio.ensure_future(_look(clients["operator"], seen))
    await until(lambda: all(task.since or task.end for task in seen.tasks))
    for number in range(seen.plan.restarts):
        await asyncio.sleep(seen.plan.gap_s)
        is_killed = number % 2 and number // 2 < seen.plan.kills
        how = signal.SIGKILL if is_killed else signal.SIGTERM
        seen.restarts[how.name] += any(not work.done() for work in works)
        made.ask(how)
        if how is signal.SIGKILL:
            await made.killed()
        else:
            assert await made.stop() == 0
        await made.start_again()
        road.target = _port(made)
    await asyncio.gather(*works)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def _ask(client: escalade.AsyncClient, task: Asked) -> None:
    try:
        task.end = await client.complete(
            f"Tell me of {task.id}.", task="parse", request_id=task.id, on_event=task.hear
        )
    except escalade.EscaladeError as error:
        task.end = error


async def _look(client: escalade.AsyncClient, seen: Seen) -> None:
    """Ask how things stand, from the process that waits; time it while enough wait."""
    loop = asyncio.get_running_loop()
    enough = min(STATUS_OF, seen.plan.waiters // 2)
    while True:
        began_s = loop.time()
        try:
            status = await client.status(timeout=10)
        except escalade.EscaladeError:  # cut, or restarted
            pass
        else:
            if status.waiter_count >= enough:
                seen.status_s.append(loop.time() - began_s)
        await asyncio.sleep(0.5)
