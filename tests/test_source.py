import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from understudy.errors import InputError
from understudy.source import Source, Stream, source_of


class Rows(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, noisy: bool) -> None:
        self.noisy = noisy

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(i)) + (torch.rand(2) if self.noisy else 0), i


def test_arrays_become_tensors_and_float64_becomes_float32() -> None:
    source = source_of((np.arange(6.0).reshape(3, 2), np.array([0, 1, 2])))
    assert isinstance(source, Source)
    images, labels = source.fetch([(0, 2), (0, 0)], 0)
    assert images.dtype is torch.float32
    assert images.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert labels.tolist() == [2, 0]


def test_an_array_of_strings_is_refused() -> None:
    with pytest.raises(InputError, match="holds no numbers"):
        source_of((np.array(["a", "b"]),))


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[2, 3\] samples"):
        source_of({"input": torch.zeros(2), "label": torch.zeros(3)})


@pytest.mark.parametrize("data", [Rows(False), DataLoader(Rows(False), batch_size=4), {"input": torch.arange(6.0)}])
def test_in_order_gives_every_sample_once_with_its_id(data: object) -> None:
    source = source_of(data)
    assert isinstance(source, Source)
    ids = [int(i) for batch in source.in_order(4) for i in batch["index"]]
    assert ids == [0, 1, 2, 3, 4, 5]
    values = torch.cat([batch["input"] for batch in source.in_order(4)])
    assert values.reshape(6, -1)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "data", [Rows(False), (torch.stack([torch.full((2,), float(i)) for i in range(6)]), torch.arange(6))]
)
def test_a_subset_has_the_samples_asked_for_under_new_ids(data: object) -> None:
    source = source_of(data)
    assert isinstance(source, Source)
    few = source.subset(torch.tensor([4, 1]))
    (batch,) = few.in_order()
    assert few.samples == 2
    assert batch["label"].tolist() == [4, 1]
    assert batch["index"].tolist() == [0, 1]


def test_what_is_random_in_a_sample_is_noticed() -> None:
    noisy, still = source_of(Rows(True)), source_of(Rows(False))
    assert isinstance(noisy, Source)
    assert isinstance(still, Source)
    assert (noisy.is_fixed(), still.is_fixed()) == (False, True)


def test_what_only_iterates_is_a_stream() -> None:
    assert isinstance(source_of(iter([torch.zeros(2)])), Stream)


def test_a_source_is_its_own_source() -> None:
    source = source_of(torch.zeros(3))
    assert source_of(source) is source
