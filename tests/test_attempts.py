"""Attempts: one teacher for all, judged by validation, gone on with after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recipe.kit import SMALL, document
from understudy import evaluate, job
from understudy.accept import parse
from understudy.errors import CorruptError, InputError
from understudy.progress import Progress
from understudy.recipe.examine import examine
from understudy.recipe.text import Place
from understudy.recipe.tries import Change
from understudy.search import attempts as module
from understudy.search.attempts import Attempts, OutOfTime, Tried, Until, missing

PLACE = Place("test", 0, Path())
ONE = SMALL.replace("seeds: 2", "seeds: 1").replace("channels: 2}", "channels: 4}").replace("1e-2", "5e-2")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the fresh process in which a model's memory is measured."""
    monkeypatch.setattr("understudy.evaluate._memory", lambda *_: None)


def change(key: str, value: Any) -> Change:
    return Change(tuple(key.split(".")), value, PLACE)


def begun(folder: Path, *settings: str, text: str = ONE) -> Attempts:
    """Attempts whose teacher is trained."""
    given, console = document(folder, text, *settings), Console(quiet=True)
    out = folder / "out"
    examined = examine(given, folder=out, resume=True, progress=False, console=console)
    made = Attempts(given, out, examined, console)
    made.train_teacher()
    return made


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that are trained from here on, by the folder's two last names."""
    found: list[str] = []
    train = job.train

    def noted(*given: Any, **more: Any) -> Any:
        result = train(*given, **more)
        found.append(more["folder"].parent.name)
        return result

    monkeypatch.setattr(job, "train", noted)
    return found


def test_teacher_and_student_alone_are_trained_once_and_the_teacher_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begun(tmp_path)
    first = made.attempt([])
    other = made.attempt([change("method.temperature", 8)])
    assert first.state == other.state == "done"
    assert first.figures["loss_nats"] != other.figures["loss_nats"]
    assert len(list((tmp_path / "out/alone").iterdir())) == 1
    assert len(list((tmp_path / "out/said").iterdir())) == 1
    # Control: what the student alone depends on makes another one.
    made.attempt([change("optimizer.lr", 0.03)])
    assert len(list((tmp_path / "out/alone").iterdir())) == 2
    assert len(list((tmp_path / "out/said").iterdir())) == 1


def test_an_attempt_that_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = begun(tmp_path).attempt([change("method.temperature", 8)])
    found = counted(monkeypatch)
    again = begun(tmp_path).attempt([change("method.temperature", 8)])
    assert again == before
    assert found == ["teacher"]  # whose weights are read back
    begun(tmp_path).attempt([change("method.temperature", 9)])
    assert "distilled" in found


def test_attempts_are_measured_on_valid_and_the_last_on_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    quality = evaluate.quality
    monkeypatch.setattr(job, "quality", lambda evidence: seen.append(evidence.data.name) or quality(evidence))
    made = begun(tmp_path)
    tried = made.attempt([])
    result = made.concluded(tried, [], [])
    assert seen == ["valid", "test"]
    assert result.measured_on == "test"
    assert result.path == tmp_path / "out"


def test_an_attempt_stops_at_a_steps_end_when_its_seconds_are_over_and_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = begun(tmp_path / "a").attempt([])
    made = begun(tmp_path / "b")
    stopped = made.attempt([], seconds=0.0)
    assert stopped.state == "stopped"
    assert "after step 1 of" in stopped.why
    assert made.attempt([], seconds=0.0) == stopped  # which used up all that there was
    done = begun(tmp_path / "b").attempt([], seconds=1e6)
    assert done.state == "done"
    same = {k: v for k, v in done.figures.items() if k != "seconds"}
    assert same == {k: v for k, v in whole.figures.items() if k != "seconds"}


def test_until_lets_a_run_go_on_before_its_time() -> None:
    progress = Progress(0, 2, 0)
    Until(float("inf")).stepped(progress)
    with pytest.raises(OutOfTime):
        Until(0.0).stepped(progress)


def test_an_attempt_that_fails_is_told_and_not_tried_again(tmp_path: Path) -> None:
    made = begun(tmp_path)
    failed = made.attempt([change("optimizer.lr", 1e30)])
    assert failed.state == "failed"
    assert failed.why
    assert begun(tmp_path).attempt([change("optimizer.lr", 1e30)]) == failed


def test_an_assistant_teaches_and_the_figures_are_against_the_teacher(tmp_path: Path) -> None:
    made = begun(tmp_path, "accept={accuracy: '>= 2 * teacher'}")
    plain = made.attempt([])
    assistant = change("assistant", {"name": "CNN", "channels": 3})
    assert made.check([assistant]).material is not made.material
    tried = made.attempt([assistant])
    assert tried.state == "done", tried.why
    assert (tmp_path / "out/attempts/01-assistant/student.safetensors").exists()
    teacher = [lack.rpartition(" = ")[2] for lack in (*plain.missing, *tried.missing)]
    assert teacher[0] == teacher[1]  # twice that of one and the same
    material, trying = made.prepared(1, [assistant], job.Trying())
    assert trying.judge is made.teacher
    assert material.teacher is not made.teacher


def test_a_part_of_the_data_that_changes_valid_is_refused_too(tmp_path: Path) -> None:
    made = begun(tmp_path)
    with pytest.raises(InputError, match=r"data\.valid 90 has other valid data than the recipe"):
        made.check([change("data.valid", 90)])


def test_data_with_another_valid_is_refused(tmp_path: Path) -> None:
    made = begun(tmp_path)
    more = {"name": "digits", "train": 200, "valid": 100, "labelled": 150}
    made.check([change("data", more)])
    with pytest.raises(InputError, match="has other valid data than the recipe"):
        made.check([change("data", {**more, "valid": 90})])


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    begun(tmp_path).attempt([])
    file = tmp_path / "out/attempts/00.json"
    file.write_text(json.dumps({"what": 1}))
    with pytest.raises(CorruptError, match=r"00\.json: is damaged"):
        begun(tmp_path)


def test_what_is_missing_is_said_of_each_condition_that_is_not_met() -> None:
    rows = [{"model": "kept", "accuracy": 0.9, "size_mb": 2.0}, {"model": "teacher", "accuracy": 1.0}]
    conditions = parse({"accuracy": ">= 0.97 * teacher", "size_mb": "<= 1", "loss_nats": "< alone"})
    assert missing(conditions, rows) == [
        "accuracy 0.900 is 0.0700 below 0.97 * teacher = 0.970",
        "size_mb 2.000 is 1.000 above 1",
        "loss_nats < alone: not met, for there is no loss_nats of the student",
    ]
    assert missing(parse({"accuracy": ">= 0.9"}), rows) == []


def test_a_number_is_kept_by_what_is_changed() -> None:
    assert Tried(0, {"a": 1, "b": 2}).key == Tried(3, {"b": 2, "a": 1}).key
    assert module._key({"a": 1}) != module._key({"a": 2})
