"""What the client promises: a change of these lists is a change for users."""

import ast
import inspect
from pathlib import Path

import escalade
from escalade import testing

FACE = """
Alert AllModelsFailed AlreadyAnswered Announcement Answer AnswerTooLarge Assessed AsyncChoice
AsyncClient AsyncOpenAttempt AsyncRoute AsyncStream Attempt BudgetExhausted CallerUnknown
Cancelled Candidate Choice Client ConsentRequired Constraints CursorExpired DataDemand
DeadlineReached Draining EscaladeError Escalated Event Evidence EvidenceKind Failed FailureClass
FailureEvidence Fallback Feature Finish Finished Gate Image Interrupted JsonSchema LayerForbidden
LedgerUnavailable Message Messages Model ModelUnknown NoEligibleModel NotYetBuilt OpenAttempt
OutcomeConflict Part Plan ProtocolViolation ProviderState QualityDemands QualityNotMet RateLimited
Reasoning ReasoningDelta ReasoningEffort Reconnected RequestInProgress RequestInvalid
RequestRejected RequestTooLarge ReservationUnknown ResponseFormat ResumeTokenInvalid Retracted
Role RoleRequired Route Sampling Selected ServerBusy ServiceBug Skip Snapshot StatusError Stream
StreamCut Task Text TextDelta Tls TooManyWaiters Tool ToolCall ToolMode ToolResult TraceUnknown
Transport TransportError TriggerNotMet Unreachable Usage UsageError Violation Waiting
"""
TESTING = """
Call Cut Pause Refused Reply RouteCall RouteScript Server Step answer assessed cut_by_proxy
escalated failed fallback finished reasoning retracted selected slowly text tool_call waiting
"""


def test_the_face_is_what_we_meant() -> None:
    assert sorted(escalade.__all__) == FACE.split()
    assert sorted(testing.__all__) == TESTING.split()


def test_the_lists_are_in_order_and_true() -> None:
    for module in (escalade, testing):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_nothing_public_is_left_out() -> None:
    there = {
        name
        for name, value in vars(escalade).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }

    assert there == set(escalade.__all__)


def test_everything_public_says_what_it_is() -> None:
    classes = [
        (name, value)
        for module in (escalade, testing)
        for name in module.__all__
        if inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value)
    ]
    mute = [name for name, value in classes if not inspect.getdoc(value)]

    assert mute == []


def test_the_user_s_file_uses_every_name() -> None:
    """What tests/typing/api.py leaves out, mypy has not seen from outside."""
    source = (Path(__file__).resolve().parents[1] / "typing" / "api.py").read_text()
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    public = {
        (module.__name__.rpartition(".")[2], name)
        for module in (escalade, testing)
        for name in module.__all__
    }

    assert sorted(public - used) == []
