"""What `escalade doctor` looks at: nothing is changed, no key is sent anywhere, no model called."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path

from escalade_server.api.probe import ProbeError, hold_stream
from escalade_server.bootstrap.options import DEFAULT_STATE, StartError
from escalade_server.bootstrap.state import redis_place, state_path
from escalade_server.bootstrap.strategy import load_strategy
from escalade_server.core.catalog import (
    Billing,
    Counter,
    CounterScope,
    Model,
    Period,
    Unit,
)
from escalade_server.core.commands import Candidate, Reserve
from escalade_server.core.events import Reserved
from escalade_server.core.money import Price
from escalade_server.core.settlement import release
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.ports import StoreError
from escalade_server.providers.http import HttpClient, HttpLimits, date_of
from escalade_server.stores.audit import LedgerDesk
from escalade_server.stores.file import library
from escalade_server.stores.redis_link import Link, Place, Unreachable
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import Loaded

CLOCK_WARN_S = 2.0
CLOCK_FAIL_S = 300.0
"""From here on a server would not believe its clock, either (T5)."""
SLOW_S = 0.25


class Mark(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    """Failed, because nobody answers there."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Found:
    """What one check found, and the mend if there is anything to mend."""

    check: str
    mark: Mark
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is to be looked at; what is None is not."""

    strategy: str | None
    state: str | None
    address: str | None
    port: int
    stream_s: float
    token: str | None
    authority: str | None
    """A PEM file of who signed the server's certificate; with it TLS is spoken."""


async def examine(patient: Patient) -> AsyncIterator[Found]:
    """Look at one thing after the other, and tell each as it is known."""
    yield _library()
    loaded: Loaded | None = None
    if patient.strategy is None:
        yield Found("strategy", Mark.SKIPPED, "no --strategy")
    else:
        try:
            loaded = load_strategy(patient.strategy)
        except StrategyErrors as errors:
            mend = f"escalade check {patient.strategy}"
            count = len(errors.errors)
            detail = f"{patient.strategy} does not load: {count} errors"
            yield Found("strategy", Mark.FAILED, detail, mend)
        else:
            models = len(loaded.catalog.models)
            yield Found("strategy", Mark.OK, f"{patient.strategy} loads, {models} models")
    if loaded is not None:
        for found in _keys(loaded):
            yield found
        async for found in _clocks(loaded):
            yield found
    yield await _store(patient, loaded)
    yield _port(patient.port)
    if patient.address is None:
        yield Found("stream", Mark.SKIPPED, "no --address")
    else:
        yield await _stream(patient, patient.address)


def _library() -> Found:
    try:
        version = library()
    except StoreError as error:
        return Found("sqlite", Mark.FAILED, f"{error}")
    return Found("sqlite", Mark.OK, f"SQLite {version}")


def _keys(loaded: Loaded) -> Iterator[Found]:
    """Say which accounts have a key; a strategy of which no model can be called is no warning."""
    usable = any(model.absence is None for model in loaded.catalog.models)
    for (provider, account), endpoint in loaded.endpoints.items():
        name = provider if account == "default" else f"{provider} ({account})"
        if endpoint.missing:
            mark = Mark.WARNING if usable else Mark.FAILED
            yield Found("key", mark, f"{name} has no key", endpoint.missing)
        else:
            has = "has its key" if endpoint.secret else "needs no key"
            yield Found("key", Mark.OK, f"{name} {has}")


async def _clocks(loaded: Loaded) -> AsyncIterator[Found]:
    """Compare this machine's clock with the ``Date`` of whoever answers of the providers."""
    urls = {e.provider: e.base_url for e in loaded.endpoints.values()}
    async with HttpClient(HttpLimits()) as http:
        dates = await asyncio.gather(*(date_of(http, url) for url in urls.values()))
    now_s = _wall_s()
    for provider, date in zip(urls, dates, strict=True):
        try:
            ahead_s = now_s - parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            yield Found("clock", Mark.SKIPPED, f"{provider} does not say what time it is")
            continue
        off_s = max(abs(ahead_s) - 1.0, 0.0)  # a date has no fractions
        mark = Mark.OK
        if off_s > CLOCK_WARN_S:
            mark = Mark.FAILED if off_s > CLOCK_FAIL_S else Mark.WARNING
        way = "ahead of" if ahead_s > 0 else "behind"
        detail = f"{off_s:.0f} s {way} {provider}" if off_s else f"agrees with {provider}"
        mend = "Set this machine's clock: windows and caps go by it." if mark != Mark.OK else ""
        yield Found("clock", mark, detail, mend)


def _wall_s() -> float:
    return SystemClock().now_ms() / 1_000


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _store(patient: Patient, loaded: Loaded | None) -> Found:
    """Read the ledger, if there is one, and time a call's two bookings on the same disk."""
    state = patient.state or (loaded.state_url if loaded else None) or DEFAULT_STATE
    try:
        place = redis_place(state)
        if place is not None:
            return await _redis(place)
        path = state_path(state)
        if path is None:
            return Found("store", Mark.SKIPPED, "state in memory")
        is_there, folder = _read(path)
        with tempfile.TemporaryDirectory(prefix=".escalade-doctor-", dir=folder) as scratch:
            took_s = await _round_trip(os.path.join(scratch, "ledger"))  # noqa: PTH118 - a str
    except (StartError, StoreError, OSError) as error:
        return Found("store", Mark.FAILED, f"{error}", "Look at the disk and at --state.")
    what = f"{path} can be read" if is_there else f"{path} is not there yet"
    detail = f"{what}; a call is booked in {took_s * 1_000:.1f} ms"
    if took_s > SLOW_S:
        return Found("store", Mark.WARNING, detail, "Put the ledger on a faster, local disk.")
    return Found("store", Mark.OK, detail)


async def _redis(place: Place) -> Found:
    """See that Redis may be used, and time one answer."""
    link = Link(place)
    try:
        await link.connect()
        took_s = await link.ping()
    except (Unreachable, StoreError) as error:
        mend = "Look at Redis, at the URL, and at the rights that the README names."
        return Found("store", Mark.FAILED, f"{error}", mend)
    finally:
        await link.close()
    detail = f"{place!r} may be used; it answers in {took_s * 1_000:.1f} ms"
    if took_s * 1_000 > place.deadline_ms:
        mend = f"Put it nearer: {place.deadline_ms} ms is its deadline."
        return Found("store", Mark.WARNING, detail, mend)
    if link.advice:
        return Found("store", Mark.WARNING, f"{detail}; {link.advice}", "Renew it.")
    return Found("store", Mark.OK, detail)


def _read(path: str) -> tuple[bool, Path]:
    """Read a ledger, if it is there; answer that, and where it is."""
    is_there = Path(path).exists()
    if is_there:
        desk = LedgerDesk(path, SystemClock(), Calendar())
        desk.standings()
        desk.close()
    return is_there, Path(path).resolve().parent


async def _round_trip(path: str) -> float:
    counter = Counter(
        "requests/day:doctor", Unit.REQUESTS, Period.DAY, 1, CounterScope.MODEL, "doctor"
    )
    model = Model(
        "doctor", "default", "doctor", "doctor", "openai", "doctor", 0, 0, frozenset(),
        (counter,), Price(0, 0), Billing.FREE,
    )  # fmt: skip
    clock = SystemClock()
    store = SqliteStore(path, clock, Calendar())
    await store.open([counter])
    try:
        began = _now_s()
        order = Reserve("doctor.1", 1, (Candidate(model, 1, 0, 1),))
        answer = await store.reserve(order, clock.now_ms())
        await store.settle(release("doctor.1", 1), clock.now_ms())
        took_s = _now_s() - began
    finally:
        await store.close()
    if not isinstance(answer, Reserved):
        raise StoreError("a new ledger refused its first reservation")
    return took_s


# ------------------------------------------------------------------------------------- the network


def _port(port: int) -> Found:
    """Say who listens on a port: calls go to any of several, and only one keeps the books."""
    if not Path("/proc/net/tcp").exists():
        return Found("port", Mark.SKIPPED, "who listens cannot be seen on this system")
    sockets = {inode for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    if not sockets:
        return Found("port", Mark.OK, f"nobody listens on port {port}")
    owners = sorted(_owners(sockets))
    named = ", ".join(f"{name} ({pid})" for pid, name in owners) or "a process of another user"
    if len(owners) > 1 and len(sockets) == len(owners) and _are_workers(pid for pid, _ in owners):
        return Found("port", Mark.OK, f"{len(owners)} workers of one server listen on port {port}")
    if len(owners) > 1 or len(sockets) > len(owners) > 0:
        mend = "Stop all but one, or let one server have its --workers."
        return Found("port", Mark.WARNING, f"several listen on port {port}: {named}", mend)
    return Found("port", Mark.OK, f"{named} listens on port {port}")


def _are_workers(pids: Iterable[int]) -> bool:
    """Tell whether processes have one supervisor."""
    try:
        fields = [Path("/proc", str(pid), "stat").read_text().rpartition(")")[2] for pid in pids]
        parents = {field.split()[1] for field in fields}
        return len(parents) == 1 and b"--workers" in Path("/proc", *parents, "cmdline").read_bytes()
    except OSError:
        return False


def _listening(table: str, port: int) -> Iterator[str]:
    """Read the inodes of the sockets that listen on a port."""
    listen = "0A"
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == listen and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _owners(sockets: set[str]) -> Iterator[tuple[int, str]]:
    wanted = {f"socket:[{inode}]" for inode in sockets}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):  # gone meanwhile, or another user's
            if any(_target(each) in wanted for each in (process / "fd").iterdir()):
                yield int(process.name), (process / "comm").read_text().strip()


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""


async def _stream(patient: Patient, address: str) -> Found:
    """Hold a stream open: proxies cut long or silent ones, and agents would see it as failures."""
    try:
        lasted_s = await hold_stream(address, patient.stream_s, patient.token, patient.authority)
    except ProbeError as error:
        mark = Mark.FAILED if error.is_answer else Mark.UNREACHABLE
        return Found("stream", mark, f"{error}", error.mend)
    if lasted_s == patient.stream_s:
        return Found("stream", Mark.OK, f"{address} held a stream for {lasted_s:g} s")
    mend = "Raise the idle and stream timeouts of what is between, or speak to the server directly."
    return Found("stream", Mark.FAILED, f"{address} cut a stream after {lasted_s:.1f} s", mend)
