"""A recipe's run: its folder, the same run again, and going on with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from recipe.kit import SMALL, differing, document, ran, without
from understudy import engine
from understudy.data.written import write_example
from understudy.errors import CorruptError, InputError, Interrupted, MissingExtra
from understudy.recipe.running import FREE, run
from understudy.recipe.text import read

pytestmark = pytest.mark.usefixtures("quick")

TABLE = """\
data: {name: csv, train: data/train.csv, valid: data/valid.csv, label: diagnosis}
student: {name: MLP, hidden: [2]}
teacher: {model: {name: MLP, hidden: [8]}, epochs: 3}
epochs: 2
seeds: 1
device: cpu
threads: 1
report: false
export: null
"""


def test_a_runs_folder_holds_recipe_environment_results_and_models(tmp_path: Path) -> None:
    made = ran(tmp_path, SMALL)
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files >= {
        "recipe.yaml", "environment.json", "results.json", "page.json", "job.json", "student.safetensors", "teacher.safetensors", "teacher",
        "alone", "distilled", "fine-tuned",
    }  # fmt: skip
    assert not files & {"report.html", "deploy"}
    assert (made.page, made.deployed, made.figures) == (None, None, {})
    assert json.loads((tmp_path / "out/results.json").read_text()) == made.result.results()
    assert "torch" in json.loads((tmp_path / "out/environment.json").read_text())


def test_the_resolved_recipe_gives_the_same_bits_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example("breast-cancer", tmp_path / "data")
    ran(tmp_path, TABLE, "seed=2", "teacher.epochs=4")
    shutil.move(tmp_path / "out/recipe.yaml", tmp_path / "elsewhere.yaml")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    run(read(Path("../elsewhere.yaml")), Path("again"), console=Console(quiet=True))
    assert differing(tmp_path / "out", tmp_path / "sub/again") == []


def test_a_recipe_given_relative_to_here_finds_its_data_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example("breast-cancer", tmp_path / "recipes/data")
    document(tmp_path / "recipes", TABLE)
    monkeypatch.chdir(tmp_path)
    run(read(Path("recipes/r.yaml")), Path("out"), console=Console(quiet=True))
    text = Path("out/recipe.yaml").read_text()
    assert f"train: {json.dumps(str(tmp_path / 'recipes/data/train.csv'))}" in text
    assert "# recipes/r.yaml:1" in text


def test_a_finished_run_is_gone_on_with_to_the_same_bits(tmp_path: Path) -> None:
    ran(tmp_path, SMALL)
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    again = ran(tmp_path, SMALL, resume=True)
    assert differing(tmp_path / "out", tmp_path / "before") == []
    assert (
        again.result.results()["rows"][0]["accuracy"]
        == json.loads((tmp_path / "before/results.json").read_text())["rows"][0]["accuracy"]
    )


@pytest.mark.parametrize("at", [3, 9, 13, 18])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    ran(tmp_path, SMALL, out="whole")
    calls = 0
    step = engine.play

    def stopped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Interrupted("stopped")
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "play", stopped)
        with pytest.raises(Interrupted):
            ran(tmp_path, SMALL)
    assert not (tmp_path / "out/results.json").exists()
    ran(tmp_path, SMALL, resume=True)
    assert differing(tmp_path / "out", tmp_path / "whole") == []


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("method.alpha=0.25", "method.alpha was 0.5 and is 0.25 (--set 'method.alpha=0.25')"),
        ("epochs=3", "epochs was 2 and is 3 (--set 'epochs=3')"),
        ("student.channels=3", "student.channels was 2 and is 3"),
        ("optimizer=SGD", "optimizer.name was 'AdamW' and is 'SGD'"),
        ("data.seed=1", "data.seed was 0 and is 1"),
        ("teacher.epochs=5", "teacher.epochs was 4 and is 5"),
    ],
)
def test_a_resume_with_another_recipe_is_refused_and_names_what_is_other(
    tmp_path: Path, setting: str, told: str
) -> None:
    folder = _begun(tmp_path)
    before = (folder / "recipe.yaml").read_bytes()
    with pytest.raises(InputError, match="holds a run of another recipe") as caught:
        ran(tmp_path, SMALL, setting, resume=True)
    assert told in str(caught.value)
    assert "Choose another folder: --out." in str(caught.value)
    assert (folder / "recipe.yaml").read_bytes() == before


def test_a_changed_line_of_the_recipe_is_named_with_its_number(tmp_path: Path) -> None:
    _begun(tmp_path)
    with pytest.raises(InputError, match=r"batch_size was 50 and is 25 \(.*r\.yaml:8\)"):
        ran(tmp_path, SMALL.replace("batch_size: 50", "batch_size: 25"), resume=True)


def _begun(folder: Path) -> Path:
    """A run's folder as it is when nothing was trained yet."""
    ran(folder, SMALL, "epochs=1", "seeds=1", out="short")
    target = folder / "out"
    target.mkdir()
    made = (
        (folder / "short/recipe.yaml").read_text().replace("epochs: 1 ", "epochs: 2 ").replace("seeds: 1 ", "seeds: 2 ")
    )
    (target / "recipe.yaml").write_text(made)
    return target


def test_a_resume_where_there_is_nothing_yet_says_that_it_begins(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        console = Console(record=True, width=200)
        run(document(tmp_path, SMALL), tmp_path / "out", resume=True, console=console)
        told.append(console.export_text())
    note = f"{tmp_path / 'out'}: holds nothing to go on with yet. This begins at the start."
    assert [note in text for text in told] == [True, False]


def test_what_changes_no_weight_may_be_other_on_a_resume(tmp_path: Path) -> None:
    assert set(FREE) == {"device", "workers", "threads", "accept", "deadline_ms", "search", "report", "export"}
    ran(tmp_path, SMALL)
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    made = ran(
        tmp_path, SMALL, "accept={accuracy: '>= 0'}", "device=null", "report=true", "export=student.onnx", resume=True
    )
    assert made.result.accepted is True
    assert made.page == tmp_path / "out/report.html"
    assert (tmp_path / "out/student.onnx").exists()
    assert differing(tmp_path / "out", tmp_path / "before") == []


def test_a_folder_that_holds_a_run_is_not_taken_for_another(tmp_path: Path) -> None:
    ran(tmp_path, SMALL, "epochs=1", "seeds=1")
    with pytest.raises(
        InputError, match=r"already holds a run\. Go on with it: --resume\. Or choose another folder: --out\."
    ):
        ran(tmp_path, SMALL, "epochs=1", "seeds=1")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.tex, which no run made"):
        ran(tmp_path, SMALL)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file"):
        ran(tmp_path, SMALL)


def test_a_recipe_with_a_mistake_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        ran(tmp_path, SMALL, "epochs=x")
    assert not (tmp_path / "out").exists()


def test_a_recipe_in_the_folder_that_was_spoilt_is_told(tmp_path: Path) -> None:
    folder = _begun(tmp_path)
    (folder / "recipe.yaml").write_bytes(b"\xff\x00")
    with pytest.raises((InputError, CorruptError), match=r"out/recipe\.yaml"):
        ran(tmp_path, SMALL, resume=True)


@pytest.mark.parametrize("key", ["report", "export"])
def test_a_wish_that_needs_a_missing_package_is_refused_if_the_recipe_has_it_and_else_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    find = __import__("importlib.util").util.find_spec
    lacking = {"report": "jinja2", "export": "onnxscript"}[key]
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == lacking else find(name, *rest))
    wished = SMALL.replace("report: false", "report: true").replace("export: null", "export: deploy")
    with pytest.raises(MissingExtra, match=rf"r\.yaml:\d+: {key} needs a package that is not installed"):
        ran(tmp_path, wished)
    assert not (tmp_path / "out").exists()
    console = Console(record=True, width=200)
    other = "report: false\n" if key == "export" else "export: null\n"
    made = run(document(tmp_path, without(SMALL, "report", "export") + other), tmp_path / "out", console=console)
    assert "Until then there is none." in console.export_text()
    assert made.page is None
    assert made.deployed is None


def test_what_is_deployed_in_8_bits_saw_training_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy import outcome

    seen: list[torch.Tensor] = []
    write = outcome.write_folder
    monkeypatch.setattr(outcome, "write_folder", lambda *a, **k: (seen.append(k["calibration"]), write(*a, **k))[1])
    console = Console(record=True, width=200)
    wished = without(SMALL, "export") + "export: {to: small, target: onnx-int8}\n"
    made = run(document(tmp_path, wished), tmp_path / "out", console=console)
    assert json.loads((tmp_path / "out/small/preprocessing.json").read_text())["target"] == "onnx-int8"
    assert f"accuracy of the file on test: {made.figures['accuracy']:.3f}" in console.export_text()
    train = made.result.evidence.data.inputs()
    assert train is not None
    assert not any(torch.equal(x, y) for x in seen[0][:20] for y in train)


def test_page_and_deployed_folder_are_made_and_told(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    made = run(document(tmp_path, SMALL, "report=true", "export=deploy"), tmp_path / "out", console=console)
    told = console.export_text()
    assert made.page == tmp_path / "out/report.html"
    assert (tmp_path / "out/deploy/model.onnx").exists()
    assert f"The page:  {made.page}" in told
    assert f"To deploy: {made.deployed}" in told
    assert f"accuracy of the file on test: {made.figures['accuracy']:.3f}" in told


def test_under_torchrun_it_is_refused_before_the_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="understudy run: does everything in one process, and this is one of 2"):
        ran(tmp_path, SMALL)
    assert not (tmp_path / "out").exists()
