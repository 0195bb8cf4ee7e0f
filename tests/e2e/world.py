"""Real processes: the server by its own command, and providers scripted in the test's process."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from escalade_server.core.catalog import Catalog, Model
from escalade_server.provider_simulator import (
    Account,
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Scenario,
    Simulator,
)
from escalade_server.strategy.load import loads

STRATEGIES = Path(__file__).resolve().parents[1] / "strategies"
COMMAND = Path(sys.executable).with_name("escalade")
START_S = 90.0
STOP_S = 60.0
KEY_NAME = "SIMULATED_KEY"


@dataclass(slots=True)
class World:
    """One server over simulated providers."""

    simulator: Simulator
    catalog: Catalog
    target: str
    started: Mapping[str, object]
    """What the server said of itself when it was ready."""
    process: asyncio.subprocess.Process
    log: Path
    grace: str = "5s"
    asked: bool = False
    expected_exit: int = 0
    options: Sequence[str] = ()

    def account(self, provider: str, model: str) -> Account:
        """Look up what a provider counted for a model, named as in the strategy."""
        return self.simulator.ledger().of(provider, self.model(provider, model).wire_id)

    def model(self, provider: str, model: str) -> Model:
        """Look up a model of the strategy."""
        return next(m for m in self.catalog.models if (m.provider, m.id) == (provider, model))

    def ask(self, number: signal.Signals) -> None:
        """Send the server a signal to end."""
        self.asked = True
        self.process.send_signal(number)

    async def stop(self) -> int:
        """Ask the server to end, once; answer its exit code."""
        if self.process.returncode is None and not self.asked:
            self.ask(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_S)

    async def killed(self) -> None:
        """Wait until the server was killed, by whoever does it."""
        assert await asyncio.wait_for(self.process.wait(), STOP_S) == -signal.SIGKILL

    async def start_again(self) -> None:
        """Start the server anew on the same strategy and state."""
        assert self.process.returncode is not None
        folder = self.log.parent
        self.process, self.started = await launch(folder, self.grace, options=self.options)
        self.target = str(self.started["target"])
        self.asked = False

    def logged(self, event: str) -> list[dict[str, object]]:
        """Read the log's lines of one event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


def reference(version: int) -> str:
    """Read a reference strategy."""
    return (STRATEGIES / f"fallback-v{version}.yaml").read_text()


def scenario_of(catalog: Catalog, scripts: Mapping[str, ModelScript]) -> Scenario:
    """Script every model of a strategy at its own price; ``scripts`` are by ``provider/model``."""
    unknown = scripts.keys() - {f"{m.provider}/{m.id}" for m in catalog.models}
    assert not unknown, unknown
    providers: dict[str, dict[str, ModelScript]] = {}
    for model in catalog.models:
        script = scripts.get(f"{model.provider}/{model.id}", ModelScript())
        price = Price(input_pico=model.price.input_picos, output_pico=model.price.output_picos)
        providers.setdefault(model.provider, {})[model.wire_id] = replace(script, price=price)
    return Scenario(
        providers={name: ProviderScript(models=models) for name, models in providers.items()}
    )


def pointed_at(strategy: str, catalog: Catalog, simulator: Simulator) -> str:
    """Add overrides that send every provider of a strategy to the simulator."""
    names = sorted({model.provider for model in catalog.models})
    lines = "".join(
        f"  {name}:\n    base_url: {simulator.provider_url(name)}\n    api_key_env: {KEY_NAME}\n"
        for name in names
    )
    return f"{strategy.rstrip()}\n\nproviders:\n{lines}"


async def launch(
    folder: Path,
    grace: str,
    command: Sequence[str | Path] = (COMMAND,),
    options: Sequence[str] = (),
) -> tuple[asyncio.subprocess.Process, dict[str, object]]:
    """Start a server on the strategy and the state of a folder; answer what it says when ready."""
    log = folder / "log.jsonl"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command, "serve", "--strategy", folder / "strategy.yaml", "--listen", "127.0.0.1:0",
            "--state", folder / "state.sqlite3", "--grace", grace, "--json",
            "--log-level", "debug", *options,  # all of it is read over (tests.canaries)
            stdout=asyncio.subprocess.PIPE, stderr=stderr, env=os.environ | {KEY_NAME: "made-up"},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, log.read_text()
        return process, json.loads(line)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise


@asynccontextmanager
async def world(
    folder: Path,
    strategy: str,
    scripts: Mapping[str, ModelScript] | None = None,
    grace: str = "5s",
    command: Sequence[str | Path] = (COMMAND,),
    options: Sequence[str] = (),
) -> AsyncIterator[World]:
    """Serve a strategy over providers that do what is scripted; ends with an orderly stop.

    ``options`` are further ones of ``serve``.
    """
    catalog = loads(strategy, environ={}, assume_keys=True).catalog
    simulator = Simulator(scenario_of(catalog, scripts or {}))
    await simulator.start()
    made = None
    try:
        (folder / "strategy.yaml").write_text(pointed_at(strategy, catalog, simulator))
        process, started = await launch(folder, grace, command, options)
        log = folder / "log.jsonl"
        made = World(
            simulator, catalog, str(started["target"]), started, process, log, grace,
            options=options,
        )  # fmt: skip
        yield made
        assert await made.stop() == made.expected_exit, log.read_text()[-2_000:]
    finally:
        if made is not None and made.process.returncode is None:
            made.process.kill()
            await made.process.wait()
        await simulator.stop()


def failing(kind: FaultKind, *on_requests: int) -> ModelScript:
    """Script a model that refuses these of its requests, or all."""
    return ModelScript(faults=(Fault(kind=kind, on_requests=on_requests),))
