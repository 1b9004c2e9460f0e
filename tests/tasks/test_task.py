"""What holds for every task."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from understudy.errors import InputError
from understudy.method import Distillation
from understudy.tasks import TASKS, Classification, MultiLabel, Regression, Task
from understudy.term import Term

LABELS = {
    "classification": torch.tensor([0, 1, 2, 1, -100, 0]),
    "multi-label": torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, -1], [-1, -1, -1], [1, 0, 0]]),
    "regression": torch.tensor([[1.0, 2, 3], [2, 0, 1], [0, 1, 5], [3, 2, math.nan], [math.nan] * 3, [1, 1, 1]]),
}
each_task = pytest.mark.parametrize("name", TASKS)
each_figure = pytest.mark.parametrize(("name", "figure"), [(n, f) for n, t in TASKS.items() for f in t.figures])


def output(seed: int = 0, rows: int = 6) -> torch.Tensor:
    return 2 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))


def test_the_tasks_are_found_by_their_names():
    assert dict(TASKS) == {"classification": Classification(), "multi-label": MultiLabel(), "regression": Regression()}


@each_task
def test_the_figures_are_those_that_it_declares_and_one_is_the_loss(name):
    task = TASKS[name]
    figures = task.metrics(output(), LABELS[name])
    assert list(figures) == list(task.figures)
    assert all(isinstance(v, float) for v in figures.values())
    assert len({"loss", "loss_nats"} & set(figures)) == 1


@each_figure
def test_any_figure_can_be_the_metric_and_says_which_way_is_better(name, figure):
    task = dataclasses.replace(TASKS[name], metric=figure)
    label = LABELS[name]
    good = label.nan_to_num() if name == "regression" else (label.float() - 0.5) * 9
    if name == "classification":
        good = torch.eye(3)[label.clamp(min=0)] * 9
    better = task.metrics(good, label)[figure]
    worse = task.metrics(-good, label)[figure]
    assert better > worse if task.best_is == "max" else better < worse


@each_task
def test_an_unknown_metric_is_refused_with_the_nearest(name):
    with pytest.raises(InputError, match=rf"{name}: metric '{TASKS[name].metric}x' is not known. Did you mean"):
        dataclasses.replace(TASKS[name], metric=TASKS[name].metric + "x")


@each_task
def test_unlabelled_samples_change_no_figure(name):
    task, label = TASKS[name], LABELS[name]
    known = task.labelled(label)
    assert known.tolist() == [True, True, True, True, False, True]
    wild = output().clone()
    wild[~known] = 1e9
    without = task.metrics(output()[known], label[known])
    assert task.metrics(wild, label) == without
    for figure in task.figures:
        fixed = dataclasses.replace(task, metric=figure)
        assert fixed.chance(label) == fixed.chance(label[known])
    counted = label.clone()
    counted[~known] = label[:1]
    assert task.metrics(wild, counted) != without
    loss = dataclasses.replace(task, metric=list(task.figures)[-1])
    assert loss.chance(counted) != loss.chance(label)


@each_figure
def test_nothing_labelled_gives_nan_and_no_error_and_a_single_sample_a_loss(name, figure):
    task = dataclasses.replace(TASKS[name], metric=figure)
    for rows in ([], [4]):
        assert math.isnan(task.metrics(output()[rows], LABELS[name][rows])[figure])
        assert math.isnan(task.chance(LABELS[name][rows]))
    single = task.metrics(output()[:1], LABELS[name][:1])
    assert {k for k, v in single.items() if math.isnan(v)} <= {"r2"}
    assert math.isfinite(task.chance(LABELS[name][:1])) or figure == "r2"


@each_figure
def test_chance_is_the_best_of_the_answers_that_are_the_same_for_every_sample(name, figure):
    task = dataclasses.replace(TASKS[name], metric=figure)
    label = LABELS[name]
    if figure == "subset_accuracy":
        label = label[:3]  # the most frequent row, of those that are complete
    chance = task.chance(label)
    sign = 1 if task.best_is == "max" else -1
    generator = torch.Generator().manual_seed(1)
    tried = [
        task.metrics(row.expand(len(label), 3), label)[figure] for row in 3 * torch.randn(1000, 3, generator=generator)
    ]
    best = max(tried, key=lambda v: sign * v)
    assert sign * chance >= sign * best - 1e-6
    assert chance == pytest.approx(best, abs=0.1)


@each_task
def test_agreement_and_divergence_are_one_number_for_each_sample(name):
    task = TASKS[name]
    for rows in (0, 1, 6):
        student, teacher = output(rows=rows), output(1, rows)
        agreement, divergence = task.agreement(student, teacher), task.divergence(student, teacher)
        assert agreement.shape == divergence.shape == (rows,)
        assert ((agreement >= 0) & (agreement <= 1)).all()
        assert (divergence > 0).all()
        assert task.agreement(teacher, teacher).eq(1).all()
        assert task.divergence(teacher, teacher).eq(0).all()
    assert task.agreement(output(), -output()).mean() < 0.5


@each_task
@pytest.mark.parametrize("ask", ["agreement", "divergence"])
def test_outputs_of_different_widths_are_refused_even_where_they_would_broadcast(name, ask):
    with pytest.raises(InputError, match=r"\[6, 3\] \(student\) and \[6, 1\] \(teacher\) differ in axis 1"):
        getattr(TASKS[name], ask)(output(), output()[:, :1])


@each_task
def test_the_loss_of_the_figures_is_what_a_term_minimises(name):
    task = TASKS[name]
    student = nn.Linear(4, 3)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    method = Distillation(Term(task.label_loss, "student", "batch.label"), student=student)
    figures = task.metrics(student(x), LABELS[name])
    loss = figures.get("loss", figures.get("loss_nats"))
    assert loss == pytest.approx(float(method.loss((x, LABELS[name])).detach()), rel=1e-6)


@each_task
def test_the_soft_loss_pulls_the_student_to_the_teacher(name):
    task = TASKS[name]
    student = output().clone().requires_grad_()
    optimizer = torch.optim.SGD([student], lr=0.3)
    loss = task.soft_loss(2.0)
    start = float(task.divergence(output(), output(1)).mean())
    for _ in range(200):
        optimizer.zero_grad()
        loss(student, output(1)).sum().backward()
        optimizer.step()
    assert float(task.divergence(student.detach(), output(1)).mean()) < start / 50
    assert task.agreement(student, output(1)).mean() > 0.9


@each_task
def test_a_teacher_that_says_nan_is_not_passed_over(name):
    teacher = output(1).clone()
    teacher[2, 1] = math.nan
    assert TASKS[name].soft_loss(2.0)(output(), teacher).isnan().any()
    assert TASKS[name].divergence(output(), teacher).isnan().tolist() == [False, False, True, False, False, False]


def test_a_task_must_say_everything():
    class Half(Task):
        name = "half"
        figures = {"x": "max"}  # noqa: RUF012

    with pytest.raises(TypeError, match="abstract"):
        Half("x")
