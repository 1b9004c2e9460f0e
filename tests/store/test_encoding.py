import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.store import Field, encoding
from understudy.store.encoding import decode, encode, layout, sample_bytes
from understudy.store.fidelity import errors

FLOATING = ("fp32", "fp16", "bf16")


def there_and_back(values: Tensor, field: Field, temperature: float | None = None) -> Tensor:
    return decode(encode(values, field), field, temperature)


def logits(rows: int, classes: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


AWKWARD: dict[str, Callable[[int], Tensor]] = {
    "zeros": lambda c: torch.zeros(3, c),
    "constant rows": lambda c: torch.tensor([[5.0], [-3.25], [1e-7]]).repeat(1, c),
    "extremes": lambda c: torch.where(torch.arange(3 * c).reshape(3, c) % 2 == 0, 1e4, -1e4),
    "one far above": lambda c: torch.cat([torch.full((3, 1), 1e4), torch.full((3, c - 1), -1e4)], 1),
    "tiny": lambda c: logits(3, c) * 1e-6,
    "smallest numbers": lambda c: logits(3, c) * 1e-44,
    "random": lambda c: logits(3, c, scale=10),
    "large and alike": lambda c: logits(3, c) * 1e-2 + 6e4,
    "no rows": lambda c: torch.zeros(0, c),
}


@pytest.mark.parametrize("classes", [1, 2, 7, 300])
@pytest.mark.parametrize("name", AWKWARD)
def test_what_comes_back_is_as_near_as_the_encoding_has_numbers(name: str, classes: int) -> None:
    values = AWKWARD[name](classes)
    spread = (values.amax(1, keepdim=True) - values.amin(1, keepdim=True)) if values.numel() else values
    allowed = {
        "fp32": torch.zeros_like(values),
        "fp16": values.abs() * 2**-11 + 2**-25,
        "bf16": values.abs() * 2**-8 + 1e-40,
        "uint8": (spread / 255 * 0.5 + values.abs() * 2**-22 + 1e-42).expand_as(values),
    }
    for kind, most in allowed.items():
        back = there_and_back(values, Field((classes,), kind, (1.0, 4.0)))
        assert back.dtype == torch.float32
        assert back.shape == values.shape
        assert ((back - values).abs() <= most).all(), kind


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_largest_keep_their_probability_and_the_rest_share_theirs_equally(
    name: str, top: int, temperature: float
) -> None:
    values = AWKWARD[name](7)
    field = Field((7,), f"topk:{top}", (1.0, 4.0))
    back = there_and_back(values, field, temperature)
    assert back.isfinite().all()
    p = torch.softmax(values.double() / temperature, 1)
    read = torch.softmax(back.double() / temperature, 1)
    for row, found in zip(p, read, strict=True):
        kept = torch.topk(row, top).indices.tolist()
        others = [i for i in range(7) if i not in kept]
        mass = math.fsum(row[i].item() for i in others)
        # Half precision counted from the peak: the log of a probability is off by 2^-11 of its distance from it.
        assert math.fsum(found[i].item() for i in others) == pytest.approx(mass, abs=4e-3)
        if name not in ("zeros", "constant rows"):  # there any of them is the largest
            assert [found[i].item() for i in kept] == pytest.approx([row[i].item() for i in kept], abs=4e-3)
        assert max(found[i].item() for i in others) == pytest.approx(min(found[i].item() for i in others), abs=1e-6)


def test_the_logsumexp_of_all_follows_from_what_is_kept() -> None:
    values, field = logits(5, 200), Field((200,), "topk:20", (1.0, 2.5))
    parts = encode(values, field)
    for at, t in enumerate(field.temperatures):
        top = torch.logsumexp(torch.topk(values, 20).values / t, 1)
        whole = torch.logaddexp(top, parts["rest"][:, 0, at] + parts["peak"][:, 0, 0] / t)
        torch.testing.assert_close(whole, torch.logsumexp(values / t, 1))


def test_control_without_the_rests_mass_the_probabilities_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    values, field = logits(20, 200), Field((200,), "topk:20", (4.0,))
    right = errors(values, encode(values, field), field)["T=4"].figure
    parts = encode(values, field)
    parts["rest"] = parts["rest"] + 1
    assert errors(values, parts, field)["T=4"].figure > 1.1 * right
    back = torch.softmax(decode(parts, field) / 4, 1)
    assert not torch.allclose(back.topk(20).values, torch.softmax(values / 4, 1).topk(20).values, atol=4e-3)


@pytest.mark.parametrize("kind", [*FLOATING, "uint8", "topk:2"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_its_row(kind: str, bad: float) -> None:
    values = torch.zeros(5, 2, 6)
    values[3, 1, 4] = bad
    with pytest.raises(InputError, match="row 3 holds NaN or infinity"):
        encode(values, Field((2, 6), kind, (4.0,)))


def test_values_whose_sum_is_too_large_are_no_infinity() -> None:
    values = torch.full((2, 4), 3e38)
    assert torch.equal(there_and_back(values, Field((4,), "fp32")), values)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("fp16", 65520.0, r"row 1 holds 6.55e\+04, which fp16 cannot \(its largest is 65,504\). Take fp32"),
        ("bf16", 3.4e38, r"row 1 holds 3.4e\+38, which bf16 cannot. Take fp32"),
        ("uint8", 3.4e38, r"row 1 spans -3e\+38 to 3.4e\+38, too wide for uint8"),
    ],
)
def test_what_overflows_is_refused_and_not_infinite(kind: str, value: float, told: str) -> None:
    values = torch.tensor([[0.0, 1.0], [-3e38 if kind == "uint8" else 0.0, value]])
    with pytest.raises(InputError, match=told):
        encode(values, Field((2,), kind))


def test_the_largest_half_is_not_refused() -> None:
    assert there_and_back(torch.tensor([[65504.0]]), Field((1,), "fp16")).tolist() == [[65504.0]]


def test_a_line_is_the_class_axis_of_logits_and_the_whole_sample_of_features() -> None:
    assert sample_bytes(Field((6, 10), "uint8", (1.0,))) == 6 * (10 + 8)
    assert sample_bytes(Field((6, 10), "uint8")) == 60 + 8
    assert sample_bytes(Field((), "fp32")) == 4
    assert sample_bytes(Field((100,), "topk:10", (1.0, 4.0))) == 10 * (2 + 2) + 4 + 8
    assert sample_bytes(Field((100_000,), "topk:10", (1.0,))) == 10 * (2 + 4) + 4 + 4
    tokens = logits(4 * 6, 10).reshape(4, 6, 10) * torch.tensor([1.0, 100.0]).repeat(3)[:, None]
    by_line = there_and_back(tokens, Field((6, 10), "uint8", (1.0,)))
    assert (by_line - tokens)[:, ::2].abs().max() < 0.1


@pytest.mark.parametrize("kind", [*FLOATING, "uint8", "topk:2"])
def test_the_layout_is_that_of_what_is_encoded(kind: str) -> None:
    for shape in ((5,), (3, 5)):
        field = Field(shape, kind, (1.0, 2.0))
        made = encode(logits(4, math.prod(shape)).reshape(4, *shape), field)
        assert {n: (t.dtype, tuple(t.shape[1:])) for n, t in made.items()} == layout(field)
        assert sum(t.nbytes for t in made.values()) == 4 * sample_bytes(field)


def test_indices_beyond_what_two_bytes_count_come_back() -> None:
    values = torch.zeros(2, 40_000)
    values[0, 39_999], values[1, 32_768] = 9.0, 9.0
    back = there_and_back(values, Field((40_000,), "topk:1", (1.0,)))
    assert back.argmax(1).tolist() == [39_999, 32_768]


def test_nothing_that_was_given_is_changed() -> None:
    for kind in (*FLOATING, "uint8", "topk:2"):
        values = logits(4, 5)
        before, field = values.clone(), Field((5,), kind, (1.0,))
        parts = encode(values, field)
        kept = {n: t.clone() for n, t in parts.items()}
        decode(parts, field)
        assert torch.equal(values, before)
        assert all(torch.equal(parts[n], kept[n]) for n in parts), kind


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_values_of_another_type_are_taken_as_float32(dtype: torch.dtype) -> None:
    values = logits(3, 4).to(dtype)
    assert torch.equal(there_and_back(values.requires_grad_(), Field((4,), "fp32")), values.detach().float())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Field((4,), "fp61"), "encoding 'fp61': Did you mean 'fp16'"),
        (lambda: Field((4,), "topk:0", (1.0,)), "encoding 'topk:0'"),
        (lambda: Field((4,), "topk:x", (1.0,)), "encoding 'topk:x'"),
        (lambda: Field((4,), "topk:2"), "Give temperatures"),
        (lambda: Field((4,), "topk:4", (1.0,)), "topk:4 of 4 classes leaves none out"),
        (lambda: Field((1,), "topk:1", (1.0,)), "leaves none out"),
        (lambda: Field((4, 0)), r"shape \[4, 0\] holds nothing"),
        (lambda: Field((4,), temperatures=(0.0,)), r"temperatures \[0.0\]: allowed: above 0"),
        (lambda: Field((4,), temperatures=(math.nan,)), "allowed: above 0"),
        (lambda: Field((), temperatures=(1.0,)), "needs an axis of classes"),
        (lambda: encode(torch.zeros(2, 4, dtype=torch.int64), Field((4,))), "outputs of torch.int64"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()


@pytest.mark.parametrize("shape", [(2, 5), (4,), (), (2, 4, 1)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"are not \[N, 4\]"):
        encode(torch.zeros(shape), Field((4,)))


def test_top_k_is_read_at_a_temperature_at_which_it_was_kept() -> None:
    values, field = logits(3, 9), Field((9,), "topk:2", (1.0, 4.0))
    parts = encode(values, field)
    assert not torch.equal(decode(parts, field, 1), decode(parts, field, 4))
    with pytest.raises(InputError, match="cannot be read without a temperature: it was kept at 1, 4"):
        decode(parts, field)
    with pytest.raises(InputError, match="cannot be read at temperature 2: it was kept at 1, 4"):
        decode(parts, field, 2)


def test_control_a_scale_for_the_whole_batch_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_batch(lines: Tensor, row: object) -> dict[str, Tensor]:
        low, high = lines.min(), lines.max()
        scale = (high - low) / 255
        ranges = torch.stack([scale, low]).expand(*lines.shape[:-1], 2)
        return {"levels": ((lines - low) / scale).round().to(torch.uint8), "range": ranges}

    monkeypatch.setattr(encoding, "_levels", of_the_batch)
    with pytest.raises(AssertionError):
        test_a_line_is_the_class_axis_of_logits_and_the_whole_sample_of_features()
