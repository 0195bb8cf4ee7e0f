"""Several processes on one port: the supervisor of ``serve --workers N`` (P11, P17, P18).

The supervisor serves nothing and books nothing. It reserves the port, holds the lock of the ledger,
starts workers (executed, never forked), and puts another one in the place of each that dies. Every
worker is a whole server (``bootstrap.worker``, ``bootstrap.start``) with its own connections,
engine and writer; they share the port (SO_REUSEPORT), the ledger, and what ``stores.crew`` locks.

Over one socket pair a worker (``bootstrap.post``) the supervisor hears that it serves or why it
cannot, and passes on what the others must know: circuits, reloads, and for ``GetStatus`` what each
has in flight. What is done once (reports, notices, cleaning) is done by the worker that has the
lead, a lock that the kernel takes back when its process ends.

Metrics. A scrape of the shared port's host must not hit a random worker, so the supervisor is the
one to be scraped (``bootstrap.metrics``; the files of ``prometheus_client`` know no examples).
It makes a folder and gives worker N the option ``metrics="unix:FOLDER/N.sock"``: there the worker
serves its own figures. The supervisor serves ``--metrics`` itself, by
``bootstrap.metrics.serve_gathered(address, {"0": "FOLDER/0.sock", ...}, ...)``, which asks every
worker at each scrape and gives each of its series the label ``worker``; one that does not answer
is left out. Whoever takes a dead worker's place has its number, so that its counters begin anew as
those of any restarted process do.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from escalade_server.bootstrap.channel import (
    Adopted,
    AskFigures,
    Begin,
    Channel,
    Circuit,
    Failed,
    Follow,
    Message,
    Ready,
    Refused,
    Reload,
    TellFigures,
)
from escalade_server.bootstrap.log import catch_strays, open_log, say_started
from escalade_server.bootstrap.metrics import serve_gathered
from escalade_server.bootstrap.options import DEFAULT_STATE, Authentication, Options, StartError
from escalade_server.bootstrap.start import DRAIN_S
from escalade_server.bootstrap.state import recover_store, redis_place, state_path
from escalade_server.bootstrap.strategy import load_strategy
from escalade_server.bootstrap.worker import work
from escalade_server.core.standing import CircuitState
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.others import Figures
from escalade_server.engine.ports import StoreError
from escalade_server.engine.readiness import DRAINING
from escalade_server.stores.crew import Crew
from escalade_server.stores.file import lock
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import names
from escalade_server.telemetry.gather import wrong_with_all
from escalade_server.telemetry.logs import Log, is_text
from escalade_server.telemetry.mistakes import LoggedMistakes

WORKERS_MAX = 64
BACKOFF_S, BACKOFF_MAX_S = 0.1, 30.0
"""How long a dead worker's place stays empty: doubled while workers die young."""
SOUND_S = 60.0
FIGURES_S = 0.5
LATE_S = 10.0
"""What a worker is given beyond its grace and its drain, before it is killed."""


class _Worker:
    """One process, and what is known of it."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number, self.process, self.channel = number, process, channel
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Ready] = loop.create_future()
        self.answers: dict[int, asyncio.Future[list[Figures]]] = {}
        self.began_s = loop.time()

    @property
    def serves(self) -> bool:
        alive = self.process.returncode is None
        return alive and self.ready.done() and self.ready.exception() is None


class Workers:
    """The supervisor. Owned by one event loop."""

    def __init__(
        self, options: Options, count: int, loaded: Loaded, log: Log, stack: AsyncExitStack
    ) -> None:
        """Use ``start_workers``; ``stack`` is closed at the end."""
        self._options, self._count, self._log, self.loaded = options, count, log, loaded
        self._text, self._started_ms = loaded.text, SystemClock().now_ms()
        self._workers: dict[int, _Worker] = {}
        self._circuits: dict[str, Circuit] = {}
        self._refused: Refused | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._stops = False
        self._keepers: list[asyncio.Task[None]] = []
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stack = stack
        self.target = self.state = self.metrics = ""
        self.ledger_is_new = self.nobody_known = False

    # -------------------------------------------------------------------------- the beginning

    async def begin(self) -> None:
        """Reserve what is shared, and start every worker: the first alone, as it recovers.

        Raises:
            StartError: it cannot serve.
        """
        options, stack = self._options, self._stack
        stated = options.state or self.loaded.state_url or DEFAULT_STATE
        self._handles = self._lock(stated)
        options, self.target = self._reserve(options)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="escalade-"))
        self._folder = Path(folder)
        if options.metrics:
            self.metrics = self._show(options.metrics, stack)
        self._options = options
        first = await self._launch(1, first=True)
        self.state, self.ledger_is_new = first.state, first.ledger_is_new
        self.nobody_known = first.nobody_known
        auth: Authentication = "required" if first.auth_required else "optional"
        self._options = replace(options, auth=auth)
        rest = [self._launch(number) for number in range(2, self._count + 1)]
        for result in await asyncio.gather(*rest, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        self._keepers += [asyncio.create_task(self._keep(number)) for number in self._workers]
        if not is_text(sys.stderr, options.log_format):
            new_state = self.state if self.ledger_is_new else ""
            known = self.nobody_known
            say_started(self._log, self.loaded, self.target, new_state, nobody_known=known)

    def _lock(self, state: str) -> tuple[int, ...]:
        """Take the file's lock for all workers (P18), and make the file of theirs."""
        locks = Crew.make()
        self._stack.callback(os.close, locks)
        if redis_place(state) is not None:
            return (locks,)
        path = state_path(state)
        if path is None:
            raise StartError("state in memory cannot be shared; give a path with --state")
        try:
            held = lock(os.path.realpath(path))
        except StoreError as error:
            raise StartError(f"{error}") from error
        self._stack.callback(os.close, held)
        return locks, held

    def _reserve(self, options: Options) -> tuple[Options, str]:
        """Hold the port without listening on it: nobody else gets it, also between two workers.

        It is taken as one that is not shared, and shared from then on: with workers of our own.
        """
        host, port = options.host, options.port
        shown = f"[{host}]" if ":" in host else host
        try:
            family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            held = self._stack.enter_context(socket.socket(family, kind))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(place)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            raise StartError(
                f"cannot listen on {shown}:{port} ({error.strerror}); choose a free port, or 0 for"
                " any"
            ) from error
        port = held.getsockname()[1]
        return replace(options, port=port), f"{shown}:{port}"

    def _show(self, address: str, stack: AsyncExitStack) -> str:
        mistakes = LoggedMistakes(self._log, SystemEntropy().task_id)
        return serve_gathered(
            address, self._sockets, log=self._log, mistakes=mistakes, stack=stack,
            alive=self._dead, ready=self._unready,
        )  # fmt: skip

    def _dead(self) -> str:
        """Say why all of it should be started anew. May be asked from any thread."""
        return "" if self._stops else wrong_with_all(self._sockets().values(), "/livez")

    def _unready(self) -> str:
        """Say why no calls should be sent here. May be asked from any thread."""
        if self._stops:
            return DRAINING
        sockets = self._sockets()
        return wrong_with_all(sockets.values(), "/readyz") if sockets else "no worker serves"

    def _sockets(self) -> Mapping[str, str]:
        return {str(worker.number): self._socket(worker.number) for worker in self._serving}

    def _socket(self, number: int) -> str:
        return str(self._folder / f"{number}.sock")

    @property
    def _serving(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.serves]

    # ---------------------------------------------------------------------------- one worker

    async def _launch(self, number: int, *, first: bool = False) -> Ready:
        """Start a worker, and wait until it serves.

        Raises:
            StartError: it does not.
        """
        ours, theirs = socket.socketpair()
        options = self._options
        if options.metrics:
            options = replace(options, metrics=f"unix:{self._socket(number)}")
        channel = await Channel.open(ours)
        channel.send(Begin(options, number, first, self._text, self._started_ms))
        begins = f"from {work.__module__} import {work.__name__}; {work.__name__}()"
        command = [sys.executable, "-P", "-c", begins]
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command, str(theirs.fileno()), str(self._handles[0]),
                    pass_fds=(theirs.fileno(), *self._handles),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    start_new_session=True,  # a terminal's Ctrl-C is for the supervisor to pass on
                )  # fmt: skip
        except BaseException:
            channel.close()  # one that was started all the same ends by it
            raise
        worker = self._workers[number] = _Worker(number, process, channel)
        self._start(self._hear(worker))
        ready = await worker.ready
        for circuit in self._circuits.values():
            worker.channel.send(circuit)
        if self._refused is not None:
            worker.channel.send(self._refused)
        self._log.info(names.WORKER_STARTED, worker=number, pid=process.pid)
        return ready

    async def _hear(self, worker: _Worker) -> None:
        async for message in worker.channel.messages():
            self._take(worker, message)
        code = await worker.process.wait()
        worker.channel.close()
        if not worker.ready.done():
            detail = f"worker {worker.number} ended with {code} before it served; see the log"
            worker.ready.set_exception(StartError(detail))

    def _take(self, worker: _Worker, message: Message) -> None:
        match message:
            case Ready():
                worker.ready.set_result(message)
            case Failed():
                worker.ready.set_exception(StartError(message.why))
            case Circuit():
                self._circuits[message.key] = message
                if message.state.state is CircuitState.CLOSED:
                    del self._circuits[message.key]
                self._tell_others(worker, message)
            case Adopted():
                self._text = message.text
                if self._refused is not None:
                    self._refused = msgspec.structs.replace(self._refused, why="")
                self._tell_others(worker, Follow(message.cause))
            case Refused():
                self._refused = message
                self._tell_others(worker, message)
            case AskFigures():
                self._start(self._gather(worker, message.number))
            case TellFigures():
                answer = worker.answers.pop(message.number, None)
                if answer is not None and not answer.done():
                    answer.set_result(message.figures)
            case _:
                raise AssertionError(message)

    def _tell_others(self, one: _Worker, message: Message) -> None:
        for worker in self._serving:
            if worker is not one:
                worker.channel.send(message)

    async def _gather(self, asker: _Worker, number: int) -> None:
        """Ask the others what they have in flight; who does not say so in time is left out."""
        answers = []
        for worker in self._serving:
            if worker is not asker:
                self._asked += 1
                answer: asyncio.Future[list[Figures]] = asyncio.get_running_loop().create_future()
                worker.answers[self._asked] = answer
                answers.append(answer)
                worker.channel.send(AskFigures(self._asked))
        if answers:
            await asyncio.wait(answers, timeout=FIGURES_S)
        found = [figures for each in answers if each.done() for figures in each.result()]
        asker.channel.send(TellFigures(number, found))

    async def _keep(self, number: int) -> None:
        """Put another worker in the place of each that dies, later and later if they die young."""
        pause_s = BACKOFF_S
        while True:
            worker = self._workers[number]
            code = await worker.process.wait()
            self._log.error(names.WORKER_DIED, worker=number, pid=worker.process.pid, exit=code)
            lived_s = asyncio.get_running_loop().time() - worker.began_s
            pause_s = BACKOFF_S if lived_s > SOUND_S else min(2 * pause_s, BACKOFF_MAX_S)
            await asyncio.sleep(pause_s)
            try:
                await self._launch(number)
            except StartError as error:
                self._log.error(names.WORKER_NOT_STARTED, worker=number, detail=f"{error}")
                if not self._serving and not self._over.done():
                    self._over.set_exception(error)

    # ------------------------------------------------------------------------------- the end

    def hang_up(self) -> None:
        """Pass a SIGHUP on: one worker reads the strategy again, and the others follow."""
        for worker in self._serving[:1]:
            worker.channel.send(Reload("SIGHUP"))

    async def until(self, stop: asyncio.Event) -> None:
        """Serve until told to stop.

        Raises:
            StartError: every worker is dead, and none can be started.
        """
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopped, self._over), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._over.done():
            await self._over

    def kill(self) -> None:
        """Let nobody live on."""
        for worker in self._workers.values():
            if worker.process.returncode is None:
                worker.process.kill()

    async def stop(self) -> bool:
        """Drain every worker; answer whether all ended well in their time. Safe twice."""
        self._stops = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        alive = [each for each in self._workers.values() if each.process.returncode is None]
        for worker in alive:
            worker.process.send_signal(signal.SIGTERM)
        ends = [asyncio.ensure_future(each.process.wait()) for each in alive]
        late: set[asyncio.Future[int]] = set()
        if ends:
            _, late = await asyncio.wait(ends, timeout=self._options.grace_s + DRAIN_S + LATE_S)
        if late:
            self._log.error(names.WORKER_KILLED, workers=len(late))
            self.kill()
            await asyncio.wait(late)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._over.cancel()
        await self._stack.aclose()
        return not late and all(end.result() == 0 for end in ends)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def start_workers(options: Options, count: int) -> Workers:
    """Start the supervisor and its workers. Must run inside the event loop that is to watch them.

    Raises:
        StrategyErrors: the strategy does not load.
        StartError: the port or the state cannot be had, or a worker does not start.
    """
    loaded = load_strategy(options.strategy)
    async with AsyncExitStack() as stack:
        log, _ = open_log(options, sys.stderr, stack)
        catch_strays(stack, LoggedMistakes(log, SystemEntropy().task_id), log)
        if options.recover:
            state = options.state or loaded.state_url or DEFAULT_STATE
            await recover_store(state_path(state), SystemClock(), log)
            options = replace(options, recover=False)
        workers = Workers(options, count, loaded, log, stack.pop_all())
    try:
        await workers.begin()
    except BaseException:
        await workers.stop()
        raise
    return workers
