from pathlib import Path
from typing import Any

import pytest

from understudy.data import hugging_face as reader
from understudy.data.sets import hugging_face
from understudy.errors import InputError, MissingExtra
from understudy.pool import with_unlabelled
from understudy.source import Source, source_of


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library `datasets`, quiet, without a network, with its cache in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


def rows(library: Any, count: int, first: int = 0, **more: Any) -> Any:
    columns = {"x": [[float(i)] for i in range(first, first + count)], "y": [i % 2 for i in range(count)]}
    return library.Dataset.from_dict({**columns, **more})


def seen(data: Any) -> list[tuple[int, int]]:
    source = source_of(data)
    assert isinstance(source, Source)
    (batch,) = source.in_order()
    return list(zip(batch["input"].flatten().int().tolist(), batch["label"].tolist(), strict=True))


@pytest.mark.long
def test_a_fifth_of_one_part_is_held_out_with_its_labels(library: Any, tmp_path: Path) -> None:
    rows(library, 20).save_to_disk(tmp_path / "rows")
    parts = hugging_face(train=tmp_path / "rows", inputs="x", label="y")
    assert (len(parts.train), len(parts.valid), parts.test) == (16, 4, None)
    assert sorted(seen(parts.train) + seen(parts.valid)) == [(i, i % 2) for i in range(20)]
    assert sorted(label for _, label in seen(parts.valid)) == [0, 0, 1, 1]
    again = hugging_face(train=tmp_path / "rows", inputs="x", label="y", seed=1)
    assert seen(again.valid) != seen(parts.valid)


@pytest.mark.long
def test_parts_of_a_folder_are_taken_by_their_names(library: Any, tmp_path: Path) -> None:
    names = library.ClassLabel(names=["even", "odd"])
    made = {"train": rows(library, 6), "validation": rows(library, 4, 10), "test": rows(library, 2, 20)}
    library.DatasetDict({n: r.cast_column("y", names) for n, r in made.items()}).save_to_disk(tmp_path / "rows")
    parts = hugging_face(train=tmp_path / "rows", inputs="x", label="y")
    assert [len(p) for p in (parts.train, parts.valid, parts.test)] == [6, 4, 2]
    assert seen(parts.valid)[0] == (10, 0)
    assert parts.classes == ("even", "odd")
    assert parts.notes[0].endswith("valid is its part 'validation'.")
    shared = hugging_face(train=tmp_path / "rows", inputs="x", label="y", valid=0.34)
    assert (len(shared.train), len(shared.valid)) == (4, 2)


@pytest.mark.long
def test_files_of_one_part_each_and_unlabelled_rows(library: Any, tmp_path: Path) -> None:
    for name, count in (("a", 6), ("b", 2), ("c", 3)):
        rows(library, count).to_parquet(tmp_path / f"{name}.parquet")
    paths = {"train": tmp_path / "a.parquet", "valid": tmp_path / "b.parquet", "unlabelled": tmp_path / "c.parquet"}
    parts = hugging_face(**paths, inputs="x", label="y")
    assert (len(parts.train), len(parts.valid), len(parts.unlabelled)) == (6, 2, 3)
    assert [label for _, label in seen(with_unlabelled(parts.train, parts.unlabelled))][6:] == [-100] * 3


@pytest.mark.long
def test_rows_without_a_label_are_trained_on(library: Any, tmp_path: Path) -> None:
    rows(library, 20, y=[None, 0, None, 1] * 5).save_to_disk(tmp_path / "rows")
    parts = hugging_face(train=tmp_path / "rows", inputs="x", label="y", valid=0.4)
    assert sorted(label for _, label in seen(parts.valid)) == [0, 0, 1, 1]
    assert [label for _, label in seen(parts.train)].count(-100) == 10


@pytest.mark.long
def test_what_cannot_work_is_refused(library: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    rows(library, 6).save_to_disk(path)
    for options, message in (
        ({"valid": 2}, "valid=2 is not allowed"),
        ({"label": "z"}, "there is no 'z'"),
        ({"valid": path}, "are both"),
        ({"valid": tmp_path / "row"}, r"nothing is fetched\. Did you mean 'rows'"),
    ):
        with pytest.raises(InputError, match=message):
            hugging_face(**{"train": path, "inputs": "x", "label": "y", **options})


@pytest.mark.long
def test_labels_are_read_without_the_inputs(library: Any, tmp_path: Path) -> None:
    data = reader(rows(library, 4), inputs="x", label="y")
    read: list[str] = []
    value = data._value
    data._value = lambda i, column, *rest: (read.append(column), value(i, column, *rest))[1]  # type: ignore[method-assign]
    assert data.labels().tolist() == [0, 1, 0, 1]
    assert set(read) == {"y"}


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(MissingExtra, match=r"understudy\[datasets\]"):
        hugging_face(train=tmp_path / "a.parquet", inputs="x", label="y")
