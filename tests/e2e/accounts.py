"""A server of this process over simulated providers, for what needs no process of its own."""

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from escalade.v1 import operations_service_pb2 as wire
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Running
from escalade_server.provider_simulator import Simulator


@asynccontextmanager
async def serving(
    folder: Path,
    strategy: str,
    simulator: Simulator,
    environ: Mapping[str, str],
    log: io.StringIO | None = None,
) -> AsyncIterator[Running]:
    """Serve a strategy in which ``{name}`` stands for a simulated provider's address."""
    await simulator.start()
    try:
        urls = {name: simulator.provider_url(name) for name in simulator.providers}
        for name, url in urls.items():
            strategy = strategy.replace(f"<{name}>", url)
        file = folder / "strategy.yaml"
        file.write_text(strategy)
        options = Options(
            strategy=str(file), port=0, state=str(folder / "state.sqlite3"), grace_s=1.0
        )
        running = await bootstrap.start(options, environ=environ, log_stream=log or io.StringIO())
        try:
            yield running
        finally:
            await running.stop()
    finally:
        await simulator.stop()


def by_account(status: wire.GetStatusResponse, model: str) -> dict[str, wire.ModelStatus]:
    """A model of the first layer by the labels of its accounts."""
    found = [each for each in status.layers[0].models if each.target.model == model]
    return {each.target.account: each for each in found}
