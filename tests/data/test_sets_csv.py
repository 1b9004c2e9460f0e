import math
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.data import csv_table
from understudy.data.sets import csv
from understudy.errors import InputError
from understudy.pool import with_unlabelled
from understudy.source import Source, source_of


def written(folder: Path, rows: list[str], name: str = "train.csv", header: str = "age,colour,answer") -> Path:
    (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / name


def people(folder: Path, name: str = "train.csv", first: int = 0, count: int = 60) -> Path:
    colours = ("red", "blue", "green")
    rows = [f"{i * i % 37 + i},{colours[i % 3]},{'yes' if i % 4 else 'no'}" for i in range(first, first + count)]
    return written(folder, rows, name)


def lines_of(parts: Any, path: Path) -> dict[str, list[int]]:
    """Which rows of the file each part has, by their label-free inputs: every row of `people` differs in its age."""
    ages = [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]
    mean, std = parts.train.reading["columns"][0]["mean"], parts.train.reading["columns"][0]["std"]
    tables = {"train": parts.train, "valid": parts.valid, "test": parts.test}
    found = {name: (t.tensors[0][:, 0].double() * std + mean).round().int().tolist() for name, t in tables.items() if t}
    return {name: [ages.index(age) for age in values] for name, values in found.items()}


def test_three_files_are_read_with_the_numbers_of_the_first(tmp_path: Path) -> None:
    train, valid, test = people(tmp_path), people(tmp_path, "v.csv", 60, 20), people(tmp_path, "t.csv", 80, 30)
    parts = csv(train=train, label="answer", valid=valid, test=test)
    expected = csv_table(train, label="answer")
    assert torch.equal(parts.train.tensors[0], expected.tensors[0])
    assert torch.equal(parts.test.tensors[0], csv_table(test, like=expected).tensors[0])
    assert [len(p) for p in (parts.train, parts.valid, parts.test)] == [60, 20, 30]
    assert parts.classes == ("no", "yes")
    assert parts.notes == ()


def test_shares_are_drawn_from_the_file_and_share_no_row(tmp_path: Path) -> None:
    path = written(tmp_path, [f"{i},red,{'yes' if i % 4 else 'no'}" for i in range(60)])
    parts = csv(train=path, label="answer", valid=0.2, test=0.1)
    found = lines_of(parts, path)
    assert sorted(i for rows in found.values() for i in rows) == list(range(60))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 42, "valid": 12, "test": 6}
    assert parts.valid.tensors[1].bincount().tolist() == [3, 9]
    assert found == lines_of(csv(train=path, label="answer", valid=0.2, test=0.1), path)
    assert found != lines_of(csv(train=path, label="answer", valid=0.2, test=0.1, seed=1), path)
    assert parts.notes[0].startswith(f"csv {path}: test is 6 of 60 labelled samples")


def outliers(folder: Path) -> tuple[Path, list[int]]:
    """A file whose held-out rows, and only they, are far off and of another colour."""
    plain = [f"{i},red,{'yes' if i % 2 else 'no'}" for i in range(40)]
    path = written(folder, plain)
    held = lines_of(csv(train=path, label="answer", valid=0.25), path)["valid"]
    for i in held:
        plain[i] = f"{10**6 + i},violet,{'yes' if i % 2 else 'no'}"
    return written(folder, plain), held


def test_nothing_is_learnt_from_the_rows_that_are_held_out(tmp_path: Path) -> None:
    path, held = outliers(tmp_path)
    parts = csv(train=path, label="answer", valid=0.25)
    age, colour = parts.train.reading["columns"]
    kept = [i for i in range(40) if i not in held]
    assert age["mean"] == pytest.approx(sum(kept) / 30)
    assert age["std"] < 15
    assert colour["values"] == ["red"]
    assert parts.valid.tensors[0][:, 0].gt(1e4).all()
    assert parts.valid.tensors[0][:, 1].eq(0).all()
    assert f"{path}:{held[0] + 2}: 'colour' is new ('violet') here and in 10 of 10 samples" in "\n".join(parts.notes)
    learnt_from_all = csv_table(path, label="answer").reading["columns"]  # the control: it would show
    assert learnt_from_all[0]["mean"] > 1e5
    assert learnt_from_all[1]["values"] == ["red", "violet"]


def test_classes_are_those_of_the_training_rows(tmp_path: Path) -> None:
    valid = written(tmp_path, ["1,red,perhaps"], "v.csv")
    with pytest.raises(InputError, match=r"v\.csv:2: 'answer': 'perhaps' is none of the classes"):
        csv(train=people(tmp_path), label="answer", valid=valid)


def test_rows_without_a_label_are_trained_on_and_never_held_out(tmp_path: Path) -> None:
    rows = [f"{i},red,{'' if i % 3 else ('yes' if i % 2 else 'no')}" for i in range(60)]
    parts = csv(train=written(tmp_path, rows), label="answer", valid=0.5)
    assert parts.train.tensors[1].eq(-100).sum() == 40
    assert parts.valid.tensors[1].ge(0).all()
    assert (len(parts.train), len(parts.valid)) == (50, 10)


def test_measured_labels_stay_in_their_unit(tmp_path: Path) -> None:
    path = written(tmp_path, [f"{i},red,{i + 0.5}" for i in range(20)])
    parts = csv(train=path, label="answer", valid=0.25)
    found = torch.cat([parts.train.tensors[1], parts.valid.tensors[1]]).sort().values
    assert found.tolist() == [i + 0.5 for i in range(20)]
    assert (parts.classes, len(parts.valid)) == (None, 5)


def test_a_label_is_measured_also_where_the_training_rows_alone_would_not_tell(tmp_path: Path) -> None:
    plain = [f"{i},red,{i}" for i in range(20)]
    held = lines_of(csv(train=written(tmp_path, plain), label="answer", kind="value"), tmp_path / "train.csv")["valid"]
    plain[held[0]] += ".5"
    path = written(tmp_path, plain)
    assert csv(train=path, label="answer").train.tensors[1].dtype == torch.float32
    kept = [row for i, row in enumerate(plain) if i not in held]
    alone = csv_table(written(tmp_path, kept), label="answer")  # the control: by themselves they are whole numbers
    assert alone.tensors[1].dtype == torch.int64


def test_a_file_of_unlabelled_rows_goes_beside_the_training_rows(tmp_path: Path) -> None:
    more = written(tmp_path, ["7,red,never-looked-at", "8,blue,"], "more.csv")
    parts = csv(train=people(tmp_path), label="answer", unlabelled=more)
    (inputs,) = parts.unlabelled.tensors
    assert inputs.shape == (2, 4)
    pooled = with_unlabelled(parts.train, parts.unlabelled)
    assert pooled.samples == len(parts.train) + 2
    source = source_of(parts.train)
    assert isinstance(source, Source)
    assert torch.equal(inputs[0], csv_table(more, like=parts.train.reading | {"label": None}).tensors[0][0])
    without = written(tmp_path, ["7,red"], "without.csv", header="age,colour")
    assert len(csv(train=people(tmp_path), label="answer", unlabelled=without).unlabelled) == 1


def test_options_of_the_reader_are_passed_on(tmp_path: Path) -> None:
    rows = [f"{i};{i % 3};x{i};{'yes' if i % 2 else 'no'}" for i in range(20)]
    path = written(tmp_path, rows, header="age;code;name;answer")
    parts = csv(train=path, label="answer", ignore=["name"], categorical=["code"], classes=["yes", "no"], delimiter=";")
    assert parts.train.features == ("age", "code=0", "code=1", "code=2")
    assert parts.classes == ("yes", "no")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "anwser"}, r"train\.csv:1: label: there is no column 'anwser'\. Did you mean 'answer'"),
        ({"label": "anwser", "ignore": ["agee"]}, r"(?s)Did you mean 'answer'.*Did you mean 'age'"),
        ({"ignore": ["agee"]}, r"ignore: there is no column 'agee'\. Did you mean 'age'"),
        ({"kind": "clas"}, r"kind='clas' is not allowed\. Did you mean 'class'"),
        ({"valid": 1.2}, r"valid=1\.2 is not allowed"),
        ({"valid": 0.6, "test": 0.4}, "leave nothing to train on"),
        ({"valid": 0.001}, "valid=0.001 of 60 labelled samples is none"),
        ({"valid": Path("none/v.csv")}, "there is no such file"),
        ({"valid": None}, "valid is None"),
        ({"classes": ["yes", "no", "perhaps"]}, "train has no sample of class 'perhaps'"),
    ],
)
def test_what_cannot_work_is_refused_with_its_option(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = people(tmp_path)
    with pytest.raises(InputError, match=message):
        csv(train=path, **{"label": "answer", **options})


def test_a_label_of_a_single_class_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, [f"{i},yes" for i in range(20)], header="age,answer")
    with pytest.raises(
        InputError, match=r"every label is 'yes'\. There must be two classes or more: look at the label's"
    ):
        csv(train=path, label="answer")


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    people(tmp_path)
    with pytest.raises(InputError, match=r"there is no such file\. Did you mean 'train\.csv'"):
        csv(train=tmp_path / "trian.csv", label="answer")
    with pytest.raises(InputError, match="are both"):
        csv(train=tmp_path / "train.csv", label="answer", valid=tmp_path / "train.csv")


def test_a_value_that_is_not_there_is_filled_in_by_the_training_rows(tmp_path: Path) -> None:
    rows = [f"{i},red,{'yes' if i % 2 else 'no'}" for i in range(40)]
    held = lines_of(csv(train=written(tmp_path, rows), label="answer"), tmp_path / "train.csv")["valid"]
    rows[held[0]] = rows[held[0]].replace(f"{held[0]},", ",", 1)
    parts = csv(train=written(tmp_path, rows), label="answer")
    assert parts.valid.tensors[0][0, 0] == 0
    assert math.isclose(parts.train.tensors[0][:, 0].mean(), 0, abs_tol=1e-6)
