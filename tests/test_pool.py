import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

import understudy as us
from understudy import pool
from understudy.batch import ModelInputs
from understudy.data import Augment, Pictures
from understudy.data.order import permutation
from understudy.errors import InputError
from understudy.feed import Feed
from understudy.pool import with_unlabelled
from understudy.source import Source, source_of

torch.set_num_threads(1)

X, Y = torch.arange(10.0).reshape(5, 2), torch.tensor([4, 3, 2, 1, 0])
U = -torch.arange(1.0, 7).reshape(3, 2)


class Rows(Dataset[Any]):
    def __init__(self, *columns: Any, noisy: bool = False) -> None:
        self.columns, self.noisy = columns, noisy

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, i: int) -> Any:
        row = tuple(column[i] for column in self.columns)
        if self.noisy:
            row = (row[0] + torch.rand(2), *row[1:])
        return row if len(row) > 1 else row[0]


def doubled(samples: list[Any]) -> Any:
    x, *rest = default_collate(samples) if isinstance(samples[0], tuple) else (default_collate(samples),)
    return (x * 2, *rest)


LABELLED = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": lambda: Rows(X, Y.tolist()),
    "DataLoader": lambda: DataLoader(Rows(X, Y.tolist()), batch_size=4),
    "source": lambda: source_of((X, Y)),
}
UNLABELLED = {
    "a tensor": lambda: U,
    "a tuple": lambda: (U,),
    "an array": lambda: U.numpy().astype(np.float64),
    "a Dataset": lambda: Rows(U),
    "a DataLoader": lambda: DataLoader(Rows(U), batch_size=2),
    "a mapping": lambda: {"input": U},
    "with labels": lambda: (U, torch.tensor([1, 2, 3])),
    "with labels of another kind": lambda: (U, torch.tensor([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("unlabelled", UNLABELLED)
@pytest.mark.parametrize("labelled", LABELLED)
def test_any_two_are_put_side_by_side(labelled: str, unlabelled: str) -> None:
    source = with_unlabelled(LABELLED[labelled](), UNLABELLED[unlabelled]())
    batches = list(source.in_order(3))
    assert torch.equal(torch.cat([b["input"] for b in batches]), torch.cat([X, U]))
    assert torch.cat([b["label"] for b in batches]).tolist() == [4, 3, 2, 1, 0, -100, -100, -100]
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(8))
    assert source.batch_size == (4 if labelled == "DataLoader" else None)
    assert all(list(b.fields) == ["input", "label", "index"] for b in batches)


def kept_in_order(source: Source) -> bool:
    order = permutation(8, 0, 0)
    raw = source.fetch([(0, int(i)) for i in order], 0)
    whole = torch.cat([X, U])[order], torch.cat([Y, torch.full((3,), -100)])[order]
    return all(torch.equal(a, b) for a, b in zip(raw, whole, strict=True))


@pytest.mark.parametrize("labelled", LABELLED)
def test_samples_stand_in_the_order_in_which_they_were_asked_for(labelled: str) -> None:
    assert kept_in_order(with_unlabelled(LABELLED[labelled](), Rows(U)))


def test_the_check_of_the_order_sees_batches_that_are_not_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pool, "_join", lambda raws, example, order, join=pool._join: join(raws, example, order.sort()[0])
    )
    assert not kept_in_order(with_unlabelled(Rows(X, Y.tolist()), Rows(U)))


@pytest.mark.parametrize(
    ("label", "nothing"),
    [
        (torch.tensor([0.5, 1.5]), [0.5, 1.5, None]),
        (torch.tensor([0.5, 1.5], dtype=torch.float64), [0.5, 1.5, None]),
        (torch.tensor([3, 156], dtype=torch.uint8), [3, 156, -100]),
        (torch.tensor([3, 4], dtype=torch.int32), [3, 4, -100]),
        (torch.tensor([True, False]), [1.0, 0.0, None]),
        (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [[1.0, 0.0], [0.0, 1.0], [None, None]]),
    ],
    ids=lambda v: str(getattr(v, "dtype", "")),
)
@pytest.mark.parametrize("wrap", [lambda *c: c if len(c) > 1 else c[0], Rows], ids=["tensors", "Dataset"])
def test_no_label_is_minus_100_or_nan_by_the_labels_dtype(
    label: Tensor, nothing: Any, wrap: Callable[..., Any]
) -> None:
    source = with_unlabelled(wrap(X[:2], label), wrap(X[:1]))
    found = torch.cat([batch["label"] for batch in source.in_order(2)])
    numbers = found.double().masked_fill(found.isnan(), -1e9).tolist()
    assert numbers == [
        [-1e9 if v is None else v for v in n] if isinstance(n, list) else -1e9 if n is None else n for n in nothing
    ]
    if label.is_floating_point():
        assert found.dtype is label.dtype


def test_each_keeps_its_own_collate_function() -> None:
    source = with_unlabelled(DataLoader(Rows(X, Y.tolist()), collate_fn=doubled), DataLoader(Rows(U)))
    (batch,) = source.in_order()
    assert torch.equal(batch["input"], torch.cat([X * 2, U]))
    source = with_unlabelled(Rows(X, Y.tolist()), DataLoader(Rows(U), collate_fn=doubled))
    (batch,) = source.in_order()
    assert torch.equal(batch["input"], torch.cat([X, U * 2]))


class Named(Rows):
    def __init__(self, rows: list[Mapping[str, Any]]) -> None:
        super().__init__(rows)


def test_mappings_keep_their_names_and_what_is_in_them() -> None:
    labelled = [{"ids": X[i], "more": {"a": (X[i], i)}, "path": f"{i}.png", "labels": i} for i in range(2)]
    unlabelled = [{"path": "u.png", "ids": U[0], "more": {"a": (U[0], 9)}, "spare": 1}]
    (batch,) = with_unlabelled(Named(labelled), Named(unlabelled)).in_order()
    assert list(batch.fields) == ["ids", "more", "path", "labels", "index"]
    assert torch.equal(batch["ids"], torch.cat([X[:2], U[:1]]))
    assert batch["more"]["a"][1].tolist() == [0, 1, 9]
    assert batch["path"] == ["0.png", "1.png", "u.png"]
    assert batch["labels"].tolist() == [0, 1, -100]


def test_a_batch_that_says_what_a_model_is_called_with_stays_one() -> None:
    def give(samples: list[Any]) -> ModelInputs:
        x, *label = default_collate(samples)
        return ModelInputs((x, x + 1), {"scale": x * 2}, {"label": label[0]} if label else {})

    labelled = DataLoader(Rows(X, Y.tolist()), collate_fn=give)
    unlabelled = DataLoader(Rows(U, U), collate_fn=lambda s: give([row[:1] for row in s]))
    raw = with_unlabelled(labelled, unlabelled).fetch([(0, 6), (0, 0)], 0)
    assert isinstance(raw, ModelInputs)
    both = torch.stack([U[1], X[0]])
    assert [t.tolist() for t in (*raw.args, raw.kwargs["scale"])] == [t.tolist() for t in (both, both + 1, both * 2)]
    assert raw.fields["label"].tolist() == [-100, 4]


def test_what_is_random_in_either_is_noticed() -> None:
    many = torch.zeros(50, 2), torch.zeros(50, dtype=torch.int64)
    assert with_unlabelled(Rows(*many), Rows(U)).is_fixed()
    assert not with_unlabelled(Rows(*many), Rows(U, U, noisy=True)).is_fixed()
    assert not with_unlabelled(Rows(*many, noisy=True), Rows(U)).is_fixed()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wrap", [lambda *c: c if len(c) > 1 else c[0], Rows], ids=["tensors", "Dataset"])
def test_training_sees_the_unlabelled_in_the_terms_without_labels_only(wrap: Callable[..., Any], workers: int) -> None:
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(2, 5), torch.nn.Linear(2, 5)
    start = copy.deepcopy(student.state_dict())

    def trained(data: Any) -> Tensor:
        student.load_state_dict(start)
        method = us.methods.kd(student, teacher, alpha=0.5)
        us.train(method, data, us.Settings(epochs=1, batch_size=8, workers=workers, optimizer=us.Optim("SGD", lr=0.1)))
        return student.weight.detach().clone()

    pooled = trained(with_unlabelled(wrap(X, Y), wrap(U)))
    by_hand = trained((torch.cat([X, U]), torch.cat([Y, torch.full((3,), -100)])))
    assert torch.equal(pooled, by_hand)
    assert not torch.equal(pooled, trained((X, Y)))


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "message"),
    [
        (X, U, r"labelled: has no field 'label', but \['input'\]"),
        (Rows(X), Rows(U), "labelled: has no field 'label'"),
        (
            (X, Y),
            torch.zeros(3, 4),
            r"'input' of a labelled sample is \[2\] of torch.float32, and of an unlabelled one \[4\]",
        ),
        ((X, Y), Rows(torch.zeros(3, 4)), r"'input' of a labelled sample is \[2\]"),
        ((X, Y), U.to(torch.uint8), r"unlabelled one \[2\] of torch.uint8\. Give both one shape and dtype"),
        ({"image": X, "label": Y}, {"images": U}, r"unlabelled: has no field 'image'\. Did you mean 'images'"),
        ((X, Y), {"image": U}, r"unlabelled: has no field 'input'\. Allowed: image"),
        ((X, Y, X), U, r"unlabelled: has no field '2'"),
        ((X, Y), iter([U]), "unlabelled: an iterable has no ids"),
        (iter([X]), U, "labelled: an iterable has no ids"),
        ((X, Y), U[:0], "unlabelled: has no sample"),
        ((X, Y), 3, r"with_unlabelled: unlabelled: a int cannot be fed"),
        (
            DataLoader(Rows(X, Y.tolist()), collate_fn=lambda s: (s[0][0][None], torch.tensor([1]))),
            DataLoader(Rows(U), collate_fn=lambda s: {"input": {"x": s[0][None]}}),
            "'input' is a Tensor and dict, which cannot be joined",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(labelled: Any, unlabelled: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_unlabelled(labelled, unlabelled)


# -- views -------------------------------------------------------------------------------------------------------------

SHADES = torch.arange(8 * 25, dtype=torch.uint8).view(8, 1, 5, 5)
MOVED = Augment(crop=2, flip=True)


def views_of_both() -> bool:
    """Whether each part's samples have the views that they have alone, whatever else is in the batch."""
    labelled = Pictures((SHADES[:5], Y), augment=MOVED)
    plain = Rows(*(SHADES[5:].float(),))
    seen = True
    for unlabelled in (Pictures(SHADES[5:], augment=MOVED), Pictures(SHADES[5:]), plain):
        pooled = with_unlabelled(labelled, unlabelled)
        assert not pooled.is_fixed()
        ids = torch.tensor([6, 1, 7, 0])
        made, label = pooled.rows(ids, 3, 2)
        assert label.tolist() == [-100, 3, -100, 4]
        seen = seen and torch.equal(made[[1, 3]], labelled.batch(torch.tensor([1, 0]), 3, 2)[0])
        seen = seen and torch.equal(pooled.rows(torch.tensor([7, 0]), 3, 2)[0], made[2:])
        seen = seen and (
            unlabelled is plain or not unlabelled.random or not torch.equal(pooled.rows(ids, 4, 2)[0][0], made[0])
        )
    return seen


def test_samples_keep_their_views_beside_others() -> None:
    assert views_of_both()


def test_the_comparison_sees_views_of_the_first_draw_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class First(pool._PoolOfViews):
        def batch(self, ids: Tensor, draw: int, seed: int) -> Any:
            return super().batch(ids, 0, seed)

    monkeypatch.setattr(pool, "_PoolOfViews", First)
    assert not views_of_both()


def test_views_of_a_pool_are_the_same_through_workers() -> None:
    pooled = with_unlabelled(Pictures((SHADES[:5], Y), augment=MOVED), Pictures(SHADES[5:], augment=MOVED))
    made = []
    for workers in (0, 2):
        feed = Feed(pooled, us.Settings(epochs=2, batch_size=3, workers=workers))
        made.append(torch.cat([b["input"] for micro in feed.batches(0, feed.steps) for b in micro]))
    assert torch.equal(*made)
