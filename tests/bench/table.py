"""The figures of a run as text for a terminal."""

from collections.abc import Mapping

Figures = Mapping[str, float]
CHUNKS = 64
TARGETS = {
    "decision_24_models": 25,
    "uneventful_task": 40,
    "traces, straight task, not exported": 5,
    "all watchers, straight task": 5,
}
SHARES = (
    ("empty", "", "gRPC: grpcio's own cost of a call"),
    ("grpc", "empty", "gRPC: the request id sent ahead"),
    ("api", "grpc", "API: convert, order, write"),
    ("engine", "api", "engine, core, ledger arithmetic"),
    ("http", "engine", "HTTP and codec"),
    ("store", "http", "store: SQLite, durable"),
    ("feed", "store", "event feed: one straight task, marks compared"),
    ("escalade", "feed", "the rest: log, start-up options"),
)
"""Each layer is what a subject costs more than the one before it."""

SLOW_BUILD = "this Python was built without --enable-optimizations: a release build is faster"


def render(
    cpu_us: Mapping[str, Figures],
    messages: Figures,
    first_ms: Figures,
    memory_mb: Figures,
    parts_us: Figures,
    unit_us: float,
    *,
    optimised: bool,
) -> str:
    """Write all tables."""
    return "\n".join(
        [
            "CPU µs of the server process, user and system; the load and the mock are not counted",
            "",
            *_calls(cpu_us, messages),
            *_shares("a WHOLE call, 16 callers", cpu_us["whole, 16 callers"], 1),
            *_shares("a WHOLE call, 1 caller", cpu_us["whole, 1 caller"], 1),
            *_shares("a chunk, paced", cpu_us["64-chunk stream, paced"], CHUNKS),
            "",
            *_latency(first_ms, memory_mb),
            "",
            *_parts(parts_us, unit_us),
            *([] if optimised else [SLOW_BUILD]),
        ]
    )


def _calls(cpu_us: Mapping[str, Figures], messages: Figures) -> list[str]:
    head = f"{'':<32}{'escalade':>10}{'direct':>10}{'empty gRPC':>12}{'× direct':>10}{'× empty':>9}"
    lines = [head]
    for name, found in cpu_us.items():
        if "escalade" not in found:
            continue
        lines.append(_row(name, found, 1))
        if name.startswith(f"{CHUNKS}-chunk"):
            lines.append(_row("  of it per chunk", found, CHUNKS))
    mock = cpu_us["mock, per whole call"]["mock"]
    joined = ", ".join(f"{kind} {count:.0f}" for kind, count in messages.items())
    lines.append(f"gRPC messages per {CHUNKS}-chunk stream: {joined}; the mock costs {mock:.0f} µs")
    return lines


def _row(name: str, found: Figures, per: int) -> str:
    ours, straight, empty = (found.get(k) for k in ("escalade", "direct", "empty"))
    assert ours is not None
    cells = [f"{ours / per:>10.1f}"]
    cells += [f"{v / per:>{w}.1f}" if v else " " * w for v, w in ((straight, 10), (empty, 12))]
    cells += [f"{ours / v:>{w}.2f}" if v else " " * w for v, w in ((straight, 10), (empty, 9))]
    return f"{name:<32}{''.join(cells)}".rstrip()


def _shares(name: str, found: Figures, per: int) -> list[str]:
    if any(name not in found for name, _, _ in SHARES):
        return []
    whole = found["escalade"]
    lines = ["", f"share of {name} ({whole / per:.1f} µs), by leaving layers out; below 0 is noise"]
    for upper, lower, label in SHARES:
        cost = found[upper] - (found[lower] if lower else 0)
        lines.append(f"  {label:<36}{cost / per:>10.1f}{cost / whole:>8.0%}")
    return lines


def _latency(first_ms: Figures, memory_mb: Figures) -> list[str]:
    lines = []
    for rank in ("p50", "p90"):
        straight, ours = first_ms[f"direct {rank}"], first_ms[f"escalade {rank}"]
        lines.append(
            f"time to first token, {rank}: {ours:.1f} ms, direct {straight:.1f} ms:"
            f" {ours - straight:+.1f} ms"
        )
    figures = ", ".join(f"{name} {value:.0f}" for name, value in memory_mb.items())
    lines.append(f"resident memory, MB: {figures}")
    return lines


def _parts(parts_us: Figures, unit_us: float) -> list[str]:
    unit = f"1 unit = {unit_us:.2f} µs here: 10 tuples and 40 look-ups"
    lines = [f"parts by themselves, CPU µs and units ({unit})"]
    for name, cost in parts_us.items():
        target = f"  target {TARGETS[name]} µs" if name in TARGETS else ""
        words = name.replace("_", " ")
        lines.append(f"  {words:<40}{cost:>10.2f}{cost / unit_us:>8.1f}{target}")
    return lines
