"""Which alerts repeat others (P4)."""

import pytest

from escalade_server.core.alerting import subject
from escalade_server.core.facts import Alert, AlertKind
from tests.core.builders import model

MINI, MAXI = model("openai/mini"), model("openai/maxi")


@pytest.mark.parametrize(
    ("kind", "is_one"),
    [
        (AlertKind.AUTH, True),
        (AlertKind.BALANCE, True),
        (AlertKind.MODEL_GONE, False),
    ],
)
def test_two_models_of_an_account_tell_the_same_of_the_account(
    kind: AlertKind,
    is_one: bool,  # noqa: FBT001 - a table's column
) -> None:
    subjects = {subject(Alert(kind, "", each)) for each in (MINI, MAXI)}

    assert None not in subjects
    assert (len(subjects) == 1) is is_one


@pytest.mark.parametrize("kind", [AlertKind.UNCONFIGURED, AlertKind.EXHAUSTED, AlertKind.BUDGET])
def test_what_is_told_of_one_task_repeats_nothing(kind: AlertKind) -> None:
    assert subject(Alert(kind, "", MINI)) is None


def test_an_alert_about_no_model_repeats_nothing() -> None:
    assert subject(Alert(AlertKind.BALANCE, "")) is None
