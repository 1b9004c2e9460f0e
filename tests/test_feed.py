import os
import random
import re
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from understudy import Batch, Callback, Distillation, Optim, Progress, Settings, Term, train
from understudy import feed as feed_module
from understudy import source as source_module
from understudy.data.augment import hashed
from understudy.errors import InputError, MachineError
from understudy.feed import Feed
from understudy.losses import mse

torch.set_num_threads(1)

SAMPLES = 23


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Pixels that all three generators of random numbers shake; the second item says which sample it is."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, sample: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(4) + float(np.random.rand()) + random.random()
        return noise + sample, torch.tensor(sample)


def settings(**options: Any) -> Settings:
    return Settings(**{"epochs": 3, "batch_size": 5, "seed": 1} | options)


def fed(data: Any, start: int = 0, rank: int = 0, ranks: int = 1, **options: Any) -> list[list[Batch]]:
    feed = Feed(data, settings(**options), rank, ranks)
    return list(feed.batches(start, feed.steps))


def pixels(steps: list[list[Batch]]) -> list[list[float]]:
    return [torch.cat([b["input"] for b in micro]).flatten().tolist() for micro in steps]


def ids(steps: list[list[Batch]]) -> list[list[int]]:
    return [torch.cat([b["index"] for b in micro]).tolist() for micro in steps]


# -- order and ids -----------------------------------------------------------------------------------------------------


def test_the_index_of_a_batch_says_which_samples_it_holds() -> None:
    for micro in fed((torch.arange(SAMPLES) * 10.0, torch.arange(SAMPLES)), accumulate=2):
        for batch in micro:
            assert batch["input"].tolist() == (batch["index"] * 10.0).tolist()
            assert batch["label"].equal(batch["index"])


def test_each_epoch_holds_each_sample_once() -> None:
    steps = ids(fed(torch.arange(float(SAMPLES))))
    assert [len(s) for s in steps] == [5, 5, 5, 5, 3] * 3
    for epoch in range(3):
        assert sorted(chain(*steps[5 * epoch : 5 * epoch + 5])) == list(range(SAMPLES))
    assert steps[:5] != steps[5:10]


def test_drop_last_leaves_out_the_smaller_batch_and_not_always_the_same_samples() -> None:
    steps = ids(fed(torch.arange(float(SAMPLES)), drop_last=True))
    assert [len(s) for s in steps] == [5] * 12
    left = [set(range(SAMPLES)) - set(chain(*steps[4 * e : 4 * e + 4])) for e in range(3)]
    assert all(len(out) == 3 for out in left)
    assert left[0] != left[1]


def test_the_parts_of_ranks_and_micro_batches_make_up_the_same_batch() -> None:
    data, whole = torch.arange(float(SAMPLES)), ids(fed(torch.arange(float(SAMPLES)), drop_last=True))
    for ranks, accumulate in [(2, 1), (1, 5), (2, 2), (5, 1)]:
        parts = [fed(data, rank=r, ranks=ranks, accumulate=accumulate, drop_last=True) for r in range(ranks)]
        assert all(len(micro) == accumulate for part in parts for micro in part)
        assert [list(chain(*step)) for step in zip(*map(ids, parts), strict=True)] == whole


def test_a_run_that_starts_in_mid_epoch_sees_what_the_whole_run_sees() -> None:
    whole = fed(Augmented())
    for start in (1, 7, 14):
        assert pixels(fed(Augmented(), start=start)) == pixels(whole)[start:]


# -- randomness --------------------------------------------------------------------------------------------------------


def test_random_augmentation_is_the_same_with_any_number_of_workers_and_from_any_step() -> None:
    alone = pixels(fed(Augmented(), accumulate=2))
    assert len({tuple(p) for p in alone}) == len(alone)
    assert pixels(fed(Augmented(), accumulate=2, workers=2)) == alone
    assert pixels(fed(Augmented(), accumulate=2, workers=1, start=8)) == alone[8:]
    torch.manual_seed(5)
    assert pixels(fed(Augmented())) == alone


def test_the_same_sample_looks_different_in_each_epoch() -> None:
    steps = fed(Augmented())
    seen = {
        (int(i), e): x.tolist()
        for e in range(3)
        for b in steps[5 * e]
        for i, x in zip(b["index"], b["input"], strict=True)
    }
    whole = {i: [x for (j, _), x in seen.items() if j == i] for i, _ in seen}
    assert any(len(x) > 1 for x in whole.values())
    assert all(a != b for x in whole.values() for a in x for b in x if a is not b)


@pytest.mark.parametrize("left_out", ["sample", "epoch"])
def test_the_comparison_sees_randomness_that_is_not_seeded_by_sample_and_epoch(
    left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = source_module.seed_all

    def broken(seed: int, stream: str, epoch: int, sample: int) -> None:
        if left_out == "epoch":
            real(seed, stream, sample)

    monkeypatch.setattr(source_module, "seed_all", broken)
    test = {
        "sample": test_random_augmentation_is_the_same_with_any_number_of_workers_and_from_any_step,
        "epoch": test_the_same_sample_looks_different_in_each_epoch,
    }[left_out]
    with pytest.raises(AssertionError):
        test()


# -- draws -------------------------------------------------------------------------------------------------------------


class Views(Dataset[tuple[Tensor, Tensor]]):
    """The same samples in a set that makes its batches itself, by a hash of (seed, sample, draw)."""

    random = True

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, ids: Tensor, draw: int, seed: int) -> tuple[Tensor, Tensor]:
        bits = hashed(ids.numpy(), seed, draw, range(4)).T.astype(np.float64) / 2**64
        return torch.from_numpy(bits).float() + ids[:, None], ids


DRAWN: dict[str, Any] = {"a Dataset": Augmented(), "a set of batches": Views()}


def by_sample(steps: list[list[Batch]], epoch: int) -> dict[int, list[float]]:
    batches = [b for micro in steps[5 * epoch : 5 * epoch + 5] for b in micro]
    return {int(i): x.tolist() for b in batches for i, x in zip(b["index"], b["input"], strict=True)}


def drawn(steps: list[list[Batch]]) -> list[int]:
    return [int(b["draw"]) for micro in steps for b in micro]


@pytest.mark.parametrize("data", DRAWN)
def test_the_draw_is_the_epoch_or_goes_through_so_many(data: str) -> None:
    every = fed(DRAWN[data], epochs=5)
    assert drawn(every) == [e for e in range(5) for _ in range(5)]
    assert len({str(by_sample(every, e)[0]) for e in range(5)}) == 5
    two = fed(DRAWN[data], epochs=5, draws=2)
    assert drawn(two) == [e % 2 for e in range(5) for _ in range(5)]
    views = [by_sample(two, e) for e in range(5)]
    assert views[0] == views[2] == views[4] == by_sample(every, 0)
    assert views[1] == views[3] == by_sample(every, 1)
    assert ids(two) == ids(every)
    assert all(b["draw"].dtype is torch.int64 and b["draw"].shape == () for micro in two for b in micro)


@pytest.mark.parametrize("data", DRAWN)
def test_the_seed_of_the_samples_is_the_runs_unless_it_has_its_own(data: str) -> None:
    own, other = fed(DRAWN[data], seed=1), fed(DRAWN[data], seed=2, data_seed=1)
    assert ids(own) != ids(other)
    assert [by_sample(own, e) for e in range(3)] == [by_sample(other, e) for e in range(3)]
    assert by_sample(fed(DRAWN[data], seed=1, data_seed=2), 0) != by_sample(own, 0)
    assert pixels(fed(DRAWN[data], seed=1, data_seed=1)) == pixels(own)


@pytest.mark.parametrize("data", DRAWN)
def test_draws_are_the_same_with_workers_and_from_any_step(data: str) -> None:
    options = {"draws": 2, "data_seed": 3, "accumulate": 2}
    alone = fed(DRAWN[data], **options)
    for more in ({"workers": 2}, {"start": 7}, {"workers": 1, "start": 12}):
        again = fed(DRAWN[data], **options, **more)
        assert pixels(again) == pixels(alone)[more.get("start", 0) :]
        assert drawn(again) == drawn(alone)[2 * more.get("start", 0) :]


def test_the_comparison_sees_workers_that_draw_by_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_epoch(self: Feed, step: int) -> Any:
        return [[(step // self.steps_per_epoch, i) for i in part.tolist()] for part in self._parts(step)]

    monkeypatch.setattr(Feed, "keys", by_epoch)
    with pytest.raises(AssertionError):
        test_draws_are_the_same_with_workers_and_from_any_step("a set of batches")


def test_what_is_never_random_has_no_draw() -> None:
    class Same(Views):
        random = False

    assert "draw" not in fed(torch.arange(float(SAMPLES)))[0][0]
    assert "draw" not in fed(Same())[0][0]
    assert "draw" in Feed(Views(), settings()).first()


class Ends(Callback):
    def stepped(self, progress: Progress) -> None:
        if progress.step == 7:
            raise ZeroDivisionError


def weights(data: Any, folder: Path, *, broken: bool = False, again: int | None = 2, **options: Any) -> Tensor:
    """Of a student after three epochs, which may end after seven steps and be gone on with."""

    def go(**more: Any) -> nn.Linear:
        torch.manual_seed(0)
        student, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
        method = Distillation(Term(mse, "student", "teacher"), student=student, teacher=teacher)
        train(
            method,
            data,
            settings(save_every=3, optimizer=Optim("SGD", lr=1e-3), **options, **more.pop("set", {})),
            folder=folder,
            **more,
        )
        return student

    if not broken:
        return go(set={"draws": 2}).weight.detach()
    with pytest.raises(ZeroDivisionError):
        go(set={"draws": 2}, callbacks=[Ends()])
    return go(set={"draws": again}, resume=True).weight.detach()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", DRAWN)
def test_a_run_that_is_resumed_sees_the_draws_of_the_whole_one(data: str, workers: int, tmp_path: Path) -> None:
    whole = weights(DRAWN[data], tmp_path / "whole")
    assert torch.equal(weights(DRAWN[data], tmp_path / "broken", broken=True, workers=workers), whole)


def test_the_comparison_sees_a_resumed_run_with_other_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights(Views(), tmp_path / "whole")
    with pytest.raises(InputError, match=r"draws: .*2.* 3"):
        weights(Views(), tmp_path / "refused", broken=True, again=3)
    monkeypatch.setattr("understudy.settings.Settings.identity", lambda self: {})
    assert not torch.equal(weights(Views(), tmp_path / "other", broken=True, again=None), whole)


def mixing(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    x = torch.stack([s[0] for s in samples])
    return {"input": x + torch.rand(()), "label": torch.stack([s[1] for s in samples])}


def test_a_random_collate_function_is_as_repeatable_as_the_dataset() -> None:
    loader = DataLoader(Augmented(), batch_size=5, collate_fn=mixing)
    alone = pixels(fed(loader))
    assert alone != pixels(fed(Augmented()))
    assert pixels(fed(loader, workers=2)) == alone
    assert pixels(fed(loader, start=7)) == alone[7:]


class Spy(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def logged(self, record: Any) -> None:
        self.losses.append(record["loss"]["student"])


def run(data: Any, **options: Any) -> list[float]:
    torch.manual_seed(0)
    student, teacher, spy = nn.Linear(4, 2), nn.Linear(4, 2), Spy()
    method = Distillation(Term(mse, "student", "teacher"), student=student, teacher=teacher)
    train(method, data, settings(log_every=1, optimizer=Optim("SGD", lr=1e-3), **options), callbacks=[spy])
    return spy.losses


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_puts_the_users_generators_back(workers: int) -> None:
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = states()
    run(Augmented(), workers=workers)
    torch.manual_seed(3)  # which run() itself has set
    assert states() == before


def test_training_gives_the_same_losses_with_and_without_workers() -> None:
    assert run(Augmented()) == run(Augmented(), workers=2)


# -- what can be fed ---------------------------------------------------------------------------------------------------

COLUMN = torch.arange(12.0)
KINDS: dict[str, Any] = {
    "a tensor": COLUMN,
    "a tuple": (COLUMN, COLUMN.long()),
    "a list": [COLUMN, COLUMN.long()],
    "a mapping": {"input": COLUMN, "label": COLUMN.long()},
    "a TensorDataset": TensorDataset(COLUMN, COLUMN.long()),
    "a Dataset of tuples": TensorDataset(COLUMN, COLUMN.long()),
    "a list of samples": [(float(i), i) for i in range(12)],
    "a list of mappings": [{"input": float(i), "label": i} for i in range(12)],
    "a numpy array": COLUMN.numpy(),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_data_of_each_kind_gives_the_same_batches(kind: str, workers: int) -> None:
    for step, batch in enumerate(b for micro in fed(KINDS[kind], epochs=1, workers=workers) for b in micro):
        assert batch["input"].tolist() == [float(i) for i in batch["index"]], step
        assert "label" not in batch or batch["label"].tolist() == batch["index"].tolist()
        assert batch["input"].shape == (5,) if step < 2 else (2,)


def test_the_fields_of_a_mapping_keep_their_names() -> None:
    data = {"pixels": torch.rand(6, 3), "soft": torch.rand(6, 2), "label": torch.arange(6)}
    ((batch,), *_) = fed(data)
    assert list(batch) == ["pixels", "soft", "label", "index"]
    assert batch["soft"].equal(data["soft"][batch["index"]])
    assert list(batch.inputs) == ["pixels", "soft", "label"]


def test_a_loader_is_rebuilt_from_its_dataset_batch_size_and_collate_function() -> None:
    loader = DataLoader(Augmented(), batch_size=4, shuffle=True, collate_fn=mixing)
    feed = Feed(loader, Settings(epochs=1))
    assert (feed.batch_size, feed.steps, feed.samples) == (4, 6, SAMPLES)
    assert Feed(loader, Settings(epochs=1, batch_size=6)).batch_size == 6
    assert Feed(Augmented(), Settings(epochs=1)).batch_size == 128
    first = feed.first()
    assert first["label"].equal(first["index"])


def test_a_loaders_own_batch_sampler_gives_its_size() -> None:
    sampler = BatchSampler(SequentialSampler(Augmented()), batch_size=7, drop_last=False)
    assert Feed(DataLoader(Augmented(), batch_sampler=sampler), Settings(epochs=1)).batch_size == 7


class Lengthless(Dataset[Tensor]):
    def __getitem__(self, sample: int) -> Tensor:
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        ((torch.zeros(3), torch.zeros(4)), {}, "data: tensors of [3, 4] samples; they must have equally many."),
        ({"a": torch.zeros(3), "b": torch.zeros(4)}, {}, "data: tensors of [3, 4] samples"),
        (torch.zeros(0, 4), {}, "data: has no sample."),
        (torch.tensor(1.0), {}, "data: has no sample."),
        ([], {}, "data: has no sample."),
        (7, {}, "data: a int cannot be fed; allowed: tensors, a tuple or a mapping of tensors"),
        (Lengthless(), {}, "data: Lengthless has no length. Give it __len__"),
        (DataLoader(Augmented(), batch_size=None), {}, "a DataLoader with batch_size=None makes no batches"),
        (
            torch.zeros(4),
            {"drop_last": True},
            "4 samples make no batch of 5 with drop_last=True. Lower batch_size to 4",
        ),
        (torch.zeros(11), {"accumulate": 2}, "an epoch's last batch has 1 samples for 2 micro-batches on 1 ranks"),
        (torch.zeros(10), {"accumulate": 6}, "batch_size is 5 samples for 6 micro-batches"),
        (iter([torch.zeros(2)]), {}, "epochs need data with a length; an iterable needs steps="),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_data_that_cannot_be_fed_is_refused_before_the_first_batch(
    data: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        Feed(data, settings(**options))


@pytest.mark.parametrize(("samples", "ranks", "accumulate"), [(11, 1, 1), (12, 2, 1), (12, 1, 2), (10, 5, 1)])
def test_the_smallest_batch_that_gives_everyone_a_sample_is_taken(samples: int, ranks: int, accumulate: int) -> None:
    for rank in range(ranks):
        steps = fed(torch.arange(float(samples)), rank=rank, ranks=ranks, accumulate=accumulate)
        assert all(batch.rows >= 1 for micro in steps for batch in micro)


def test_several_processes_cannot_share_an_iterable() -> None:
    with pytest.raises(InputError, match="an iterable cannot be dealt out to several processes"):
        Feed(iter([torch.zeros(2)]), Settings(steps=1), 0, 2)


# -- streams -----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((2, 4), float(i)) for i in range(8))


def first_values(steps: list[list[Batch]]) -> list[list[float]]:
    return [[float(b["input"].flatten()[0]) for b in micro] for micro in steps]


@pytest.mark.parametrize("stream", [Stream(), DataLoader(Stream(), batch_size=None), list(Stream()).__iter__])
def test_a_stream_is_fed_as_it_comes_and_the_dry_run_takes_nothing_from_it(stream: Any) -> None:
    feed = Feed(stream() if callable(stream) else stream, Settings(steps=4, accumulate=2))
    assert float(feed.first()["input"][0, 0]) == 0.0
    steps = list(feed.batches(0, feed.steps))
    assert first_values(steps) == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert "index" not in steps[0][0]


def test_a_stream_trains(tmp_path: Any) -> None:
    assert len(run(Stream(), epochs=None, steps=8)) == 8


def test_a_stream_that_ends_early_says_after_how_many_steps() -> None:
    with pytest.raises(InputError, match=r"the iterable ended after 8 steps of 9; give steps=8"):
        run(Stream(), epochs=None, steps=9)


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(InputError, match="the iterable is empty"):
        Feed(iter([]), Settings(steps=1)).first()


def test_a_stream_is_refused_for_a_resume(tmp_path: Any) -> None:
    method = Distillation(Term(mse, "student", "teacher"), student=nn.Linear(4, 2), teacher=nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"an iterable cannot be resumed, since its place is lost"):
        train(method, Stream(), Settings(steps=2), folder=tmp_path, resume=True)


# -- workers that fail -------------------------------------------------------------------------------------------------


class Broken(Augmented):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __getitem__(self, sample: int) -> tuple[Tensor, Tensor]:
        if sample == 13:
            if self.how == "raises":
                raise OSError("images/0013.png is cut short")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(sample)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(workers: int) -> None:
    told = "data: sample 13 could not be read: OSError: images/0013.png is cut short"
    with pytest.raises(InputError) as caught:
        run(Broken("raises"), workers=workers)
    assert str(caught.value) == told


def test_a_worker_that_is_killed_is_an_error_of_the_machine() -> None:
    with pytest.raises(MachineError, match=r"data: DataLoader worker .*(killed|exited).*resume=True") as e:
        run(Broken("dies"), workers=2)
    assert e.value.exit_code == 4


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "no socket")])
def test_a_worker_that_is_gone_while_it_hands_over_is_one_too(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(loader: Any) -> None:
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._BaseDataLoaderIter.__next__", gone)
    with pytest.raises(MachineError, match="DataLoader worker exited unexpectedly"):
        run(Augmented(), workers=1)


def test_a_worker_that_hangs_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "WORKER_TIMEOUT_S", 1)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1, raising=False)
    monkeypatch.setattr(Augmented, "__getitem__", lambda self, sample: signal.pause())
    feed, before = Feed(Augmented(), settings(workers=1)), children()
    with pytest.raises(MachineError, match="DataLoader timed out after 1 seconds"), feed_module.workers_watched():
        next(feed.batches(0, 1))
    assert children() - before == set()


def test_workers_are_gone_after_a_run_and_after_an_error() -> None:
    before = children()
    run(Augmented(), workers=2)
    with pytest.raises(InputError):
        run(Broken("raises"), workers=2)
    assert children() - before == set()


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_an_error_of_another_kind_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^mine$"), feed_module.workers_watched():
        raise RuntimeError("mine")
    with pytest.raises(InputError, match=r"^mine$"), feed_module.workers_watched():
        raise InputError("mine")


def test_epochs_count_from_zero_as_the_order_does() -> None:
    class Epochs(Callback):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def stepped(self, progress: Progress) -> None:
            self.seen.append(progress.epoch)

    spy = Epochs()
    method = Distillation(Term(mse, "student", "teacher"), student=nn.Linear(4, 2), teacher=nn.Linear(4, 2))
    train(method, torch.rand(10, 4), settings(), callbacks=[spy])
    assert spy.seen == [0, 0, 1, 1, 2, 2]
