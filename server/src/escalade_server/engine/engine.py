"""The shell's door: starts tasks, knows which still run, and drains them.

One ``Run`` drives one cascade. Nothing here decides anything (style, rule 1).
"""

import asyncio
from dataclasses import replace

from escalade_server.core.agents import limited
from escalade_server.core.catalog import Catalog
from escalade_server.core.standing import Standing
from escalade_server.core.task import Request
from escalade_server.engine.health import Health
from escalade_server.engine.ports import Caller, Clock, Entropy, Observer, Providers, Spend, Store
from escalade_server.engine.run import Run


class Engine:
    """Runs tasks against one catalog. Built by ``bootstrap``; owned by one event loop."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        store: Store,
        providers: Providers,
        clock: Clock,
        entropy: Entropy,
        observer: Observer,
    ) -> None:
        """Keep the parts; nothing starts before the first task."""
        self.catalog, self.store, self.providers = catalog, store, providers
        self.clock, self.entropy, self.observer = clock, entropy, observer
        self.health = Health(catalog.rules)
        self.drains = 0
        self._runs = set[Run]()
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, request: Request, caller: Caller) -> Run:
        """Start a task; everything it has to say goes to ``caller``.

        Every task comes through here, so none escapes the limits of its agent.
        """
        run = Run(self, limited(request, self.catalog), caller, self.entropy.task_id())
        self._runs.add(run)
        self._idle.clear()
        run.begin()
        return run

    @property
    def running(self) -> int:
        """Number of tasks whose books are not closed yet."""
        return len(self._runs)

    def forget(self, run: Run) -> None:
        """Take a run that is closed off the list."""
        self._runs.discard(run)
        if not self._runs:
            self._idle.set()

    def standing(self) -> Standing:
        """Shared state, circuits and running means at this instant."""
        now_ms = self.clock.now_ms()
        return replace(
            self.store.standing(now_ms),
            circuits=self.health.circuits(now_ms),
            output_means=self.health.output_means,
        )

    def spends(self) -> tuple[Spend, ...]:
        """Every counter's use at this instant, for status."""
        return self.store.spends(self.clock.now_ms())

    async def drain(self) -> None:
        """Wait until every task has ended and is settled (P4)."""
        await self._idle.wait()
