from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.data import Augment
from understudy.data.sets import npz
from understudy.errors import InputError
from understudy.pool import with_unlabelled


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def rows(count: int, first: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(first, first + count, dtype=np.float32)[:, None]


def of_classes(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count) % 2


def in_one(folder: Path, **more: Any) -> Path:
    arrays = {"x_train": rows(20), "y_train": of_classes(20), "x_test": rows(4, 50), "y_test": of_classes(4)}
    return saved(folder / "all.npz", **{**arrays, **more})


def seen(part: Any) -> list[int]:
    return sorted(part["input"].flatten().int().tolist())


def test_files_of_one_part_each(tmp_path: Path) -> None:
    train = saved(tmp_path / "a.npz", input=rows(6), label=of_classes(6))
    valid = saved(tmp_path / "b.npz", input=rows(2, 10), label=of_classes(2))
    more = saved(tmp_path / "c.npz", input=rows(3, 20))
    parts = npz(train=train, valid=valid, unlabelled=more, classes=["even", "odd"])
    assert (seen(parts.train), seen(parts.valid), parts.test, list(parts.unlabelled)) == (
        list(range(6)),
        [10, 11],
        None,
        ["input"],
    )
    assert parts.classes == ("even", "odd")
    assert with_unlabelled(parts.train, parts.unlabelled).samples == 9


def test_a_fifth_is_held_out_where_nothing_else_is_said(tmp_path: Path) -> None:
    parts = npz(train=saved(tmp_path / "a.npz", input=rows(20), label=of_classes(20)))
    assert sorted(seen(parts.train) + seen(parts.valid)) == list(range(20))
    assert parts.valid["label"].bincount().tolist() == [2, 2]
    assert torch.equal(parts.valid["label"], parts.valid["input"].flatten().long() % 2)


def test_one_file_may_hold_all_parts(tmp_path: Path) -> None:
    path = in_one(tmp_path, x_valid=rows(2, 80), y_valid=of_classes(2), x_unlabelled=rows(3, 90))
    parts = npz(train=path, inputs="x_{part}", label="y_{part}")
    assert [seen(p) for p in (parts.train, parts.valid, parts.test, parts.unlabelled)] == [
        list(range(20)),
        [80, 81],
        [50, 51, 52, 53],
        [90, 91, 92],
    ]
    assert list(parts.unlabelled) == ["input"]
    assert parts.notes == ()


def test_what_the_file_lacks_is_held_out_and_a_share_goes_before_the_files_own(tmp_path: Path) -> None:
    path = in_one(tmp_path)
    parts = npz(train=path, inputs="x_{part}", label="y_{part}")
    assert (len(parts.train["input"]), len(parts.valid["input"]), seen(parts.test)) == (16, 4, [50, 51, 52, 53])
    parts = npz(train=path, inputs="x_{part}", label="y_{part}", valid=0.1, test=0.2)
    assert (len(parts.train["input"]), len(parts.valid["input"]), len(parts.test["input"])) == (14, 2, 4)
    assert set(seen(parts.test)) < set(range(20))


@pytest.mark.parametrize("inputs", [["a_{part}", "b_{part}"], {"left": "a_{part}", "right": "b_{part}"}])
def test_several_arrays_may_be_inputs(tmp_path: Path, inputs: Any) -> None:
    arrays = {f"{n}_{part}": rows(6) for n in "ab" for part in ("train", "test")}
    path = saved(tmp_path / "a.npz", **arrays, y_train=of_classes(6), y_test=of_classes(6))
    parts = npz(train=path, inputs=inputs, label="y_{part}", valid=0.3)
    assert set(parts.train) == (
        {"left", "right", "label"} if isinstance(inputs, dict) else {"a_train", "b_train", "label"}
    )
    assert parts.test is not None


def test_several_labels_of_a_sample_are_no_classes(tmp_path: Path) -> None:
    answers = np.array([[1, 0, 1], [0, 0, 1]] * 5, dtype=np.float32)
    parts = npz(train=saved(tmp_path / "a.npz", input=rows(10), label=answers), classes=["a", "b", "c"])
    assert parts.train["label"].shape == (8, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "x_{part}", "label": "y_train"}, r"label='y_train': \{part\} must be in both"),
        ({"label": "y_{part}"}, r"inputs=None and label='y_\{part\}': \{part\} must be in both"),
        ({"inputs": "x_{part}", "label": "z_{part}"}, "there is no 'z_train'"),
        ({"inputs": "x_{part}", "label": "y_{part}", "classes": ["a", "b", "c"]}, "train has no sample of class 'c'"),
        ({"inputs": "x_{part}", "label": "y_{part}", "classes": ["a"]}, "train has a label 1; allowed are 0 to 0"),
        ({"inputs": "x_{part}", "label": "y_{part}", "valid": 1}, "valid=1 is not allowed"),
        ({"inputs": "x_{part}", "label": "y_{part}", "valid": "all.npz"}, "are both"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = in_one(tmp_path)
    with pytest.raises(InputError, match=message):
        npz(train=path, **options)


def test_a_class_that_only_the_test_has_is_refused(tmp_path: Path) -> None:
    path = in_one(tmp_path, y_test=np.array([0, 1, 2, 0]))
    with pytest.raises(InputError, match=r"train has no sample of class 2\. Add some"):
        npz(train=path, inputs="x_{part}", label="y_{part}")
    assert npz(train=in_one(tmp_path), inputs="x_{part}", label="y_{part}").test is not None  # the control


@pytest.mark.parametrize("shape", [(20, 3, 6, 6), (20, 6, 6, 3), (20, 6, 6)])
@pytest.mark.parametrize("inputs", ["x", ["x"]])
def test_bytes_of_pictures_are_augmented_and_normalised(tmp_path: Path, shape: tuple[int, ...], inputs: Any) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path, more = saved(tmp_path / "a.npz", x=x, y=of_classes(20)), saved(tmp_path / "more.npz", x=x[:4])
    options: dict[str, Any] = {"train": path, "inputs": inputs, "label": "y", "valid": 0.5, "unlabelled": more}
    parts = npz(**options, augment=Augment(crop=2, flip=True), mean=0.5, std=0.25)
    name = "input" if inputs == "x" else "x"
    assert [len(part) for part in (parts.train, parts.valid, parts.unlabelled)] == [10, 10, 4]
    assert [part.random for part in (parts.train, parts.valid, parts.unlabelled)] == [True, False, True]
    plain = npz(**options).valid
    seen = parts.valid.batch(torch.arange(10), 0, 0)
    raw = torch.from_numpy(x[:, None] if x.ndim == 3 else x if shape[1] == 3 else x.transpose(0, 3, 1, 2)).float()
    held = [i for i in range(20) if any(torch.equal(torch.from_numpy(x[i]), p) for p in plain[name])]
    torch.testing.assert_close(seen[name], (raw[held] / 255 - 0.5) / 0.25)
    assert torch.equal(seen["label"], plain["label"])
    pooled = with_unlabelled(parts.train, parts.unlabelled)
    assert pooled.rows(torch.arange(14), 0, 0)["label"].ge(0).sum() == 10


def test_numbers_that_are_no_pictures_are_not_augmented(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=rows(20), y=of_classes(20))
    with pytest.raises(InputError, match=r"pictures: have shape \[16, 1\]|which of the fields"):
        npz(train=path, inputs="x", label="y", augment=Augment(flip=True))
