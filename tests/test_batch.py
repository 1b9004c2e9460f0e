"""Batches in their normal form, and how they reach a model."""

from __future__ import annotations

import functools
import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from understudy.batch import Batch, ModelInputs, call, tensors
from understudy.errors import AddressError, InputError
from understudy.testing import Says

X, Y, Z = torch.arange(6.0).view(3, 2), torch.arange(3), torch.ones(3)


class Pair(NamedTuple):
    image: Tensor
    target: Tensor


# -- the normal form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (X, {"input": X}),
        ((X,), {"input": X}),
        ((X, Y), {"input": X, "label": Y}),
        ([X, Y, Z, X], {"input": X, "label": Y, "2": Z, "3": X}),
        (Pair(X, Y), {"input": X, "label": Y}),
        ({"image": X, "label": Y}, {"image": X, "label": Y}),
        (OrderedDict(a=X, b=None), {"a": X, "b": None}),
        (ModelInputs((X, Z), {"scale": Y}, {"label": Y}), {"input": X, "1": Z, "scale": Y, "label": Y}),
        (ModelInputs(fields={"label": Y}), {"label": Y}),
    ],
)
def test_a_batch_has_named_fields_and_keeps_its_inputs(raw: Any, fields: dict[str, Any]) -> None:
    batch = Batch.of(raw)
    assert list(batch) == list(fields)
    assert all(batch[name] is value for name, value in fields.items())
    assert batch.inputs is raw
    assert len(batch) == len(fields)


@pytest.mark.parametrize("raw", [None, 3, "text", {1, 2}, iter([X])])
def test_what_is_no_batch_is_refused_with_its_type(raw: object) -> None:
    with pytest.raises(InputError, match=f"a {type(raw).__name__} is not a batch; allowed: a tensor, a tuple"):
        Batch.of(raw)


def test_a_batch_stays_the_same_batch() -> None:
    batch = Batch.of((X, Y)).counted([torch.tensor(3)])
    assert Batch.of(batch) is batch


def test_more_fields_lie_over_those_that_are_there() -> None:
    batch = Batch.of((X, Y), index=Z, label=Z)
    assert list(batch) == ["input", "label", "index"]
    assert batch["label"] is Z
    again = Batch.of(batch.counted([torch.tensor(3)]), label=Y)
    assert again["label"] is Y
    assert again.counts is not None
    assert again.inputs is batch.inputs


def test_a_missing_field_is_named_with_the_nearest() -> None:
    batch = Batch.of({"labels": Y, "image": X})
    with pytest.raises(AddressError, match=r"batch has no field 'label'\. Did you mean 'labels'\?"):
        batch["label"]
    assert "label" not in batch
    assert batch.get("image") is X
    assert batch.get("label") is None
    assert batch.get("label", 3) == 3


def test_a_view_is_a_part_of_the_batch_and_none_is_the_whole() -> None:
    raw = {"weak": X, "strong": ModelInputs((Y,))}
    batch = Batch.of(raw)
    assert batch.view(None) is raw
    assert batch.view("weak") is X
    with pytest.raises(AddressError, match="Did you mean 'weak'"):
        batch.view("week")


# -- counting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (X, 3),
        ({"temperature": torch.tensor(2.0), "image": X}, 3),
        ({"name": "a", "nested": [{"deep": torch.zeros(5, 1)}]}, 5),
        ({"nodes": torch.zeros(9, 2), "index": torch.arange(2)}, 2),
        (ModelInputs(fields={"label": Y}), 3),
        (torch.zeros(0, 4), 0),
    ],
)
def test_rows_is_the_number_of_samples(raw: Any, rows: int) -> None:
    assert Batch.of(raw).rows == rows


def test_a_batch_without_a_tensor_has_no_rows() -> None:
    with pytest.raises(InputError, match=r"fields \['a', 'b'\] holds no tensor"):
        _ = Batch.of({"a": "text", "b": torch.tensor(1.0)}).rows


def test_a_counted_batch_is_the_whole_step_until_told_otherwise() -> None:
    batch = Batch.of(X).counted([torch.tensor(2), torch.tensor(3)])
    assert batch.counts is not None
    assert batch.counts.tolist() == [2, 3]
    assert [int(t) for t in batch.share(0)] == [2, 2]
    assert [int(t) for t in batch.share(1)] == [3, 3]


def test_a_share_is_not_given_out_before_counting() -> None:
    with pytest.raises(InputError, match=r"Call method\.prepare"):
        Batch.of(X).share(0)


def split(values: Tensor, sizes: list[int], ranks: int) -> list[tuple[Batch, Tensor]]:
    """Micro-batches of one step that know the whole step's count."""
    totals = torch.tensor([values.shape[0]])
    return [(Batch({}, None, torch.tensor([len(v)]), totals, ranks), v) for v in values.split(sizes)]


@pytest.mark.parametrize("sizes", [[7], [6, 1], [1, 2, 4]])
def test_shares_of_the_mean_add_up_to_the_mean_of_the_step(sizes: list[int]) -> None:
    values = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares = [batch.mean(v) for batch, v in split(values, sizes, ranks=1)]
    torch.testing.assert_close(sum(shares), values.mean())
    if len(sizes) > 1:  # the mean over micro-batches is another number
        means = torch.stack([v.mean() for v in values.split(sizes)])
        assert (means.mean() - values.mean()).abs() > 1e-3


def test_the_average_over_ranks_of_their_shares_is_the_mean() -> None:
    values = torch.arange(5.0)
    shares = torch.stack([batch.mean(v) for batch, v in split(values, [4, 1], ranks=2)])
    torch.testing.assert_close(shares.mean(), values.mean())


def test_an_uncounted_batch_takes_its_own_mean() -> None:
    torch.testing.assert_close(Batch.of(X).mean(Z * 4), torch.tensor(4.0))


# -- moving ------------------------------------------------------------------------------------------------------------


class Graph:
    """Something that moves itself."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def to(self, device: torch.device) -> Graph:
        return Graph(device)


@pytest.mark.parametrize(
    "raw",
    [
        X,
        (X, Y),
        [X, [Y, (Z,)]],
        {"a": X, "b": {"c": [Y]}},
        Pair(X, Y),
        {"pair": Pair(X, Y)},
        ModelInputs((X,), {"scale": Z}, {"label": Y, "deep": {"pair": Pair(X, Y)}}),
    ],
)
def test_every_tensor_of_a_batch_moves_in_fields_and_in_inputs(raw: Any) -> None:
    batch = Batch.of(raw)
    moved = batch.to("meta")
    before = list(tensors(batch.inputs))
    assert [t.shape for t in tensors(moved.inputs)] == [t.shape for t in before]
    assert {t.device.type for t in [*tensors(moved.inputs), *tensors(moved.fields)]} == {"meta"}
    assert {t.device.type for t in before} == {"cpu"}
    assert type(moved.inputs) is type(raw)


def test_a_moved_namedtuple_keeps_its_names() -> None:
    moved = Batch.of({"pair": Pair(X, Y)}).to("meta")["pair"]
    assert moved.image.shape == X.shape
    assert moved.target.device.type == "meta"


def test_what_moves_itself_is_asked_to() -> None:
    batch = Batch.of({"graph": Graph(torch.device("cpu")), "packed": pack_sequence([X, X[:1]])}).to("meta")
    assert batch["graph"].device == torch.device("meta")
    assert isinstance(batch["packed"], PackedSequence)
    assert batch["packed"].data.device.type == "meta"


def test_what_is_no_tensor_stays_as_it_is() -> None:
    raw = {"a": X, "names": ["x", "y"], "number": 3, "none": None}
    moved = Batch.of(raw).to("meta")
    assert {k: moved[k] for k in ("names", "number", "none")} == {"names": ["x", "y"], "number": 3, "none": None}


def test_counts_do_not_move_with_the_batch() -> None:
    moved = Batch.of(X).counted([torch.tensor(3)]).to("meta")
    assert moved.counts is not None
    assert moved.counts.tolist() == [3]


def test_tensors_come_in_the_order_in_which_they_are_held() -> None:
    value = ModelInputs(([X, "no"],), {"k": {"deep": (Y,)}}, {"f": Z})
    assert [id(t) for t in tensors(value)] == [id(X), id(Y), id(Z)]


# -- how a batch reaches a model ---------------------------------------------------------------------------------------


def by_name(image: Tensor, scale: Any = None) -> dict[str, Any]:
    return {"image": image, "scale": scale}


def keyword_only(*, image: Tensor) -> dict[str, Any]:
    return {"image": image}


def anything(**fields: Any) -> dict[str, Any]:
    return fields


def named_and_anything(image: Tensor, **rest: Any) -> dict[str, Any]:
    return {"image": image, **rest}


def positional(x: Any) -> dict[str, Any]:
    return {"x": x}


class Module(nn.Module):
    def forward(self, image: Tensor, scale: Any = None) -> dict[str, Any]:
        return {"image": image, "scale": scale}


@dataclass  # which makes it unhashable
class Estimator:
    calls: int = 0

    def __call__(self, image: Tensor) -> dict[str, Any]:
        self.calls += 1
        return {"image": image}


@pytest.mark.parametrize(
    ("model", "inputs", "received"),
    [
        (positional, X, {"x": X}),
        (positional, (X, Y), {"x": X}),
        (positional, [X, Y], {"x": X}),
        (by_name, ModelInputs((X,), {"scale": Z}, {"label": Y}), {"image": X, "scale": Z}),
        (by_name, {"image": X, "label": Y, "other": Z}, {"image": X, "scale": None}),
        (by_name, {"scale": Z, "image": X}, {"image": X, "scale": Z}),
        (by_name, Batch.of({"image": X, "label": Y}), {"image": X, "scale": None}),
        (by_name, {"input": Z, "image": X}, {"image": X, "scale": None}),
        (keyword_only, {"image": X, "label": Y}, {"image": X}),
        (anything, {"image": X, "more": Z, "label": Y}, {"image": X, "more": Z}),
        (named_and_anything, {"image": X, "more": Z}, {"image": X, "more": Z}),
        (named_and_anything, {"input": X, "more": Z}, {"image": X}),
        (positional, {"input": X, "more": Z}, {"x": X}),
        (positional, {"only": X, "label": Y, "index": Y, "mask": Y, "labels": Y}, {"x": X}),
        (Module(), {"image": X, "label": Y}, {"image": X, "scale": None}),
        (functools.partial(by_name, scale=2), {"image": X, "label": Y}, {"image": X, "scale": 2}),
        (Estimator(), {"image": X, "label": Y}, {"image": X}),
    ],
)
def test_a_model_is_called_with_its_part_of_the_batch(
    model: Callable[..., Any], inputs: Any, received: dict[str, Any]
) -> None:
    got = call(model, inputs)
    assert list(got) == list(received)
    assert all(got[name] is value or got[name] == value for name, value in received.items())


@pytest.mark.parametrize("field", ["label", "labels", "index", "mask"])
@pytest.mark.parametrize("model", [anything, lambda label=None, labels=None, index=None, mask=None, x=None: locals()])
def test_no_model_sees_what_it_could_cheat_with(model: Callable[..., Any], field: str) -> None:
    assert call(model, {"x": X, field: Y}).get(field) is None


def test_a_function_written_in_c_says_no_names_and_is_called_with_the_input() -> None:
    torch.testing.assert_close(call(torch.relu, {"input": -X, "label": Y}), torch.zeros_like(X))


def test_fields_that_do_not_fit_the_model_are_refused_with_both_names() -> None:
    with pytest.raises(InputError) as caught:
        call(Module(), {"picture": X, "size": Y, "label": Y})
    assert "fields ['picture', 'size', 'label']" in str(caught.value)
    assert "(image, scale)" in str(caught.value)
    assert "call=lambda model, batch" in str(caught.value)


def test_calling_a_model_by_name_does_not_keep_it_alive() -> None:
    model = Module()
    gone = weakref.ref(model)
    call(model, {"image": X})
    del model
    gc.collect()
    assert gone() is None


def test_the_shipped_fake_shows_what_reached_it() -> None:
    fake = Says(X)
    call(fake, ModelInputs((X,), {"scale": Z}))
    assert fake.inputs[0][0] is X
    assert fake.inputs[1]["scale"] is Z
