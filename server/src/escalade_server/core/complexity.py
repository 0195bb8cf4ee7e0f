"""The complexity score of a task and its parts; the estimate when the caller states nothing.

    score = min(10 * (wf*f + wd*d + wc*c), 10)

with f = min(files / 10, 1), d = depth of the task type / 10, c = min(tokens / 50,000, 1)
(DESIGN 4). Computed in integers (R3): one point is ``UNITS_PER_POINT``, chosen so that weights
of six decimals and single tokens are exact and a strict ``>`` is too.
"""

import re

from escalade_server.core.catalog import Catalog, Scoring, TaskType
from escalade_server.core.record import record
from escalade_server.core.task import MICRO, Image, Reasoning, Request, Text, ToolCall, ToolResult
from escalade_server.core.triggers import Comparison, ComplexityTrigger

UNITS_PER_MICRO = 5_000
UNITS_PER_POINT = MICRO * UNITS_PER_MICRO
UNITS_MAX = 10 * UNITS_PER_POINT
FILES_MAX = 10
TOKENS_MAX = 50_000
BYTES_PER_TOKEN = 4
"""Rule of thumb for English text and code; only ever an estimate, never a bound."""

# Checked in this order; the first that matches names the type. Verbs of asking, not topics.
_TYPE_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE))
    for name, pattern in (
        ("architecture", r"architect\w*|design an? \w+ (?:system|service|platform)"),
        ("refactor", r"refactor\w*|restructure|rewrite .{0,40}\b(?:module|code ?base)"),
        ("debug", r"debug\w*|traceback|stack ?trace|bug|fix .{0,30}(?:error|failure|test)"),
        ("debug", r"why (?:does|is|do) .{0,80}\b(?:fail|crash|hang|error)\w*"),
        ("plan", r"plan|roadmap|outline|break .{0,30} into (?:steps|tasks)"),
        ("generate", r"implement|generate"),
        ("generate", r"write .{0,40}(?:code|function|class|script|test|module|documentation|docs)"),
        ("reason", r"prove|derive|step by step|reason (?:about|through)"),
        ("parse", r"parse|extract|list (?:all|the|every)"),
        ("format", r"format|convert|reformat|translate .{0,20} to (?:json|yaml|csv|markdown)"),
        ("read", r"summari[sz]e|read|what does .{0,60} (?:do|say)"),
    )
)
_FILE_NAME = re.compile(
    r"\b[\w./-]+\.(?:py|go|js|ts|tsx|java|rs|c|h|cpp|rb|php|cs|sql|sh|ya?ml|toml|json|md)\b"
)
_TEXT_LOOKED_AT = 20_000
"""Characters of the last message that the estimate reads: bounds its cost."""


@record
class Score:
    """A score in units, with its parts; ``units`` is capped at ten points."""

    units: int
    uncapped_units: int
    files_units: int
    depth_units: int
    context_units: int


@record
class Traits:
    """Type, files and tokens of a task, stated or estimated (name of each, and why)."""

    type: TaskType
    files: int
    tokens: int
    estimated: tuple[tuple[str, str], ...]


def score(scoring: Scoring, *, files: int, depth: int, tokens: int) -> Score:
    """Score a task. ``depth`` is 0 to 10; negative numbers count as 0."""
    if not 0 <= files <= FILES_MAX:
        files = FILES_MAX if files > 0 else 0
    if not 0 <= tokens <= TOKENS_MAX:
        tokens = TOKENS_MAX if tokens > 0 else 0
    by_files = scoring.files_weight_micro * files * UNITS_PER_MICRO
    by_depth = scoring.depth_weight_micro * depth * UNITS_PER_MICRO
    # 10 points * weight * tokens / 50,000 is weight_micro * tokens units exactly.
    by_context = scoring.context_weight_micro * tokens
    total = by_files + by_depth + by_context
    return Score(min(total, UNITS_MAX), total, by_files, by_depth, by_context)


def stated(complexity_micro: int) -> Score:
    """A complexity stated by the caller, 0 to ten points in micro; it has no parts (R3)."""
    units = complexity_micro * UNITS_PER_MICRO
    return Score(units, units, 0, 0, 0)


def holds(trigger: ComplexityTrigger, units: int) -> bool:
    """Tell whether a complexity trigger holds for a score in units."""
    value = trigger.value_micro * UNITS_PER_MICRO
    match trigger.comparison:
        case Comparison.GT:
            return units > value
        case Comparison.GE:
            return units >= value
        case Comparison.LT:
            return units < value
        case Comparison.LE:
            return units <= value
        case Comparison.EQ:
            return units == value


def size(request: Request) -> tuple[int, int]:
    """UTF-8 bytes of all text that goes upstream (messages, tools, schema), and its images."""
    total, images = len(request.response_format.schema_json.encode()), 0
    for message in request.messages:
        for part in message.parts:
            match part:
                case Text(text=text) | ToolResult(text=text) | Reasoning(text=text):
                    total += len(text) if text.isascii() else len(text.encode())
                case ToolCall(name=name, arguments_json=arguments):
                    total += len(name.encode()) + len(arguments.encode())
                case Image():
                    images += 1
                case _:
                    pass
    for tool in request.tools:
        total += len(f"{tool.name}{tool.description}{tool.parameters_json}".encode())
    return total, images


def _last_text(request: Request) -> str:
    for message in reversed(request.messages):
        for part in message.parts:
            if isinstance(part, Text) and part.text.strip():
                return part.text[:_TEXT_LOOKED_AT]
    return ""


def traits(request: Request, catalog: Catalog, text_bytes: int) -> Traits:
    """Take what the caller states, estimate the rest from the messages, and say so."""
    task = request.task
    name, files, tokens = task.type, task.files, task.tokens
    estimated: list[tuple[str, str]] = []
    text = "" if name and files is not None else _last_text(request)
    if not name:
        found = next(((n, m) for n, p in _TYPE_PATTERNS if (m := p.search(text))), None)
        if found is not None:
            name = found[0]
            estimated.append(("type", f"the last message says {found[1].group(0).lower()!r}"))
        elif text:
            estimated.append(("type", "no known verb in the last message"))
    if files is None:
        files = len(set(_FILE_NAME.findall(text))) if text else 0
        if files:
            estimated.append(("files", f"{files} file names in the last message"))
    if tokens is None:
        tokens = text_bytes // BYTES_PER_TOKEN
        if tokens:
            estimated.append(("tokens", f"{text_bytes} bytes of messages / {BYTES_PER_TOKEN}"))
    return Traits(catalog.task_type(name), files, tokens, tuple(estimated))
