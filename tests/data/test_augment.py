"""Views are pure functions of (seed, sample, draw): held to plain loops, and each promise to a version that breaks it."""

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from understudy import Settings
from understudy.data import Parts, augment
from understudy.data.augment import COLUMN, FLIP, ROW, Augment, Pictures, Streamed, fitting, hashed, viewed
from understudy.data.order import seed_of
from understudy.errors import InputError
from understudy.feed import Feed
from understudy.source import Keyed, Source, source_of

torch.set_num_threads(1)

N, H, W = 13, 6, 5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
OPTIONS = {
    "nothing": None,
    "crop": Augment(crop=2),
    "flip": Augment(flip=True),
    "crop and flip": Augment(crop=2, flip=True),
    "reflected": Augment(crop=3, fill="reflect", flip=True),
    "shift": Augment(shift=2),
}
BOTH = OPTIONS["crop and flip"]


def pixels(dtype: Any = np.uint8, channels: int = 3, samples: int = N) -> Any:
    """Pictures ``[N, C, H, W]``."""
    made = np.random.default_rng(0).integers(0, 256, (samples, channels, H, W))
    return made.astype(np.uint8) if dtype is np.uint8 else (made / 255).astype(dtype)


def labels(samples: int = N) -> Tensor:
    return torch.arange(samples) * 10


# -- against plain loops -----------------------------------------------------------------------------------------------

ALL = 2**64 - 1


def mixed(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & ALL
    return bits ^ (bits >> 31)


def number(sample: int, seed: int, draw: int, purpose: int, below: int) -> int:
    step = 0x9E3779B97F4A7C15
    bits = mixed((mixed((sample * step + seed_of(seed, "view", draw)) & ALL) + purpose * step) & ALL)
    return ((bits >> 32) * below) >> 32


def view(picture: Any, sample: int, draw: int, seed: int, options: Augment | None) -> Any:
    """One picture ``[C, H, W]``, pixel by pixel."""
    options = options or Augment()
    border = options.crop or options.shift
    flip = options.flip and number(sample, seed, draw, FLIP, 2)
    top = number(sample, seed, draw, ROW, 2 * border + 1) - border
    left = number(sample, seed, draw, COLUMN, 2 * border + 1) - border
    rows, columns = picture.shape[1:]
    out = np.zeros_like(picture)
    for i in range(rows):
        for j in range(columns):
            y, x = i + top, j + left
            x = columns - 1 - x if flip else x
            if options.shift:
                y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
            if options.fill == "reflect":
                y, x = (abs(v) if v < n else 2 * (n - 1) - v for v, n in ((y, rows), (x, columns)))
            if 0 <= y < rows and 0 <= x < columns:
                out[:, i, j] = picture[:, y, x]
    return out


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("options", OPTIONS)
def test_views_are_those_of_plain_loops(options: str, dtype: Any, layout: Any) -> None:
    raw, ids = pixels(dtype), torch.tensor([4, 0, 12, 7, 4])
    pictures = Pictures((raw, labels()), augment=OPTIONS[options], mean=MEAN, std=STD, layout=layout)
    for draw, seed in ((0, 0), (3, 0), (0, 9)):
        made, told = pictures.batch(ids, draw, seed)
        cut = np.stack([view(raw[i], i, draw, seed, OPTIONS[options]) for i in ids.tolist()])
        unit = 255 if dtype is np.uint8 else 1
        wanted = (cut / unit - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
        assert made.dtype is torch.float32
        np.testing.assert_allclose(made.numpy(), wanted, rtol=1e-5, atol=2e-6)
        assert told.tolist() == [40, 0, 120, 70, 40]


def test_bytes_without_statistics_are_divided_by_255_to_the_last_bit() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    (made,) = Pictures(every).batch(torch.tensor([0]), 0, 0)
    assert made.numpy().tobytes() == (every.astype(np.float32) / 255).tobytes()


def test_floats_without_statistics_are_left_as_they_are() -> None:
    raw = pixels(np.float32)
    (made,) = Pictures(raw).batch(torch.arange(N), 0, 0)
    assert made.numpy().tobytes() == raw.tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_may_stand_at_the_end_or_be_left_out(channels: int) -> None:
    raw, ids = pixels(channels=channels), torch.arange(N)
    (first,) = Pictures(raw, augment=BOTH).batch(ids, 1, 0)
    forms = [(raw.transpose(0, 2, 3, 1), None), (torch.from_numpy(raw), "first")]
    forms += [(raw[:, 0], None)] if channels == 1 else []
    for form, axis in forms:
        (made,) = Pictures(form, augment=BOTH, channels=axis).batch(ids, 1, 0)  # type: ignore[arg-type]
        assert torch.equal(made, first)


# -- the same pixels by every way --------------------------------------------------------------------------------------


def by_hand(pictures: Any, ids: list[int], draw: int, seed: int) -> Tensor:
    made: Tensor = pictures.batch(torch.tensor(ids), draw, seed)[0]
    return made


def one_by_one(pictures: Any, ids: list[int], draw: int, seed: int) -> Tensor:
    keyed = Keyed(pictures, seed)
    return torch.stack([keyed[draw, i][0] for i in ids])


def through_a_source(pictures: Any, ids: list[int], draw: int, seed: int) -> Tensor:
    source = source_of(pictures)
    assert isinstance(source, Source)
    made: Tensor = source.fetch([(draw, i) for i in reversed(ids)], seed)[0]
    return made.flip(0)


def through_workers(pictures: Any, ids: list[int], draw: int, seed: int) -> Tensor:
    """A loader of torch, without anything of ours around it."""
    loader = DataLoader(Keyed(pictures, seed), batch_size=3, sampler=[(draw, i) for i in ids], num_workers=2)  # type: ignore[arg-type]
    return torch.cat([batch[0] for batch in loader])


WAYS: dict[str, Callable[[Any, list[int], int, int], Tensor]] = {
    f.__name__: f for f in (one_by_one, through_a_source, through_workers)
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_view_has_the_same_bits_by_every_way(way: str, layout: Any, dtype: Any) -> None:
    pictures = Pictures((pixels(dtype), labels()), augment=BOTH, mean=MEAN, std=STD, layout=layout)
    ids = [5, 12, 0, 3, 3, 11, 7]
    for draw, seed in ((0, 0), (2, 4)):
        whole = by_hand(pictures, ids, draw, seed)
        assert torch.equal(whole, WAYS[way](pictures, ids, draw, seed))


@pytest.mark.parametrize("way", WAYS)
def test_the_comparison_sees_views_that_go_by_the_place_in_the_batch(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashed
    monkeypatch.setattr(augment, "hashed", lambda ids, *more: real(np.arange(len(ids)), *more))
    with pytest.raises(AssertionError):
        test_a_view_has_the_same_bits_by_every_way(way, "contiguous", np.uint8)


def test_the_comparison_sees_a_flip_that_goes_by_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashed

    def broken(ids: Any, *more: Any) -> Any:
        bits = real(ids, *more)
        return np.concatenate([bits[:1, ::-1], bits[1:]])

    monkeypatch.setattr(augment, "hashed", broken)
    with pytest.raises(AssertionError):
        test_a_view_has_the_same_bits_by_every_way("one_by_one", "contiguous", np.uint8)
    with pytest.raises(AssertionError):
        test_views_are_those_of_plain_loops("crop and flip", np.uint8, "contiguous")


def test_the_comparison_sees_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0)
    monkeypatch.setattr(
        augment, "hashed", lambda ids, s, d, p: drawn.integers(0, 2**63, (3, len(ids))).astype(np.uint64)
    )
    with pytest.raises(AssertionError):
        test_a_view_has_the_same_bits_by_every_way("through_a_source", "contiguous", np.uint8)


def test_both_layouts_hold_the_same_bits() -> None:
    ids, made = torch.tensor([3, 1, 12]), {}
    for layout in ("contiguous", "channels_last"):
        pictures = Pictures(pixels(), augment=BOTH, mean=MEAN, std=STD, layout=layout)  # type: ignore[arg-type]
        (made[layout],) = pictures.batch(ids, 1, 0)
    assert torch.equal(made["contiguous"], made["channels_last"])
    assert made["contiguous"].is_contiguous()
    assert made["channels_last"].is_contiguous(memory_format=torch.channels_last)
    assert not made["channels_last"].is_contiguous()


def test_a_copy_in_another_process_gives_the_same_bits() -> None:
    pictures = Pictures((pixels(), labels()), augment=BOTH, mean=MEAN, std=STD)
    other = pickle.loads(pickle.dumps(pictures))
    assert torch.equal(by_hand(pictures, [1, 2], 3, 4), by_hand(other, [1, 2], 3, 4))


def test_a_batch_is_the_callers_own() -> None:
    pictures = Pictures((pixels(np.float32), labels()), augment=OPTIONS["flip"])
    first = by_hand(pictures, [0, 1], 0, 0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(by_hand(pictures, [0, 1], 0, 0), kept)


def test_no_generator_is_asked() -> None:
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # type: ignore[index]
    by_hand(Pictures((pixels(), labels()), augment=BOTH), [0, 1], 0, 0)
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]


# -- randomness --------------------------------------------------------------------------------------------------------


def test_the_numbers_are_these_for_ever() -> None:
    """Stored outputs belong to views: another hash would give them other pixels without a word."""
    assert hashed(np.array([0, 1, 49_999]), 0, 0, (FLIP, ROW, COLUMN)).tolist() == [
        [13486004123323802299, 17234448873209339314, 8045700220518293368],
        [14221359697783078328, 4520006913048897885, 7805905439852502840],
        [5716562164871536937, 9555406406770231877, 5547077639208228907],
    ]
    assert hashed(np.array([7]), 3, 2, (FLIP,)).tolist() == [[12073076444231950771]]


def test_a_draw_a_seed_and_a_sample_each_change_the_view() -> None:
    flat = np.broadcast_to(np.arange(H * W, dtype=np.uint8).reshape(1, H, W), (N, 3, H, W)).copy()
    pictures = Pictures((flat, labels()), augment=Augment(crop=3, flip=True))
    ids = list(range(N))
    base = by_hand(pictures, ids, 0, 0)
    for draw, seed in ((1, 0), (0, 1)):
        same = (by_hand(pictures, ids, draw, seed) == base).flatten(1).all(1)
        assert same.float().mean() < 0.3
    alike = (base[:, None] == base[None]).flatten(2).all(2)
    assert alike.float().mean() < 0.3


@pytest.mark.parametrize("left_out", ["sample", "seed", "draw"])
def test_the_comparison_sees_what_the_hash_leaves_out(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashed
    broken = {
        "sample": lambda ids, seed, draw, p: real(0 * ids, seed, draw, p),
        "seed": lambda ids, seed, draw, p: real(ids, 0, draw, p),
        "draw": lambda ids, seed, draw, p: real(ids, seed, 0, p),
    }
    monkeypatch.setattr(augment, "hashed", broken[left_out])
    with pytest.raises(AssertionError):
        test_a_draw_a_seed_and_a_sample_each_change_the_view()


def evenly(bits: Any, count: int) -> bool:
    """Whether numbers below ``count`` come equally often: chi-squared within six deviations."""
    seen = np.bincount(augment._below(bits.reshape(-1), count), minlength=count)
    expected = bits.size / count
    return bool(((seen - expected) ** 2).sum() / expected < count - 1 + 6 * np.sqrt(2 * (count - 1)) + 6)


def independent(a: Any, b: Any) -> bool:
    """Whether two rows of numbers are uncorrelated, within six deviations."""
    units = [row.astype(np.float64) / 2**64 - 0.5 for row in (a, b)]
    return bool(abs((units[0] * units[1]).mean()) < 6 / 12 / np.sqrt(len(a)))


def test_places_come_equally_often_and_have_nothing_to_do_with_one_another() -> None:
    ids = np.arange(20_000)
    draws = [hashed(ids, 0, draw, (FLIP, ROW, COLUMN)) for draw in range(3)]
    assert all(evenly(bits, count) for bits in draws for count in (2, 9, 17))
    rows = [*draws[0], *draws[1], *draws[2], *hashed(ids, 1, 0, (FLIP, ROW, COLUMN))]
    assert all(independent(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert all(independent(row[:-lag], row[lag:]) for row in rows for lag in (1, 2, 128))


def test_the_comparison_sees_numbers_that_are_not_mixed() -> None:
    ids = np.arange(20_000, dtype=np.uint64)
    assert not evenly((ids * ids) << np.uint64(34), 9)
    assert not independent(ids << np.uint64(40), ids << np.uint64(40))


def test_switching_the_flip_on_leaves_the_crops_where_they_are() -> None:
    alike = pixels()
    alike = np.concatenate([alike, alike[..., ::-1]], axis=3)  # so that a flip is not seen
    one, other = (Pictures((alike, labels()), augment=Augment(crop=2, flip=flip)) for flip in (False, True))
    tops = [pictures.lens._places(np.arange(N), 0, 0)[1:] for pictures in (one, other)]
    assert np.array_equal(tops[0], tops[1])


# -- columns -----------------------------------------------------------------------------------------------------------


def test_what_else_a_sample_has_is_passed_on() -> None:
    soft = torch.rand(N, 4)
    images, label, more = Pictures((pixels(), labels(), soft), augment=BOTH).batch(torch.tensor([2, 0]), 1, 0)
    assert (images.shape, label.tolist()) == ((2, 3, H, W), [20, 0])
    assert torch.equal(more, soft[[2, 0]])


@pytest.mark.parametrize("name", ["input", "pixels"])
def test_a_mapping_keeps_its_names(name: str) -> None:
    data = {"soft": torch.rand(N, 4), name: pixels(), "label": labels()}
    named, plain = Pictures(data, augment=BOTH), Pictures((pixels(), labels()), augment=BOTH)
    made = named.batch(torch.tensor([2, 0]), 1, 0)
    assert list(made) == ["soft", name, "label"]
    assert torch.equal(made[name], by_hand(plain, [2, 0], 1, 0))
    assert list(named[3]) == ["soft", name, "label"]


def test_a_sample_by_itself_is_that_of_the_first_draw() -> None:
    pictures = Pictures((pixels(), labels()), augment=BOTH)
    image, label = pictures[-1]
    assert torch.equal(image, by_hand(pictures, [N - 1], 0, 0)[0])
    assert (int(label), len(list(pictures))) == (120, N)
    with pytest.raises(IndexError):
        pictures[N]


@pytest.mark.parametrize(
    ("options", "random"), [(None, False), (Augment(), False), (BOTH, True), (OPTIONS["shift"], True)]
)
def test_pictures_say_whether_their_views_differ(options: Augment | None, random: bool) -> None:
    pictures = Pictures((pixels(), labels()), augment=options)
    source = source_of(pictures)
    assert isinstance(source, Source)
    assert (pictures.random, source.is_fixed()) == (random, not random)


def test_training_data_goes_through_it_with_any_number_of_workers() -> None:
    pictures = Pictures((pixels(), labels()), augment=BOTH, layout="channels_last")
    made = {}
    for workers in (0, 2):
        feed = Feed(pictures, Settings(epochs=3, batch_size=4, workers=workers, draws=2))
        made[workers] = [batch for micro in feed.batches(0, feed.steps) for batch in micro]
    for one, other in zip(made[0], made[2], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("input", "label", "index", "draw"))
        assert other["input"].is_contiguous(memory_format=torch.channels_last)


# -- pictures that are decoded when they are asked for -----------------------------------------------------------------


class Folder:
    """As an image folder is."""

    size, channels = (H, W), 3

    def __init__(self, samples: int = N) -> None:
        self.raw, self.labels, self.asked = pixels(samples=samples), list(range(samples)), 0

    def shades(self, sample: int) -> Any:
        self.asked += 1
        return self.raw[sample].transpose(1, 2, 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_streamed_pictures_have_the_same_views(options: str) -> None:
    kept = Pictures((pixels(), torch.arange(N)), augment=OPTIONS[options], mean=MEAN, std=STD)
    streamed = Streamed(Folder(), augment=OPTIONS[options], mean=MEAN, std=STD)
    ids = torch.tensor([5, 0, 12])
    for one, other in zip(kept.batch(ids, 2, 3), streamed.batch(ids, 2, 3), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(streamed[4][0], kept[4][0])
    assert (len(streamed), streamed.random) == (N, kept.random)


def test_pictures_are_kept_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_ = N * 3 * (H + 4) * (W + 4) * 2
    for limit, kind in ((bytes_, Pictures), (bytes_ - 1, Streamed)):
        monkeypatch.setattr(augment, "IN_MEMORY", limit)
        folder = Folder()
        made = fitting(folder, augment=BOTH)
        assert type(made) is kind
        assert folder.asked == (N if kind is Pictures else 0)
        assert kind is Streamed or made.stored.nbytes == bytes_  # type: ignore[union-attr]
        images, told = made.batch(torch.tensor([2, 1]), 1, 0)
        assert (images.shape, told.tolist()) == ((2, 3, H, W), [2, 1])


# -- parts -------------------------------------------------------------------------------------------------------------


def test_only_what_is_trained_on_is_augmented() -> None:
    part = (pixels(), labels())
    made = viewed(Parts(part, part, part, unlabelled=(pixels(),)), BOTH, MEAN, STD)
    assert [p.random for p in (made.train, made.valid, made.test, made.unlabelled)] == [True, False, False, True]
    plain = Pictures(part, mean=MEAN, std=STD)
    assert torch.equal(made.valid[3][0], plain[3][0])
    assert torch.equal(made.test[3][0], plain[3][0])


def test_parts_are_left_as_they_are_where_nothing_is_asked_for() -> None:
    parts = Parts((pixels(), labels()), None)
    assert viewed(parts, None, None, None) is parts
    assert viewed(parts, BOTH, None, None).valid is None


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"crop": -1}, "crop=-1 is not allowed; give a number of pixels, 0 or above"),
        ({"crop": True}, "crop=True is not allowed"),
        ({"shift": 0.5}, "shift=0.5 is not allowed"),
        ({"fill": "black"}, "fill='black' is not allowed; give 'zero' or 'reflect'"),
        ({"crop": 1, "shift": 1}, "crop=1 and shift=1 both move the picture; give one of the two"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        Augment(**options)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Augment(crop=-1, shift=-1, fill="x")  # type: ignore[arg-type]
    assert str(caught.value).count("augment: ") == 3


GOOD: dict[str, Any] = {"data": pixels()}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"data": pixels().astype(np.int64)}, "are numbers of torch.int64; give bytes (torch.uint8) or floats"),
        ({"data": pixels()[0, 0]}, "have shape [6, 5]"),
        ({"data": (pixels(), labels(3))}, "columns of [3, 13] samples; they must have equally many"),
        (
            {"data": {"a": pixels(), "b": pixels()}},
            "which of the fields are they? Call them 'input'. Given: a [13, 3, 6, 5]",
        ),
        ({"data": {"label": labels()}}, "which of the fields are they?"),
        ({"mean": MEAN}, "std is missing; give both"),
        ({"std": 1.0}, "mean is missing; give both"),
        (
            {"mean": (0.1, 0.2), "std": 1.0},
            "mean=(0.1, 0.2) is not allowed; give one number, or one for each of 3 channels",
        ),
        ({"mean": 0.0, "std": (1.0, 0.0, 1.0)}, "std=(1.0, 0.0, 1.0) is not allowed"),
        ({"mean": float("nan"), "std": 1.0}, "mean=nan is not allowed"),
        ({"layout": "NHWC"}, "layout='NHWC' is not allowed; give 'contiguous' or 'channels_last'"),
        ({"augment": {"crop": 4}}, "augment={'crop': 4} is no Augment, such as Augment(crop=4, flip=True)"),
        (
            {"augment": Augment(crop=5, fill="reflect")},
            "crop=5 cannot reflect pictures of 6 by 5; give less than their sides",
        ),
    ],
)
def test_pictures_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        Pictures(**GOOD | options)


def test_the_largest_reflection_is_taken() -> None:
    Pictures(pixels(), augment=Augment(crop=4, fill="reflect"))


def test_an_augmentation_does_not_change() -> None:
    with pytest.raises(AttributeError):
        copy.copy(Augment()).crop = 1  # type: ignore[misc]


FOUR = torch.zeros(4, 1, 5, 5), torch.arange(4)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (FOUR, {"channels": "lst"}, "channels='lst' is not allowed; give 'first' or 'last'"),
        (FOUR, {"mean": "a", "std": 1.0}, "mean='a' is not allowed"),
        (FOUR, {"mean": [[1.0], [1.0, 2.0]], "std": 1.0}, "mean=.* is not allowed"),
        ((FOUR[0][:0], FOUR[1][:0]), {}, "there is no picture"),
        ((), {}, "is no data"),
        (None, {}, "is no data"),
        ((FOUR[0], ["a"] * 4), {}, "column 1 cannot be a tensor of numbers"),
        ((FOUR[0], torch.tensor(3)), {}, "column 1 is a single number"),
    ],
)
def test_pictures_say_what_is_wrong_with_them(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pictures(data, **options)
    Pictures(FOUR)


def test_a_flip_is_yes_or_no() -> None:
    with pytest.raises(InputError, match="flip='no' is not allowed; give True or False"):
        Augment(flip="no")  # type: ignore[arg-type]


def test_arrays_that_run_backwards_and_tensors_that_learn_are_pictures_too() -> None:
    array = np.arange(50, dtype=np.float32).reshape(2, 5, 5)
    assert torch.equal(Pictures(array[:, ::-1])[0][0][0], torch.tensor(array[0, ::-1].copy()))
    assert torch.equal(Pictures(torch.tensor(array).requires_grad_())[0][0][0], torch.tensor(array[0]))
