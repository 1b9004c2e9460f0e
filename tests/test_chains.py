"""One job after another: who teaches whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, chains
from understudy.chains import born_again, takd
from understudy.errors import InputError
from understudy.state import digest


def blobs(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (samples,), generator=generator)
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    return centres[label] + 0.7 * torch.randn(samples, 2, generator=generator), label


TRAIN, VALID = blobs(80, 0), blobs(60, 1)
FEW: dict[str, Any] = {
    "epochs": 2,
    "seeds": 1,
    "fine_tune": False,
    "progress": False,
    "batch_size": 20,
    "device": "cpu",
    "optimizer": Optim("Adam", lr=0.02),
}


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 3))


def trained(width: int = 32) -> nn.Module:
    """A teacher that knows something."""
    torch.manual_seed(0)
    model = mlp(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()
    return model


def widths(jobs: list[Any]) -> list[tuple[int, int]]:
    """Of each job's teacher and student."""
    return [(job.teacher[0].out_features, job.student[0].out_features) for job in jobs]


def test_each_assistant_teaches_the_next(tmp_path):
    teacher = trained()
    before = digest(teacher)
    jobs = takd(
        lambda: mlp(4),
        [lambda: mlp(16), lambda: mlp(8)],
        teacher,
        TRAIN,
        VALID,
        folder=tmp_path,
        temperature=2.0,
        **FEW | {"epochs": 6},
    )
    assert widths(jobs) == [(32, 16), (16, 8), (8, 4)]
    assert jobs[1].teacher is jobs[0].student
    assert digest(teacher) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-assistant", "2-assistant", "3-student"]
    assert all((tmp_path / name / "results.json").exists() for name in ("1-assistant", "2-assistant", "3-student"))


def test_what_is_about_the_teacher_is_for_the_first_job(monkeypatch):
    seen = []

    class Done:
        student = mlp(3)

    def distill(student: Any, teacher: Any, train: Any, valid: Any, **options: Any) -> Done:
        seen.append(options)
        return Done()

    monkeypatch.setattr(chains, "distill", distill)
    takd(mlp(4), [mlp(8)], mlp(16), TRAIN, VALID, teacher_epochs=5, epochs=3)
    assert seen == [{"folder": None, "teacher_epochs": 5, "epochs": 3}, {"folder": None, "epochs": 3}]


def test_without_an_assistant_it_is_refused():
    with pytest.raises(InputError, match="without any it is distill"):
        takd(mlp(4), [], mlp(16), TRAIN, VALID)


@pytest.mark.parametrize("given", ["function", "module"])
def test_each_generation_is_taught_by_the_one_before(given, tmp_path):
    student = (lambda: mlp(16)) if given == "function" else mlp(16)
    before = None if given == "function" else digest(student)
    jobs = born_again(student, TRAIN, VALID, generations=2, folder=tmp_path, **FEW | {"epochs": 6})
    assert len(jobs) == 2
    assert jobs[1].teacher is jobs[0].student
    assert len({digest(m) for m in (jobs[0].teacher, jobs[0].student, jobs[1].student)}) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generation-1", "generation-2"]
    assert (tmp_path / "generation-1" / "teacher.safetensors").exists()  # who was trained there
    assert given == "function" or digest(student) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"generations": 0}, "1 or above"),
        ({"generations": True}, "1 or above"),
        ({"teacher_epochs": 3}, "no teacher but the generation before"),
        ({"method": "fitnets"}, "learns by kd"),
    ],
)
def test_what_makes_no_generations_is_refused(options, told):
    with pytest.raises(InputError, match=told):
        born_again(lambda: mlp(4), TRAIN, VALID, **options)
    with pytest.raises(InputError, match="not a module"):
        born_again(lambda: 3, TRAIN, VALID)
