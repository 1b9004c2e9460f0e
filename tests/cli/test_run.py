import html
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.cli import main

from .calls import BARE, SMALL, Answer, call, environment, too_wide


def weights(folder: Path) -> bytes:
    return (folder / "student.safetensors").read_bytes()


def test_a_run_leaves_all_that_it_names_and_nothing_beside_its_folder(small: tuple[Path, Answer]) -> None:
    folder, told = small
    assert told.code == 0
    assert told.err == ""
    named = re.findall(r"^(The run|The page|To deploy): +(\S.*)$", told.out, re.MULTILINE)
    assert named == [
        ("The run", str(folder)),
        ("The page", str(folder / "report.html")),
        ("To deploy", str(folder / "deploy")),
    ]
    found = {path.name for path in folder.iterdir()}
    assert found >= {"recipe.yaml", "environment.json", "results.json", "student.safetensors", "report.html", "deploy"}
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_the_screen_fits_eighty_columns(small: tuple[Path, Answer]) -> None:
    told = small[1].out
    assert too_wide("\n".join(line for line in told.splitlines() if str(small[0]) not in line)) == []
    for words in (
        "teacher: ",
        "soft labels: ",
        "student alone (1/1)",
        "distil (1/1)",
        "fine-tune (1/1)",
        "On test; one seed, and so no interval",
    ):
        assert words in told


def test_each_value_has_its_origin(run: Path) -> None:
    told = (run / "recipe.yaml").read_text()
    assert re.search(r"^epochs: 2 +# --set 'epochs=2'$", told, re.MULTILINE)
    assert re.search(r"^threads: 1 +# .*digits\.yaml:\d+$", told, re.MULTILINE)
    assert re.search(r"^seed: 0 +# default$", told, re.MULTILINE)


def test_json_is_one_line_on_stdout_and_progress_is_elsewhere(run: Path, tmp_path: Path) -> None:
    told = call("run", "digits", *BARE, "--out", tmp_path / "json", "--json")
    assert told.code == 0
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    assert answer["folder"] == str(tmp_path / "json")
    assert {**json.loads((tmp_path / "json/results.json").read_text()), "folder": answer["folder"]} == answer
    assert "student alone (1/1)" in told.err
    # No page and nothing to deploy changes no weight.
    assert weights(tmp_path / "json") == weights(run)
    assert not {"deploy", "report.html"} & {path.name for path in (tmp_path / "json").iterdir()}


MISTAKES = """task: clasification
data: {name: digits, labeled: 200}
student: {name: CNNN, channels: 8}
teacher:
  model: {name: CNN, channels: eight}
  epochs: -1
"""


@pytest.mark.parametrize("verb", ["run", "check"])
def test_five_mistakes_are_five_lines_with_their_places(verb: str, tmp_path: Path) -> None:
    Path("my.yaml").write_text(MISTAKES)
    told = call(verb, "my.yaml")
    assert (told.code, told.out) == (2, "")
    assert [line[:9] for line in told.err.splitlines()] == [f"my.yaml:{n}" for n in (1, 2, 3, 5, 6)]
    for words in (
        "you wrote 'clasification'",
        "'labelled'?",
        "'CNN'?",
        "a whole number; you wrote 'eight'",
        "you wrote -1",
    ):
        assert words in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_finished_run_is_not_done_again_by_mistake(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    told = call("run", "digits", *SMALL, "--out", run)
    assert (told.code, told.out) == (2, "")
    assert told.err == f"{run}: already holds a run. Go on with it: --resume. Or choose another folder: --out.\n"
    told = call("run", "digits", *SMALL, "--out", run, "--resume", "--set", "method.temperature=3")
    assert told.code == 2
    assert "method.temperature was 2 and is 3 (--set 'method.temperature=3')" in told.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_seed_is_that_of_the_first_student(run: Path) -> None:
    told = call("run", "digits", *BARE, "--seed", 3, "--out", "other")
    assert told.code == 0
    assert json.loads(Path("other/results.json").read_text())["seeds"] == [3]
    assert re.search(r"^seed: 3 +# --seed 3$", Path("other/recipe.yaml").read_text(), re.MULTILINE)
    assert weights(Path("other")) != weights(run)  # and a control: the comparison of weights sees other ones


# -- stopped -----------------------------------------------------------------------------------------------------------


# A shell's background jobs, of which the tests may be one, ignore Ctrl-C, and so do their children.
HEARS = "import signal, sys; signal.signal(2, signal.default_int_handler); from understudy.cli import main; sys.exit(main())"


@pytest.mark.parametrize(("name", "at"), [("SIGINT", "teacher/seed-0/lock"), ("SIGTERM", "alone/seed-0/lock")])
def test_a_stopped_run_goes_on_to_the_same_bits_by_the_words_that_it_says(
    name: str, at: str, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    command = [sys.executable, "-c", HEARS, "run", "digits", *BARE, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
    while not (folder / at).exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(getattr(signal, name))
    told = process.communicate()[1]
    assert process.returncode == 5, told
    assert told == f"stopped; {folder} holds what is done. Go on: understudy run {folder} --resume\n"
    assert not (folder / "student.safetensors").exists()
    again = call(*shlex.split(told.partition("understudy ")[2]))
    assert again.code == 0
    assert weights(folder) == weights(run)


def test_a_runs_folder_is_a_recipe_and_where_its_run_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    told = call("run", "small", "--resume", "--set", "report=false", "--set", "export=null")
    assert told.code == 0, told.err
    assert "The run:   small\n" in told.out
    assert not Path("runs").exists()


# -- where it is written -----------------------------------------------------------------------------------------------


def untrained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recipes that would be run, and where."""
    seen: list[Any] = []

    def remember(document: Any, out: Path, **more: Any) -> None:
        seen.append((document, out))
        raise KeyboardInterrupt

    monkeypatch.setattr("understudy.search.search.run", remember)
    return seen


def test_by_default_a_run_goes_to_runs_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = untrained(monkeypatch)
    Path("here").mkdir()
    Path("here/my.try.yaml").write_text("task: classification")
    for recipe in ("digits", "here/my.try.yaml"):
        assert call("run", recipe).code == 5
    assert [str(out) for _, out in seen] == ["runs/digits", "runs/my.try"]


def test_what_is_in_the_folder_goes_before_a_ready_recipe_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = untrained(monkeypatch)
    Path("images").mkdir()  # as pictures may well be called
    Path("data/digits").mkdir(parents=True)
    Path("csv").write_text("task: regression")
    for recipe in ("images", "csv"):
        call("run", recipe)
    assert [document.value["task"] for document, _ in seen] == ["classification", "regression"]


@pytest.mark.parametrize(
    ("out", "code", "told"),
    [
        ("", 2, "--out .: is not the name of a folder of its own, such as runs/first."),
        (".", 2, "--out .: is not the name of a folder of its own"),
        ("/", 2, "--out /: is not the name of a folder of its own"),
        ("thesis.txt", 2, "thesis.txt: is a file. Choose another folder: --out."),
        ("mine", 2, "mine: holds thesis.txt, which no run made. Choose another folder: --out."),
        ("thesis.txt/sub", 4, "thesis.txt/sub: cannot be made: "),
        ("/proc/nothing/sub", 4, "/proc/nothing/sub: cannot be made: "),
    ],
)
def test_a_place_that_cannot_be_a_runs_is_refused_and_left_alone(out: str, code: int, told: str) -> None:
    Path("mine").mkdir()
    for path in ("thesis.txt", "mine/thesis.txt"):
        Path(path).write_text("years of work")
    answer = call("run", "digits", *SMALL, f"--out={out}")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith(told)
    assert sorted(str(path) for path in Path().rglob("*")) == ["mine", "mine/thesis.txt", "thesis.txt"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_the_machines_fault() -> None:
    Path("locked").mkdir(mode=0o500)
    told = call("run", "digits", *SMALL, "--out", "locked/run")
    assert told.code == 4
    assert told.err.startswith("locked/run: cannot be made: ")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "teacher", "a.pt", ".."])
def test_what_is_deployed_stays_in_the_runs_folder(name: str, tmp_path: Path) -> None:
    told = call("run", "digits", *SMALL, "--set", f"export={name}", "--out", "here/run")
    assert told.code == 2
    assert told.err.startswith(f"--set 'export={name}': export")
    assert list(tmp_path.iterdir()) == []


# -- what is typed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--set", "x"], "--set 'x': is not of the form key=value"),
        (["--set", "=3"], "--set '=3': is not of the form key=value"),
        (["--set", "method..x=3"], "is not of the form key=value"),
        (["--set", "method=["], "--set 'method=[': is no YAML"),
        (["--set", "student.channels.x=1"], "student.channels is 8, which has no parts."),
        (["--set", "terms.0.weight=1"], "--set 'terms.0.weight=1'"),
        (["--set", "epochz=3"], "--set 'epochz=3': a recipe has no key 'epochz'. Did you mean 'epochs'?"),
        (["--set", "epochs=1e3000"], "--set 'epochs=1e3000': '1e3000' is no number"),
        (["--set", "student.channels=99999999999"], "Make it narrower or shallower."),
        (["--set", "a" * 70_000 + "=1"], "has no key 'aaa"),
        (["--set", "epochs=" + "[" * 30], "is nested 16 levels deep"),
        (["--seed", "-1"], "'--seed': -1 is not in the range"),
        (["--seed", "x"], "'--seed': 'x' is not a valid whole number"),
        (["--seed", "9" * 30], "is no number that a recipe can hold"),
        (["--plugin", "nope.py"], "--plugin nope.py: "),
        (["--plugin", "."], "--plugin .: "),
        (["--plugin", "bad.py"], "--plugin bad.py:2: cannot be run: ZeroDivisionError: division by zero."),
        (["--plugin", "idle.py"], "--plugin idle.py: registers nothing."),
    ],
    ids=lambda v: "" if isinstance(v, str) else " ".join(v)[:40],
)
def test_nonsense_is_answered_in_a_sentence(typed: list[str], told: str) -> None:
    Path("bad.py").write_text("import math\n1 / 0\n")
    Path("idle.py").write_text("x = 1\n")
    answer = call("run", "digits", *typed)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("nope.yaml", "nope.yaml: there is no such file, and no ready recipe of this name. Did you mean 'note.yaml'?"),
        ("digit", "there is no such file, and no ready recipe of this name. Did you mean 'digits'?"),
        ("../digits", "there is no such file"),
        ("recipes/../digits", "there is no such file"),
        ("", ".: is a folder, and holds no run. Name a recipe's file."),
        ("empty.yaml", "empty.yaml:1: is empty. `understudy init image-classification` prints a recipe"),
        ("binary.yaml", "binary.yaml:1: is no text: byte 0xff is not UTF-8."),
        ("note.yaml", "note.yaml:1: is 'buy milk'; a recipe is a mapping"),
    ],
)
def test_what_is_no_recipe_is_told(recipe: str, told: str) -> None:
    Path("empty.yaml").touch()
    Path("binary.yaml").write_bytes(b"\xff\xfe")
    Path("note.yaml").write_text("buy milk\n")
    answer = call("run", recipe)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_a_recipe_that_may_not_be_read_is_the_machines_fault() -> None:
    Path("my.yaml").touch(mode=0o000)
    assert call("run", "my.yaml") == Answer(4, "", "my.yaml: cannot be read: Permission denied.\n")


PLUGIN = """
import torch
from understudy import register
print("a plugin may be noisy")

@register("model", name="{name}")
class Small(torch.nn.Sequential):
    def __init__(self, inputs: int, classes: int, width: int = 4) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64 * inputs, width), torch.nn.Linear(width, classes))
"""


def test_a_users_own_model_comes_in_by_a_plugin_and_its_noise_does_not_spoil_json() -> None:
    Path("mine.py").write_text(PLUGIN.format(name="SmallOfTheCommandLine"))
    own = ("--plugin", "mine.py", "--set", "student={name: SmallOfTheCommandLine, width: 5}")
    told = call("check", "digits", *own, "--json")
    assert told.code == 0
    assert json.loads(told.out)["models"][0]["parameters"] == 64 * 5 + 5 + 5 * 10 + 10
    assert told.err == "a plugin may be noisy\n"


# -- what is not installed ---------------------------------------------------------------------------------------------


def test_a_page_that_is_asked_for_and_cannot_be_made_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    told = call("run", "digits", *SMALL, "--set", "report=true", "--out", "run")
    assert told.code == 4
    assert "report needs a package that is not installed. Fix: pip install 'understudy[report]'" in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_is_only_the_default_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    told = call("run", "digits", *SMALL, "--set", "export=null", "--out", "run")
    assert told.code == 0
    assert "pip install 'understudy[report]' Until then there is none." in told.out.replace("\n", " ")
    assert not Path("run/report.html").exists()


def test_main_without_arguments_takes_those_of_the_process(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["understudy", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("understudy ")


# -- what a run answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "code"), [(">= 0", 0), (">= 1.1", 6)])
def test_a_run_of_which_something_is_required_answers_whether_it_is_met(
    wanted: str, code: int, run: Path, tmp_path: Path
) -> None:
    accept = ("--set", f"accept={{accuracy: '{wanted}'}}")
    told = call("run", "digits", *BARE, *accept, "--require", "--out", tmp_path / "out", "--json")
    assert told.code == code, told.err
    assert json.loads(told.out)["accepted"] is (code == 0)
    # The control: without the option a run that is done is done.
    assert call("run", tmp_path / "out", *BARE, *accept, "--resume", "--json").code == 0


def test_to_require_what_no_recipe_says_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    told = call("run", "digits", "--set", "accept=null", "--require", "--out", tmp_path / "out")
    assert told.code == 2
    assert "--require: digits says nothing of what to accept" in told.err
    assert not (tmp_path / "out").exists()


# -- what it has chosen ------------------------------------------------------------------------------------------------


def test_what_was_chosen_is_on_the_page_and_in_the_results(run: Path) -> None:
    choices = json.loads((run / "choices.json").read_text())
    assert choices.keys() == {"precision", "teacher", "soft labels"}
    assert json.loads((run / "results.json").read_text())["choices"] == choices
    page = (run / "report.html").read_text()
    assert '<section id="choices"' in page
    for made in choices.values():
        assert html.escape(made["told"]) in page


def test_a_run_says_whether_it_asked_the_teacher_or_read_a_store(run: Path, tmp_path: Path) -> None:
    taught = ("--set", "teacher.epochs=0", "--set", f"teacher.weights={run / 'teacher.safetensors'}")
    said = ("--set", f"teacher.store={tmp_path / 'said'}")
    lines = []
    for name in ("first", "second"):
        told = call("run", "digits", *BARE, *taught, *said, "--out", tmp_path / name)
        lines += [line for line in told.out.splitlines() if line.startswith("soft labels: ")]
    asked = "soft labels: the teacher was asked about 1,000 samples, once for all seeds; kept in "
    assert lines == [
        f"{asked}{tmp_path / 'said'}",
        f"soft labels: 1,000 samples, read from {tmp_path / 'said'}, which was filled before",
    ]
    choices = json.loads((tmp_path / "second/choices.json").read_text())
    assert choices["teacher"] == {"way": "fp32", "told": "as when its store was filled"}
    assert (choices["soft labels"]["way"], choices["soft labels"]["asked"]) == ("stored", 0)
    # A resume reads what the run itself has asked for, and leaves the note of it.
    first = (tmp_path / "first/choices.json").read_text()
    assert call("run", tmp_path / "first", "--resume").code == 0
    assert (tmp_path / "first/choices.json").read_text() == first
