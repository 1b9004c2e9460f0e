"""What a method's terms and models may be, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from understudy import Distillation, Ema, Term
from understudy.batch import Batch
from understudy.errors import InputError
from understudy.losses import kl
from understudy.naming import mislaid_label, unique, warn_of_idle
from understudy.progress import Progress


def build(*terms: Any, train: Any = ("student",), **models: Any) -> str:
    """The error that making this method gives."""
    with pytest.raises(InputError) as caught:
        Distillation(*terms, train=train, **models)
    return str(caught.value)


def test_good_names_raise_nothing() -> None:
    Distillation(Term(kl, "student", "teacher"), student=nn.Linear(2, 2), teacher=nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["batch", "stop"])
def test_a_model_cannot_take_a_word_of_the_grammar(name: str) -> None:
    assert f"model name {name!r} is taken" in build(
        Term(kl, "student"), student=nn.Linear(2, 2), **{name: nn.Linear(2, 2)}
    )


def test_a_trained_name_without_a_model_gets_the_nearest() -> None:
    text = build(Term(kl, "student"), train=("studnt",), student=nn.Linear(2, 2))
    assert text == "train='studnt': there is no such model. Did you mean 'student'?"


def test_what_trains_must_be_a_module() -> None:
    assert "model 'student' is a function; what trains must be" in build(Term(kl, "student"), student=lambda x: x)


def test_what_cannot_be_called_is_no_model() -> None:
    text = build(Term(kl, "student", "teacher"), student=nn.Linear(2, 2), teacher="resnet50")
    assert text == "model 'teacher' is a str, which cannot be called. Give an nn.Module or any callable."


def test_one_module_under_two_names_is_refused_even_where_one_is_compiled() -> None:
    model = nn.Linear(2, 2)
    for twin in (model, torch.compile(model)):
        text = build(Term(kl, "student", "teacher"), student=model, teacher=twin)
        assert "'student' and 'teacher' are the same object" in text
        assert "'stop student'" in text


def test_a_moving_average_of_the_student_is_another_model() -> None:
    student = nn.Linear(2, 2)
    Distillation(Term(kl, "student", "ema"), student=student, ema=Ema(student))


def test_something_must_train() -> None:
    assert "at least one model must train" in build(Term(kl, "teacher"), train=(), teacher=nn.Linear(2, 2))


def test_something_must_be_minimised() -> None:
    assert "has no term" in build(student=nn.Linear(2, 2))


def test_a_bare_loss_is_no_term() -> None:
    assert build(kl, student=nn.Linear(2, 2)) == "terms[0] is a function; give a Term(loss, *addresses)."


def test_everything_that_is_wrong_is_said_at_once() -> None:
    model = nn.Linear(2, 2)
    text = build(kl, train=("a", "b"), a=model, stop=model, c=3)
    assert len(text.splitlines()) == 5
    for part in ("'stop' is taken", "train='b'", "'c' is a int", "'a' and 'stop' are the same", "terms[0]"):
        assert part in text


def test_a_term_finds_the_label_that_has_another_name() -> None:
    batch = Batch.of({"input": torch.zeros(2), "labels": torch.zeros(2)})
    assert mislaid_label("kl", batch) == [
        "term kl finds no label in a batch with fields input, labels. Say 'batch.labels', or rename the field."
    ]
    assert mislaid_label("kl", Batch.of({"input": torch.zeros(2)})) == []


def test_a_field_that_is_none_is_not_taken_for_a_mislaid_label() -> None:
    assert mislaid_label("kl", Batch.of({"input": torch.zeros(2), "label": None})) == []


def test_only_a_term_with_weight_that_counted_nothing_is_warned_of() -> None:
    terms = [Term(kl, "student", weight=weight) for weight in (1.0, 0.0, 0.5)]
    names, progress = ["one", "zero", "half"], Progress(0, 1)
    with pytest.warns(UserWarning, match=r"^one, half counted nothing in the first epoch"):
        warn_of_idle(names, terms, [0, 0, 0], progress)
    warn_of_idle(names, terms, [3, 0, 1], progress)  # a warning would be an error


def test_repeated_names_are_numbered() -> None:
    assert unique(["kl", "mse", "kl", "kl"]) == ["kl", "mse", "kl #2", "kl #3"]
