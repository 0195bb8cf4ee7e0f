"""Keeps the strategy in force, and puts another in its place: all of it at once, or nothing (G8).

A file that changes is seen within seconds, by its content: what a symlink leads to is swapped as
a whole, and keeps its times (G9). Key files are looked at with it. SIGHUP and the RPC do not wait
for that look. What is refused is refused once; it is looked at again when the files change.
"""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from escalade_server.api.strategies import Checked, Finding, InForce, Reloaded, Severity
from escalade_server.bootstrap.log import say_strategy
from escalade_server.bootstrap.strategy import DIALECTS, load_strategy
from escalade_server.checks.gates import pattern_error
from escalade_server.core.commands import SetBench
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Bench, Standing
from escalade_server.engine.news import StrategyNews
from escalade_server.engine.ports import Clock, Mistakes, Spend, StoreError
from escalade_server.engine.reload import lost
from escalade_server.strategy.errors import Level, Notice, StrategyError, StrategyErrors
from escalade_server.strategy.load import Endpoint, Loaded, loads
from escalade_server.strategy.yaml_nodes import PLACEHOLDER, SIZE_BYTES_MAX
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log

LOOK_S = 1.0
"""How often the files are looked at; what is found twice alike is taken, or it is half written."""
SEVERITIES = {
    Level.WARNING: Severity.ADVICE,
    Level.ADVICE: Severity.ADVICE,
    Level.INFO: Severity.NOTE,
}
OPEN_DOOR = Finding(
    Severity.ADVICE,
    "auth_not_required",
    0,
    "agents are named now, but this server was started for callers that nobody knows: whoever"
    " shows no credential may still do everything.",
    mend="Restart the server, or give --auth required.",
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a strategy is put in force in."""

    file: str
    environ: Mapping[str, str]
    state_is_given: bool
    """By the command: what the file says of it does not count."""
    auth_required: bool


class StrategyKeeper:
    """``Strategies`` of a running server. Owned by one event loop."""

    def __init__(
        self,
        place: Place,
        loaded: Loaded,
        *,
        clock: Clock,
        log: Log,
        mistakes: Mistakes,
        spends: Callable[[], tuple[Spend, ...]],
        serve: Callable[[Loaded], Awaitable[None]],
        tell: Callable[[StrategyNews], None],
    ) -> None:
        """Begin with the strategy that the server was started with.

        ``serve`` puts one in force, whole, or raises ``StoreError``; ``tell`` hears what became of
        every reload.
        """
        self.loaded = loaded
        self._place, self._clock, self._log, self._mistakes = place, clock, log, mistakes
        self._spends, self._serve, self._tell = spends, serve, tell
        self._seen = _digest(loaded)
        self._found = self._seen
        self._turn = asyncio.Lock()
        self._hung_up = asyncio.Event()
        self._works: set[asyncio.Task[Reloaded]] = set()
        self.in_force = self._described(loaded)
        self.taken: Callable[[str, Loaded], None] = lambda _cause, _loaded: None
        """Hears of a strategy that was put in force here first, and why."""
        self.refused: Callable[[InForce], None] = lambda _in_force: None
        """Hears of a file that was refused here first."""

    @property
    def auth_required(self) -> bool:
        """Whether callers must be known: said once, at the start."""
        return self._place.auth_required

    def hang_up(self) -> None:
        """Take a SIGHUP."""
        self._hung_up.set()

    async def watch(self) -> None:
        """Look at the files for ever."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._hung_up.wait()
            except TimeoutError:
                await self._look()
            else:
                self._hung_up.clear()
                await self.reload("SIGHUP")

    async def _look(self) -> None:
        before, self._found = self._found, await asyncio.to_thread(_digest, self.loaded)
        if self._found != self._seen and self._found == before:
            await self.reload("the file changed")

    async def reload(self, cause: str = "an operator", *, follows: bool = False) -> Reloaded:
        """Put the file as it is now in force, whole or not at all.

        One that ``follows`` another worker tells nobody: that one has.
        """
        # A caller may leave, half of it may not.
        work = asyncio.create_task(self._reload(cause, follows=follows))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        return await asyncio.shield(work)

    async def check(self, yaml: str | None) -> Checked:
        """Look at a text, or at the file, and change nothing."""
        try:
            loaded = await asyncio.to_thread(self._load if yaml is None else self._of_text, yaml)
        except StrategyErrors as errors:
            return Checked(valid=False, findings=tuple(map(_of_error, errors)), not_in_effect=())
        refused = tuple(self._refusals(loaded))
        keys = tuple(str(key) for key in loaded.not_yet_in_effect)
        return Checked(not refused, (*refused, *self._advice(loaded)), keys)

    # ---------------------------------------------------------------------------------- inside

    async def _reload(self, cause: str, *, follows: bool) -> Reloaded:
        async with self._turn:
            self._seen = await asyncio.to_thread(_digest, self.loaded)
            loaded: Loaded | None = None
            try:
                loaded = await asyncio.to_thread(self._load)
                refused = tuple(self._refusals(loaded))
                if not refused:
                    await self._serve(loaded)
            except StrategyErrors as errors:
                refused = tuple(map(_of_error, errors))
            except StoreError as error:
                refused = (Finding(Severity.ERROR, "ledger_unavailable", 0, f"{error}"),)
            except Exception as error:  # noqa: BLE001 - what serves goes on serving
                detail = f"a mistake of the server's own ({self._mistakes(error)})"
                refused = (Finding(Severity.ERROR, "bug", 0, detail),)
            if loaded is None or refused:
                told = self._refuse(cause, refused)
            else:
                told = self._take(cause, loaded)
            now = self.in_force
            findings = tuple(finding.message for finding in told.findings[:20])
            if not follows:
                news = StrategyNews(told.applied, now.version, now.sha256, now.loaded_ms, findings)
                self._tell(news)
                if told.applied:
                    self.taken(cause, self.loaded)
                else:
                    self.refused(self.in_force)
            return told

    def hear_refused(self, count: int, why: str, at_ms: int) -> None:
        """Show what another worker refused: a status is that of all."""
        self.in_force = replace(
            self.in_force,
            refused_count=max(count, self.in_force.refused_count),
            refused_why=why,
            refused_ms=at_ms if why else None,
        )

    def _take(self, cause: str, loaded: Loaded) -> Reloaded:
        refused_count = self.in_force.refused_count
        self.loaded = loaded
        self._seen = self._found = _digest(loaded)
        self.in_force = replace(self._described(loaded), refused_count=refused_count)
        self._log.info(names.STRATEGY_RELOADED, cause=cause, sha256=loaded.sha256)
        say_strategy(self._log, loaded)
        advice = self._advice(loaded)
        if OPEN_DOOR in advice:
            self._log.warning(names.STRATEGY_NOTICE, code=OPEN_DOOR.code, detail=OPEN_DOOR.message)
        return Reloaded(applied=True, findings=advice)

    def _refuse(self, cause: str, findings: tuple[Finding, ...]) -> Reloaded:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        why = f"{_said(findings[0])}{more}"
        self.in_force = replace(
            self.in_force,
            refused_count=self.in_force.refused_count + 1,
            refused_why=why,
            refused_ms=self._clock.now_ms(),
        )
        self._log.error(
            names.STRATEGY_REFUSED,
            cause=cause,
            refused=self.in_force.refused_count,
            detail=[_said(each) for each in findings[:20]],
        )
        return Reloaded(applied=False, findings=findings)

    def _load(self, _: str | None = None) -> Loaded:
        return load_strategy(self._place.file, environ=self._place.environ)

    def _of_text(self, yaml: str | None) -> Loaded:
        """Load what a caller wrote.

        It may name variables that the file names, too, and no others: a message could show them.
        """
        place = self._place
        with Path(place.file).open("rb") as file:
            named = PLACEHOLDER.findall(file.read(SIZE_BYTES_MAX).decode(errors="replace"))
        shown = {name: place.environ[name] for name in named if name in place.environ}
        return loads(
            yaml or "",
            file=place.file,
            environ=place.environ,
            built_dialects=DIALECTS,
            pattern_error=pattern_error,
            placeholders=shown,
        )

    def _refusals(self, new: Loaded) -> Iterator[Finding]:
        """Say what a running server cannot follow."""
        if not self._place.state_is_given and new.state_url != self.loaded.state_url:
            problem = "the ledger cannot move while the server runs"
            mend = "Restart the server, or leave `state:` as it was."
            yield Finding(Severity.ERROR, "state_changed", 0, problem, "state", mend)
        for layer, spend in lost(self.loaded.catalog, new.catalog, self._spends()):
            yield Finding(
                Severity.ERROR,
                "spend_lost",
                0,
                f"the layer {layer} is gone, and with it what its cap knows to be spent"
                f" ({spend.counter.label}: ${(spend.spent + spend.held) / 1e9:.4f})",
                "layers",
                f"Write `was: {layer}` in the layer that takes its place, keep the layer, or"
                " restart the server.",
            )

    def _advice(self, loaded: Loaded) -> tuple[Finding, ...]:
        found = tuple(map(_of_notice, loaded.notices))
        if loaded.catalog.agents and not self._place.auth_required:
            found = (OPEN_DOOR, *found)
        return found

    def _described(self, loaded: Loaded) -> InForce:
        keys = tuple(str(key) for key in loaded.not_yet_in_effect)
        return InForce(loaded.version, loaded.sha256, self._clock.now_ms(), keys)


def unlocked(new: Loaded, standing: Standing, old: Loaded | None = None) -> Iterator[SetBench]:
    """Try accounts again whose key was refused, and is another now, or may be after a restart."""
    for where, endpoint in new.endpoints.items():
        key = "/".join(where)
        bench = standing.benches.get(key)
        if bench is None or bench.cls is not FailureClass.AUTH or endpoint.missing:
            continue
        if old is None or _secret(old.endpoints.get(where)) != _secret(endpoint):
            yield SetBench(key, Bench(0, bench.cls, "has another key"))


def _secret(endpoint: Endpoint | None) -> str | None:
    return endpoint.secret.reveal() if endpoint is not None and endpoint.secret else None


def _digest(loaded: Loaded) -> str:
    """Tell the state of a strategy's files: of what they hold, whatever their times say."""
    found = hashlib.sha256()
    for path in (Path(loaded.file), *loaded.key_files):
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(descriptor, "rb") as file:
                found.update(hashlib.sha256(file.read(SIZE_BYTES_MAX + 1)).digest())
        except OSError as error:
            found.update(type(error).__name__.encode())
    return found.hexdigest()


def _of_error(error: StrategyError) -> Finding:
    found = f" (found {error.found})" if error.found else ""
    allowed = f"allowed: {error.allowed}" if error.allowed else ""
    mend = "; ".join(part for part in (allowed, error.mend) if part)
    message = f"{error.problem}{found}"
    return Finding(Severity.ERROR, "invalid", error.line, message, error.key, mend)


def _said(finding: Finding) -> str:
    line = f"line {finding.line}: " if finding.line else ""
    return f"{line}{f'{finding.key}: ' if finding.key else ''}{finding.message}"


def _of_notice(notice: Notice) -> Finding:
    severity = SEVERITIES[notice.level]
    return Finding(severity, notice.code.lower(), notice.line, notice.sentence, mend=notice.mend)
