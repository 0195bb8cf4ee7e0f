"""Every name that a log line carries, once, and what each means (``EVENTS``).

A name is stable: dashboards, alerts and scripts of users stand on it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

SERVER_STARTED: Final = "server.started"
SERVER_DRAINING: Final = "server.draining"
SERVER_STOPPED: Final = "server.stopped"
SERVER_NOT_READY: Final = "server.not_ready"
SERVER_READY: Final = "server.ready"
WORKER_STARTED: Final = "worker.started"
WORKER_DIED: Final = "worker.died"
WORKER_NOT_STARTED: Final = "worker.not_started"
WORKER_KILLED: Final = "worker.killed"
STRATEGY_LOADED: Final = "strategy.loaded"
STRATEGY_RELOADED: Final = "strategy.reloaded"
STRATEGY_REFUSED: Final = "strategy.refused"
STRATEGY_NOTICE: Final = "strategy.notice"
STRATEGY_NOT_IN_EFFECT: Final = "strategy.not_in_effect"
REPORT_MADE: Final = "report.made"
LEDGER_NEW: Final = "ledger.new"
LEDGER_FAILING: Final = "ledger.failing"
LEDGER_MENDED: Final = "ledger.mended"
LEDGER_RECOVERED: Final = "ledger.recovered"
LEDGER_OUTDATED: Final = "ledger.outdated"
OPERATOR_ACTED: Final = "operator.acted"
TLS_RENEWED: Final = "tls.renewed"
TLS_NOT_RENEWED: Final = "tls.not_renewed"
CLOCK_DOUBTED: Final = "clock.doubted"
CLOCK_TRUSTED: Final = "clock.trusted"
LOOP_STALLED: Final = "loop.stalled"
LOOP_DEAD: Final = "loop.dead"
NOBODY_KNOWN: Final = "auth.no_token"
MODEL_UNAVAILABLE: Final = "model.unavailable"
MODEL_SET_ASIDE: Final = "model.set_aside"
MODEL_BACK: Final = "model.back"
CIRCUIT_OPENED: Final = "circuit.opened"
CIRCUIT_HALF_OPEN: Final = "circuit.half_open"
CIRCUIT_CLOSED: Final = "circuit.closed"
LAYER_EXHAUSTED: Final = "layer.exhausted"
LAYER_RECOVERED: Final = "layer.recovered"
TASK_ASSESSED: Final = "task.assessed"
TASK_SELECTED: Final = "task.selected"
TASK_FALLBACK: Final = "task.fallback"
TASK_ESCALATED: Final = "task.escalated"
TASK_WAITING: Final = "task.waiting"
TASK_RETRACTED: Final = "task.retracted"
TASK_ALERT: Final = "task.alert"
TASK_ODD_ANSWER: Final = "task.odd_answer"
TASK_REJECTED_ANSWER: Final = "task.rejected_answer"
TASK_FINISHED: Final = "task.finished"
TASK_REPLAYED: Final = "task.replayed"
TASK_FAILED: Final = "task.failed"
NOTICE: Final = "notice"
NOTICE_NOT_SENT: Final = "notice.not_sent"
LINES_LOST: Final = "log.lines_lost"
OBSERVER_FAILED: Final = "log.observer_failed"
METRICS_SERVED: Final = "metrics.served"
TRACES_EXPORTED: Final = "traces.exported"
TRACES_SETTING: Final = "traces.setting"
TRACES_FAILING: Final = "traces.failing"
TRACES_MENDED: Final = "traces.mended"
TRACES_DROPPED: Final = "traces.dropped"
TRACES_CONTENT: Final = "traces.content"
MISTAKE: Final = "server.mistake"


class Event(NamedTuple):
    """What an event means, and what its reader does; an empty ``todo``: nothing."""

    level: str
    means: str
    todo: str = ""


_D, _I, _W, _E = "debug", "info", "warning", "error"
EVENTS: Mapping[str, Event] = MappingProxyType(
    {
        SERVER_STARTED: Event(_I, "The server listens on `target`."),
        SERVER_DRAINING: Event(_I, "It shuts down: `calls` still run, for `grace_s` at most."),
        SERVER_STOPPED: Event(_I, "Every settlement is made; the process ends."),
        SERVER_NOT_READY: Event(
            _W,
            "Readiness is taken away, for `reason`: `ledger` or `background`.",
            "Read the lines before it: they say what is broken.",
        ),
        SERVER_READY: Event(_I, "Readiness is given back."),
        WORKER_STARTED: Event(_I, "A worker process serves; its lines carry its number."),
        WORKER_DIED: Event(
            _E,
            "A worker process ended by itself; another one takes its place.",
            "A negative `exit` is the signal that killed it: -9 is often a lack of memory.",
        ),
        WORKER_NOT_STARTED: Event(
            _E,
            "The place of a dead worker stays empty for now; it is tried again.",
            "Do what `detail` says; the other workers serve on.",
        ),
        WORKER_KILLED: Event(
            _E,
            "`workers` did not end in their time after SIGTERM, and were killed.",
            "What they held is booked in full at the next start; give a longer `--grace`.",
        ),
        STRATEGY_LOADED: Event(_I, "The strategy `file` is in force."),
        STRATEGY_RELOADED: Event(_I, "Another strategy took its place, because of `cause`."),
        STRATEGY_REFUSED: Event(
            _E, "A new strategy has errors; the old one stays in force.",
            "Run `escalade check` on the file; it names line and mend.",
        ),
        STRATEGY_NOTICE: Event(_I, "Advice on the strategy, at `line`; `code` names it."),
        STRATEGY_NOT_IN_EFFECT: Event(
            _W, "The key `key` is read and does nothing yet.", "Do without it, or take it out."
        ),
        REPORT_MADE: Event(_I, "The report of a day is made."),
        LEDGER_NEW: Event(
            _W, "There was no ledger at `state`: every quota and cap counts from zero.",
            "If there should be one, stop and give its path with --state.",
        ),
        LEDGER_FAILING: Event(
            _E, "The ledger cannot be written: nothing is admitted, settlements wait.",
            "Mend what `detail` names: disk, rights or Redis. The server goes on by itself.",
        ),
        LEDGER_MENDED: Event(_I, "The ledger can be written again; what waited is booked."),
        LEDGER_RECOVERED: Event(_W, "A damaged ledger was saved; `detail` says what was lost."),
        LEDGER_OUTDATED: Event(
            _W, "The Redis or Valkey of the ledger is a version with known holes.",
            "Renew it to what `detail` names; a distribution may have mended it already.",
        ),
        OPERATOR_ACTED: Event(
            _W, "An operator set `models` aside, or took them in again; `who` says who."
        ),
        TLS_RENEWED: Event(_I, "A new certificate is served."),
        TLS_NOT_RENEWED: Event(
            _E, "The certificate on disk cannot be served; the old one stays.",
            "Mend the files that `detail` names before the old one expires.",
        ),
        CLOCK_DOUBTED: Event(
            _E, "This machine's clock is `ahead_ms` off what providers say.", "Run NTP."
        ),
        CLOCK_TRUSTED: Event(_I, "The clock agrees with the providers again."),
        LOOP_STALLED: Event(
            _W, "The event loop was blocked for `stalled_ms`; `where` says by what.",
            "Often a machine without CPU to spare; else report `where` as a bug.",
        ),
        LOOP_DEAD: Event(
            _E, "The event loop has not moved for 30 s: `/livez` fails.", "Restart; report `where`."
        ),
        NOBODY_KNOWN: Event(
            _W, "Callers must be known, and there is no token for any.",
            "Run `escalade token create`.",
        ),
        MODEL_UNAVAILABLE: Event(
            _W, "A model of the strategy cannot be used; `detail` says why.",
            "Mostly a key that is missing: set it.",
        ),
        MODEL_SET_ASIDE: Event(
            _W, "A model, account or provider is set aside until `until_ms`; null: a person acts.",
            "Nothing for a rate limit; for auth or balance, mend the account.",
        ),
        MODEL_BACK: Event(_I, "A cooldown is over."),
        CIRCUIT_OPENED: Event(
            _W, "Calls of a provider or model fail: none is made until `until_ms`.",
            "Look at the provider's status page; tasks go to other models.",
        ),
        CIRCUIT_HALF_OPEN: Event(_I, "One call probes whether it works again."),
        CIRCUIT_CLOSED: Event(_I, "The probe went well: calls are made again."),
        LAYER_EXHAUSTED: Event(
            _W, "No model of the layer can take an ordinary task; `detail` says why.",
            "Nothing for a quota that comes back; else raise the cap or add a model.",
        ),
        LAYER_RECOVERED: Event(_I, "The layer can be used again."),
        TASK_ASSESSED: Event(_D, "The task has its score and its first layer."),
        TASK_SELECTED: Event(_D, "A model is reserved for it."),
        TASK_FALLBACK: Event(_I, "After the failure `failure` the layer's next model is tried."),
        TASK_ESCALATED: Event(
            _I, "The task goes to another layer, for `reason`; one line for each change.",
        ),
        TASK_WAITING: Event(_I, "The task waits for capacity, until `earliest_ms` at least."),
        TASK_RETRACTED: Event(_W, "An answer broke after its first words; they are void."),
        TASK_ALERT: Event(_W, "A person should know of this; `kind` says what it is about."),
        TASK_ODD_ANSWER: Event(_I, "An answer came with broken or unknown parts."),
        TASK_REJECTED_ANSWER: Event(_I, "An answer failed the gate `gate`; it is charged."),
        TASK_FINISHED: Event(_I, "The task is answered; its figures are durable."),
        TASK_REPLAYED: Event(_I, "A kept answer was told again; nothing was charged."),
        TASK_FAILED: Event(
            _W, "The task has no answer, for `reason`.", "See docs/errors for each reason."
        ),
        NOTICE: Event(_W, "What people are told, such as an alert or a daily report."),
        NOTICE_NOT_SENT: Event(
            _E, "A webhook did not take a notice.", "Look at its address and its own log."
        ),
        LINES_LOST: Event(
            _W, "`lines` of the log were dropped: nobody took them in time.",
            "Give the reader of the log more room, or log less.",
        ),
        OBSERVER_FAILED: Event(
            _E, "A fact could not be told to log, metrics or traces.", "Report it as a bug."
        ),
        TRACES_EXPORTED: Event(_I, "Spans go to `endpoint`."),
        TRACES_CONTENT: Event(
            _W, "Spans hold what these `agents` ask, and answers: someone switched that on.",
            "Unset ESCALADE_TRACES_CONTENT_AGENTS unless that is meant.",
        ),
        TRACES_SETTING: Event(
            _W, "A variable of OpenTelemetry is not honoured; `detail` says which, and what holds.",
            "Take it out, or give it a value that is.",
        ),
        TRACES_FAILING: Event(
            _W, "Spans cannot be sent, for `detail`; told once until they can. No task is held up.",
            "Look at the collector; what is queued is sent when it is back.",
        ),
        TRACES_MENDED: Event(_I, "Spans can be sent again."),
        TRACES_DROPPED: Event(
            _W, "Since the last such line, `spans` did not fit into the queue, or were refused.",
            "Raise OTEL_BSP_MAX_QUEUE_SIZE, or mend the collector.",
        ),
        METRICS_SERVED: Event(_I, "Metrics are served on `address`."),
        MISTAKE: Event(
            _E, "A mistake of ours; its caller was told `mistake_id`.",
            "Report it as a bug, with `where`.",
        ),
    }
)  # fmt: skip
"""What each means; ``docs/log-events.md`` is made of it."""
