"""A student that cannot be exported is told before anything is trained."""

from pathlib import Path

import pytest
import torch

from recipe.kit import SMALL, document, ran, without
from understudy.errors import InputError
from understudy.recipe import running
from understudy.recipe.examine import examine
from understudy.registry import register

BRANCHING = without(SMALL, "student", "export") + "student: Branching\n"


class Branching(torch.nn.Module):
    """Goes one of two ways, by what it is given."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.one, self.other = torch.nn.Linear(64 * inputs, classes), torch.nn.Linear(64 * inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.one if x.sum() > 3 else self.other
        made: torch.Tensor = layer(x.flatten(1))
        return made


@pytest.fixture(autouse=True)
def branching() -> None:
    register("model")(Branching)


@pytest.mark.parametrize(
    ("more", "line"), [("", 12), ("export: {target: torch}\n", 13), ("accept: {accuracy: '>= 2'}\nsearch: 1\n", 12)]
)
def test_a_student_without_a_graph_is_refused_before_training(tmp_path: Path, more: str, line: int) -> None:
    with pytest.raises(InputError, match=rf"r\.yaml:{line}: export of Branching: it is no fixed graph .* export: null"):
        ran(tmp_path, BRANCHING + more)
    assert not (tmp_path / "out").exists()


def test_without_the_trial_it_is_trained_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(running, "tried", lambda *_: None)
    with pytest.raises(InputError, match="no fixed graph"):
        ran(tmp_path, BRANCHING)
    assert (tmp_path / "out" / "student.safetensors").exists()


def test_the_trial_leaves_the_random_numbers_as_they_were(tmp_path: Path) -> None:
    given = document(tmp_path, without(SMALL, "export"))
    examined = examine(given, progress=False)
    before = torch.random.get_rng_state()
    running.tried(given, examined, {"export": "deploy"})
    assert torch.equal(torch.random.get_rng_state(), before)
