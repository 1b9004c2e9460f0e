"""The loss kdsvd: the published code's number, and what that code leaves to chance."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from understudy import losses
from understudy.errors import ShapeError
from understudy.losses import kdsvd
from understudy.losses.kdsvd import _singular

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "kdsvd.json").read_text())["values"]
Maps = tuple[Tensor, Tensor, Tensor, Tensor]


def waves(wave: Callable[[Tensor], Tensor], channels: int, side: int, a: float, b: float) -> Tensor:
    k = torch.arange(4 * channels * side * side, dtype=torch.float64).reshape(4, channels, side, side)
    return 1.5 + wave(a * k + b)


def maps() -> Maps:
    return (
        waves(torch.sin, 5, 4, 0.31, 0.2), waves(torch.sin, 6, 3, 0.9, 0.3),
        waves(torch.cos, 5, 4, 0.17, 0.0), waves(torch.cos, 6, 3, 0.55, 0.1),
    )  # fmt: skip


def random(*shape: int, seed: int = 0) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
    return a, b, c, d


def test_it_gives_the_number_of_the_published_code() -> None:
    golden = GOLDEN["kdsvd, mean over the batch"]["value"]
    assert float(kdsvd(*maps()).mean()) == pytest.approx(golden, rel=1e-9)
    # The controls: the student's maps as rows of C H numbers, as another library has it; and the mean over channels.
    rows = [x.transpose(1, 2) for x in maps()]
    assert float(kdsvd(*rows).mean()) != pytest.approx(golden, rel=1e-2)
    assert float(kdsvd(*maps()).mean() / 30) != pytest.approx(golden, rel=1e-2)


@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_the_sign_that_the_machine_gives_a_vector_does_not_matter(
    vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = random(3, 5, 3, 4)
    value = kdsvd(*inputs, vectors=vectors)
    svd = torch.linalg.svd

    def turned(x: Tensor, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
        u, s, v = svd(x, full_matrices=full_matrices)
        sign = torch.tensor([-1.0, 1.0], dtype=v.dtype).repeat(v.shape[1])[: v.shape[1], None] * (-1) ** x.shape[1]
        return u, s, v * sign

    monkeypatch.setattr(torch.linalg, "svd", turned)
    torch.testing.assert_close(kdsvd(*inputs, vectors=vectors), value, rtol=1e-12, atol=1e-14)
    # The control: without the rule for the teacher's sign the value is another.
    student = _singular(inputs[0], 1)[0]
    monkeypatch.undo()
    assert torch.equal(student.abs(), _singular(inputs[0], 1)[0].abs())
    assert not torch.equal(student, _singular(inputs[0], 1)[0])


def test_scale_area_and_order_of_positions_do_not_matter_and_channels_do() -> None:
    a, b, c, d = random(3, 5, 3, 4)
    value = kdsvd(a, b, c, d)
    order = torch.randperm(12)
    shuffled = a.flatten(2)[:, :, order].view(3, 5, 2, 6)
    torch.testing.assert_close(kdsvd(1e6 * shuffled, b, 1e-6 * c.transpose(2, 3), d), value)
    assert not torch.allclose(kdsvd(a.flip(1), b, c, d), value)


def twins(channels: int) -> Tensor:
    """Maps whose singular values are all the same, for which a vector has no derivative."""
    return torch.eye(channels, dtype=torch.float64).view(1, channels, 1, channels)


def test_the_gradient_stays_finite_where_singular_values_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, b, c, d = random(1, 4, 1, 4)

    def gradient() -> Tensor:
        x = twins(4).requires_grad_()
        kdsvd(x, b, c, d).sum().backward()
        assert x.grad is not None
        return x.grad

    assert gradient().isfinite().all()
    monkeypatch.setattr(sys.modules["understudy.losses.kdsvd"], "_inverse", lambda x, narrow: 1 / x)
    assert not gradient().isfinite().all()  # the control


def test_what_is_not_finite_stays_so_and_is_no_error() -> None:
    a, b, c, d = random(2, 4, 3, 3)
    a[0, 0, 0, 0] = torch.nan
    value = kdsvd(a, b, c, d)
    assert value.isnan().tolist() == [True, False]


def test_a_step_downhill_turns_the_vectors_towards_the_teachers() -> None:
    a, b, c, d = random(8, 5, 4, 4)
    student = [x.clone().requires_grad_() for x in (a, b)]
    optimizer = torch.optim.Adam(student, lr=0.05)
    before = kdsvd(a, b, c, d).mean()
    for _ in range(50):
        optimizer.zero_grad()
        kdsvd(*student, c, d).mean().backward()
        optimizer.step()
    assert kdsvd(*student, c, d).mean() < 0.5 * before


def test_layers_of_other_widths_are_projected_and_equal_ones_are_not() -> None:
    a, b, _, _ = random(2, 4, 3, 3)
    _, _, c, d = random(2, 6, 3, 3)
    loss = losses.KDSVD(vectors=2)
    with torch.no_grad():
        loss(a.float(), b.float(), c.float(), d.float())
    assert [tuple(p.shape) for p in loss.parameters() if p.ndim == 4] == [(6, 4, 1, 1), (6, 4, 1, 1)]
    equal = losses.KDSVD(student=6, student_later=6, teacher=6, teacher_later=6)
    assert list(equal.parameters()) == []
    torch.testing.assert_close(equal(c, d, d, c), kdsvd(c, d, d, c))


@pytest.mark.parametrize(("vectors", "area"), [(0, 3), (5, 3), (2, 1)])
def test_there_are_no_more_vectors_than_channels_or_positions(vectors: int, area: int) -> None:
    with pytest.raises(ShapeError, match=f"have not {vectors} singular vectors"):
        kdsvd(*random(2, 4, area, area if area > 1 else 1), vectors=vectors)
