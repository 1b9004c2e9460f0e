"""One small run, which most tests look at and none changes."""

from pathlib import Path

import pytest
import torch

from understudy import evaluate

from .calls import SMALL, Answer, call


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "small"
    answer = call("run", "digits", *SMALL, "--out", folder)
    assert answer.code == 0, answer.err
    return folder, answer


@pytest.fixture
def run(small: tuple[Path, Answer]) -> Path:
    return small[0]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[Path, Answer]) -> None:
    """Whatever a test writes without saying where is in its own folder; a screen has 80 columns.

    Peak memory, which takes longer to measure than all the training here, is measured in the small run only.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(evaluate, "_memory", lambda model, one: None)
