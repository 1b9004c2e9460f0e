"""One job after another: who teaches whom."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import Optim, chains, evaluate, job
from understudy.chains import born_again, takd
from understudy.errors import InputError
from understudy.state import digest


@pytest.fixture(autouse=True)
def no_memory_is_measured(monkeypatch):
    """An export for each model, which takes seconds, and of which nothing is asked here."""
    monkeypatch.setattr(evaluate, "_memory", lambda *args: 1.0)


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


def handed_on(jobs: list[Any]) -> bool:
    """Whether each job but the first was taught by what the one before it has made."""
    return all(later.teacher is earlier.student for earlier, later in itertools.pairwise(jobs))


@pytest.fixture
def taught_by_the_head(monkeypatch):
    """Chains in which the first teacher teaches all: what they must not be."""
    heads: list[Any] = []

    def distill(student: Any, teacher: Any, train: Any, valid: Any, **options: Any) -> Any:
        heads.append(teacher)
        return us.distill(student, heads[0], train, valid, **options)

    monkeypatch.setattr(chains, "distill", distill)


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
    assert handed_on(jobs)
    assert digest(teacher) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-assistant", "2-assistant", "3-student"]
    assert all((tmp_path / name / "results.json").exists() for name in ("1-assistant", "2-assistant", "3-student"))


@pytest.mark.usefixtures("taught_by_the_head")
def test_control_a_chain_whose_head_teaches_all_is_seen():
    few = FEW | {"epochs": 6}
    jobs = takd(lambda: mlp(4), [lambda: mlp(8)], trained(), TRAIN, VALID, **few)
    assert widths(jobs) == [(32, 8), (32, 4)]
    assert not handed_on(jobs)


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
    assert handed_on(jobs)
    assert len({digest(m) for m in (jobs[0].teacher, jobs[0].student, jobs[1].student)}) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generation-1", "generation-2"]
    assert (tmp_path / "generation-1" / "teacher.safetensors").exists()  # who was trained there
    assert given == "function" or digest(student) == before


def steps_of(train: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The optimizer steps of each stage of a generation."""
    seen = {}
    real = job.train_stage

    def train_stage(material: Any, name: str, *args: Any, **options: Any) -> Any:
        seen[name] = material.stages[name].steps
        return real(material, name, *args, **options)

    monkeypatch.setattr(job, "train_stage", train_stage)
    born_again(lambda: mlp(16), train, VALID, generations=1, **FEW | {"epochs": 6})
    return seen


@pytest.mark.parametrize("labelled", [20, 30, 80])
def test_the_first_model_has_no_fewer_steps_than_its_students_however_few_are_labelled(labelled, monkeypatch):
    few = TRAIN[1].clone()
    few[labelled:] = -100
    steps = steps_of((TRAIN[0], few), monkeypatch)
    assert steps == {"teacher": 24, "alone": 24, "distilled": 24}
    # The control: as many epochs for the first model are fewer steps where few are labelled.
    monkeypatch.setattr(chains, "_epochs", lambda *given: 6)
    assert steps_of((TRAIN[0], few), monkeypatch)["teacher"] == 6 * -(-labelled // 20)


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
    with pytest.raises(InputError, match="must make an"):
        born_again(lambda: 3, TRAIN, VALID)
