"""Write docs/log-events.md and docs/metrics.md from what the code itself says of them."""

from pathlib import Path

from escalade_server.telemetry.catalogue import METRICS, SAMPLED
from escalade_server.telemetry.instruments import Merge, Metric
from escalade_server.telemetry.names import EVENTS

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "Made by `make docs` from `server/src/escalade_server/telemetry/{}`; do not edit.\n"


def events() -> str:
    """Draw the table of log events."""
    rows = [
        f"| `{name}` | {event.level} | {event.means} | {event.todo} |"
        for name, event in sorted(EVENTS.items())
    ]
    intro = (
        "Every line has `time`, `level` and `event`; lines of a task also `request_id`, `agent`,"
        " `task_id` and `trace_id`. Names are stable. No line holds a prompt, an answer or a key."
        " A task that went straight to its answer is told at level debug only, but on a terminal."
        " A terminal is shown the same for people: money and instants are written out, and what is"
        " empty, `task_id` and `trace_id` are left out; `--log json` has them there too."
    )
    head = ["| event | level | means | to do |", "|---|---|---|---|"]
    made = MADE.format("names.py")
    return "\n".join(["# Log events", "", made, intro, "", *head, *rows]) + "\n"


def metrics() -> str:
    """Draw the table of metrics."""
    rows = [f"| `{_shown(m)}` | {m.kind.value} | {_labels(m)} | {m.means} |" for m in METRICS]
    most = ", ".join(f"`{m.name}`" for m in METRICS if m.merge is Merge.MAX)
    intro = (
        "`escalade serve --metrics 127.0.0.1:9464` serves them on `/metrics`, in the formats of"
        " Prometheus and OpenMetrics (which has trace ids as exemplars), with `/livez` and"
        " `/readyz`. With `--workers` each series has the label `worker`."
    )
    several = (
        "Over several processes, add up; but of these take the largest, since all processes look at"
        f" the same thing: {most}."
    )
    late = (
        f"The last {len(SAMPLED)} are looked at when they are asked for. `process_*` and `python_*`"
        " are the Prometheus client's own."
    )
    head = ["| metric | kind | labels | means |", "|---|---|---|---|"]
    told = [MADE.format("catalogue.py"), intro, "", several, "", late, ""]
    return "\n".join(["# Metrics", "", *told, *head, *rows]) + "\n"


def _shown(metric: Metric) -> str:
    return metric.sample if metric.kind.value == "counter" else metric.name


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels)


def pages() -> dict[Path, str]:
    """Draw every page, by its place."""
    return {DOCS / "log-events.md": events(), DOCS / "metrics.md": metrics()}


if __name__ == "__main__":
    for place, text in pages().items():
        place.write_text(text)
