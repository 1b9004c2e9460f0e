import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.data import npz
from understudy.data.labels import absent
from understudy.errors import CorruptError, InputError
from understudy.source import Source, source_of

torch.set_num_threads(1)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_arrays_come_under_their_own_names(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(3, 2)
    found = npz(saved(tmp_path / "a.npz", input=x, label=np.array([0, 1, 2], dtype=np.uint8)))
    assert {name: t.dtype for name, t in found.items()} == {"input": torch.float32, "label": torch.int64}
    assert found["input"].tolist() == x.tolist()
    source = source_of(found)
    assert isinstance(source, Source)
    assert [b["label"].tolist() for b in source.in_order()] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("inputs", "fields"),
    [
        ("x", {"input": 1.0, "label": 9}),
        (["x", "z"], {"x": 1.0, "z": 2.0, "label": 9}),
        ({"pixels": "x"}, {"pixels": 1.0, "label": 9}),
        (None, {"x": 1.0, "z": 2.0, "label": 9}),
    ],
)
def test_names_say_which_array_is_which_field(tmp_path: Path, inputs: Any, fields: dict[str, float]) -> None:
    path = saved(tmp_path / "a.npz", x=np.array([1.0]), y=np.array([9]), z=np.array([2.0]))
    assert {name: t.item() for name, t in npz(path, inputs=inputs, label="y").items()} == fields


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([1, 255], dtype=np.uint8), torch.uint8),
        (np.array([1, 60_000], dtype=np.uint16), torch.int64),
        (np.array([1.5, 2.5], dtype=">f4"), torch.float32),
        (np.array([1.5, 2.5], dtype=">f8"), torch.float32),
        (np.array([1.5, 2.5], dtype=np.longdouble), torch.float32),
        (np.array([1.5, 2.5], dtype=np.float16), torch.float16),
        (np.array([True, False]), torch.bool),
    ],
    ids=lambda v: str(getattr(v, "dtype", v)),
)
def test_every_kind_of_number_becomes_one_that_torch_computes_with(
    tmp_path: Path, array: np.ndarray[Any, Any], dtype: torch.dtype
) -> None:
    found = npz(saved(tmp_path / "a.npz", x=array))["x"]
    assert found.dtype is dtype
    assert found.tolist() == array.tolist()


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    path = saved(tmp_path / "a.npz", x=np.array([Hostile()], dtype=object))
    with pytest.raises(CorruptError, match=r"a\.npz: cannot be read: .*never loaded; save numbers"):
        npz(path)
    assert not ran.exists()
    np.load(path, allow_pickle=True)["x"]  # the control: the file does run code where that is allowed
    assert ran.exists()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b""), "is not what numpy.savez writes"),
        (
            lambda p: (np.save(p.with_suffix(".npy"), np.zeros(3)), p.with_suffix(".npy").rename(p)),
            "is not what numpy.savez writes",
        ),
        (lambda p: p.write_bytes(p.read_bytes()[:300]), "is not what numpy.savez writes"),
        (flipped, "cannot be read: Bad CRC-32"),
    ],
    ids=["empty", "a .npy", "cut", "a bit flipped"],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    path = saved(tmp_path / "a.npz", x=np.zeros(1000))
    damage(path)
    with pytest.raises(CorruptError, match=rf"a\.npz: {message}"):
        npz(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"unequal numbers of rows: x_train has 3, y_train has 3, x_test has 2\. Choose"),
        (
            {"inputs": "x_tran", "label": "lable"},
            r"(?s)no 'x_tran'\. Did you mean 'x_train'.*no 'lable'\. Allowed: x_train",
        ),
        ({"inputs": [], "label": "y_train"}, "nothing that a model could be called with"),
        ({"inputs": "words"}, re.escape("words: is an array of <U1, not of numbers")),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    arrays = {"x_train": np.zeros(3), "y_train": np.zeros(3), "x_test": np.zeros(2)}
    if "words" in options.values():
        arrays["words"] = np.array(["a"])
    with pytest.raises(InputError, match=message):
        npz(saved(tmp_path / "a.npz", **arrays), **options)


def test_another_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", b"no array")
    with pytest.raises(InputError, match=r"x: is an array of \|S8, not of numbers"):
        npz(tmp_path / "a.npz")


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    saved(tmp_path / "digits.npz", x=np.zeros(1))
    with pytest.raises(InputError, match=r"no such file\. Did you mean 'digits\.npz'"):
        npz(tmp_path / "digit.npz")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_no_label_among_whole_numbers_is_minus_100_and_cannot_be_mistaken(dtype: torch.dtype) -> None:
    label = absent(torch.zeros(2, 3, dtype=dtype))
    assert (label.dtype, label.shape, set(label.flatten().tolist())) == (torch.int64, (2, 3), {-100})


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.float32, torch.float64])
def test_no_label_among_others_is_nan(dtype: torch.dtype) -> None:
    label = absent(torch.zeros(2, dtype=dtype))
    assert label.isnan().all()
    assert label.dtype == (torch.float32 if dtype == torch.bool else dtype)
