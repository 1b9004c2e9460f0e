from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Progress, Term, linear
from understudy.batch import Batch
from understudy.errors import AddressError, InputError, ShapeError
from understudy.losses import cross_entropy, kl, mse
from understudy.losses.arithmetic import counted_by
from understudy.play import prepare
from understudy.progress import START
from understudy.projectors import Conv1x1, Linear

soft = functools.partial(kl, temperature=2.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Free(nn.Module):
    """A student whose output for sample i is its own parameter, so that every element's gradient can be looked at."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.hint = nn.Identity()

    def forward(self, sample: Tensor) -> Tensor:
        return self.hint(self.rows[sample])


def free(term: Term, rows: Tensor, **models: object) -> Distillation:
    return Distillation(term, student=Free(rows), **models)


def fields(rows: int, **more: Tensor) -> dict[str, Tensor]:
    return {"input": torch.arange(rows), **more}


def step(method: Distillation, *micro: dict[str, Tensor]) -> tuple[float, Tensor]:
    """Value and gradient of a whole step over micro-batches, counted as the engine counts."""
    prepared, _ = prepare(method, [Batch.of(m) for m in micro], START, False)
    method.zero_grad(set_to_none=True)
    total = 0.0
    for batch in prepared:
        loss = method.move(batch, START).loss
        loss.backward()
        total += loss.item()
    return total, gradient(method)


def gradient(method: nn.Module) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in method.parameters()]
    )


# -- masks -------------------------------------------------------------------------------------------------------------

KEPT = torch.tensor([True, False, True, True, False, False])
TOKENS = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("loss", [soft, mse])
def test_a_mask_is_the_same_as_dropping_the_rows(loss):
    rows, teacher = randn(6, 4), randn(6, 4, seed=1)
    masked = free(Term(loss, "student", "batch.soft", mask="batch.mask"), rows)
    dropped = free(Term(loss, "student", "batch.soft"), rows)
    value, grad = step(masked, fields(6, soft=teacher, mask=KEPT))
    expected, expected_grad = step(dropped, {"input": torch.arange(6)[KEPT], "soft": teacher[KEPT]})
    assert value == pytest.approx(expected, rel=1e-14)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-14, atol=0)
    assert grad.reshape(6, 4)[~KEPT].eq(0).all()
    unmasked, _ = step(dropped, fields(6, soft=teacher))
    assert unmasked != pytest.approx(expected, rel=1e-3)


def test_a_mask_over_tokens_is_the_same_as_dropping_the_tokens():
    rows, teacher = randn(6, 3, 4), randn(6, 3, 4, seed=1)
    kept = TOKENS.bool()
    masked = free(Term(soft, "student", "batch.soft", mask="batch.mask"), rows)
    value, grad = step(masked, fields(6, soft=teacher, mask=TOKENS))
    flat = free(Term(soft, "student", "batch.soft"), rows[kept])
    expected, expected_grad = step(flat, fields(int(kept.sum()), soft=teacher[kept]))
    assert value == pytest.approx(expected, rel=1e-14)
    torch.testing.assert_close(grad.reshape(6, 3, 4)[kept].flatten(), expected_grad, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_a_mask_may_be_of_any_type_and_counts_where_it_is_not_zero(dtype):
    term = Term(mse, "student", "batch.soft", mask="batch.mask")
    batch = Batch.of(fields(6, soft=randn(6, 4), mask=KEPT.to(dtype)))
    assert term.kept(batch).tolist() == KEPT.tolist()
    assert int(term.count(batch)) == 3


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("loss", [soft, mse])
def test_what_is_masked_does_no_harm_even_if_it_is_not_finite(loss, bad):
    rows, teacher = randn(6, 4), randn(6, 4, seed=1)
    method = free(Term(loss, "student", "batch.soft", mask="batch.mask"), rows)
    value, grad = step(method, fields(6, soft=teacher, mask=KEPT))
    rows[~KEPT], teacher[~KEPT] = bad, bad
    method = free(Term(loss, "student", "batch.soft", mask="batch.mask"), rows)
    assert step(method, fields(6, soft=teacher, mask=KEPT))[0] == value
    assert torch.equal(gradient(method), grad)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_control_a_mask_that_multiplies_by_zero_is_poisoned(bad):
    rows, teacher = randn(6, 4), randn(6, 4, seed=1)
    teacher[~KEPT] = bad

    def multiplied(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return mse(student, teacher) * mask

    method = free(Term(multiplied, "student", "batch.soft", "batch.mask"), rows)
    value, grad = step(method, fields(6, soft=teacher, mask=KEPT))
    assert not math.isfinite(value)
    assert not grad.isfinite().all()


def projected(project: nn.Module, rows: Tensor) -> Distillation:
    torch.manual_seed(0)
    return free(Term(mse, "student", "batch.soft", project=project, mask="batch.mask"), rows)


@pytest.mark.parametrize(
    ("project", "student", "teacher", "mask"),
    [
        (Linear, (6, 4), (6, 5), KEPT),
        (Linear, (6, 3, 4), (6, 3, 5), TOKENS),
        (Conv1x1, (6, 4, 2, 2), (6, 5, 2, 2), KEPT),
        (Conv1x1, (6, 4, 4, 4), (6, 5, 2, 2), KEPT),
    ],
)
def test_what_is_masked_does_no_harm_through_a_projector(project, student, teacher, mask):
    rows, hints = randn(*student), randn(*teacher, seed=1)
    results = []
    for bad in (0.0, math.inf, math.nan):
        rows[~mask.bool()], hints[~mask.bool()] = bad, bad
        method = projected(project(), rows)
        batch = fields(6, soft=hints, mask=mask)
        method.dry_run(batch)
        results.append(step(method, batch))
        assert len(list(method.parameters())) == 3
    (value, grad), *others = results
    assert value > 0
    for other, other_grad in others:
        assert other == value
        assert torch.equal(other_grad, grad)


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)])
def test_a_wholly_masked_batch_gives_exactly_zero_with_zero_gradient(shape):
    for loss in (soft, mse):
        rows = torch.full(shape, math.inf, dtype=torch.float64)
        method = free(Term(loss, "student", "batch.soft", mask="batch.mask"), rows)
        value, grad = step(method, fields(6, soft=randn(*shape), mask=torch.zeros(shape[:-1])))
        assert value == 0.0
        assert grad.eq(0).all()


def test_an_empty_batch_gives_exactly_zero_with_zero_gradient():
    def scalar(student: Tensor, teacher: Tensor) -> Tensor:
        return mse(student, teacher).mean()  # the mean of nothing is NaN

    for loss in (soft, mse, scalar):
        value, grad = step(free(Term(loss, "student", "batch.soft"), randn(6, 4)), fields(0, soft=randn(0, 4)))
        assert value == 0.0
        assert grad.eq(0).all()
    assert scalar(randn(0, 4), randn(0, 4)).isnan()


def test_a_mask_that_is_not_the_batchs_is_refused():
    with pytest.raises(AddressError) as error:
        Term(mse, "student", "teacher", mask="student.mask")
    assert str(error.value) == (
        "term mse(student, teacher): mask 'student.mask' must be the batch's, such as 'batch.mask': "
        "it is counted before any model runs."
    )


def test_a_mask_that_does_not_lead_the_shape_is_refused():
    method = free(Term(mse, "student", "batch.soft", mask="batch.mask"), randn(6, 4))
    with pytest.raises(ShapeError, match=r"mask \[6, 3\] does not lead the shape \[6, 4\] of 'student'"):
        step(method, fields(6, soft=randn(6, 4), mask=TOKENS))


def test_a_mask_that_is_missing_from_the_batch_is_refused_with_the_nearest_field():
    method = free(Term(mse, "student", "batch.soft", mask="batch.msk"), randn(6, 4))
    with pytest.raises(AddressError, match=r"no field 'msk'\. Did you mean 'mask'\?"):
        step(method, fields(6, soft=randn(6, 4), mask=KEPT))


def test_a_parameter_is_not_masked_for_it_has_no_rows():
    def through(student: Tensor, weight: Tensor, teacher: Tensor) -> Tensor:
        return mse(student @ weight, teacher)

    class Headed(Free):
        def __init__(self) -> None:
            super().__init__(randn(6, 4))
            self.weight = nn.Parameter(randn(4, 4))

    method = Distillation(Term(through, "student", "student:weight", "batch.soft", mask="batch.mask"), student=Headed())
    value, grad = step(method, fields(6, soft=randn(6, 4), mask=KEPT))
    assert value > 0
    assert grad.reshape(10, 4)[6:].ne(0).all()


# -- labels ------------------------------------------------------------------------------------------------------------

LABEL = torch.tensor([0, -100, 3, -100, 1, 2])


def test_unlabelled_samples_are_counted_out_of_the_mean():
    rows = randn(6, 4)
    value, grad = step(free(Term(cross_entropy, "student", "batch.label"), rows), fields(6, label=LABEL))
    known = LABEL != -100
    theirs = rows.clone().requires_grad_()
    expected = nn.functional.cross_entropy(theirs[known], LABEL[known])
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-14)
    torch.testing.assert_close(grad.reshape(6, 4), theirs.grad, rtol=1e-14, atol=0)


def test_an_unlabelled_sample_does_no_harm_even_if_its_logits_are_not_finite():
    rows = randn(6, 4)
    rows[1] = math.nan
    value, grad = step(free(Term(cross_entropy, "student", "batch.label"), rows), fields(6, label=LABEL))
    assert math.isfinite(value)
    assert grad.isfinite().all()


def test_labels_and_a_mask_count_where_both_say_so():
    term = Term(cross_entropy, "student", "batch.label", mask="batch.mask")
    batch = Batch.of(fields(6, label=LABEL, mask=KEPT))
    assert term.kept(batch).tolist() == [True, False, True, False, False, False]
    assert int(term.count(batch)) == 2


def test_a_mask_of_another_shape_than_the_labels_is_refused():
    term = Term(cross_entropy, "student", "batch.label", mask="batch.mask")
    with pytest.raises(ShapeError, match=r"mask \[6, 3\] and label \[6\] must have one shape"):
        term.count(Batch.of(fields(6, label=LABEL, mask=TOKENS)))


@pytest.mark.parametrize("label", [torch.full((6,), -100), None, "missing"])
def test_a_batch_without_any_label_gives_exactly_zero_with_zero_gradient(label):
    more = {} if label == "missing" else {"label": label}
    method = free(Term(cross_entropy, "student", "batch.label"), randn(6, 4))
    value, grad = step(method, fields(6, **more))
    assert value == 0.0
    assert grad.eq(0).all()


def test_a_batch_without_any_label_leaves_the_other_terms_as_they_are():
    rows, teacher = randn(6, 4), randn(6, 4, seed=1)
    both = Distillation(
        Term(cross_entropy, "student", "batch.label"), Term(soft, "student", "batch.soft"), student=Free(rows)
    )
    alone = free(Term(soft, "student", "batch.soft"), rows)
    expected, expected_grad = step(alone, fields(6, soft=teacher))
    for more in ({}, {"label": torch.full((6,), -100)}):
        value, grad = step(both, fields(6, soft=teacher, **more))
        assert value == expected
        assert torch.equal(grad, expected_grad)


def test_labels_of_the_teachers_output_are_no_field_that_can_be_counted():
    term = Term(cross_entropy, "student", "teacher")
    assert term.kept(Batch.of(fields(6))) is None
    assert int(term.count(Batch.of(fields(6)))) == 6


def test_a_loss_that_is_a_module_can_declare_what_it_counts():
    @counted_by("label", lambda label: label >= 0)
    class Margin(nn.Module):
        def forward(self, student: Tensor, label: Tensor) -> Tensor:
            return student[torch.arange(len(label)), label]

    term = Term(Margin(), "student", "batch.label")
    assert int(term.count(Batch.of(fields(6, label=LABEL)))) == 4
    value, _ = step(free(term, randn(6, 4)), fields(6, label=LABEL))
    known = LABEL >= 0
    assert value == pytest.approx(float(randn(6, 4)[known, LABEL[known]].mean()))


# -- weights -----------------------------------------------------------------------------------------------------------


def test_a_weight_is_a_number_or_a_function_of_progress():
    halfway = Progress(step=5, steps=10)
    assert Term(mse, "student", "teacher", weight=3).weight_at(halfway) == 3
    assert Term(mse, "student", "teacher", weight=linear(1, 0)).weight_at(halfway) == 0.5
    method = free(Term(mse, "student", "batch.soft", weight=linear(4, 0)), randn(2, 3))
    batch = fields(2, soft=randn(2, 3, seed=1))
    assert method.loss(batch, halfway).item() == pytest.approx(0.5 * method.loss(batch, START).item())


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("this model must not run")


def test_a_term_of_weight_zero_runs_none_of_its_models():
    rows = randn(2, 3)
    for weight in (0, 0.0, linear(0, 1)):
        method = Distillation(
            Term(cross_entropy, "student", "batch.label"),
            Term(mse, "student", "teacher", weight=weight),
            student=Free(rows),
            teacher=Refuses(),
        )
        batch = fields(2, label=torch.tensor([0, 1]))
        value, grad = step(method, batch)
        expected, expected_grad = step(free(Term(cross_entropy, "student", "batch.label"), rows), batch)
        assert value == expected
        assert torch.equal(grad, expected_grad)
        with pytest.raises(AssertionError, match="must not run"):
            Distillation(Term(mse, "student", "teacher"), student=Free(rows), teacher=Refuses()).loss(batch)


def test_a_weight_that_is_always_zero_asks_for_nothing_in_the_dry_run_either():
    term = Term(mse, "student", "teacher", weight=0.0)
    method = Distillation(Term(mse, "student", "batch.soft"), term, student=Free(randn(2, 3)), teacher=Refuses())
    lines = method.dry_run(fields(2, soft=randn(2, 3)))
    assert lines[1] == ("mse(student, teacher)", {}, 0.0)


def test_a_step_in_which_every_weight_is_zero_is_refused():
    method = free(Term(mse, "student", "batch.soft", weight=linear(0, 1)), randn(2, 3))
    with pytest.raises(InputError, match=r"at step 0 every term has weight 0: nothing to minimise in mse"):
        method.loss(fields(2, soft=randn(2, 3)))


# -- losses of the whole batch -----------------------------------------------------------------------------------------


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    return (student @ student.t() - teacher @ teacher.t()).square().mean()


def test_a_scalar_loss_of_the_whole_batch_is_taken_as_it_is():
    rows, teacher = randn(6, 4), randn(6, 4, seed=1)
    value, _ = step(free(Term(similarity, "student", "batch.soft"), rows), fields(6, soft=teacher))
    assert value == pytest.approx(float(similarity(rows, teacher)), rel=1e-14)
    value, _ = step(
        free(Term(similarity, "student", "batch.soft", mask="batch.mask"), rows), fields(6, soft=teacher, mask=KEPT)
    )
    assert value == pytest.approx(float(similarity(rows[KEPT], teacher[KEPT])), rel=1e-14)


def test_scalar_losses_of_micro_batches_are_weighed_by_their_samples():
    rows, teacher = randn(6, 4), randn(6, 4, seed=1)
    method = free(Term(similarity, "student", "batch.soft"), rows)
    whole = fields(6, soft=teacher)
    value, _ = step(method, *cut(whole, [1, 5]))
    expected = (similarity(rows[:1], teacher[:1]) + 5 * similarity(rows[1:], teacher[1:])) / 6
    assert value == pytest.approx(expected.item(), rel=1e-14)


def test_values_that_are_not_one_row_per_sample_are_refused():
    def wrong(student: Tensor) -> Tensor:
        return student.sum(0)

    with pytest.raises(ShapeError, match=r"term wrong\(student\): 6 samples gave values \[4\]; allowed: one row per"):
        step(free(Term(wrong, "student"), randn(6, 4)), fields(6))


# -- the same gradient however a step is split -------------------------------------------------------------------------


def cut(batch: dict[str, Tensor], sizes: Sequence[int]) -> list[dict[str, Tensor]]:
    ends = list(itertools.accumulate(sizes))
    return [{k: v[end - size : end] for k, v in batch.items()} for size, end in zip(sizes, ends, strict=True)]


class Tagger(nn.Module):
    """A little language model: tokens [N, T] to logits [N, T, C]."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(x))))


def tagging() -> tuple[Distillation, dict[str, Tensor]]:
    """Three terms that count different things: labels, tokens under a ragged mask, samples."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 0, 0, 0, 1, 5, 3, 2, 4, 1, 5, 2])
    label = torch.randint(7, (12, 5), generator=generator)
    label[torch.rand(12, 5, generator=generator) < 0.6] = -100
    label[7:9] = -100
    batch = {
        "input": torch.randint(11, (12, 5), generator=generator),
        "label": label,
        "mask": torch.arange(5) < lengths[:, None],
    }
    method = Distillation(
        Term(cross_entropy, "student", "batch.label", weight=0.3),
        Term(soft, "student", "teacher", weight=0.7, mask="batch.mask"),
        Term(mse, "student.mix", "teacher.mix", weight=2.0, project=Linear()),
        student=Tagger(4, 1).double(),
        teacher=Tagger(6, 2).double(),
    )
    torch.manual_seed(3)
    method.dry_run(batch)
    return method, batch


# The splits hold micro-batches that are wholly masked (samples 1 to 3) and wholly unlabelled (7 and 8).
SPLITS = [[12], [6, 6], [1, 3, 3, 2, 3], [1] * 12, [11, 1], [2, 9, 1]]


@pytest.mark.parametrize("sizes", SPLITS)
def test_the_gradient_is_the_same_however_the_step_is_split_into_micro_batches(sizes):
    method, batch = tagging()
    expected_value, expected = step(method, batch)
    assert expected.ne(0).sum() > 50
    value, grad = step(method, *cut(batch, sizes))
    assert value == pytest.approx(expected_value, rel=1e-12)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", SPLITS[1:])
def test_control_the_mean_over_micro_batches_is_another_gradient(sizes):
    method, batch = tagging()
    _, expected = step(method, batch)
    method.zero_grad()
    for micro in cut(batch, sizes):
        (method.loss(micro) / len(sizes)).backward()
    assert (gradient(method) - expected).abs().max() > 1e-3


def test_a_micro_batch_whose_labels_are_missing_is_one_without_labels():
    method, batch = tagging()
    batch["label"][:6] = -100
    _, expected = step(method, batch)
    first, second = cut(batch, [6, 6])
    del first["label"]
    _, grad = step(method, first, second)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


def test_the_mean_over_ranks_of_their_gradients_is_the_gradient_of_the_whole():
    method, batch = tagging()
    _, expected = step(method, batch)
    parts = [method.prepare(part, START) for part in cut(batch, [4, 8])]
    totals = torch.stack([p.counts for p in parts]).sum(0)
    grads = []
    for part in parts:
        method.zero_grad()
        method.move(dataclasses.replace(part, totals=totals, ranks=2), START).loss.backward()
        grads.append(gradient(method))
    torch.testing.assert_close(torch.stack(grads).mean(0), expected, rtol=0, atol=1e-12)


def test_the_means_of_what_is_watched_are_of_the_whole_step_too():
    method, batch = tagging()
    method.watch["first"] = (lambda x: x[:, 0, 0], (method.terms[0].addresses[0],))
    whole = method.move(method.prepare(batch, START), START).watched["first"]
    prepared, _ = prepare(method, [Batch.of(m) for m in cut(batch, [1, 3, 8])], START, False)
    torch.testing.assert_close(sum(method.move(b, START).watched["first"] for b in prepared), whole)


# -- projectors --------------------------------------------------------------------------------------------------------


def test_a_projector_is_fitted_by_the_dry_run_and_trains():
    method = free(Term(mse, "student", "batch.soft", project=Linear()), randn(6, 4))
    batch = fields(6, soft=randn(6, 5))
    assert len(list(method.parameters())) == 1
    method.dry_run(batch)
    names = dict(method.named_parameters())
    assert names["terms.0.project.layer.weight"].shape == (5, 4)
    assert names["terms.0.project.layer.weight"].dtype == torch.float64
    assert set(method.players()["student"]) == set(names.values())
    step(method, batch)
    assert all(p.grad is not None and p.grad.ne(0).any() for p in names.values())


def test_a_projector_before_its_dry_run_says_what_to_do():
    method = free(Term(mse, "student", "batch.soft", project=Linear()), randn(6, 4))
    with pytest.raises(InputError, match=r"Linear\(\) has no sizes yet\. Call method\.dry_run\(batch\) first"):
        method.loss(fields(6, soft=randn(6, 5)))


def test_a_projector_of_wrong_sizes_is_told_the_sizes_that_would_fit():
    method = free(Term(mse, "student", "batch.soft", project=Linear(3, 5).double()), randn(6, 4))
    with pytest.raises(
        InputError, match=r"Linear\(3, 5\) does not fit student \[6, 4\].*use Linear\(4, 5\), or Linear"
    ):
        method.dry_run(fields(6, soft=randn(6, 5)))


def test_a_projector_wants_two_tensors_to_be_fitted_between():
    def norm(student: Tensor) -> Tensor:
        return student.square().mean(1)

    method = free(Term(norm, "student", project=Linear()), randn(6, 4))
    with pytest.raises(InputError, match="a projector is fitted between two tensors; this term reads one"):
        method.dry_run(fields(6))


def test_any_module_can_project():
    method = free(Term(mse, "student", "batch.soft", project=nn.Linear(4, 5).double()), randn(6, 4))
    method.dry_run(fields(6, soft=randn(6, 5)))
    _, grad = step(method, fields(6, soft=randn(6, 5)))
    assert grad.numel() == 24 + 25


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_term_is_named_by_its_loss_and_addresses_or_as_it_is_told():
    assert Term(soft, "student", "stop teacher.mix/0").name == "kl(student, stop teacher.mix/0)"
    assert Term(nn.MSELoss(), "student", "teacher").name == "MSELoss(student, teacher)"
    assert Term(mse, "student", "teacher", name="hint").name == "hint"


def test_a_term_shows_options_weight_and_mask():
    shown = repr(Term(functools.partial(soft, temperature=3.0), "student", "teacher", weight=0.5, mask="batch.mask"))
    for told in ("kl(student, teacher)", "weight=0.5", "temperature=3.0", "mask=batch.mask"):
        assert told in shown
    assert "0.75, 0.5, 0.25]" in repr(Term(mse, "student", "teacher", weight=linear(1, 0)))


def test_a_term_without_addresses_is_refused():
    with pytest.raises(AddressError, match="term mse: has no addresses"):
        Term(mse)


def test_the_parameters_and_buffers_of_a_loss_are_the_methods():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("bank", torch.zeros(3))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return self.scale * mse(student, teacher)

    method = free(Term(Scaled(), "student", "batch.soft"), randn(2, 3))
    assert "terms.0.loss.scale" in dict(method.named_parameters())
    assert "terms.0.loss.bank" in method.state_dict()
    step(method, fields(2, soft=randn(2, 3, seed=1)))
    assert method.terms[0].loss.scale.grad is not None
