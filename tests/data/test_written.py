import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.data import written
from understudy.data.digits import digits
from understudy.data.sets import csv, images, npz
from understudy.data.written import ATTRIBUTES, EXAMPLES, write_example
from understudy.errors import InputError, MachineError, MissingExtra

sklearn = pytest.importorskip("sklearn.datasets")


def three(root: Path, suffix: str = ".csv") -> dict[str, Path]:
    return {part: root / f"{part}{suffix}" for part in ("train", "valid", "test")}


def test_tumours_are_a_table_of_two_classes_with_every_row_once(tmp_path: Path) -> None:
    files = write_example("breast-cancer", tmp_path / "new" / "deep")
    assert [f.name for f in files] == ["test.csv", "train.csv", "valid.csv"]
    parts = csv(**three(tmp_path / "new" / "deep"), label="diagnosis")
    assert [len(p) for p in (parts.train, parts.valid, parts.test)] == [369, 100, 100]
    assert (parts.classes, len(parts.train.features)) == (("benign", "malignant"), 30)
    assert parts.train.features[:2] == ("mean_radius", "mean_texture")
    raw = sklearn.load_breast_cancer()
    told = {
        tuple(map(float, line.split(",")[:-1])): line.split(",")[-1]
        for f in files
        for line in f.read_text().splitlines()[1:]
    }
    expected = {tuple(map(float, row)): str(raw.target_names[t]) for row, t in zip(raw.data, raw.target, strict=True)}
    assert told == expected


def test_patients_are_a_table_of_values_of_about_unit_size(tmp_path: Path) -> None:
    write_example("diabetes", tmp_path)
    parts = csv(**three(tmp_path), label="progression")
    labels = torch.cat([p.tensors[1] for p in (parts.train, parts.valid, parts.test)])
    assert (parts.classes, labels.dtype, len(labels)) == (None, torch.float32, 442)
    raw = sklearn.load_diabetes(scaled=False)
    assert (labels.sort().values * 100).round().tolist() == sorted(raw.target.tolist())
    assert 0.3 < labels.std() < 3
    assert labels.mean().abs() < 3
    assert not 0.3 < raw.target.std() < 3  # the control: as scikit-learn has them they are not
    assert parts.train.features == tuple(raw.feature_names)


def test_digits_are_folders_of_the_pictures_that_the_demo_has(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    assert len(write_example("digits", tmp_path)) == 1797
    parts = images(**three(tmp_path, ""), size=8, channels=1)
    assert parts.classes == tuple("0123456789")
    for part, (pictures, labels) in (("train", digits().train), ("test", digits().test)):
        data = getattr(parts, part)
        ids = [int(file.stem) for file in data.files]
        assert sorted(ids) == list(range(len(labels)))
        assert labels[ids].tolist() == list(data.labels)
        found = torch.stack([data[i][0] for i in range(0, len(ids), 40)])
        assert (found - pictures[ids[::40]]).abs().max() <= 0.5 / 255 + 1e-6  # a shade has 8 bits


def test_attributes_are_those_of_the_digit(tmp_path: Path) -> None:
    (file,) = write_example("digits-attributes", tmp_path)
    parts = npz(train=file, inputs="x_{part}", label="y_{part}", classes=ATTRIBUTES)
    for part, (pictures, labels) in (("train", digits().train), ("valid", digits().valid), ("test", digits().test)):
        found = getattr(parts, part)
        assert torch.equal(found["input"], pictures)
        expected = [[d % 2 == 0, d in (2, 3, 5, 7), d in (0, 6, 8, 9), d > 4] for d in labels.tolist()]
        assert found["label"].tolist() == expected
    assert parts.classes == ATTRIBUTES


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in EXAMPLES:
        first, second = (write_example(name, tmp_path / name / which) for which in "ab")
        assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
        assert [f.name for f in first] == [f.name for f in second]


def test_an_empty_folder_may_be_there_and_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_example("diabetes", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds files already\. Give the name of a new folder"):
        write_example("diabetes", tmp_path)
    with pytest.raises(InputError, match=r"thesis\.txt: is no folder"):
        write_example("diabetes", tmp_path / "thesis.txt")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("thesis.txt", "years of work")]


@pytest.mark.parametrize("there", [True, False])
def test_what_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def fails(folder: Path) -> None:
        (folder / "train.csv").write_text("half")
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    if there:
        out.mkdir()
    monkeypatch.setitem(written._WRITE, "diabetes", fails)
    with pytest.raises(MachineError, match=r"out: cannot be written: .*No space left"):
        write_example("diabetes", out)
    assert list(tmp_path.rglob("*")) == ([out] if there else [])


def test_the_folder_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, write = [], written._WRITE["diabetes"]

    def watched(folder: Path) -> None:
        write(folder)
        seen.append(((tmp_path / "out").exists(), folder.parent))

    monkeypatch.setitem(written._WRITE, "diabetes", watched)
    write_example("diabetes", tmp_path / "out")
    assert seen == [(False, tmp_path.resolve())]  # on the same disk, so that it can be renamed


def test_another_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no example 'digit'\. Did you mean 'digits'"):
        write_example("digit", tmp_path / "out")
    assert list(EXAMPLES) == list(written._WRITE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_scikit_learn_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"understudy\[demo\]"):
        write_example(name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_read_without_pickles(tmp_path: Path) -> None:
    (file,) = write_example("digits-attributes", tmp_path)
    with np.load(file, allow_pickle=False) as arrays:
        found: dict[str, Any] = {name: (arrays[name].shape, str(arrays[name].dtype)) for name in arrays.files}
    assert found["x_train"] == ((1000, 1, 8, 8), "float32")
    assert found["y_test"] == ((400, 4), "float32")
