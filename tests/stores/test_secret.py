"""The secret beside the ledger: made once, for its owner only, and never half of it."""

from pathlib import Path

import pytest

from escalade_server.engine.ports import StoreError
from escalade_server.stores.secret import load_secret

FRESH, OTHER = "a" * 64, "b" * 64


def test_it_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    place = tmp_path / "state.secret"
    assert load_secret(place, FRESH) == FRESH
    assert load_secret(place, OTHER) == FRESH
    assert place.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["state.secret"]


def test_what_a_crash_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / "state.secret.7").write_text("half")
    assert load_secret(tmp_path / "state.secret", FRESH) == FRESH


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_what_is_no_secret_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "state.secret"
    place.write_bytes(content)
    with pytest.raises(StoreError, match="secret"):
        load_secret(place, FRESH)
    assert place.read_bytes() == content


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read or made"):
        load_secret(tmp_path / "missing" / "state.secret", FRESH)
