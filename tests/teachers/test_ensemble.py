"""Several models as one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Term
from understudy.errors import AddressError, InputError, ShapeError
from understudy.losses import kl
from understudy.state import digest
from understudy.teachers import Ensemble

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def net(width: int = 3, classes: int = 5, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.Dropout(0.5), nn.Linear(width, classes)).eval()


A, B = net(), net(7, seed=1)


def test_its_probabilities_are_the_mean_of_the_members():
    expected = (3 * A(X).softmax(-1) + B(X).softmax(-1)) / 4
    torch.testing.assert_close(Ensemble(A, B, weights=[3, 1])(X).softmax(-1), expected)
    assert not torch.allclose(Ensemble(A, B)(X).softmax(-1), expected)


def test_its_logits_are_the_mean_of_the_members_if_so_asked():
    torch.testing.assert_close(Ensemble(A, B, weights=[3, 1], of="logits")(X), (3 * A(X) + B(X)) / 4)
    assert not torch.allclose(Ensemble(A, B, of="logits")(X).softmax(-1), Ensemble(A, B)(X).softmax(-1), rtol=1e-3)


def test_a_member_of_weight_nothing_has_no_say_even_where_it_is_infinite():
    for of in ("probabilities", "logits"):
        whole = Ensemble(A, lambda x: torch.full((len(x), 5), torch.inf), weights=[1, 0], of=of)(X)
        if of == "logits":
            torch.testing.assert_close(whole, A(X))


def test_extreme_logits_stay_finite():
    far = Ensemble(lambda x: 1e4 * A(x), lambda x: -1e4 * A(x))(X)
    assert far.isfinite().all()
    torch.testing.assert_close(far.exp().sum(-1), torch.ones(6))


def test_specialists_make_a_whole():
    few, more = net(classes=2), net(classes=3, seed=1)
    ensemble = Ensemble(few, more, classes=[[0, 3], [2, 1, 3]])
    p, q = few(X).softmax(-1), more(X).softmax(-1)
    shares = torch.stack([p[:, 0], q[:, 1], q[:, 0], (p[:, 1] + q[:, 2]) / 2], 1)
    torch.testing.assert_close(ensemble(X).softmax(-1), shares / shares.sum(1, keepdim=True))
    logits = Ensemble(few, more, classes=[[0, 3], [2, 1, 3]], of="logits")(X)
    torch.testing.assert_close(logits[:, 3], (few(X)[:, 1] + more(X)[:, 2]) / 2)
    torch.testing.assert_close(logits[:, 1], more(X)[:, 1])


def found(teacher: nn.Module, *addresses: str) -> dict[str, Tensor]:
    """What a term finds at these addresses."""
    seen: list[tuple[Tensor, ...]] = []

    def loss(student: Tensor, *others: Tensor) -> Tensor:
        seen.append(others)
        return student.square().mean(1)

    Distillation(Term(loss, "student", *addresses), student=net(seed=2), teacher=teacher).loss((X,))
    return dict(zip(addresses, seen[0], strict=True))


def test_its_members_and_their_layers_have_addresses():
    at = found(
        copy.deepcopy(Ensemble(A, B)).train(),
        "teacher",
        "teacher.0",
        "teacher.1",
        "teacher.1.0",
        "teacher.1.2<",
        "teacher:0.2.bias",
    )
    torch.testing.assert_close(at["teacher"], Ensemble(A, B)(X))
    torch.testing.assert_close(at["teacher.0"], A(X))
    torch.testing.assert_close(at["teacher.1"], B(X))
    torch.testing.assert_close(at["teacher.1.0"], B[0](X))
    torch.testing.assert_close(at["teacher.1.2<"], B[0](X))  # in eval mode, though its user left it in training
    assert torch.equal(at["teacher:0.2.bias"], A[2].bias)


def test_an_address_that_no_member_has_is_refused_with_what_there_is():
    ensemble = Ensemble(A, lambda x: B(x))
    with pytest.raises(AddressError, match=r"teacher has no submodule 'layer3'"):
        Distillation(Term(kl, "student", "teacher.layer3"), student=net(seed=2), teacher=ensemble)
    with pytest.raises(AddressError, match=r"teacher has no submodule '1\.0'"):
        Distillation(Term(kl, "student", "teacher.1.0"), student=net(seed=2), teacher=ensemble)


def test_a_callable_can_be_a_member_and_is_read_by_its_number():
    torch.testing.assert_close(found(Ensemble(A, lambda x: 2 * B(x)), "teacher.1")["teacher.1"], 2 * B(X))


def test_inputs_by_name_reach_each_member_as_it_takes_them():
    class Named(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
            return {"logits": ids * mask * self.scale, "more": ids}

    class Plain(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return ids

    given = {"ids": X, "mask": torch.ones(6, 4)}
    torch.testing.assert_close(Ensemble(Named(2.0), Plain(), of="logits")(**given), 1.5 * X)


def test_what_it_is_known_by_tells_members_and_weights_apart():
    same = digest(Ensemble(A, B))
    assert digest(Ensemble(copy.deepcopy(A), B)) == same
    assert len({same, digest(Ensemble(B, A)), digest(Ensemble(A, B, weights=[1, 2]))}) == 3

    class Known:
        def __init__(self, number: float) -> None:
            self.number = number

        def __call__(self, x: Tensor) -> Tensor:
            return x

        def state_dict(self) -> dict[str, Tensor]:
            return {"number": torch.tensor(self.number)}

    assert digest(Ensemble(A, Known(1.0))) != digest(Ensemble(A, Known(2.0)))


@pytest.mark.parametrize(
    ("models", "options", "told"),
    [
        ((), {}, "at least one"),
        (([A, B],), {}, "one by one"),
        ((A, A), {}, "twice"),
        ((A, B), {"of": "logit"}, "Did you mean 'logits'"),
        ((A, B), {"weights": [1]}, "do not fit 2 models"),
        ((A, B), {"weights": [1, -1]}, "do not fit"),
        ((A, B), {"weights": [0, 0]}, "do not fit"),
        ((A, B), {"classes": [[0, 1]]}, "for each of 2 models"),
        ((A, B), {"classes": [[0, 1], [1, 1]]}, "different classes"),
        ((A, B), {"classes": [[0, 1], [3]]}, r"nobody knows \[2\]"),
        ((A, B), {"classes": [[0, 1], [1, 2]], "weights": [1, 0]}, "weight 0"),
    ],
)
def test_what_does_not_fit_is_refused(models, options, told):
    with pytest.raises(InputError, match=told):
        Ensemble(*models, **options)


def test_outputs_that_do_not_go_together_are_refused():
    with pytest.raises(ShapeError, match=r"\[\[6, 5\], \[6, 3\]\].*classes="):
        Ensemble(A, net(classes=3))(X)
    with pytest.raises(ShapeError, match="an output for each"):
        Ensemble(A, B, classes=[[0, 1], [1, 2]])(X)
