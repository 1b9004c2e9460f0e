"""The examples about teachers: a small run of each, and what their stored tables say."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import understudy as us
from understudy import evaluate

ROOT = Path(__file__).parents[1]


def example(name: str) -> ModuleType:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(name: str) -> str:
    return (ROOT / f"docs/results/{name}.md").read_text()


# -- teachers of rising size -------------------------------------------------------------------------------------------


def test_teachers_of_two_sizes_are_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    rows = example("teacher_size").main(sizes=(2, 4), seeds=range(2), steps=20, tuning=1)
    assert [row["teacher"] for row in rows] == ["none", "CNN(2) 304", "CNN(4) 1,030"]
    assert all(0 < row["alpha"] <= 1 for row in rows[1:])
    assert "Rank correlation (Spearman) of the 2 means" in capsys.readouterr().out


def test_rank_correlation_is_1_in_one_order_0_where_nothing_goes_together_and_shares_ranks_of_equals() -> None:
    spearman: Callable[[list[float], list[float]], float] = example("teacher_size").spearman
    assert spearman([1, 2, 3, 9], [0.1, 0.2, 0.3, 0.31]) == pytest.approx(1)
    assert spearman([1, 2, 3, 9], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4], [2, 4, 1, 3]) == pytest.approx(0)
    assert spearman([1, 2, 3, 4], [1, 2, 4, 2]) == pytest.approx(0.6324555)  # scipy.stats.spearmanr
    assert torch.tensor(spearman([1, 2], [5, 5])).isnan()


def test_exceptions_are_better_teachers_with_students_that_are_no_better() -> None:
    exceptions = example("teacher_size").exceptions
    teachers = [[0.90, 0.91], [0.95, 0.96], [0.98, 0.99]]
    assert exceptions("abc", teachers, [[0.80, 0.81], [0.85, 0.86], [0.90, 0.91]]) == []
    (told,) = exceptions("abc", teachers, [[0.80, 0.81], [0.90, 0.92], [0.88, 0.91]])
    assert told.startswith("c against b: -0.015 ± ")
    (told,) = exceptions("abc", teachers, [[0.80, 0.81], [0.90, 0.92], [0.92, 0.90]])
    assert told.startswith("c against b: +0.000 ± ")  # the control: two that are equal count too


# -- students and their teachers ---------------------------------------------------------------------------------------


def test_every_student_is_held_against_its_teacher(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_memory", lambda *args: 1.0)  # an export for each model, which takes seconds
    rows = example("beat_the_teacher").main(labels=(200,), seeds=[0], epochs=3)
    assert len(rows) == 13
    assert {row["beat"] for row in rows} == {"no, unclear"}  # one seed shows nothing
    assert "No clear difference: 12 of 12." in capsys.readouterr().out


def test_nobody_has_fewer_steps_than_its_students(monkeypatch: pytest.MonkeyPatch) -> None:
    module, steps = example("beat_the_teacher"), []

    def train(method: Any, data: Any, settings: us.Settings, **options: Any) -> None:
        steps.append(settings.steps)

    monkeypatch.setattr(module.us, "train", train)
    module.fit(us.methods.alone(module.CNN(2)), module.DATA.train, 40, 0)
    assert steps == [640]  # as many as 40 passes over 1,000 images, which is what the chains have


ROW = re.compile(
    r"^ ?(\S.*? / .*?) {2,}[\d,]+ +([\d.]+) ± [\d.]+ +([\d.]+) +([+-][\d.]+) ± ([\d.]+) +\S+ +(yes|no, \w+)", re.M
)


def wrong(page: str) -> list[str]:
    """The rows whose word is not what the interval bears out."""
    found = ROW.findall(page)
    assert len(found) == 21
    said = {True: "yes", False: "no, worse"}
    return [
        who
        for who, _, _, change, half, word in found
        if abs(abs(float(change)) - float(half)) > 0.001  # nearer than that, rounding decides
        and word != (said[float(change) > 0] if abs(float(change)) > float(half) else "no, unclear")
    ]


def test_the_stored_words_are_those_that_the_stored_figures_bear_out() -> None:
    page = stored("beat_the_teacher")
    assert wrong(page) == []
    assert wrong(page.replace("no, unclear", "yes")) != []  # the control
    assert wrong(page.replace("no, worse", "no, unclear")) != []


# -- several teachers --------------------------------------------------------------------------------------------------


def test_teachers_of_a_part_teach_one_student(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("several_teachers").main(seeds=[0], steps=20)
    assert [len(part) for part in found.values()] == [6, 11]
    assert all(0 <= value <= 1 for part in found.values() for values in part.values() for value in values)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_each_teacher_is_asked_of_the_images_that_are_corrupted_as_its_own_were() -> None:
    module = example("several_teachers")
    data = module.mixed(module.digits().train)
    under = torch.stack([data[corrupt.__name__] for corrupt in module.CORRUPTIONS])
    assert bool((under.sum(0) == 1).all())
    torch.manual_seed(0)
    teachers = [module.CNN(2).eval() for _ in module.CORRUPTIONS]
    student = module.CNN(2)
    few = {name: value[:30] for name, value in data.items()}
    value = module.each_its_own(student, module.Ensemble(*teachers)).loss(few).item()

    @torch.no_grad()
    def by_hand(order: list[int]) -> float:
        logits = student(few["input"])
        soft = [
            us.losses.kl(logits[own], teachers[i](few["input"][own]), temperature=4.0).mean()
            for i, own in zip(order, under[:, :30], strict=True)
        ]
        return float(us.losses.cross_entropy(logits, few["label"]).mean() + sum(soft) / 3)

    assert value == pytest.approx(by_hand([0, 1, 2]), rel=1e-5)
    assert value != pytest.approx(by_hand([1, 2, 0]), rel=1e-3)  # the control: another is asked


def test_a_teacher_of_five_classes_never_says_another() -> None:
    module = example("several_teachers")
    partly = module.Partly(module.CNN(2, classes=5), [5, 6, 7, 8, 9])
    assert set(partly(torch.rand(20, 1, 8, 8)).argmax(1).tolist()) <= {5, 6, 7, 8, 9}
    images, labels = module.only(module.digits().test, [5, 6, 7, 8, 9])
    assert len(images) == len(labels)
    assert set(labels.tolist()) == set(range(5))
