import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from understudy import demo
from understudy.__main__ import main
from understudy.checkpoint import load_tensors
from understudy.data.digits import digits
from understudy.measure import accuracy
from understudy.zoo import CNN


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.Outcome, Path, str]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("demo")
    screen = io.StringIO()
    return demo.run((0, 1, 2), out=out, console=Console(width=80, file=screen)), out, screen.getvalue()


def test_the_distilled_student_beats_the_student_alone_for_every_seed(outcome: tuple[demo.Outcome, Path, str]) -> None:
    figures = outcome[0].figures
    assert all(d > a + 0.02 for d, a in zip(figures["distilled"], figures["alone"], strict=True))
    assert min(figures["teacher"]) > 0.98


def test_the_written_student_is_the_one_that_is_kept(outcome: tuple[demo.Outcome, Path, str]) -> None:
    result, out, _ = outcome
    student = CNN(8)
    student.load_state_dict(load_tensors(out / "student.safetensors"))
    assert accuracy(student, *digits().test) == accuracy(result.student, *digits().test)
    assert accuracy(student, *digits().test) in result.figures["kept"]


def test_the_table_fits_eighty_columns_and_cuts_nothing(outcome: tuple[demo.Outcome, Path, str]) -> None:
    text = outcome[2]
    assert "…" not in text
    for word in (
        "student alone",
        "distilled",
        "+ fine-tuned",
        "kept",
        "gap",
        "parameters",
        "56,554",
        "3,778",
        "MB",
        "seconds",
    ):
        assert word in text


def test_alone_and_distilled_have_the_same_steps(outcome: tuple[demo.Outcome, Path, str]) -> None:
    steps = {row["model"]: row["steps"] for row in outcome[0].rows}
    assert steps["student alone"] == steps["distilled"]


def test_the_verdict_says_hurt_where_it_hurts_and_nothing_where_it_is_noise() -> None:
    assert "hurt" in demo._compare("Tuning", "before", [0.90, 0.91, 0.90], [0.95, 0.96, 0.95])
    assert "helped" in demo._compare("Tuning", "before", [0.95, 0.96, 0.95], [0.90, 0.91, 0.90])
    assert "no clear difference" in demo._compare("Tuning", "before", [0.95, 0.89, 0.93], [0.90, 0.95, 0.92])
    assert "no interval" in demo._compare("Tuning", "before", [0.95], [0.90])


def test_the_verdict_says_when_there_is_no_gap() -> None:
    figures = {k: [0.9, 0.91, 0.9] for k in ("teacher", "alone", "distilled", "fine-tuned", "kept")}
    assert "no gap" in demo._verdict(figures, ["distilled"] * 3)[-1]


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
