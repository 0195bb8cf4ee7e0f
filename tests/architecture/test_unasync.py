"""The synchronous client is what its generator writes, and has the same face."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import escalade

SCRIPT = Path(__file__).resolve().parents[2] / "client_sdk" / "unasync.py"


@pytest.fixture
def unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(module: ModuleType) -> dict[str, str]:
    folder: Path = module.SOURCE
    return {path.name: path.read_text() for path in folder.glob("*.py")}


def test_the_synchronous_client_is_fresh() -> None:
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_file_is_found(
    unasync: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unasync, "TARGET", tmp_path)
    (tmp_path / "gone.py").write_text("")

    assert unasync.main(["--check"]) == 1
    assert unasync.main([]) == 0
    assert unasync.main(["--check"]) == 0
    assert not (tmp_path / "gone.py").exists()
    (tmp_path / "client.py").write_text("# edited by hand")
    assert unasync.main(["--check"]) == 1


def test_a_rule_that_nobody_uses_fails(
    unasync: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unasync, "RULES", (*unasync.RULES, ("asynchronously", "at once")))

    with pytest.raises(ValueError, match="asynchronously"):
        unasync.generate(sources(unasync))


@pytest.mark.parametrize("word", ["import asyncio", "async  def f(): ...", "AsyncThing()"])
def test_a_word_without_a_rule_fails(unasync: ModuleType, word: str) -> None:
    with pytest.raises(ValueError, match="without a rule"):
        unasync.generate(sources(unasync) | {"more.py": word})


@pytest.mark.parametrize(
    ("blocking", "waiting"),
    [(escalade.Client, escalade.AsyncClient), (escalade.Stream, escalade.AsyncStream)],
    ids=["client", "stream"],
)
def test_both_clients_have_one_face(blocking: type, waiting: type) -> None:
    def face(kind: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: [
                parameter.replace(annotation=inspect.Parameter.empty)
                for parameter in inspect.signature(member).parameters.values()
            ]
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_"))
        }

    assert face(blocking) == face(waiting)
    assert len(face(blocking)) > 1
