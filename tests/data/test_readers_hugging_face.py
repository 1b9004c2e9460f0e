import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.data import hugging_face
from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.pool import with_unlabelled
from understudy.source import Source, source_of

torch.set_num_threads(1)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library `datasets`, quiet, without a network, with its cache in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


def rows(library: Any, **columns: Any) -> Any:
    default = {"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "y": [2, 0, 1]}
    return library.Dataset.from_dict(columns or default)


def all_of(data: Any) -> dict[str, Any]:
    source = source_of(data)
    assert isinstance(source, Source)
    (batch,) = source.in_order()
    return {name: value for name, value in batch.fields.items() if name != "index"}


@pytest.mark.long
@pytest.mark.parametrize("how", ["memory", "folder", "parquet", "json", "jsonl"])
def test_rows_are_the_same_from_memory_and_from_every_file(library: Any, how: str, tmp_path: Path) -> None:
    data = rows(library)
    path = tmp_path / f"rows.{how}"
    match how:
        case "memory":
            given: Any = data
        case "folder":
            data.save_to_disk(given := tmp_path / "rows")
        case "parquet":
            data.to_parquet(given := path)
        case _:
            data.to_json(given := str(path))
    found = all_of(hugging_face(given, inputs="x", label="y"))
    assert found["input"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found["label"].tolist() == [2, 0, 1]
    assert (found["input"].dtype, found["label"].dtype) == (torch.float32, torch.int64)


@pytest.mark.long
def test_a_csv_file_gives_its_columns(library: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,y\n1,2.5,0\n3,4.5,1\n")
    found = all_of(hugging_face(tmp_path / "a.csv", inputs=["a", "b"], label="y"))
    assert {name: value.tolist() for name, value in found.items()} == {"a": [1, 3], "b": [2.5, 4.5], "label": [0, 1]}


@pytest.mark.long
@pytest.mark.parametrize(
    ("inputs", "fields"),
    [
        ("x", ["input", "label"]),
        (["x", "z"], ["x", "z", "label"]),
        ({"pixel_values": "x"}, ["pixel_values", "label"]),
    ],
)
def test_names_say_which_column_is_which_field(library: Any, inputs: Any, fields: list[str]) -> None:
    data = rows(library, x=[1.0, 2.0], z=[3, 4], y=[0, 1], text=["never", "read"])
    assert list(all_of(hugging_face(data, inputs=inputs, label="y"))) == fields


@pytest.mark.long
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, None, 1], [2, -100, 1]),
        ([None, 2, 1], [-100, 2, 1]),
        ([0.5, None, 1.5], [0.5, None, 1.5]),
        ([[1.0, 0.0], None, [0.0, 1.0]], [[1, 0], [None, None], [0, 1]]),
        ([None, None, None], [-100, -100, -100]),
    ],
)
def test_a_label_that_is_missing_is_none(library: Any, labels: list[Any], expected: list[Any]) -> None:
    found = all_of(hugging_face(rows(library, x=[1.0, 2.0, 3.0], y=labels), inputs="x", label="y"))["label"]
    assert np.array_equal(found.numpy(), np.array(expected, dtype=np.float64), equal_nan=True)


@pytest.mark.long
def test_names_of_classes_come_along(library: Any) -> None:
    names = library.ClassLabel(names=["cat", "dog"])
    data = rows(library, x=[1.0, 2.0], y=[1, 0]).cast_column("y", names)
    assert hugging_face(data, inputs="x", label="y").classes == ("cat", "dog")
    assert hugging_face(rows(library), inputs="x", label="y").classes is None


@pytest.mark.long
def test_pictures_become_pixels_from_0_to_1(library: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGB", size, (255, 0, 51)) for size in ((4, 4), (8, 4))]
    data = library.Dataset.from_dict(
        {"image": pictures, "y": [0, 1]}, features=library.Features(image=library.Image(), y=library.Value("int64"))
    )
    found = all_of(hugging_face(data, inputs="image", label="y", size=2))["input"]
    assert found.shape == (2, 3, 2, 2)
    assert found[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert hugging_face(data, inputs="image", channels=1)[0][0].shape == (1, 4, 4)
    with pytest.raises(InputError, match=r"row 1: 'image' has shape \[3, 4, 8\], and row 0 has \[3, 4, 4\].*size="):
        hugging_face(data, inputs="image")[1]


@pytest.mark.long
@pytest.mark.parametrize("form", ["torch", "numpy", None])
def test_a_format_that_was_set_changes_nothing(library: Any, form: str | None) -> None:
    found = all_of(hugging_face(rows(library).with_format(form), inputs="x", label="y"))
    assert (found["input"].tolist(), found["label"].tolist()) == ([[1, 2], [3, 4], [5, 6]], [2, 0, 1])
    assert found["input"].dtype == torch.float32


@pytest.mark.long
def test_a_transform_of_the_users_own_is_kept_with_the_columns_that_it_needs(library: Any) -> None:
    data = rows(library).with_transform(
        lambda batch: {"sum": [torch.tensor(x).sum() for x in batch["x"]], "y": batch["y"]}
    )
    found = all_of(hugging_face(data, inputs="sum", label="y"))
    assert (found["input"].tolist(), found["label"].tolist()) == ([3, 7, 11], [2, 0, 1])


@pytest.mark.long
def test_rows_that_were_chosen_and_shuffled_stay_so(library: Any) -> None:
    data = rows(library).select([2, 0])
    assert all_of(hugging_face(data, inputs="x", label="y"))["label"].tolist() == [1, 2]


@pytest.mark.long
def test_it_goes_beside_labelled_samples(library: Any) -> None:
    pooled = with_unlabelled(
        hugging_face(rows(library), inputs="x", label="y"), hugging_face(rows(library), inputs="x")
    )
    assert all_of(pooled)["label"].tolist() == [2, 0, 1, -100, -100, -100]


@pytest.mark.long
def test_one_part_of_several_is_named(library: Any, tmp_path: Path) -> None:
    parts = library.DatasetDict(train=rows(library), test=rows(library).select([0]))
    parts.save_to_disk(tmp_path / "parts")
    for given in (parts, tmp_path / "parts"):
        assert len(hugging_face(given, inputs="x", split="test")) == 1
        with pytest.raises(InputError, match=r"split='tests' is not one\. Did you mean 'test'"):
            hugging_face(given, inputs="x", split="tests")
        with pytest.raises(InputError, match=r"say which: split=None is not one\. Allowed: train, test"):
            hugging_face(given, inputs="x")
    with pytest.raises(InputError, match="is one part, and has no split='test'"):
        hugging_face(rows(library), inputs="x", split="test")


@pytest.mark.long
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": [1.0]}, {"inputs": "xx", "label": "lable"}, r"(?s)no 'xx'\. .*no 'lable'\. Allowed: x"),
        (
            {"x": ["hello"]},
            {"inputs": "x"},
            r"row 0: 'x' holds 'hello'; allowed: numbers and pictures; rows\.map\(tokenizer\)",
        ),
        ({"x": [1.0], "y": ["cat"]}, {"inputs": "x", "label": "y"}, r"'y' holds 'cat'.*class_encode_column"),
        ({"x": [None, 1.0]}, {"inputs": "x"}, "row 0: 'x' is empty"),
        ({"x": [[[1], [1, 2]]]}, {"inputs": "x"}, "its lists are of unequal lengths"),
        ({"x": [1.0]}, {"inputs": []}, "nothing that a model could be called with"),
        ({"x": [1.0]}, {"inputs": "x", "channels": 5}, "channels=5 is not allowed"),
        ({"x": []}, {"inputs": "x"}, "has no row"),
    ],
)
def test_what_no_model_takes_is_refused_at_once(
    library: Any, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        hugging_face(rows(library, **columns), **options)


@pytest.mark.long
def test_rows_of_unequal_length_are_told_with_the_row(library: Any) -> None:
    data = hugging_face(rows(library, x=[[1, 2], [1, 2], [1, 2, 3]]), inputs={"input_ids": "x"})
    assert data[1]["input_ids"].tolist() == [1, 2]
    with pytest.raises(InputError, match=r"row 2: 'x' has shape \[3\], and row 0 has \[2\].*padding='max_length'"):
        data[2]


@pytest.mark.long
def test_a_stream_is_refused(library: Any) -> None:
    with pytest.raises(InputError, match="a IterableDataset has no rows by number; load it with streaming=False"):
        hugging_face(rows(library).to_iterable_dataset(), inputs="x")


@pytest.mark.long
@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.csv", "folder"])
def test_a_damaged_file_is_named(library: Any, name: str, tmp_path: Path) -> None:
    if name == "folder":
        rows(library).save_to_disk(tmp_path / name)
        (tmp_path / name / "state.json").write_text("{")
    else:
        (tmp_path / name).write_bytes(b"\x00\xff{{")
    with pytest.raises(CorruptError, match=rf"hugging_face .*{name}: cannot be read"):
        hugging_face(tmp_path / name, inputs="x")


# -- without the library -----------------------------------------------------------------------------------------------


def test_what_is_not_on_the_disk_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "digits.parquet").touch()
    with pytest.raises(
        InputError, match=r"no such folder or file, and nothing is fetched\. Did you mean 'digits\.parquet'"
    ):
        hugging_face(tmp_path / "digit.parquet", inputs="x")
    with pytest.raises(InputError, match="nothing is fetched"):
        hugging_face("stanfordnlp/imdb", inputs="text")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").touch()
    with pytest.raises(InputError, match=r"not read; allowed: \.parquet, \.json, \.jsonl, \.csv"):
        hugging_face(tmp_path / "a.pkl", inputs="x")


@pytest.mark.parametrize("given", [3, [1, 2], {1: 2}.items()])
def test_what_is_no_data_set_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="has no rows by number"):
        hugging_face(given, inputs="x")


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.json").write_text(json.dumps([{"x": 1}]))
    with pytest.raises(MissingExtra, match=r"understudy\[datasets\]"):
        hugging_face(tmp_path / "a.json", inputs="x")


@pytest.mark.long
def test_a_folder_that_save_to_disk_did_not_make_is_refused(library: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not made by save_to_disk"):
        hugging_face(tmp_path, inputs="x")
