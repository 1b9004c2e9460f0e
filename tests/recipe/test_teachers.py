"""Teachers that others made, in recipes: files by name, everything else by a plugin."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipe.kit import SMALL, examined, problems, ran, without
from understudy.errors import CorruptError, InputError
from understudy.recipe.ready import ready
from understudy.registry import load_plugin
from understudy.teachers import Estimator, Onnx
from understudy.zoo import CNN

ROOT = Path(__file__).parents[2]


def taught_by(model: str, *more: str) -> str:
    return without(SMALL, "teacher") + "\n".join(["teacher:", f"  model: {model}", *more, ""])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ONNX files of ten and of five classes, and one like the first."""
    pytest.importorskip("onnxruntime")
    from understudy.data.digits import digits
    from understudy.export import to_onnx

    folder, (images, label) = tmp_path_factory.mktemp("teachers"), digits().train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ten, five = CNN(8), CNN(8, classes=5)
    optimizer = torch.optim.Adam(ten.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(ten(images[:300]), label[:300]).backward()
        optimizer.step()
    wild = copy.deepcopy(ten)
    with torch.no_grad():
        wild.head.bias += torch.arange(10) / 100
    for name, model in (("ten", ten), ("five", five), ("wild", wild)):
        to_onnx(model.eval(), images[:4], folder / f"{name}.onnx")
    (folder / "broken.onnx").write_bytes((folder / "ten.onnx").read_bytes()[:99])
    return folder


def test_an_onnx_file_in_a_recipe_teaches(made: Path, tmp_path: Path, quick: None) -> None:
    (tmp_path / "t.onnx").write_bytes((made / "ten.onnx").read_bytes())
    done = ran(tmp_path, taught_by("{name: onnx, path: t.onnx}"))
    assert isinstance(done.result.teacher, Onnx)
    rows = {row["model"]: row for row in done.result.rows}
    assert rows["teacher"]["accuracy"] > 0.7
    assert {"distilled", "student alone"} <= rows.keys()
    again = ran(tmp_path, taught_by("{name: onnx, path: t.onnx}"), resume=True)
    assert [row["accuracy"] for row in again.result.rows] == [row["accuracy"] for row in done.result.rows]
    (tmp_path / "t.onnx").write_bytes((made / "wild.onnx").read_bytes())
    with pytest.raises(InputError, match="teacher was"):
        ran(tmp_path, taught_by("{name: onnx, path: t.onnx}"), resume=True)


@pytest.mark.parametrize(
    ("model", "more", "told"),
    [
        ("{name: onnx, path: tem.onnx}", (), "r.yaml:14: tem.onnx: there is no such file. Did you mean 'ten.onnx'?"),
        ("{name: onnx}", (), "r.yaml:14: teacher.model: onnx needs 'path'"),
        ("{name: onnx, path: ten.onnx, output: logit}", (), "r.yaml:14: ONNX model ten.onnx: has no output 'logit'."),
        ("{name: onnx, path: ten.onnx, gives: logit}", (), "r.yaml:14: teacher.model.gives: .*Did you mean 'logits'"),
        ("{name: onnx, path: ten.onnx, gives: probabilities}", (), "r.yaml:13: ONNX model ten.onnx: gives values from"),
        ("{name: onnx, path: five.onnx}", (), r"the student gives \[10\] and the teacher \[5\]"),
        ("{name: onnx, path: ten.onnx}", ("  epochs: 3",), "must be an nn.Module"),
        ("{name: onnx, path: ten.onnx}", ("  weights: ten.onnx",), "r.yaml:15: ten.onnx: weights go into a module"),
        ("{name: exported, path: ten.onnx}", (), "r.yaml:14: teacher.model.name: there is no teacher 'exported'.*--plugin"),
        ("{name: keras, path: ten.onnx}", (), r"r.yaml:14: ten.onnx: is no \.keras file"),
        ("{name: saved_model, path: nowhere}", (), "r.yaml:14: nowhere/saved_model.pb: there is no such file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_teachers_file_is_told_with_its_line(
    made: Path, model: str, more: tuple[str, ...], told: str
) -> None:

    found = "\n".join(problems(made, taught_by(model, *more)))
    assert re.search(told, found), found


def test_a_damaged_file_is_another_kind_of_error(made: Path) -> None:
    with pytest.raises(CorruptError, match=r"r.yaml:14: .*broken\.onnx: is no ONNX file"):
        examined(made, taught_by("{name: onnx, path: broken.onnx}"))


def test_layers_of_a_file_cannot_be_read_and_methods_that_need_them_say_so(made: Path) -> None:
    text = without(taught_by("{name: onnx, path: ten.onnx}"), "method")
    terms = "terms: [{loss: mse, at: [student.layer2, teacher.layer2]}]\n"
    (told,) = problems(made, text + terms)
    assert "teacher is a Onnx that gives its last output only" in told
    (told,) = problems(made, text + "method: fitnets\n")
    assert "it has no layers to choose from" in told
    assert examined(made, text + "method: dkd\n").material.teacher.what == "ONNX model ten.onnx"


def test_an_estimator_comes_in_by_a_plugin(tmp_path: Path, quick: None) -> None:
    page = (ROOT / "docs/teachers.md").read_text()
    plugin = page[page.index("# my_teachers.py") :]
    (tmp_path / "my_teachers.py").write_text(plugin[: plugin.index("```")])
    assert [e.name for e in load_plugin(tmp_path / "my_teachers.py")] == ["neighbours"]
    done = ran(tmp_path, taught_by("{name: neighbours, count: 7}"))
    assert isinstance(done.result.teacher, Estimator)
    assert done.result.teacher.estimator.n_neighbors == 7
    told = problems(tmp_path, taught_by("{name: neighbours, counts: 7}"))
    assert told == ["r.yaml:14: teacher.model: neighbours has no option 'counts'. Did you mean 'count'?"]


# -- the ready recipes -------------------------------------------------------------------------------------------------


def test_the_ready_recipes_of_keras_say_how_their_teacher_is_made() -> None:
    for name in ("teachers/keras", "teachers/tensorflow"):
        text = ready()[name].path.read_text()
        assert f"# Made by: python examples/keras_teacher.py teachers && understudy run {name}\n" in text
        assert "understudy[tf]" in ready()[name].told


@pytest.mark.long
def test_a_teacher_of_tensorflow_teaches_the_digits_from_both_kinds_of_file(tmp_path: Path) -> None:
    """In processes of their own: Keras has one backend for as long as a process lives."""
    for library in ("tensorflow", "keras"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")

    def run(*command: str) -> str:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "torch"}
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run(str(ROOT / "examples/keras_teacher.py"), "teachers")
    for name in ("teachers/keras", "teachers/tensorflow"):
        checked = " ".join(run("-m", "understudy", "check", name).split())
        assert f"{name}: sound." in checked
        assert ("teacher.conv1 [64, 32, 8, 8]" in checked) == (name == "teachers/keras")
        out = name.rpartition("/")[2]
        run("-m", "understudy", "run", name, "--out", out, "--set", "seeds=1", "--set", "epochs=30")

        rows = {
            row["model"]: row["accuracy"] for row in json.loads((tmp_path / out / "results.json").read_text())["rows"]
        }
        assert rows["teacher"] > 0.97
        assert rows["distilled"] > rows["student alone"] + 0.02  # which has 200 labels; the teacher had 1,000
        assert (tmp_path / out / "deploy/model.onnx").is_file()
