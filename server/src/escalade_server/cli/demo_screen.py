"""What `escalade demo` shows while the job runs: a line a task, and a live panel below.

On a terminal the lines scroll up above the panel; elsewhere they are plain lines and nothing else.
"""

from __future__ import annotations

import textwrap
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

import escalade
from escalade.v1.operations_service_pb2 import CircuitState, GetStatusResponse
from escalade_server.cli import output, panel
from escalade_server.cli.demo_books import Books, Done
from escalade_server.cli.demo_day import Step

INDENT = " " * 6
TITLE, MODEL, LAYER = 29, 16, 19
WRITING_LINES = 3
CHANGE = "change "
"""Begins the keys of changes of layer, which the story of the task explains best."""
LEAST_ROWS = 20
"""On a lower terminal there is no room for the panel's bars."""
LESSONS = {
    "skip": "That its quota has ended is known before the call: no error, no lost second. A sibling"
    " of the same layer answers, still for nothing.",
    "fallback": "A fallback: the call failed, a sibling of the same layer takes over. The agent"
    " asked once and sees one answer.",
    "escalated": "An escalation: no model of the layer can take it, so the next layer does. The"
    " agent is told who, where to and why before the first word.",
    "COMPLEXITY": "A jump: a task as hard as this goes straight to the reserve, and only such do.",
    "DOWNGRADE": "A downgrade: no cap is overspent, and no task is lost. The best layer below"
    " answers, and says so.",
    "retracted": "Half an answer is void: it is taken back, and another model starts over. Texts of"
    " two models are never mixed.",
    "quota": "Our count was not at its end: the provider is stricter than the file says. Its word"
    " wins, and it is set aside until its own reset.",
    "breaker": "Failures in a row open the circuit: the provider is left alone for a while, and no"
    " task loses time on it.",
    "recovered": "The circuit let one call through to probe it, and closed: the day goes on for"
    " nothing.",
}


class Screen:
    """Shows one job."""

    def __init__(self, out: Console, books: Books, total: int) -> None:
        """Show nothing yet; ``total`` is the number of tasks."""
        self._out, self._books, self._total = out, books, total
        self._status: GetStatusResponse | None = None
        self._step = ""
        self._writing = ""
        self._seen = set[str]()
        self._failed = set[str]()
        self._opened = set[str]()
        self._usual = dict[str, str]()
        """By task type: the model that answered the last one."""
        self._live = Live(console=out, auto_refresh=False, get_renderable=self._panel)

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writing = ""
        if self._out.is_terminal:
            self._live.stop()

    # --- what happens --------------------------------------------------------------------------

    def look(self, status: GetStatusResponse) -> None:
        """Take the state of the service as of now."""
        self._status = status
        for layer in status.layers:
            for model in layer.models:
                is_open = model.circuit == CircuitState.CIRCUIT_STATE_OPEN
                if is_open and model.target.provider not in self._opened:
                    self._opened.add(model.target.provider)
                    self._explain("breaker", f"circuit open: {model.detail}", "red")
        if self._out.is_terminal:
            self._live.refresh()

    def step(self, number: int, of: int, step: Step) -> None:
        """Begin a step of the job."""
        self._step = f"step {number} of {of}"
        count = len(step.chores)
        side = f", {step.at_once} at a time" if step.at_once > 1 else ""
        tasks = f"{count} task{'s' if count > 1 else ''}{side}"
        self._print(Text(f"Step {number}/{of}: {step.title} ({tasks})", "bold"))

    def turn(self, text: str) -> None:
        """Say what the script does to a provider."""
        self._print(Text(f"    ~ {text} (scripted)", "bold blue"))

    def told(self, done: Done) -> bool:
        """Show a task that ended."""
        self._writing = ""
        if done.answer is None:
            self._print(Text(f"x{done.number:>3} {done.chore.title}: LOST, {done.error}", "red"))
            return True
        is_news = False
        answer = done.answer
        notes = [
            note
            for event in done.events
            if not isinstance(event, escalade.Selected) or event.model.model == answer.model
            for note in self._notes(event, done.chore.type)
        ]
        self._usual[done.chore.type] = answer.model
        is_changed = bool(answer.escalations)
        self._print(self._line(done, answer, is_changed=is_changed))
        for attempt in answer.attempts:
            if attempt.failure_class == "QUOTA_WINDOW":
                text = f"{attempt.model.model} says itself that its quota is used up"
                notes.append((f"quota {attempt.model}", "quota", text, "cyan"))
        if answer.provider in self._failed and answer.layer == self._first_layer:
            self._failed.discard(answer.provider)
            notes.append(("recovered", "recovered", f"{answer.model} answers again", "green"))
        for key, lesson, text, style in notes:
            if key in self._seen:
                continue
            self._seen.add(key)
            is_news = True
            self._explain(lesson, text, style, answer.story if key.startswith(CHANGE) else "")
        return is_news

    def writing(self, text: str) -> None:
        """Show the end of a text that is being written."""
        self._writing = text
        if self._out.is_terminal:
            self._live.refresh()

    def broke(self, event: escalade.Retracted, text: str) -> None:
        """Strike out a text that is void."""
        self._writing = ""
        last = " ".join(text.split()[-9:])
        self._print(Text.assemble((INDENT, ""), (f"... {last}", "strike red"), " <- cut here"))
        self._explain("retracted", f"retracted: attempt {event.attempt} ({event.detail})", "red")

    # --- lines ---------------------------------------------------------------------------------

    @property
    def _first_layer(self) -> str:
        return self._status.layers[0].name if self._status and self._status.layers else ""

    def _notes(self, event: escalade.Announcement, kind: str) -> list[tuple[str, str, str, str]]:
        """What is worth explaining once: its key, its lesson, its words, its style."""
        match event:
            case escalade.Selected(model=model, skips=skips):
                usual = self._usual.get(kind)
                out = next((s for s in skips if s.model.model == usual), None)
                if out is None or out.verdict != "RATE" or out.model.layer != model.layer:
                    return []
                name, to = (panel.short(m.model) for m in (out.model, model))
                why = f"has used {out.detail}" if out.reason == "window_full" else out.detail
                text = f"{name}: {why}, so {to} takes it"
                return [(f"skip {name}", "skip", text, "cyan")]
            case escalade.Fallback(from_model=model, to_model=to, detail=detail):
                self._failed.add(model.provider)
                names = f"{panel.short(model.model)} → {panel.short(to.model)}"
                key = f"fallback {names} {event.failure_class}"
                return [(key, "fallback", f"fallback {names}: {detail}", "cyan")]
            case escalade.Escalated(reason=reason, kind=change):
                key = f"{CHANGE}{event.from_layer} {event.to_layer} {reason} {change}"
                lesson = reason if reason in LESSONS else "escalated"
                text = f"escalated {event.from_layer} → {event.to_layer}: {reason}"
                if change == "DOWNGRADE":
                    text = f"downgraded to {event.to_layer}"
                return [(key, lesson, text, panel.colour(self._status, event.to_layer))]
            case _:
                return []

    def _line(self, done: Done, answer: escalade.Answer, *, is_changed: bool) -> Text:
        paid = "free" if not answer.list_nanos else output.usd(answer.list_nanos)
        if answer.layer == self._first_layer:
            paid = "free"
        style = panel.colour(self._status, answer.layer)
        mark = "+"
        if is_changed:
            mark = "v" if answer.escalations[-1].kind == "DOWNGRADE" else "^"
        elif any(isinstance(event, escalade.Fallback) for event in done.events):
            mark = ">"
        line = Text(f"{mark}{done.number:>3} ", f"bold {style}" if mark != "+" else style)
        line.append(f"{_cut(done.chore.title, TITLE):<{TITLE}} ")
        line.append(f"{_cut(panel.short(answer.model), MODEL):<{MODEL}} ", "bold")
        line.append(f"{_cut(answer.layer, LAYER):<{LAYER}} ", style)
        line.append(f"{paid:>7}", "dim" if paid == "free" else style)
        return line

    def _explain(self, lesson: str, text: str, style: str, story: str = "") -> None:
        """Say what happened, in the service's own words; and, the first time, what that means."""
        self._print_wrapped(text, f"bold {style}")
        if story:
            self._print_wrapped(story, "italic")
        if lesson not in self._seen:
            self._seen.add(lesson)
            self._print_wrapped(LESSONS[lesson], "dim")

    def _print_wrapped(self, text: str, style: str) -> None:
        width = self._out.width - len(INDENT) - 1
        for line in textwrap.wrap(text, width) if self._out.is_terminal else [text]:
            self._print(Text(f"{INDENT}{line}", style))

    def _print(self, line: Text) -> None:
        self._out.print(line, soft_wrap=not self._out.is_terminal)

    # --- the panel -----------------------------------------------------------------------------

    def _panel(self) -> RenderableType:
        books, status = self._books, self._status
        head = Text.assemble(
            (f" {self._step}: ", "bold"),
            f"{books.tasks}/{self._total} tasks, ",
            (f"{len(books.lost)} lost", "bold red" if books.lost else "bold green"),
            f", {_counted(sum(books.escalations.values()), 'escalation')},"
            f" {_counted(books.fallbacks, 'fallback')},"
            f" {output.usd(books.charged_nanos)} charged",
        )
        parts: list[RenderableType] = [Rule(style="dim"), head]
        if self._writing:
            wrapped = textwrap.wrap(self._writing, self._out.width - 4)[-WRITING_LINES:]
            parts = [*(Text(f"   {line}", "italic") for line in wrapped), *parts]
        if status is not None and self._out.height >= LEAST_ROWS:
            parts.append(panel.bars(status, self._out))
        return Group(*parts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
