"""The plan of one task without a server, on shared state in which nothing is used yet (R12)."""

from dataclasses import dataclass

from escalade_server.core import plan as plans
from escalade_server.core.catalog import Catalog
from escalade_server.core.plan import Plan, Row, is_ok, name_of, points, sentence
from escalade_server.core.standing import Standing
from escalade_server.core.task import Constraints, Message, Request, Role, Task, Text

__all__ = ["Plan", "Question", "Row", "as_json", "is_ok", "name_of", "plan", "points", "sentence"]


@dataclass(frozen=True, slots=True)
class Question:
    """What ``explain`` is asked; the fields are those of a task and its constraints."""

    type: str = ""
    files: int | None = None
    tokens: int | None = None
    complexity_micro: int | None = None
    capabilities: tuple[str, ...] = ()
    free_only: bool = False
    highest_layer: str = ""
    message: str = ""


def plan(catalog: Catalog, question: Question) -> Plan:
    """Work out the plan of one task.

    Raises:
        ValueError: no layer has the name of ``highest_layer``.
    """
    names = [layer.name for layer in catalog.layers]
    if question.highest_layer and question.highest_layer not in names:
        raise ValueError(f"no layer is named {question.highest_layer!r}: {', '.join(names)}")
    return plans.plan(catalog, _request(question), Standing(), 0)


def _request(question: Question) -> Request:
    messages = (Message(Role.USER, (Text(question.message),)),) if question.message else ()
    return Request(
        id="",
        task=Task(
            type=question.type,
            files=question.files,
            tokens=question.tokens,
            complexity_micro=question.complexity_micro,
            capabilities=question.capabilities,
        ),
        messages=messages,
        constraints=Constraints(free_only=question.free_only, highest_layer=question.highest_layer),
    )


def as_json(found: Plan, missing: dict[tuple[str, str], str]) -> dict[str, object]:
    """Turn a plan into plain data; ``missing`` says which accounts lack a key, and why."""
    seen, chosen = found.assessment, found.selected
    return {
        "score": points(seen.score_micro),
        "uncapped_score": points(seen.uncapped_micro),
        "parts": {
            "files": points(seen.files_micro),
            "depth": points(seen.depth_micro),
            "context": points(seen.context_micro),
        },
        "stated": seen.stated,
        "task_type": seen.type,
        "estimated": dict(seen.estimated),
        "threshold": None if seen.threshold_micro is None else points(seen.threshold_micro),
        "target_layer": seen.target_layer,
        "start_layer": seen.start_layer,
        "clamped_by": seen.clamped_by.value if seen.clamped_by else None,
        "initial_escalation": found.initial.value if found.initial else None,
        "selected": None
        if chosen is None
        else {
            "layer": chosen.layer,
            "provider": chosen.provider,
            "account": chosen.account,
            "model": chosen.id,
        },
        "candidates": [_candidate(row, missing) for row in found.rows],
        "sentence": sentence(found),
    }


def _candidate(row: Row, missing: dict[tuple[str, str], str]) -> dict[str, object]:
    model = row.model
    return {
        "layer": model.layer,
        "provider": model.provider,
        "account": model.account,
        "model": model.id,
        "verdict": row.verdict.cls.value,
        "reason": "" if is_ok(row.verdict) else row.verdict.cause.value,
        "detail": row.verdict.detail,
        "billing": model.billing.value,
        "worst_cost_nano_usd": row.worst_nanos,
        "credential": "missing" if missing.get((model.provider, model.account)) else "present",
    }
