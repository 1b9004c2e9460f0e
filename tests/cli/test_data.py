from pathlib import Path

import pytest

from understudy.cli.data import NAMES
from understudy.data.written import EXAMPLES

from .calls import Answer, call


def test_names_are_those_of_the_package() -> None:
    assert set(NAMES) == EXAMPLES.keys()


def test_it_names_what_it_has_written() -> None:
    told = call("data", "diabetes", "here/sugar")
    assert told == Answer(0, "".join(f"here/sugar/{part}.csv\n" for part in ("test", "train", "valid")), "")
    assert all(Path(line).is_file() for line in told.out.splitlines())


def test_of_many_files_it_names_a_few_and_their_number() -> None:
    lines = call("data", "digits", "pictures").out.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "... 1,797 files in pictures"
    assert len([path for path in Path("pictures").rglob("*") if path.is_file()]) == 1797


@pytest.mark.parametrize(
    ("folder", "code", "told"),
    [
        ("mine", 2, "mine: holds files already. Give the name of a new folder."),
        ("note.txt", 2, "note.txt: is no folder."),
        ("/proc/nothing/x", 4, "/proc/nothing/x: cannot be written"),
        ("/", 2, "/: holds files already."),
        ("new/..", 2, "new/..: "),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_left_alone(folder: str, code: int, told: str) -> None:
    Path("mine/empty").mkdir(parents=True)
    for path in ("note.txt", "mine/thesis.txt"):
        Path(path).write_text("years of work")
    answer = call("data", "diabetes", folder)
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith(told)
    assert sorted(str(path) for path in Path().rglob("*")) == ["mine", "mine/empty", "mine/thesis.txt", "note.txt"]


def test_the_folder_that_one_is_in_is_not_replaced() -> None:
    told = call("data", "diabetes", ".")
    assert (told.code, told.err) == (2, ".: you are in it, and it would be replaced. Give the name of a new folder.\n")
    assert list(Path().iterdir()) == []
