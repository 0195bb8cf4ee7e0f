"""Keys: found, missing, careless; never shown (G9, D6)."""

import copy
import pickle
from pathlib import Path

import pytest

from escalade_server.core.absence import AbsenceKind
from escalade_server.strategy.credentials import Secret, from_environment, from_file
from escalade_server.strategy.load import load
from tests.strategy.strategies import GOOD, TODAY, loaded, with_more

CANARY = "sk-CANARY-0123"


def write(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.fault("G9")
@pytest.mark.parametrize(
    "data",
    [CANARY, f"{CANARY}\n", f"{CANARY}\r\n", f"\ufeff{CANARY}", f"  {CANARY}\t"],
)
def test_g9_a_key_file_is_stripped(tmp_path: Path, data: str) -> None:
    found = from_file(write(tmp_path, data.encode()))

    assert found.secret is not None
    assert found.secret.reveal() == CANARY
    assert (found.missing, found.warning) == ("", "")


@pytest.mark.fault("G9")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe\xfd", "is not text"),
        (f"{CANARY}\nmore".encode(), "holds characters that no key has"),
        (f"{CANARY} x".encode(), "holds characters that no key has"),
        ("CANARY-ü".encode(), "holds characters that no key has"),
        (b"x" * 20_000, "is too large"),
    ],
)
def test_g9_what_is_no_key_is_missing_with_a_reason(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    found = from_file(write(tmp_path, data))

    assert found.secret is None
    assert reason in found.missing
    assert "CANARY" not in repr(found)


@pytest.mark.fault("G9")
def test_g9_missing_files_and_folders(tmp_path: Path) -> None:
    assert "No such file" in from_file(tmp_path / "none").missing
    assert "is not a file" in from_file(tmp_path).missing or from_file(tmp_path).missing


@pytest.mark.fault("G9")
def test_g9_a_file_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    found = from_file(write(tmp_path, CANARY.encode(), 0o644))

    assert found.secret is not None
    assert "other users" in found.warning


@pytest.mark.fault("G9")
def test_g9_a_symlink_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(write(tmp_path, CANARY.encode()))

    assert from_file(link).secret is not None


def test_the_environment_is_checked_too() -> None:
    assert from_environment(("A", "B"), {"B": f" {CANARY}\n"}).secret is not None
    assert from_environment(("A", "B"), {"A": ""}).missing == "set A"
    assert from_environment(("A",), {"A": f"{CANARY}\nx"}).missing == (
        "the key in A holds characters that no key has"
    )


def test_d6_a_secret_shows_as_a_constant() -> None:
    secret = Secret(CANARY)

    assert repr(secret) == str(secret) == f"{secret}" == "Secret(not shown)"
    for dump in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            dump(secret)


def test_key_files_are_looked_for_beside_the_strategy(tmp_path: Path) -> None:
    write(tmp_path, CANARY.encode(), 0o644)
    path = tmp_path / "strategy.yaml"
    path.write_text(GOOD + "providers: {openai: {api_key_file: key}}\n")
    found = load(path, environ={}, today=TODAY)

    secret = found.endpoints["openai", "default"].secret
    assert secret is not None
    assert secret.reveal() == CANARY
    assert "KEY_FILE_MODE" in {notice.code for notice in found.notices}
    assert CANARY not in repr(found)


def test_a_stated_variable_replaces_the_usual_one() -> None:
    text = with_more("providers: {openai: {api_key_env: MINE}}\n")

    absence = loaded(text, {"OPENAI_API_KEY": "x"}).catalog.models[0].absence
    assert absence is not None
    assert (absence.kind, absence.detail) == (AbsenceKind.NO_KEY, "set MINE")
    assert loaded(text, {"MINE": "x"}).catalog.models[0].absence is None


def test_an_address_on_this_machine_needs_no_key_and_plain_http_elsewhere_is_warned_of() -> None:
    here = with_more("providers: {openai: {base_url: 'http://127.0.0.1:1/v1'}}\n")
    there = with_more("providers: {openai: {base_url: 'http://proxy.example/v1'}}\n")

    assert loaded(here, {}).catalog.models[0].absence is None
    assert loaded(there, {}).catalog.models[0].absence is not None
    codes = [
        {n.code for n in loaded(text, {"OPENAI_API_KEY": "x"}).notices} for text in (here, there)
    ]
    assert ["PLAIN_HTTP" in found for found in codes] == [False, True]


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot be read"):
        load(tmp_path / "none.yaml", environ={})
