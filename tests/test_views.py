"""Which layers a method compares, and what can be seen of them."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Batch, Distillation, Term, losses, methods
from understudy.address import Address
from understudy.state import digest
from understudy.views import View, heat, relations, views

PICTURES = Batch.of(
    {"input": torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), "label": torch.arange(4)}
)


class Net(nn.Module):
    """Maps, then a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer2(self.layer1(x)).mean((2, 3))))


class Attentive(nn.Module):
    """Tokens, with queries, keys and values."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, width)
        self.attention = nn.Module()
        self.attention.num_heads = heads
        for name in ("query", "key", "value"):
            setattr(self.attention, name, nn.Linear(width, width))
        self.head = nn.Linear(width, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        mixed = self.attention.query(x) + self.attention.key(x) + self.attention.value(x)
        return self.head((mixed * attention_mask[:, :, None]).mean(1))


WORDS = Batch.of(
    {
        "input_ids": torch.randint(1, 9, (4, 6), generator=torch.Generator().manual_seed(1)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3, [1] * 6]),
        "label": torch.arange(4),
    }
)


def models() -> tuple[Net, Net]:
    torch.manual_seed(0)
    return Net(4), Net(6)


def found(method: Distillation, teacher: Any, batch: Batch = PICTURES) -> list[tuple[str, str, str]]:
    method.dry_run(batch)
    return [(*view.layers, view.kind) for view in views(method, teacher, batch)]


BOTH = [("layer1", "layer1", "heat"), ("layer2", "layer2", "heat")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("attention_transfer", BOTH),
        ("nst", [BOTH[1]]),
        ("cwd", [BOTH[1]]),
        ("fsp", BOTH),
        ("review_kd", BOTH),
        ("similarity_preserving", [("layer2", "layer2", "samples")]),
        ("rkd", [("drop", "drop", "samples")]),
        ("crd_in_batch", [("drop", "drop", "samples")]),
        ("kd", []),
        ("dkd", []),
        ("residual_hint", []),
    ],
)
def test_a_methods_terms_say_what_there_is_to_see(name: str, expected: list[Any]) -> None:
    student, teacher = models()
    make = getattr(methods, name)
    given = {} if name in ("kd", "dkd") else {"example": PICTURES}
    seen = found(make(student, teacher, **given), teacher)
    assert [view for view in expected if view not in seen] == []
    assert {view for view in seen if view not in BOTH} <= set(expected)


def test_a_loss_of_the_batch_as_a_whole_is_seen_as_samples_and_one_of_each_sample_at_positions() -> None:
    student, teacher = models()
    for loss, kind in ((losses.cka, "samples"), (losses.attention_map, "heat")):
        term = Term(loss, "student.layer1", "teacher.layer2")
        assert found(Distillation(term, student=student, teacher=teacher), teacher) == [("layer1", "layer2", kind)]


def test_a_term_of_outputs_of_another_teacher_or_without_weight_is_not_seen() -> None:
    student, teacher = models()
    other = Net(6)
    terms = [
        Term(losses.kl, "student", "teacher"),
        Term(losses.attention_map, "student.layer1", "other.layer1"),
        Term(losses.attention_map, "student.layer2", "teacher.layer2", weight=0.0),
        Term(losses.attention_map, "student.layer2", "student.layer1"),
    ]
    method = Distillation(*terms, student=student, teacher=teacher, other=other)
    assert found(method, teacher) == []
    assert found(method, other) == [("layer1", "layer1", "heat")]  # control: it is asked for


def test_layers_that_several_terms_compare_are_seen_once() -> None:
    student, teacher = models()
    terms = [Term(loss, "stop student.layer1", "teacher.layer1") for loss in (losses.attention_map, losses.nst)]
    assert (
        len(
            found(
                Distillation(*terms, Term(losses.kl, "student", "teacher"), student=student, teacher=teacher), teacher
            )
        )
        == 1
    )


def test_of_a_transformer_the_attention_is_seen_and_the_mask_is_found() -> None:
    torch.manual_seed(0)
    student, teacher = Attentive(8), Attentive(16)
    method = methods.minilm(student, teacher, present="batch.attention_mask")
    method.dry_run(WORDS)
    attended, valued = views(method, teacher, WORDS)
    assert attended.heads == (2, 2)
    assert attended.layers[0] == "attention.query, attention.key"
    assert valued.layers == ("attention.value", "attention.value")
    assert {str(view.mask) for view in (attended, valued)} == {"batch.attention_mask"}


def test_a_method_that_compiles_is_looked_at_without(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = models()
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function) or function)
    for whether in (False, True):
        term = Term(losses.attention_map, "student.layer1", "teacher.layer1")
        method = Distillation(term, student=student, teacher=teacher, compile=whether)
        assert [view.layers for view in views(method, teacher, PICTURES)] == [("layer1", "layer1")]
        assert compiled == []
    method.dry_run(PICTURES)
    assert compiled  # control: the method itself does


def test_to_look_changes_nothing() -> None:
    student, teacher = models()
    student.train()
    method = methods.mgd(student, teacher, example=PICTURES)  # draws at random
    method.dry_run(PICTURES)
    before = digest(method), digest(teacher), torch.get_rng_state()
    assert views(method, teacher, PICTURES)
    assert (digest(method), digest(teacher)) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert student.training
    assert all(not m._forward_hooks for m in student.modules())


def test_the_check_of_random_numbers_sees_a_draw() -> None:
    before = torch.get_rng_state()
    torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


# -- heat --------------------------------------------------------------------------------------------------------------

AT = (Address.parse("model.layer"),)
PLAIN = View("term", AT, AT, "heat")


def unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def test_over_maps_it_is_the_mean_of_squares_over_channels() -> None:
    x = torch.randn(2, 3, 2, 4)
    seen = heat(PLAIN, 0, [x], Batch.of(torch.zeros(2, 1)))
    assert seen.shape == (2, 2, 4)
    for n in range(2):
        expected = unit([sum(float(x[n, c, i, j]) ** 2 for c in range(3)) / 3 for i in range(2) for j in range(4)])
        assert seen[n].flatten().tolist() == pytest.approx(expected, rel=1e-5)
        wrong = unit([sum(abs(float(x[n, c, i, j])) for c in range(3)) for i in range(2) for j in range(4)])
        assert seen[n].flatten().tolist() != pytest.approx(wrong, rel=1e-3)


def test_over_tokens_padding_has_none() -> None:
    view = View("term", AT, AT, "heat", None, Address.parse("batch.attention_mask"))
    x = torch.randn(4, 6, 3)
    seen = heat(view, 0, [x], WORDS)
    assert seen[1, 4:].tolist() == [0, 0]
    assert seen[1, :4].tolist() == pytest.approx(unit(x[1, :4].square().mean(1).tolist()), rel=1e-5)
    assert heat(PLAIN, 0, [x], WORDS)[1, 4:].gt(0).all()  # control: without the mask


def test_attention_is_what_each_token_is_attended_to() -> None:
    view = View("term", AT * 2, AT * 2, "heat", (2, 2), Address.parse("batch.attention_mask"))
    query, key = torch.randn(4, 6, 4), torch.randn(4, 6, 4)
    seen = heat(view, 0, [query, key], WORDS)
    for n, there in ((0, 6), (1, 4)):
        total = [0.0] * 6
        for h in range(2):
            q, k = (x[n, :there, 2 * h : 2 * h + 2] for x in (query, key))
            for i in range(there):
                scores = [math.exp(float(q[i] @ k[j]) / math.sqrt(2)) for j in range(there)]
                for j in range(there):
                    total[j] += scores[j] / sum(scores) / 2
        assert seen[n].tolist() == pytest.approx(unit(total), rel=1e-4)
    other = heat(View("term", AT * 2, AT * 2, "heat", (1, 1), view.mask), 0, [query, key], WORDS)
    assert not torch.allclose(seen, other, atol=1e-3)  # heads count


def test_attentions_that_a_layer_puts_out_are_taken_as_they_are() -> None:
    shares = torch.randn(2, 3, 5, 5).softmax(-1)
    seen = heat(PLAIN, 0, [shares], Batch.of(torch.zeros(2, 5)))
    assert seen[0].tolist() == pytest.approx(unit(shares[0].mean((0, 1)).tolist()), rel=1e-5)
    assert heat(PLAIN, 0, [2 * shares], Batch.of(torch.zeros(2, 5))).shape == (2, 5, 5)  # control: those are maps


@pytest.mark.parametrize(
    ("picture", "tokens", "grid"),
    [((8, 8), 17, (4, 4)), ((8, 16), 34, (4, 8)), ((8, 8), 16, (4, 4)), ((8, 8), 15, None)],
)
def test_a_pictures_patches_lie_over_the_picture(
    picture: tuple[int, int], tokens: int, grid: tuple[int, int] | None
) -> None:
    batch = Batch.of({"input": torch.zeros(2, 3, *picture)})
    x = torch.randn(2, tokens, 3)
    seen = heat(PLAIN, 0, [x], batch)
    assert seen.shape == (2, *(grid or (tokens,)))
    if grid:
        last = x[0].square().mean(1)[-math.prod(grid) :]
        assert seen[0].flatten().tolist() == pytest.approx(unit(last.tolist()), rel=1e-5)


def test_relations_are_cosines_of_all_that_a_layer_puts_out() -> None:
    x = torch.randn(3, 2, 2)
    seen = relations(x)
    for i in range(3):
        for j in range(3):
            a, b = x[i].flatten(), x[j].flatten()
            assert float(seen[i, j]) == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-4)


def test_a_method_without_terms_has_no_views() -> None:
    from examples_methods import ByHand

    assert views(ByHand(Net(4)), Net(6), PICTURES) == ()


@pytest.mark.parametrize("heads", [2, 4])
def test_the_heads_are_those_of_the_loss(heads: int) -> None:
    student, teacher = Attentive(8), Attentive(8)
    addresses = [f"{who}.attention.{layer}" for who in ("student", "teacher") for layer in ("query", "key")]
    term = Term(partial(losses.attention_relation, heads=heads), *addresses)
    (view,) = views(Distillation(term, student=student, teacher=teacher), teacher, WORDS)
    assert view.heads == (heads, heads)
