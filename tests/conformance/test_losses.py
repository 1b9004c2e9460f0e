"""Every loss by itself. A new loss needs an entry in CASES of a file ``cases_<family>.py``, and nothing else here."""

from __future__ import annotations

import copy
import doctest
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import losses
from understudy.errors import ShapeError
from understudy.progress import Progress

from .case import INF, NAN, TEMPERATURES, Case, Inputs, answered, labelled, merged, pair, sigmoid, softmax

SEEDS = range(5)


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

MORE = merged("cases_*.py")
assert not CASES.keys() & MORE.keys()
CASES |= MORE

FUNCTIONS = [n for n in losses.__all__ if not inspect.isclass(getattr(losses, n))]
MODULES = [n for n in losses.__all__ if inspect.isclass(getattr(losses, n))]


def those(names: Sequence[str], claim: Callable[[Case], object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [n for n in names if n in CASES and claim(CASES[n])])


every_loss = pytest.mark.parametrize("name", losses.__all__)
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_module = pytest.mark.parametrize("name", MODULES)
claims_zero = those(losses.__all__, lambda case: case.equal)


def calls(name: str, width: int = 4, rows: int = 5) -> Iterator[Callable[..., Tensor]]:
    """The loss with each of its options; of a class, a fresh instance at each call, fitted to ``width``."""
    for options in CASES[name].options:
        yield functools.partial(getattr(losses, name), **options) if name in FUNCTIONS else Fresh(name, width, options)


class Fresh:
    """A loss with state as a function of its inputs: what one call leaves behind, the next does not see."""

    def __init__(self, name: str, width: int, options: dict[str, Any]) -> None:
        self.module = fitted(name, width, options)

    def __call__(self, *given: Tensor) -> Tensor:
        wide = any(t.dtype == torch.float64 for t in given)
        module = copy.deepcopy(self.module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for what it draws
            return (module.double() if wide else module)(*given)


def fitted(name: str, width: int = 4, options: dict[str, Any] | None = None) -> nn.Module:
    """An instance after a dry run, which may have filled in sizes; the same at each call."""
    build = CASES[name].build
    assert build is not None, f"{name} is a class; its Case needs build="
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(width, **(options or {}))
        with torch.no_grad():
            module.eval()(*inputs(name, width=width))
    return module.train()


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


def test_every_function_has_its_formula_in_plain_loops():
    assert [n for n in FUNCTIONS if n in CASES and CASES[n].loops is None] == []


def test_every_public_loss_has_an_entry_and_every_entry_is_a_public_loss():
    assert without_entry(losses.__all__) == set()
    assert without_entry([*losses.__all__, "new"]) == {"new"}


@every_loss
def test_student_comes_first_and_nothing_is_reduced_or_weighed(name):
    loss = getattr(losses, name)
    parameters = list(inspect.signature(loss.forward if name in MODULES else loss).parameters)
    assert parameters[name in MODULES].startswith("student")
    assert not {"reduction", "weight", "size_average", "reduce"} & {*parameters, *inspect.signature(loss).parameters}


@every_loss
def test_docstring_has_its_sections_and_an_example_with_a_number(name):
    text = getattr(losses, name).__doc__
    for section in (".. math::", "Args:", "Returns:", "Scale:", "Family:", "Source:", "Differs:", "See also:", ">>> "):
        assert section in text, f"{name} has no {section!r}"
    shown = "".join(example.want for example in doctest.DocTestParser().get_examples(text))
    assert any(c.isdigit() for c in shown), f"{name}'s example shows no number"


# -- values ------------------------------------------------------------------------------------------------------------


@those(losses.__all__, lambda case: case.loops)
def test_equals_its_formula_in_plain_loops(name):
    case = CASES[name]
    for options, seed in itertools.product(case.options, SEEDS):
        if options.get("temperature", 1.0) < 0.1:
            continue  # the loops are naive: exp overflows there, and the extremes below say what must hold instead
        given = cast(inputs(name, seed=seed), torch.float64)
        lists = [t.tolist() for t in given]
        expected = (
            case.loops(*lists, **options)
            if case.batch or case.permute
            else [case.loops(*row, **options) for row in zip(*lists, strict=True)]
        )
        (loss,) = (loss for loss, o in zip(calls(name), case.options, strict=True) if o is options)
        value = loss(*given)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def shape_of(case: Case, rows: int, width: int) -> tuple[int, ...]:
    return () if case.batch else (rows, width) if case.elements else (rows,)


@every_loss
def test_gives_one_value_for_each_sample_or_token_or_a_scalar(name):
    case = CASES[name]
    for rows, width in itertools.product((0, 1, 5), (1, 4)):
        for loss in calls(name, width):
            if rows >= case.fewest:
                assert loss(*inputs(name, rows=rows, width=width)).shape == shape_of(case, rows, width)
    flat = inputs(name, rows=6)
    if case.batch or not case.stacks or flat[0].ndim != 2:
        return
    for loss in calls(name):
        value = loss(*(t.reshape(2, 3, *t.shape[1:]) for t in flat))
        if case.tokens or case.elements:
            each = loss(*flat)
            torch.testing.assert_close(value, each.reshape(2, 3, *each.shape[1:]))
        else:
            assert value.shape == (2,)


def between(given: Tensor, equal: Tensor, near: float) -> Tensor:
    """Beside ``equal``; towards ``given``, if that has the same shape."""
    return equal + near * (given - equal if given.shape == equal.shape else equal.roll(1, 0))


@those(losses.__all__, lambda case: not case.negative)
def test_is_never_negative(name):
    case = CASES[name]
    for loss, seed, near in itertools.product(calls(name, 7), SEEDS, (1.0, 1e-3, 1e-9)):
        given = cast(inputs(name, rows=20, width=7, seed=seed), torch.float64)
        if case.equal is not None:
            equal = case.equal(given)
            given = tuple(
                between(g, e, near) if e.is_floating_point() else e for g, e in zip(given, equal, strict=True)
            )
        # What is left of log p - log q after rounding, times the largest T squared of the table.
        assert loss(*given).min() >= -1e-11


@claims_zero
def test_is_zero_with_zero_gradient_where_student_equals_teacher(name):
    case = CASES[name]
    for scale, width in itertools.product(case.scales, (1, 2, 5)):
        for loss in calls(name, width):
            given = case.equal(inputs(name, width=width, scale=scale))
            value, gradients = with_gradient(loss, given, (0,))
            assert value.abs().max() <= case.near
            # T of 100 times float32's rounding of a probability; what divides by a norm has the inverse of the scale in it.
            assert gradients[0].abs().max() * (min(scale, 1) or 1) <= 1e-4


@claims_zero
def test_is_above_zero_where_they_differ(name):
    case = CASES[name]
    for loss in calls(name):
        value = loss(*inputs(name))
        # At T = 0.01 a single answer may be so certain on both sides that their difference is below the smallest number.
        # A node without two neighbours has nothing to tell.
        value = value.sum(1) if case.elements else value.sum() if case.permute else value
        assert value.gt(10 * case.near).all()


@every_loss
def test_permuting_the_samples_permutes_the_values(name):
    order = torch.tensor([3, 0, 4, 1, 2])
    for loss in calls(name):
        given = cast(inputs(name), torch.float64)
        other = permute(given, order) if (permute := CASES[name].permute) else tuple(t[order] for t in given)
        value, permuted = loss(*given), loss(*other)
        torch.testing.assert_close(permuted, value[order] if value.ndim else value, rtol=1e-9, atol=1e-12)


def test_control_a_loss_that_looks_at_the_order_of_the_batch_is_seen():
    def deltas(student: Tensor, teacher: Tensor) -> Tensor:
        gap = student - teacher
        return (gap[:-1] * gap[1:]).mean()

    given = cast(inputs("mse"), torch.float64)
    assert abs(deltas(*given) - deltas(*(t[torch.tensor([3, 0, 4, 1, 2])] for t in given))) > 1e-3


@those(losses.__all__, lambda case: case.smooth)
def test_a_small_step_down_the_gradient_lowers_it(name):
    for loss, seed in itertools.product(calls(name), SEEDS):
        given = cast(inputs(name, seed=seed), torch.float64)
        value, (gradient, *_) = with_gradient(loss, given, CASES[name].learns[:1])
        at = CASES[name].learns[0]
        step = given[at] - 1e-4 * gradient / gradient.norm()
        assert loss(*given[:at], step, *given[at + 1 :]).sum() < value.sum()


@every_loss
def test_unequal_shapes_are_refused_even_where_they_would_broadcast(name):
    for loss in calls(name):
        for wrong in CASES[name].refused(inputs(name)):
            with pytest.raises(ShapeError, match=name):
                loss(*wrong)


# -- gradients ---------------------------------------------------------------------------------------------------------


@those(losses.__all__, lambda case: case.smooth)
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (4, 3), (2, 1), (1, 9)])
def test_gradient_is_the_derivative_in_float64(name, shape):
    case = CASES[name]
    if shape[0] < case.fewest:
        return
    for loss, options in zip(calls(name, shape[1]), case.options, strict=True):
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
    for loss in calls(name, 50):
        half = cast(inputs(name, rows=8, width=50), dtype)
        value, gradients = with_gradient(loss, half, case.learns)
        wide, wide_gradients = with_gradient(loss, cast(half, torch.float32), case.learns)
        assert value.dtype == torch.float32
        assert torch.equal(value, wide)
        for gradient, expected in zip(gradients, wide_gradients, strict=True):
            assert gradient.dtype == dtype
            assert torch.equal(gradient, expected.to(dtype))


@every_function
def test_control_without_the_widening_half_precision_differs(name):
    bare = getattr(losses, name).__wrapped__
    half = cast(inputs(name, rows=8, width=50), torch.bfloat16)
    options = CASES[name].options[0]
    try:
        value = bare(*half, **options)
    except (RuntimeError, NotImplementedError):  # no such kernel in half precision
        return
    assert value.dtype != torch.float32 or not torch.equal(value, getattr(losses, name)(*half, **options))


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(name, dtype):
    """Around the forward, as it is meant to be used; within it, a backward's matrix products are autocast's own affair."""
    case = CASES[name]
    for loss in calls(name, 50):
        given = inputs(name, rows=8, width=50)

        def inside(*tensors: Tensor, loss: Callable[..., Tensor] = loss) -> Tensor:
            with torch.autocast("cpu", dtype):
                return loss(*tensors)

        value, gradients = with_gradient(loss, given, case.learns)
        other, other_gradients = with_gradient(inside, given, case.learns)
        assert torch.equal(other, value)
        assert all(map(torch.equal, other_gradients, gradients))


# -- extremes ----------------------------------------------------------------------------------------------------------


Called = tuple[Callable[..., Tensor], tuple[int, ...]]


def not_finite(name: str, options: Callable[[int], Sequence[Called]]) -> list[str]:
    """Where value or gradient is not finite, over scales, widths, numbers of rows and the case's hostile inputs."""
    case = CASES[name]
    found = []
    for width in (1, 2, 10):
        grid = [
            (f"scale {scale}, {rows} rows of {width}", inputs(name, rows, width, scale=scale))
            for scale, rows in itertools.product(case.scales, (0, 1, 2))
            if rows >= case.fewest
        ]
        if case.build is None and width == 1:
            grid += [(f"hostile {i}", given) for i, given in enumerate(case.hostile)]
        for (where, given), (loss, learns) in itertools.product(grid, options(width)):
            value, gradients = with_gradient(loss, given, learns)
            if not all(t.isfinite().all() for t in (value, *gradients)):
                found.append(f"{loss}: {where}")
    return found


@every_loss
def test_value_and_gradient_are_finite_at_the_extremes(name):
    assert not_finite(name, lambda width: [(loss, CASES[name].learns) for loss in calls(name, width)]) == []


def test_control_a_kl_of_probabilities_is_not_finite_at_the_extremes():
    def naive(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = teacher.softmax(-1), student.softmax(-1)
        return (p * (p / q).log()).sum(-1)

    assert len(not_finite("kl", lambda width: [(naive, (0, 1))])) > 5


@those(losses.__all__, lambda case: case.fewest == 0)
def test_an_empty_batch_gives_an_empty_value_and_an_empty_gradient(name):
    for loss in calls(name):
        value, gradients = with_gradient(loss, inputs(name, rows=0), CASES[name].learns)
        assert value.sum() == 0
        assert all(g.numel() == 0 for g in gradients)


@those(losses.__all__, lambda case: case.single)
def test_one_class_gives_zero(name):
    for loss, scale in itertools.product(calls(name, 1), CASES[name].scales):
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
        given = cast(inputs(name), torch.float64)
        transposed = tuple(t.transpose(0, 1).contiguous().transpose(0, 1) if t.ndim > 1 else t for t in given)
        strided = tuple(torch.stack([t, t], -1)[..., 0] for t in given)
        assert not transposed[0].is_contiguous()
        assert not strided[0].is_contiguous()
        for same in (transposed, strided):
            torch.testing.assert_close(loss(*same), loss(*given), rtol=1e-6, atol=1e-12)
        if CASES[name].permute:
            continue
        expanded = tuple(t[:1].expand(3, *t.shape[1:]) for t in given)
        repeated = tuple(t.clone(memory_format=torch.contiguous_format) for t in expanded)
        torch.testing.assert_close(loss(*expanded), loss(*repeated), rtol=1e-6, atol=1e-12)


@every_function
def test_compiled_equals_eager(name):
    torch._dynamo.reset()
    loss = functools.partial(getattr(losses, name), **CASES[name].options[0])
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


# -- losses with state -------------------------------------------------------------------------------------------------


@every_module
def test_is_built_by_keyword_with_plain_values(name):
    parameters = inspect.signature(getattr(losses, name)).parameters.values()
    assert {p.kind for p in parameters} <= {inspect.Parameter.KEYWORD_ONLY}


@every_module
def test_gradient_reaches_every_parameter(name):
    for options in CASES[name].options:
        module = fitted(name, options=options)
        if not list(module.parameters()):
            continue  # it keeps what it has seen, and learns nothing
        module(*inputs(name)).sum().backward()
        idle = [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or p.grad.eq(0).all())]
        assert idle == []


def after_steps(module: nn.Module, name: str, steps: int = 2, first: int = 0) -> nn.Module:
    """The module after that many steps of its own training."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05) if parameters else None
    for step in range(first, first + steps):
        torch.manual_seed(step)
        value = module(*inputs(name, seed=step))
        if optimizer is not None:
            optimizer.zero_grad()
            value.sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # a sum over features would run away
            optimizer.step()
        if callable(after := getattr(module, "after", None)):
            after(Progress(step, 10))
    return module


def resumed_differs(module: nn.Module, fresh: nn.Module, name: str) -> bool:
    """Whether a fresh instance with the state of one that has trained goes on in another way."""
    after_steps(module, name)
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    values = [after_steps(m, name, first=2)(*inputs(name, seed=9)) for m in (module, fresh)]
    return not torch.equal(*values)


@every_module
def test_all_of_its_state_is_in_its_state_dict(name):
    for options in CASES[name].options:
        assert not resumed_differs(fitted(name, options=options), fitted(name, options=options), name)


def test_control_state_that_is_not_in_the_state_dict_is_seen():
    class Mean(nn.Module):
        def __init__(self, kept: bool) -> None:
            super().__init__()
            self.seen = torch.zeros(()) if not kept else None
            if kept:
                self.register_buffer("mean", torch.zeros(()))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            mean = self.mean if self.seen is None else self.seen
            mean += student.detach().mean()
            return (student - teacher).square().mean() + mean

    with torch.random.fork_rng(devices=[]):
        assert resumed_differs(Mean(False), Mean(False), "mse")
        assert not resumed_differs(Mean(True), Mean(True), "mse")


@every_module
def test_evaluating_a_loss_without_a_step_changes_nothing_that_is_saved(name):
    """As in a dry run on a saved run, and in a loss that is only watched."""
    for options in CASES[name].options:
        module = fitted(name, options=options)
        before = copy.deepcopy(module.state_dict())
        with torch.no_grad():
            module.eval()(*inputs(name, seed=5))
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_control_the_loops_without_the_square_of_the_temperature_disagree():
    given = cast(inputs("kl"), torch.float64)
    expected = [kl_loops(*row, 4.0) / 4.0**2 for row in zip(*(t.tolist() for t in given), strict=True)]
    assert not torch.isclose(losses.kl(*given, temperature=4.0), torch.tensor(expected, dtype=torch.float64)).any()
