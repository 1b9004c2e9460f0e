import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy as us
from understudy.data import Table, csv_table
from understudy.data.columns import MOST_VALUES
from understudy.errors import CorruptError, InputError
from understudy.source import Source, source_of
from understudy.tasks import infer

torch.set_num_threads(1)

PETS = """weight,coat,age,pet
3,short,1,cat
5,long,,cat
,short,3,dog
10,,5,
"""


def written(folder: Path, text: str, name: str = "pets.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_numbers_are_standardised_text_is_one_hot_and_an_empty_label_is_none(tmp_path: Path) -> None:
    table = csv_table(written(tmp_path, PETS), label="pet")
    inputs, labels = table.tensors
    assert table.features == ("weight", "coat=long", "coat=short", "age")
    weights, mean = [3, 5, 10], 6.0
    deviation = math.sqrt(sum((w - mean) ** 2 for w in weights) / 3)
    assert inputs[:, 0].tolist() == pytest.approx([(w - mean) / deviation for w in (3, 5, mean, 10)])
    assert inputs[:, 1:3].tolist() == [[0, 1], [1, 0], [0, 1], [0, 0]]
    assert (labels.tolist(), labels.dtype, table.classes) == ([0, 0, 1, -100], torch.int64, ("cat", "dog"))


def test_the_notes_say_what_was_filled_in_and_where(tmp_path: Path) -> None:
    path = written(tmp_path, PETS)
    assert csv_table(path, label="pet").notes == (
        f"{path}:4: 'weight' is missing here and in 1 of 4 samples: the mean 6 stands in.",
        f"{path}:5: 'coat' is missing here and in 1 of 4 samples: all its inputs are 0.",
        f"{path}:3: 'age' is missing here and in 1 of 4 samples: the mean 3 stands in.",
        f"{path}:5: 'pet' is missing here and in 1 of 4 samples: unlabelled.",
    )
    assert csv_table(written(tmp_path, "a,b\n1,x\n2,y\n"), label="b").notes == ()


def test_another_file_is_read_with_the_numbers_of_the_first(tmp_path: Path) -> None:
    train = csv_table(written(tmp_path, PETS), label="pet")
    other = written(tmp_path, "pet,age,coat,weight\ndog,3,long,12\ndog,,long,\n", "test.csv")
    test = csv_table(other, like=train)
    assert test.features == train.features
    assert test.tensors[0].tolist() == [[pytest.approx(6 / math.sqrt(26 / 3)), 1, 0, 0], [0, 1, 0, 0]]
    assert test.tensors[1].tolist() == [1, 1]
    alone = csv_table(other, label="pet")  # the control: by itself it would be read otherwise
    assert (alone.features, alone.tensors[1].tolist()) != (test.features, [1, 1])


def test_what_was_learnt_is_plain_data_that_json_keeps(tmp_path: Path) -> None:
    path = written(tmp_path, PETS)
    train = csv_table(path, label="pet")
    kept = json.loads(json.dumps(train.reading, allow_nan=False))
    again = csv_table(path, like=kept)
    assert all(torch.equal(a, b) for a, b in zip(again.tensors, train.tensors, strict=True))
    assert (again.classes, again.features) == (train.classes, train.features)
    assert kept["columns"][0] == {"name": "weight", "mean": 6.0, "std": pytest.approx(2.943920)}


def test_a_table_is_a_source_and_a_task_can_be_told_from_it(tmp_path: Path) -> None:
    source = source_of(csv_table(written(tmp_path, PETS), label="pet"))
    assert isinstance(source, Source)
    (batch,) = source.in_order()
    assert batch["input"].shape == (4, 4)
    assert infer(torch.zeros(4, 2), batch["label"]).name == "classification"
    values = csv_table(written(tmp_path, "a,b\n1,2.5\n2,3.5\n"), label="b").tensors[1]
    assert infer(torch.zeros(2, 1), values).name == "regression"


def test_a_model_learns_from_a_table(tmp_path: Path) -> None:
    rows = [f"{i % 7},{'red' if i % 3 else 'blue'},{'yes' if i % 3 else 'no'}" for i in range(60)]
    table = csv_table(written(tmp_path, "\n".join(["n,colour,answer", *rows])), label="answer")
    student = torch.nn.Linear(len(table.features), 2)
    method = us.Distillation(us.Term(us.losses.cross_entropy, "student", "batch.label"), student=student)
    us.train(method, table, us.Settings(steps=60, batch_size=20, optimizer=us.Optim("Adam", lr=0.1)))
    assert (student(table.tensors[0]).argmax(1) == table.tensors[1]).all()


@pytest.mark.parametrize(
    ("column", "options", "labels", "classes"),
    [
        ("b a c a", {}, [1, 0, 2, 0], ("a", "b", "c")),
        ("10 9 2 10", {}, [2, 1, 0, 2], ("2", "9", "10")),
        ("1 0  1", {}, [1, 0, -100, 1], ("0", "1")),
        ("1 0 NA 1", {}, [1, 0, -100, 1], ("0", "1")),
        ("a none  a", {}, [0, 1, -100, 0], ("a", "none")),
        ("True False  True", {}, [1, 0, -100, 1], ("False", "True")),
        ("b a c a", {"classes": ["c", "b", "a"]}, [1, 2, 0, 2], ("c", "b", "a")),
        ("1 3", {"classes": range(4)}, [1, 3], ("0", "1", "2", "3")),
        ("1.0 0.0  1.0", {"kind": "class"}, [1, 0, -100, 1], ("0", "1")),
        ("1.5 -2 3e1", {}, [1.5, -2.0, 30.0], None),
        ("3 4  5", {"kind": "value"}, [3.0, 4.0, None, 5.0], None),
    ],
)
def test_a_label_is_a_class_or_a_value(
    tmp_path: Path, column: str, options: dict[str, Any], labels: list[Any], classes: tuple[str, ...] | None
) -> None:
    path = written(tmp_path, "x,y\n" + "\n".join(f"{i},{label}" for i, label in enumerate(column.split(" "))))
    table = csv_table(path, label="y", **options)
    found = table.tensors[1]
    assert found.dtype is (torch.float32 if classes is None else torch.int64)
    assert [None if math.isnan(v) else v for v in found.tolist()] == labels
    assert table.classes == classes


def test_it_says_so_when_whole_numbers_get_other_numbers(tmp_path: Path) -> None:
    note = "3, 4 became 0, 1, ... in this order"
    assert note in str(csv_table(written(tmp_path, "x,y\n1,3\n2,4\n"), label="y").notes)
    assert csv_table(written(tmp_path, "x,y\n1,0\n2,1\n"), label="y").notes == ()


def test_labels_of_another_file_may_be_written_with_a_point(tmp_path: Path) -> None:
    train = csv_table(written(tmp_path, "x,y\n1,0\n2,1\n"), label="y")
    other = csv_table(written(tmp_path, "x,y\n1,1.0\n2,\n"), like=train)
    assert other.tensors[1].tolist() == [1, -100]


def test_another_file_without_the_label_is_unlabelled_and_it_says_so(tmp_path: Path) -> None:
    train = csv_table(written(tmp_path, PETS), label="pet")
    other = csv_table(written(tmp_path, "age,coat,weight,name\n3,long,6,Tom\n", "b.csv"), like=train)
    assert other.tensors[1].tolist() == [-100]
    assert [note.split("b.csv:1: ")[1] for note in other.notes] == [
        "there is no column 'pet': no sample has a label.",
        "left out, as the file that was learnt from has none: name.",
    ]


def test_a_value_that_is_new_gives_zeros_and_a_note(tmp_path: Path) -> None:
    train = csv_table(written(tmp_path, PETS), label="pet")
    other = csv_table(written(tmp_path, "weight,coat,age\n6,shrot,3\n6,curly,3\n"), like=train)
    assert other.tensors[0].tolist() == [[0, 0, 0, 0]] * 2
    assert ":2: 'coat' is new ('shrot') here and in 2 of 2 samples" in str(other.notes)


def test_a_column_that_never_varies_stays_finite_and_is_told(tmp_path: Path) -> None:
    table = csv_table(written(tmp_path, "a,b\n7,1\n7,2\n"))
    assert table.tensors[0].tolist() == [[0, -1], [0, 1]]
    assert "'a' was 7 in every sample" in str(table.notes)
    assert table.classes is None


def test_empty_columns_and_those_to_ignore_are_left_out(tmp_path: Path) -> None:
    table = csv_table(written(tmp_path, "id,a,b\nx1,1,\nx2,2,NA\n"), ignore=["id"])
    assert table.features == ("a",)
    assert "'b' is empty, and left out" in str(table.notes)


def test_numbers_may_be_called_categorical(tmp_path: Path) -> None:
    path = written(tmp_path, "zip,a\n10115,1\n80331,2\n")
    assert csv_table(path, categorical=["zip"]).features == ("zip=10115", "zip=80331", "a")
    assert csv_table(path).features == ("zip", "a")


def test_quotes_white_space_empty_lines_and_a_byte_order_mark_are_understood(tmp_path: Path) -> None:
    text = '\ufeff a ; b \n\n"1"; "x;y"\n 2 ;"say ""hi"""\n3;"two\nlines"\n'
    table = csv_table(written(tmp_path, text), delimiter=";")
    assert table.features == ("a", 'b=say "hi"', "b=two\nlines", "b=x;y")


def test_another_file_may_have_another_delimiter(tmp_path: Path) -> None:
    train = csv_table(written(tmp_path, "a;b\n1;0\n3;1\n"), delimiter=";")
    assert csv_table(written(tmp_path, "a;b\n2;1\n"), like=train).tensors[0][0, 0] == 0
    assert csv_table(written(tmp_path, "a,b\n2,1\n"), like=train, delimiter=",").tensors[0][0, 0] == 0


MANY = "\n".join(["a,b", *(f"{i},word{i:03}" for i in range(MOST_VALUES + 1))])

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "empty": ("", {}, r"pets\.csv: holds nothing, and no sample"),
    "only names": ("a,b\n", {}, "holds only the names of columns"),
    "lines of other lengths": ("a,b\n1,2\n3\n4,5,6\n", {}, r"(?s)csv:3: has 1 cells; .* names 2\..*csv:4: has 3 cells"),
    "many such lines": ("a,b\n" + "1\n" * 9, {}, r"(?s)csv:2.*csv:6: [^\n]*\n[^\n]* and 4 more lines like these\.$"),
    "a line after one over two lines": ('a,b\n"1\n2",3\n4\n', {}, r"csv:4: has 1 cells"),
    "no name": (",a\n0,1\n", {}, r"csv:1: column 1 has no name\. Name it; if it numbers the rows"),
    "two of one name": ("a,b,a\n1,2,3\n", {}, "csv:1: two columns are called 'a'"),
    "another delimiter": ("a;b\n1;2\n", {}, r"Are they parted by ';'\? Say delimiter=';'"),
    "no delimiter": ("a,b\n1,2\n", {"delimiter": ",,"}, "delimiter=',,' is not allowed"),
    "an open quote": ('a,b\n1,"2\n3,4\n', {}, r"csv:3: unexpected end of data\. Is a quote left open"),
    "no such label": ("age,pet\n1,2\n", {"label": "pets"}, r"csv:1: label: .* 'pets'\. Did you mean 'pet'"),
    "no such columns": (
        "age,pet\n1,2\n",
        {"ignore": ["agee"], "categorical": ["x"]},
        r"(?s)ignore: .*Did you mean 'age'.*categorical: .*Allowed: age, pet",
    ),
    "a word among numbers": (
        "age,b\n1,1\n2,2\nold,3\n",
        {},
        r"csv:4: 'age': 'old' is not a number\..* 67% are numbers; if they are names, say categorical=\['age'\]",
    ),
    "words in two columns": ("a,b\n1,1\n2,2\nx,3\n4,inf\n", {}, r"(?s)csv:4: 'a': 'x'.*csv:5: 'b': 'inf'"),
    "names": (MANY, {}, r"'b' is text with 101 different values \('word000', .*ignore=\['b'\]"),
    "no label in it": ("a,b\n1,\n2,\n", {"label": "b"}, r"'b' holds no label\. Leave label= out"),
    "whole numbers with a point": ("a,b\n1,1.0\n2,\n", {"label": "b"}, r"csv:2: 'b': '1\.0' and all others .* kind='class'"),
    "a label that is no number": ("a,b\n1,1.5\n2,2.5\n3,x\n", {"label": "b"}, "csv:4: 'b': 'x' is not a number"),
    "many whole numbers": (
        "a,b\n" + "\n".join(f"{i},{i}" for i in range(101)),
        {"label": "b"},
        "'b' has 101 different whole numbers: classes, or measured",
    ),
    "ages": (
        "a,b\n" + "\n".join(f"{i},{18 + i}" for i in range(30)),
        {"label": "b"},
        "'b' has 30 different whole numbers: classes, or measured\\? Say kind='class' or kind='value'",
    ),
    "labels beyond the classes": (
        "a,b\n1,cat\n2,dgo\n3,dgo\n4,cow\n",
        {"label": "b", "classes": ["cat", "dogs"]},
        r"(?s)csv:3: 'b': 'dgo' is none of the classes.*csv:5: 'b': 'cow'",
    ),
    "another kind": ("a,b\n1,2\n", {"label": "b", "kind": "clas"}, r"kind='clas' is not allowed\. Did you mean 'class'"),
    "nothing left": ("a,b\n1,2\n", {"label": "b", "ignore": ["a"]}, "has no column that could be an input"),
    "like is nothing": ("a,b\n1,2\n", {"like": {"columns": []}}, "is no table, nor the `reading` of one"),
    "like and more": ("a,b\n1,2\n", {"like": {}, "label": "b"}, "like= says how to read it"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, case: str) -> None:
    text, options, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        csv_table(written(tmp_path, text), **options)


@pytest.mark.parametrize("numbers", [range(30), range(1, 31), range(0, 38, 2)])
def test_whole_numbers_that_count_up_from_0_or_1_and_few_of_any_are_classes(tmp_path: Path, numbers: range) -> None:
    table = csv_table(written(tmp_path, "a,b\n" + "\n".join(f"{n},{n}" for n in numbers)), label="b")
    assert table.classes == tuple(str(n) for n in numbers)


def test_numbers_with_a_comma_are_recognised(tmp_path: Path) -> None:
    text = "a;b\n" + "\n".join(f"{i};1,{i}" for i in range(MOST_VALUES + 1))
    with pytest.raises(InputError, match="Are these numbers with a comma"):
        csv_table(written(tmp_path, text), delimiter=";")


def test_another_file_without_a_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    train = csv_table(written(tmp_path, PETS), label="pet")
    with pytest.raises(InputError, match=r"b\.csv:1: there is no column 'weight'\. Did you mean 'weigth'"):
        csv_table(written(tmp_path, "weigth,coat,age\n1,long,2\n", "b.csv"), like=train)
    with pytest.raises(InputError, match=r"b\.csv:2: 'weight': 'heavy' is not a number"):
        csv_table(written(tmp_path, "weight,coat,age\nheavy,long,2\n", "b.csv"), like=train)
    with pytest.raises(InputError, match=r"b\.csv:2: 'pet': 'dgo' is none of the classes"):
        csv_table(written(tmp_path, "weight,coat,age,pet\n1,long,2,dgo\n", "b.csv"), like=train)


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, PETS)
    with pytest.raises(InputError, match=r"no such file\. Did you mean 'pets\.csv'"):
        csv_table(tmp_path / "pet.csv")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    with pytest.raises(CorruptError, match=r"is not text in UTF-8 \(byte 6\)"):
        csv_table(tmp_path / "a.csv")


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, PETS)
    first, second = csv_table(path, label="pet"), csv_table(path, label="pet")
    assert isinstance(first, Table)
    assert first.reading == second.reading
