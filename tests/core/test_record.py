from dataclasses import replace

import pytest

from escalade_server.core.record import record


@record
class Made:
    name: str
    size: int = 1


def test_a_record_has_its_fields_and_no_others() -> None:
    made = Made("a")

    assert made == Made("a", 1)
    assert made != replace(made, size=2)
    with pytest.raises(AttributeError):
        made.other = 1  # type: ignore[attr-defined]


def test_mypy_lets_nobody_set_a_field() -> None:
    """Without its error the comment below is one: ``warn_unused_ignores``."""
    made = Made("a")
    made.size = 2  # type: ignore[misc]

    assert made.size == 2
