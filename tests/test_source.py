from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from understudy import source as source_module
from understudy.errors import CorruptError, InputError
from understudy.source import Keyed, Source, Stream, source_of


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


# -- sets that make their batches themselves ---------------------------------------------------------------------------


class Own(Dataset[Any]):
    """What a user would write: samples 0 to 9, to which a number of (seed, id, draw) is added."""

    def __init__(self, random: Any = True) -> None:
        self.random, self.asked = random, list[Any]()

    def __len__(self) -> int:
        return 10

    def batch(self, ids: torch.Tensor, draw: int, seed: int) -> Any:
        self.asked.append((ids.tolist(), draw, seed))
        if 7 in ids.tolist():
            raise OSError("7.png is cut short")
        noise = (ids * 37 + draw * 11 + seed * 5) % 19 if self.random else 0 * ids
        return {"input": (ids + noise / 100).float()[:, None], "label": ids}


def own(random: Any = True) -> tuple[Own, Source]:
    data = Own(random)
    source = source_of(data)
    assert isinstance(source, Source)
    return data, source


def test_a_set_that_makes_its_batches_is_asked_once_for_all_samples_at_the_draw_and_seed() -> None:
    data, source = own()
    batch = source.rows(torch.tensor([4, 1]), 3, 2)
    assert data.asked == [([4, 1], 3, 2)]
    assert batch["label"].tolist() == [4, 1]
    assert torch.equal(source.fetch([(3, 4), (3, 1)], 2)["input"], batch["input"])
    assert data.asked[1:] == [([4, 1], 3, 2)]


def test_its_samples_by_themselves_are_those_of_the_batch() -> None:
    data, source = own()
    keyed, batch = Keyed(data, 2), source.rows(torch.tensor([4, 1]), 3, 2)
    for i, sample in enumerate((4, 1)):
        assert torch.equal(keyed[3, sample]["input"], batch["input"][i])
        assert keyed[3, sample]["label"] == batch["label"][i]


def test_samples_of_several_draws_each_have_their_own() -> None:
    _, source = own()
    mixed = source.fetch([(0, 4), (5, 4), (5, 1)], 2)
    alone = [source.rows(torch.tensor([i]), draw, 2)["input"] for draw, i in ((0, 4), (5, 4), (5, 1))]
    assert torch.equal(mixed["input"], torch.cat(alone))
    assert mixed["input"][0] != mixed["input"][1]


def test_in_order_can_be_at_any_draw_and_seed() -> None:
    class Whole(Own):
        def __len__(self) -> int:
            return 6

    source = source_of(Whole())
    assert isinstance(source, Source)
    made = torch.cat([batch["input"] for batch in source.in_order(4, draw=3, seed=2)])
    assert torch.equal(made, source.rows(torch.arange(6), 3, 2)["input"])
    assert not torch.equal(made, torch.cat([batch["input"] for batch in source.in_order(4)]))


def test_a_set_says_itself_whether_it_is_random_and_is_not_asked_for_samples() -> None:
    for random in (True, False):
        data, source = own(random)
        assert (source.is_fixed(), source.may_vary, data.asked) == (not random, random, [])


def test_a_sample_of_a_subset_keeps_the_views_that_it_has_in_the_whole() -> None:
    _, source = own()
    some = source.subset(torch.tensor([8, 3, 1])).subset(torch.tensor([2, 0]))
    assert (some.samples, some.is_fixed()) == (2, False)
    for draw, seed in ((0, 0), (4, 1)):
        wanted = source.rows(torch.tensor([1, 8]), draw, seed)["input"]
        assert torch.equal(some.rows(torch.tensor([0, 1]), draw, seed)["input"], wanted)
        assert torch.equal(some.fetch([(draw, 0), (draw, 1)], seed)["input"], wanted)


def test_another_librarys_batch_is_left_alone() -> None:
    class Foreign(Rows):
        def batch(self, batch_size: int) -> Any:
            raise AssertionError

    class Generator(Foreign):
        random = np.random.default_rng(0)  # not whether it is random

    for data in (Foreign(False), Generator(False)):
        source = source_of(data)
        assert isinstance(source, Source)
        assert source.rows(torch.tensor([2, 1]), 0, 0)[1].tolist() == [2, 1]
        assert source.is_fixed()
        assert source.subset(torch.tensor([3])).rows(torch.tensor([0]), 0, 0)[1].tolist() == [3]


def test_a_collate_function_of_the_users_is_given_single_samples_and_is_repeatable() -> None:
    def mixing(samples: list[Any]) -> Any:
        return torch.stack([s["input"] for s in samples]) + torch.rand(())

    source = source_of(DataLoader(Own(), batch_size=2, collate_fn=mixing))
    assert isinstance(source, Source)
    plain = own()[1].rows(torch.tensor([4, 1]), 3, 2)["input"]
    made = source.rows(torch.tensor([4, 1]), 3, 2)
    assert len((made - plain).unique()) <= 2  # one number was added, but for rounding
    assert not torch.equal(made, plain)
    torch.manual_seed(5)
    assert torch.equal(source.rows(torch.tensor([4, 1]), 3, 2), made)
    assert source.may_vary


@pytest.mark.parametrize("ids", [[7], [4, 7, 1]])
def test_the_sample_that_cannot_be_read_is_named(ids: list[int]) -> None:
    _, source = own()
    with pytest.raises(InputError, match=r"^data: sample 7 could not be read: OSError: 7\.png is cut short$"):
        source.rows(torch.tensor(ids), 0, 0)


def test_a_batch_of_which_no_sample_is_at_fault_names_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def together(self: Own, ids: torch.Tensor, draw: int, seed: int) -> Any:
        if len(ids) > 1:
            raise CorruptError("a shard is damaged")
        return {"input": ids}

    monkeypatch.setattr(Own, "batch", together)
    with pytest.raises(CorruptError, match=r"^data: sample 0, 1, 2, 3, 4, \.\.\.: a shard is damaged$"):
        own()[1].rows(torch.arange(6), 0, 0)


def test_the_comparisons_see_a_subset_that_goes_by_its_new_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renumbered(source_module._Some):
        def batch(self, ids: torch.Tensor, draw: int, seed: int) -> Any:
            made = self.dataset.batch(ids, draw, seed)
            return {"input": made["input"] - ids[:, None] + self.ids[ids][:, None], "label": self.ids[ids]}

    monkeypatch.setattr(source_module, "_Some", Renumbered)
    with pytest.raises(AssertionError):
        test_a_sample_of_a_subset_keeps_the_views_that_it_has_in_the_whole()


def test_the_comparisons_see_single_samples_without_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    real = source_module._read
    monkeypatch.setattr(
        source_module, "_read", lambda d, ids, draw, seed: real(d, ids, draw if len(ids) > 1 else 0, seed)
    )
    with pytest.raises(AssertionError):
        test_its_samples_by_themselves_are_those_of_the_batch()
