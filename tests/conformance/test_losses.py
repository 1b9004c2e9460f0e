"""Every loss by itself. A new loss needs an entry in CASES, and nothing else here."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy import losses
from understudy.errors import ShapeError

Inputs = tuple[Tensor, ...]
SEEDS = range(5)
TEMPERATURES = (0.01, 0.1, 1.0, 4.0, 100.0)
SCALES = (0.0, 1e-6, 1.0, 1e2, 1e4)


@dataclass(frozen=True)
class Case:
    """What the suite must know of a loss.

    ``make(rows, width, generator, scale)`` gives inputs ``[rows, width]``; ``loops`` is the formula in plain Python, for
    the lists that one row's inputs are; ``equal`` gives inputs at which the loss claims to be 0. ``tokens`` and
    ``elements`` say that there is a value for each position of ``[N, T, C]``, or for each number, not for each sample;
    ``single`` that a single class gives 0.
    """

    make: Callable[[int, int, torch.Generator, float], Inputs]
    loops: Callable[..., float | list[float]]
    learns: tuple[int, ...] = (0,)
    options: Sequence[dict[str, Any]] = ({},)
    equal: Callable[[Inputs], Inputs] | None = None
    tokens: bool = False
    elements: bool = False
    single: bool = True
    hostile: Sequence[Inputs] = field(default_factory=tuple)


def pair(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    return tuple(scale * torch.randn(rows, width, generator=generator) for _ in range(2))


def labelled(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    label = torch.randint(width, (rows,), generator=generator)
    return scale * torch.randn(rows, width, generator=generator), label


def answered(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    label = torch.randint(2, (rows, width), generator=generator).float()
    return scale * torch.randn(rows, width, generator=generator), label


def kl_loops(student: list[float], teacher: list[float], temperature: float) -> float:
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    return temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def cross_entropy_loops(student: list[float], label: int) -> float:
    return -math.log(softmax(student, 1.0)[label])


def mse_loops(student: list[float], teacher: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True)) / len(student)


def binary_cross_entropy_loops(student: list[float], label: list[float]) -> list[float]:
    return [-math.log(sigmoid(s) if y else 1 - sigmoid(s)) for s, y in zip(student, label, strict=True)]


def binary_kl_loops(student: list[float], teacher: list[float], temperature: float) -> list[float]:
    pairs = zip(student, teacher, strict=True)
    return [kl_loops([s, 0.0], [t, 0.0], temperature) for s, t in pairs]  # yes or no: two classes


def squared_error_loops(student: list[float], label: list[float]) -> list[float]:
    return [(s - y) ** 2 for s, y in zip(student, label, strict=True)]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def softmax(logits: list[float], temperature: float) -> list[float]:
    e = [math.exp(x / temperature) for x in logits]
    return [x / sum(e) for x in e]


INF, NAN = float("inf"), float("nan")
CASES = {
    "kl": Case(
        pair,
        kl_loops,
        learns=(0, 1),
        options=[{"temperature": t} for t in TEMPERATURES],
        equal=lambda inputs: (inputs[1], inputs[1]),
        tokens=True,
        hostile=[
            (torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5, -INF, 1.0]])),
            (torch.tensor([[0.0, 1e4, 2.0]]), torch.tensor([[0.5, -INF, -INF]])),
            (torch.tensor([[0.0, -INF, 2.0]]), torch.tensor([[0.5, -INF, 1.0]])),
            (torch.tensor([[-65504.0, 65504.0]]), torch.tensor([[65504.0, -65504.0]])),
        ],
    ),
    "cross_entropy": Case(
        labelled,
        cross_entropy_loops,
        tokens=True,
        hostile=[
            (torch.tensor([[0.0, -INF, 2.0]]), torch.tensor([0])),
            (torch.tensor([[1e30, 1.0], [0.0, 1.0]]), torch.tensor([-100, 0])),
            (torch.tensor([[-65504.0, 65504.0]]), torch.tensor([0])),
        ],
    ),
    "mse": Case(
        pair,
        mse_loops,
        learns=(0, 1),
        equal=lambda inputs: (inputs[1], inputs[1]),
        single=False,
        hostile=[(torch.full((2, 3), 65504.0), torch.full((2, 3), -65504.0))],
    ),
    "binary_cross_entropy": Case(
        answered,
        binary_cross_entropy_loops,
        elements=True,
        single=False,
        hostile=[
            (torch.tensor([[INF, -INF, NAN, 1.0]]), torch.tensor([[-1.0, NAN, -100.0, 0.5]])),
            (torch.tensor([[-65504.0, 65504.0]]), torch.tensor([[1.0, 0.0]])),
        ],
    ),
    "binary_kl": Case(
        pair,
        binary_kl_loops,
        learns=(0, 1),
        options=[{"temperature": t} for t in TEMPERATURES],
        equal=lambda inputs: (inputs[1], inputs[1]),
        elements=True,
        single=False,
        hostile=[
            (torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5, -INF, INF]])),
            (torch.tensor([[-65504.0, 65504.0]]), torch.tensor([[65504.0, -65504.0]])),
        ],
    ),
    "squared_error": Case(
        pair,
        squared_error_loops,
        equal=lambda inputs: (inputs[1], inputs[1]),
        elements=True,
        single=False,
        hostile=[
            (torch.full((2, 3), 65504.0), torch.full((2, 3), -65504.0)),
            (torch.tensor([INF, NAN, 1.0]), torch.tensor([NAN, NAN, NAN])),
        ],
    ),
}

every_loss = pytest.mark.parametrize("name", losses.__all__)
claims_zero = pytest.mark.parametrize("name", [n for n in losses.__all__ if n in CASES and CASES[n].equal])


def calls(name: str) -> Iterator[Callable[..., Tensor]]:
    """The loss with each of its options."""
    for options in CASES[name].options:
        yield functools.partial(getattr(losses, name), **options)


def inputs(name: str, rows: int = 5, width: int = 4, seed: int = 0, scale: float = 2.0) -> Inputs:
    return CASES[name].make(rows, width, torch.Generator().manual_seed(seed), scale)


def cast(tensors: Inputs, dtype: torch.dtype) -> Inputs:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def with_gradient(loss: Callable[..., Tensor], tensors: Inputs, learns: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    leaves = tuple(t.detach().clone().requires_grad_(i in learns) for i, t in enumerate(tensors))
    value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value.sum(), [leaves[i] for i in learns]))


# -- the list ----------------------------------------------------------------------------------------------------------


def without_entry(names: Sequence[str]) -> set[str]:
    return set(names) ^ set(CASES)


def test_every_public_loss_has_an_entry_and_every_entry_is_a_public_loss():
    assert without_entry(losses.__all__) == set()
    assert without_entry([*losses.__all__, "new"]) == {"new"}


@every_loss
def test_student_comes_first_and_nothing_is_reduced_or_weighed(name):
    parameters = list(inspect.signature(getattr(losses, name)).parameters)
    assert parameters[0] == "student"
    assert not {"reduction", "weight", "size_average", "reduce"} & set(parameters)


@every_loss
def test_docstring_has_its_sections_and_an_example_with_a_number(name):
    text = getattr(losses, name).__doc__
    for section in (".. math::", "Args:", "Returns:", "Scale:", "Source:", "Differs:", "See also:", ">>> "):
        assert section in text, f"{name} has no {section!r}"
    assert any(c.isdigit() for c in text.split(">>> ")[1].split("\n", 1)[1]), f"{name}'s example shows no number"


# -- values ------------------------------------------------------------------------------------------------------------


@every_loss
def test_equals_its_formula_in_plain_loops(name):
    case = CASES[name]
    for options, seed in itertools.product(case.options, SEEDS):
        if options.get("temperature", 1.0) < 0.1:
            continue  # the loops are naive: exp overflows there, and the extremes below say what must hold instead
        given = cast(inputs(name, seed=seed), torch.float64)
        expected = [case.loops(*row, **options) for row in zip(*(t.tolist() for t in given), strict=True)]
        value = getattr(losses, name)(*given, **options)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@every_loss
def test_gives_one_value_for_each_sample_or_token_or_a_scalar(name):
    for loss, rows, width in itertools.product(calls(name), (0, 1, 5), (1, 4)):
        value = loss(*inputs(name, rows=rows, width=width))
        assert value.shape in ([(rows, width)] if CASES[name].elements else [(), (rows,)])
    for loss in calls(name):
        flat = inputs(name, rows=6)
        stacked = tuple(t.reshape(2, 3, *t.shape[1:]) for t in flat)
        value = loss(*stacked)
        if CASES[name].tokens or CASES[name].elements:
            each = loss(*flat)
            torch.testing.assert_close(value, each.reshape(2, 3, *each.shape[1:]))
        else:
            assert value.shape in ((), (2,))


@every_loss
def test_is_never_negative(name):
    case = CASES[name]
    for loss, seed, near in itertools.product(calls(name), SEEDS, (1.0, 1e-3, 1e-9)):
        given = cast(inputs(name, rows=20, width=7, seed=seed), torch.float64)
        if case.equal is not None:
            equal = case.equal(given)
            given = tuple(e + near * (g - e) if e.is_floating_point() else e for g, e in zip(given, equal, strict=True))
        # What is left of log p - log q after rounding, times the largest T squared of the table.
        assert loss(*given).min() >= -1e-11


@claims_zero
def test_is_zero_with_zero_gradient_where_student_equals_teacher(name):
    for loss, scale, width in itertools.product(calls(name), SCALES, (1, 2, 5)):
        given = CASES[name].equal(inputs(name, width=width, scale=scale))
        value, gradients = with_gradient(loss, given, (0,))
        assert value.eq(0).all()
        assert gradients[0].abs().max() <= 1e-4  # T of 100 times float32's rounding of a probability


@claims_zero
def test_is_above_zero_where_they_differ(name):
    for loss in calls(name):
        value = loss(*inputs(name))
        # At T = 0.01 a single answer may be so certain on both sides that their difference is below the smallest number.
        assert (value.sum(1) if CASES[name].elements else value).gt(0).all()


@every_loss
def test_permuting_the_samples_permutes_the_values(name):
    order = torch.tensor([3, 0, 4, 1, 2])
    for loss in calls(name):
        given = inputs(name)
        value, permuted = loss(*given), loss(*(t[order] for t in given))
        torch.testing.assert_close(permuted, value[order] if value.ndim else value, rtol=1e-6, atol=0)


@every_loss
def test_a_small_step_down_the_gradient_lowers_it(name):
    for loss, seed in itertools.product(calls(name), SEEDS):
        given = cast(inputs(name, seed=seed), torch.float64)
        value, (gradient, *_) = with_gradient(loss, given, (0,))
        lower = loss(given[0] - 1e-4 * gradient / gradient.norm(), *given[1:])
        assert lower.sum() < value.sum()


@every_loss
def test_unequal_shapes_are_refused_even_where_they_would_broadcast(name):
    first, *others = inputs(name)
    for loss in calls(name):
        with pytest.raises(ShapeError, match=name):
            loss(first[:1], *others)
        with pytest.raises(ShapeError, match=name):
            loss(first.unsqueeze(0), *others)


# -- gradients ---------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (4, 3), (2, 1), (1, 9)])
def test_gradient_is_the_derivative_in_float64(name, shape):
    case = CASES[name]
    for loss, options in zip(calls(name), case.options, strict=True):
        # Around a difference of logits / T that is of order 1; the extremes have a test of their own.
        scale = min(options.get("temperature", 1.0), 4.0)
        given = cast(inputs(name, *shape, scale=scale), torch.float64)
        leaves = tuple(t.clone().requires_grad_(i in case.learns) for i, t in enumerate(given))
        assert torch.autograd.gradcheck(loss, leaves, eps=1e-6 * scale, atol=1e-5 * scale)


# -- precision ---------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    case = CASES[name]
    for loss in calls(name):
        half = cast(inputs(name, rows=8, width=50), dtype)
        value, gradients = with_gradient(loss, half, case.learns)
        wide, wide_gradients = with_gradient(loss, cast(half, torch.float32), case.learns)
        assert value.dtype == torch.float32
        assert torch.equal(value, wide)
        for gradient, expected in zip(gradients, wide_gradients, strict=True):
            assert gradient.dtype == dtype
            assert torch.equal(gradient, expected.to(dtype))


@every_loss
def test_control_without_the_widening_half_precision_differs(name):
    bare = getattr(losses, name).__wrapped__
    half = cast(inputs(name, rows=8, width=50), torch.bfloat16)
    value = bare(*half)
    assert value.dtype != torch.float32 or not torch.equal(value, getattr(losses, name)(*half))


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(name, dtype):
    case = CASES[name]
    for loss in calls(name):
        given = inputs(name, rows=8, width=50)
        value, gradients = with_gradient(loss, given, case.learns)
        with torch.autocast("cpu", dtype):
            inside, inside_gradients = with_gradient(loss, given, case.learns)
        assert torch.equal(inside, value)
        assert all(map(torch.equal, inside_gradients, gradients))


# -- extremes ----------------------------------------------------------------------------------------------------------


def not_finite(name: str, options: Sequence[tuple[Callable[..., Tensor], tuple[int, ...]]]) -> list[str]:
    """Where value or gradient is not finite, over scales, widths, numbers of rows and the case's hostile inputs."""
    grid = [
        (f"scale {scale}, {rows} rows of {width}", inputs(name, rows, width, scale=scale))
        for scale, rows, width in itertools.product(SCALES, (0, 1, 2), (1, 2, 10))
    ]
    grid += [(f"hostile {i}", given) for i, given in enumerate(CASES[name].hostile)]
    found = []
    for (where, given), (loss, learns) in itertools.product(grid, options):
        value, gradients = with_gradient(loss, given, learns)
        if not all(t.isfinite().all() for t in (value, *gradients)):
            found.append(f"{loss}: {where}")
    return found


@every_loss
def test_value_and_gradient_are_finite_at_the_extremes(name):
    assert not_finite(name, [(loss, CASES[name].learns) for loss in calls(name)]) == []


def test_control_a_kl_of_probabilities_is_not_finite_at_the_extremes():
    def naive(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = teacher.softmax(-1), student.softmax(-1)
        return (p * (p / q).log()).sum(-1)

    assert len(not_finite("kl", [(naive, (0, 1))])) > 5


@every_loss
def test_an_empty_batch_gives_an_empty_value_and_an_empty_gradient(name):
    for loss in calls(name):
        value, gradients = with_gradient(loss, inputs(name, rows=0), CASES[name].learns)
        assert value.sum() == 0
        assert all(g.numel() == 0 for g in gradients)


@pytest.mark.parametrize("name", [n for n in losses.__all__ if n in CASES and CASES[n].single])
def test_one_class_gives_zero(name):
    for loss, scale in itertools.product(calls(name), SCALES):
        value, gradients = with_gradient(loss, inputs(name, width=1, scale=scale), CASES[name].learns)
        assert value.eq(0).all()
        assert all(g.eq(0).all() for g in gradients)


# -- behaviour ---------------------------------------------------------------------------------------------------------


def mutated(loss: Callable[..., Tensor], given: Inputs) -> bool:
    before = [(t.clone(), t._version) for t in given]
    loss(*given)
    return any(
        not torch.equal(t, copy) or t._version != version for t, (copy, version) in zip(given, before, strict=True)
    )


@every_loss
def test_inputs_are_not_mutated(name):
    for loss in calls(name):
        assert not mutated(loss, inputs(name))
        assert mutated(lambda student, *others, loss=loss: loss(student.mul_(1), *others), inputs(name))


@every_loss
def test_strides_do_not_matter(name):
    for loss in calls(name):
        given = inputs(name)
        transposed = tuple(t.t().contiguous().t() if t.ndim > 1 else t for t in given)
        strided = tuple(torch.stack([t, t], -1)[..., 0] for t in given)
        assert not transposed[0].is_contiguous()
        assert not strided[0].is_contiguous()
        for same in (transposed, strided):
            torch.testing.assert_close(loss(*same), loss(*given), rtol=1e-6, atol=1e-7)
        expanded = tuple(t[:1].expand(3, *t.shape[1:]) for t in given)
        repeated = tuple(t.clone(memory_format=torch.contiguous_format) for t in expanded)
        torch.testing.assert_close(loss(*expanded), loss(*repeated), rtol=1e-6, atol=1e-7)


@every_loss
def test_compiled_equals_eager(name):
    torch._dynamo.reset()
    loss = getattr(losses, name)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    try:
        given, learns = inputs(name, seed=3), CASES[name].learns
        value, gradients = with_gradient(compiled, given, learns)
        expected, expected_gradients = with_gradient(loss, given, learns)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-7)
    finally:
        torch._dynamo.reset()


def test_control_the_loops_without_the_square_of_the_temperature_disagree():
    given = cast(inputs("kl"), torch.float64)
    expected = [kl_loops(*row, 4.0) / 4.0**2 for row in zip(*(t.tolist() for t in given), strict=True)]
    assert not torch.isclose(losses.kl(*given, temperature=4.0), torch.tensor(expected, dtype=torch.float64)).any()
