import math

import pytest
import torch
from torch import Tensor

from understudy import losses
from understudy.store import Field
from understudy.store.encoding import encode
from understudy.store.fidelity import Error, errors, figures, gather


def logits(rows: int, classes: int, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)) * scale


def gradient(teacher: Tensor, temperature: float) -> Tensor:
    """Of the loss itself, with respect to a student whose logits are all 0."""
    student = torch.zeros_like(teacher, requires_grad=True)
    (found,) = torch.autograd.grad(losses.kl(student, teacher, temperature=temperature).sum(), student)
    return found


@pytest.mark.parametrize("kind", ["fp16", "bf16", "uint8", "topk:5"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_error_is_that_of_the_gradient_of_kl_for_a_student_that_knows_nothing(
    kind: str, temperature: float
) -> None:
    from understudy.store.encoding import decode

    values, field = logits(40, 30).double(), Field((30,), kind, (1.0, 4.0))
    parts = encode(values, field)
    right = gradient(values, temperature)
    apart = gradient(decode(parts, field, temperature).double(), temperature) - right
    told = errors(values, parts, field)[f"T={temperature:g}"].figure
    assert told == pytest.approx(float(apart.norm() / right.norm()), rel=2e-3)
    assert told > 0


def test_the_error_of_features_is_that_of_their_length() -> None:
    values = logits(10, 12).reshape(10, 3, 4)
    field = Field((3, 4), "uint8")
    parts = encode(values, field)
    scale, low = parts["range"].unbind(-1)
    whole = apart = 0.0
    for n in range(10):
        for i in range(12):
            value = values[n].flatten()[i].item()
            read = parts["levels"][n, 0, i].item() * scale[n, 0].item() + low[n, 0].item()
            whole, apart = whole + value**2, apart + (read - value) ** 2
    assert errors(values, parts, field)["relative"].figure == pytest.approx(math.sqrt(apart / whole), rel=1e-4)


def test_top_k_with_a_uniform_rest_is_useless_where_logits_are_softened() -> None:
    values = logits(200, 1000, scale=2)
    field = Field((1000,), "topk:50", (1.0, 4.0))
    found = errors(values, encode(values, field), field)
    assert found["T=4"].figure > 0.5


def test_fp32_has_no_error_and_nothing_has_none_either() -> None:
    for values in (logits(5, 4), torch.zeros(5, 4)):
        for field in (Field((4,), "fp32", (1.0,)), Field((4,), "fp32")):
            assert [e.figure for e in errors(values, encode(values, field), field).values()] == [0.0]


def test_what_becomes_of_nothing_is_infinitely_wrong() -> None:
    assert Error(1.0, 0.0).figure == math.inf


def test_errors_of_pieces_add_up_to_that_of_the_whole() -> None:
    values, field = logits(50, 20), Field((20,), "uint8", (1.0, 4.0))
    whole = {"": errors(values, encode(values, field), field)}
    parts: dict[str, dict[str, Error]] = {"": {}}
    for piece in values.split(7):
        gather(parts[""], errors(piece, encode(piece, field), field))
    assert figures(parts)[""] == pytest.approx(figures(whole)[""], rel=1e-6)


def test_features_whose_squares_float32_cannot_hold_have_an_error() -> None:
    values, field = torch.full((2, 3), 1e30), Field((3,), "bf16")
    assert 0 < errors(values, encode(values, field), field)["relative"].figure < 0.01
