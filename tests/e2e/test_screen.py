"""`escalade status --watch` in a terminal, and the commands of operators, as people run them."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from click.testing import Result

from tests.cli.commands import data, run
from tests.e2e.test_commands import command
from tests.e2e.world import COMMAND, START_S, reference, world

WAIT_S = 30.0
INSTEAD, RESTORED = b"\x1b[?1049h", b"\x1b[?1049l"
"""What switches a terminal to its other screen, and back."""


class Terminal:
    """A terminal of its own, with a process in it."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process, self._master = process, master
        self.seen = b""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self.seen += os.read(self._master, 65_536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()

    async def until(self, *words: str, after: int = 0) -> int:
        """Wait until all of these were written; answer how much has been by then."""
        async with asyncio.timeout(WAIT_S):
            while not all(word.encode() in self.seen[after:] for word in words):
                self._news.clear()
                await self._news.wait()
        return len(self.seen)

    def resize(self, columns: int, rows: int) -> None:
        set_size(self._master, columns, rows)
        self.process.send_signal(signal.SIGWINCH)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


def set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@asynccontextmanager
async def in_terminal(*arguments: str, columns: int, rows: int) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    set_size(slave, columns, rows)
    environ = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdin=slave, stdout=slave, stderr=slave,
        env=environ | {"TERM": "xterm-256color", "LANG": "C.UTF-8"}, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()


async def test_the_screen_follows_the_server_and_leaves_the_terminal_as_it_was(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, reference(2)) as made:
        watch = ("status", "--watch", "--target", made.target)
        async with in_terminal(*watch, columns=80, rows=24) as terminal:
            await terminal.until("premium_reserve", "gpt-4o-mini", "nothing yet")
            assert INSTEAD in terminal.seen
            code, _, err = await command(
                "model", "disable", "openai/gpt-4o-mini", "--target", made.target,
                "--reason", "odd answers",
            )  # fmt: skip
            assert code == 0, err
            seen = await terminal.until("disabled until somebody acts", "set aside by an operator")
            terminal.resize(120, 40)
            await terminal.until("─" * 120, after=seen)
            terminal.process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(terminal.process.wait(), WAIT_S) == 0
            await terminal.until(RESTORED.decode())


async def test_without_a_terminal_there_are_lines_and_data_for_programs(tmp_path: Path) -> None:
    async with world(tmp_path, reference(2)) as made:
        process = await asyncio.create_subprocess_exec(
            COMMAND, "status", "--watch", "--json", "--target", made.target,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=2**20,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            first = json.loads(await process.stdout.readline())
            assert first["status"]["layers"][0]["name"] == "free_primary"
            code, _, err = await command("model", "disable", "openai", "--target", made.target)
            assert code == 0, err
            told = [json.loads(await process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        [status] = [line["status"] for line in told if "status" in line]
        [event] = [line["event"] for line in told if "event" in line]
        models = [model for layer in status["layers"] for model in layer["models"]]
        assert all(m["disabled"] == (m["provider"] == "openai") for m in models)
        assert event["modelStateChanged"]["status"]["disabled"]


async def test_operators_steer_models_and_the_strategy(tmp_path: Path) -> None:
    async with world(tmp_path, reference(2)) as made:

        async def escalade(*arguments: str) -> Result:
            return await asyncio.to_thread(run, *arguments, "--target", made.target)

        done = await escalade("model", "disable", "gpt-4o-mini", "--for", "1h")
        assert done.exit_code == 0
        assert "set aside by an operator" in done.output
        done = await escalade("model", "enable", "openai/gpt-4o-mini", "--json")
        assert [model["disabled"] for model in data(done)] == [False]
        assert (await escalade("model", "clear", "openai")).exit_code == 0
        done = await escalade("model", "disable", "nobody")
        assert done.exit_code == 1
        assert "`escalade status` lists" in done.stderr
        done = await escalade("reload")
        assert done.exit_code == 0
        assert "The strategy is in force." in done.output
        file = tmp_path / "strategy.yaml"
        file.write_text(file.read_text().replace("layers:", "layerz:", 1))
        done = await escalade("reload", "--check")
        assert done.exit_code == 1
        assert "layerz" in done.output
        done = await escalade("reload", "--json")
        assert done.exit_code == 1
        assert json.loads(done.stdout)["applied"] is False
        shown = await escalade("status")
        assert "is refused" in shown.output
