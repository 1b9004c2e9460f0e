import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from understudy import demo
from understudy.__main__ import main
from understudy.data.digits import digits
from understudy.errors import InputError
from understudy.measure import accuracy
from understudy.outcome import Distilled
from understudy.writing import load_tensors
from understudy.zoo import CNN


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Distilled, Path, str]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("demo")
    screen = io.StringIO()
    return demo.run(3, out=out, console=Console(width=80, file=screen), epochs=20), out, screen.getvalue()


def test_the_distilled_student_beats_the_student_alone_for_every_seed(done: tuple[Distilled, Path, str]) -> None:
    inputs, labels = digits().test
    for trial in done[0].evidence.trials:
        alone, distilled = (accuracy(trial.students[stage], inputs, labels) for stage in ("alone", "distilled"))
        assert distilled > alone + 0.02
    assert done[0].rows[0]["accuracy"] > 0.97


def test_the_written_student_is_the_one_that_is_kept(done: tuple[Distilled, Path, str]) -> None:
    result, out, _ = done
    student = CNN(8)
    student.load_state_dict(load_tensors(out / "run" / "student.safetensors"))
    assert accuracy(student, *digits().test) == accuracy(result.student, *digits().test)


def test_the_screen_fits_eighty_columns_and_names_every_step_and_file(done: tuple[Distilled, Path, str]) -> None:
    _, out, text = done
    assert "…" not in text
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
    for file in ("report.html", "run/student.safetensors", "deploy"):
        assert str(out / file) in text
        assert (out / file).exists()


def test_a_folder_of_the_users_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no demo made"):
        demo.run(1, out=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_error_is_a_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("understudy: ")
    assert "Traceback" not in told


def test_the_parts_of_the_digits_share_no_image() -> None:
    data = digits()
    images = torch.cat([part[0] for part in (data.train, data.valid, data.test)])
    assert [len(part[0]) for part in (data.train, data.valid, data.test)] == [1000, 397, 400]
    assert len({tuple(i.flatten().tolist()) for i in images}) == len(images)


def test_a_wrong_number_of_seeds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--seeds", "0"])
    assert stopped.value.code == 2
    assert "1 to 100" in capsys.readouterr().err
