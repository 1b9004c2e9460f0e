import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from understudy import demo
from understudy.__main__ import main
from understudy.data.digits import digits
from understudy.errors import InputError
from understudy.folder import Lock
from understudy.measure import accuracy
from understudy.recipe.running import Ran
from understudy.writing import load_tensors
from understudy.zoo import CNN

Done = tuple[Ran, Path, str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("demo")
    screen = io.StringIO()
    return demo.run(3, out=out, console=Console(width=80, file=screen), epochs=20), out, screen.getvalue()


def test_the_distilled_student_beats_the_student_alone_for_every_seed(done: Done) -> None:
    inputs, labels = digits().test
    result = done[0].result
    assert len(result.evidence.trials) == 3
    for trial in result.evidence.trials:
        alone, distilled = (accuracy(trial.students[stage], inputs, labels) for stage in ("alone", "distilled"))
        assert distilled > alone + 0.02
    assert result.rows[0]["accuracy"] > 0.97


def test_the_written_student_is_the_one_that_is_kept(done: Done) -> None:
    ran, out, _ = done
    student = CNN(8)
    student.load_state_dict(load_tensors(out / "student.safetensors"))
    assert accuracy(student, *digits().test) == accuracy(ran.result.student, *digits().test)


def test_the_screen_fits_eighty_columns_and_names_every_step_and_file(done: Done) -> None:
    ran, out, text = done
    assert "…" not in text
    assert [line for line in text.splitlines() if len(line.rstrip()) > 80 and str(out) not in line] == []
    for words in (
        "teacher",
        "soft labels",
        "student alone (3/3)",
        "distil (3/3)",
        "fine-tune (3/3)",
        "56,554",
        "3,778",
    ):
        assert words in text
    named = re.findall(r"^(?:The run|The page|To deploy): +(\S.*)$", text, re.MULTILINE)
    assert named == [str(out), str(out / "report.html"), str(out / "deploy")]
    assert (ran.folder, ran.page, ran.deployed) == (out, out / "report.html", out / "deploy")
    assert all(Path(file).exists() for file in named)


def test_its_recipe_is_the_ready_one_and_says_what_the_demo_changed(done: Done) -> None:
    told = (done[1] / "recipe.yaml").read_text()
    assert re.search(r"^seeds: 3 +# understudy demo$", told, re.MULTILINE)
    assert re.search(r"^  labelled: 200 +# .*digits\.yaml:\d+$", told, re.MULTILINE)


# -- the folder --------------------------------------------------------------------------------------------------------


class Reached(Exception):
    """The demo would begin now."""


@pytest.fixture
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def reach(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(demo, "run_recipe", reach)


def begin(out: Path) -> None:
    with pytest.raises(Reached):
        demo.run(1, out=out)


def made(folder: Path, origin: str = "understudy demo") -> Path:
    """A folder like that of an earlier demo, or of a run of the user's."""
    for name in ("teacher/seed-0", "deploy"):
        (folder / name).mkdir(parents=True)
    files = ("job.json", "report.html", "teacher/seed-0/student.safetensors", "soft-labels-0123.safetensors", "lock")
    for name in files:
        (folder / name).write_text("{}")
    (folder / "recipe.yaml").write_text(f"epochs: 40  # digits.yaml:12\nseeds: 5  # {origin}\n")
    return folder


@pytest.mark.usefixtures("_untrained")
def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    folder = made(tmp_path / "demo")
    begin(folder)
    assert [path.name for path in folder.iterdir()] == ["lock"]
    begin(folder)
    begin(tmp_path / "new")


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("also", [None, "thesis.txt", "teacher.txt", "deploy2"])
def test_a_folder_of_the_users_is_not_touched(also: str | None, tmp_path: Path) -> None:
    """Neither one that holds a run of the user's, which has the same files, nor a demo that something was put into."""
    folder = made(tmp_path / "mine", "my.yaml:3" if also is None else "understudy demo")
    if also is not None:
        (folder / also).write_text("years of work")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"mine: holds {also or ''}.*which no demo made. Choose another folder"):
        demo.run(1, out=folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("_untrained")
def test_under_torchrun_an_earlier_demo_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "demo")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="understudy demo: does everything in one process"):
        demo.run(1, out=folder)
    assert (folder / "job.json").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    begin(folder)
    assert not (folder / "job.json").exists()


@pytest.mark.usefixtures("_untrained")
def test_a_demo_that_is_running_is_not_deleted(tmp_path: Path) -> None:
    folder = made(tmp_path / "demo")
    lock = Lock(folder)
    lock.take()
    with pytest.raises(InputError, match="demo: is in use by process"):
        demo.run(1, out=folder)
    assert (folder / "job.json").exists()
    lock.release()
    begin(folder)


@pytest.mark.usefixtures("_untrained")
def test_what_a_link_in_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    folder, mine = made(tmp_path / "demo"), tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (folder / "alone").symlink_to(mine)
    begin(folder)
    assert not (folder / "alone").exists()
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_an_error_is_a_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert told == f"{tmp_path}: holds thesis.txt, which no demo made. Choose another folder with --out.\n"


def test_the_parts_of_the_digits_share_no_image() -> None:
    data = digits()
    images = torch.cat([part[0] for part in (data.train, data.valid, data.test)])
    assert [len(part[0]) for part in (data.train, data.valid, data.test)] == [1000, 397, 400]
    assert len({tuple(i.flatten().tolist()) for i in images}) == len(images)


def test_a_wrong_number_of_seeds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seeds", "0"]) == 2
    assert "1<=x<=100" in capsys.readouterr().err
