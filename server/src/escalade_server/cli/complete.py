"""`escalade complete`: one task through a running server; its events as they come."""

import sys
from typing import get_args

import click

import escalade
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused

KINDS = get_args(escalade.EvidenceKind)


@click.command("complete")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@click.option("--task-type", default="", help="Such as debug; estimated when absent.")
@click.option("--files", type=click.IntRange(min=0), help="Number of affected files.")
@click.option("--tokens", type=click.IntRange(min=0), help="Estimated context in tokens.")
@click.option("--complexity", type=click.FloatRange(0, 10), help="Replaces the score.")
@click.option("--capability", "capabilities", multiple=True, help="Needed; all of those given.")
@click.option("--session", "session_id", default="", help="The session whose step this is.")
@click.option(
    "--evidence",
    "signs",
    multiple=True,
    metavar="KIND[=ID]",
    help=f"A sign of struggle in the session: {', '.join(KINDS)}.",
)
@click.option("--free-only", is_flag=True, help="No layer that costs money.")
@click.option("--highest-layer", default="", help="The highest layer that may answer.")
@click.option("--max-output-tokens", type=click.IntRange(min=1), help="Limits the answer.")
@click.option("--timeout", type=output.Duration(), help="For the whole call, such as 90s.")
@click.option("--no-wait", is_flag=True, help="Fail at once where it would wait for capacity.")
@click.option("--stream/--whole", default=True, help="The answer as it comes, or in one piece.")
@output.json_option
@click.argument("prompt")
def command(
    *,
    target: str,
    task_type: str,
    files: int | None,
    tokens: int | None,
    complexity: float | None,
    capabilities: tuple[str, ...],
    session_id: str,
    signs: tuple[str, ...],
    free_only: bool,
    highest_layer: str,
    max_output_tokens: int | None,
    timeout: float | None,
    no_wait: bool,
    stream: bool,
    as_json: bool,
    prompt: str,
) -> None:
    """Answer PROMPT, or standard input for `-`: on standard output, all else on standard error."""
    text = sys.stdin.read() if prompt == "-" else prompt
    task = escalade.Task(
        type=task_type,
        file_count=files,
        tokens=tokens,
        complexity=complexity,
        capabilities=capabilities,
        session_id=session_id,
        evidence=[_evidence(sign) for sign in signs],
    )
    limits = escalade.Constraints(
        free_only=free_only or None,
        highest_layer=highest_layer,
        may_wait=False if no_wait else None,
    )
    screen = _Screen(is_quiet=as_json)
    try:
        with connect(target) as client:
            if stream and not as_json:
                with client.stream(
                    text,
                    task=task,
                    constraints=limits,
                    max_output_tokens=max_output_tokens,
                    timeout=timeout,
                    on_event=screen.tell,
                    on_restart=lambda _: screen.end_line(),
                ) as pieces:
                    for piece in pieces.text:
                        screen.write(piece)
                    answer = pieces.answer()
            else:
                answer = client.complete(
                    text,
                    task=task,
                    constraints=limits,
                    max_output_tokens=max_output_tokens,
                    timeout=timeout,
                    on_event=screen.tell,
                )
                screen.write(answer.text)
    except escalade.EscaladeError as error:
        screen.end_line()
        raise refused(error, target) from error
    if as_json:
        output.print_json(_as_json(answer, screen.told))
    else:
        screen.end_line()
        click.echo(answer.story, err=True)


class _Screen:
    """The text on standard output, and what is announced on lines of their own on the other."""

    def __init__(self, *, is_quiet: bool) -> None:
        """Show nothing if ``is_quiet``; keep what was announced."""
        self.told: list[str] = []
        self._is_quiet = is_quiet
        self._in_line = False

    def tell(self, event: escalade.Announcement) -> None:
        """Show an announcement; how it ends is said by the story, or by the error."""
        line = str(event)
        self.told.append(line)
        if not self._is_quiet and not isinstance(event, escalade.Finished | escalade.Failed):
            self.end_line()
            click.echo(line, err=True)

    def write(self, text: str) -> None:
        """Show a piece of the answer."""
        if text and not self._is_quiet:
            click.echo(text, nl=False)
            self._in_line = not text.endswith("\n")

    def end_line(self) -> None:
        """Let what follows begin on a line of its own."""
        if self._in_line:
            click.echo()
            self._in_line = False


def _evidence(text: str) -> escalade.Evidence:
    """Read a sign as it is given: its kind, and what tells it from others."""
    word, _, signal_id = text.partition("=")
    for kind in KINDS:
        if word == kind:
            return escalade.Evidence(kind, signal_id)
    raise click.BadParameter(f"{word!r} is none of {', '.join(KINDS)}", param_hint="--evidence")


def _as_json(answer: escalade.Answer, told: list[str]) -> dict[str, object]:
    return {
        "text": answer.text,
        "model": answer.model,
        "provider": answer.provider,
        "layer": answer.layer,
        "finish_reason": answer.finish_reason,
        "request_id": answer.request_id,
        "charged_nano_usd": answer.cost_nanos,
        "list_nano_usd": answer.list_nanos,
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
        "escalations": [
            {"from_layer": e.from_layer, "to_layer": e.to_layer, "reason": e.reason, "kind": e.kind}
            for e in answer.escalations
        ],
        "attempts": [str(attempt) for attempt in answer.attempts],
        "events": told,
        "story": answer.story,
    }
