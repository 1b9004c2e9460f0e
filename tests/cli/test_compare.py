import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from understudy import trained
from understudy.contest import contest as contest_module
from understudy.errors import Interrupted
from understudy.ranking import compare as compare_module

from .calls import call, too_wide

SMALL = ("--epochs", 1, "--seeds", 2, "--set", "teacher.epochs=4", "--set", "batch_size=100")
"""Some seconds."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("compare") / "table"
    return folder, call("compare", "digits", *SMALL, "--methods", "kd, domain_adaptation", "--out", folder)


def test_it_leaves_a_table_of_which_it_says_where_it_is(made: tuple[Path, Any]) -> None:
    folder, told = made
    assert (told.code, told.err) == (0, "")
    assert f"The table: {folder / 'methods.md'}\n" in told.out
    for words in ("student alone", "kd: accuracy 0.", "Skipped: domain_adaptation: ", "Time, about: 1 min"):
        assert words in told.out
    page = (folder / "methods.md").read_text()
    assert "understudy compare digits --seeds 2 --epochs 1 --set teacher.epochs=4 --set batch_size=100 " in page
    assert "--methods kd,domain_adaptation\n" in page


def test_the_tables_fit_eighty_columns(made: tuple[Path, Any]) -> None:
    tables = made[1].out.partition("\n\n")[2].partition("Against")[0]
    assert "kd" in tables
    assert too_wide(tables) == []


def test_json_is_one_line_on_stdout(made: tuple[Path, Any]) -> None:
    folder = made[0]
    told = call("compare", folder, "--methods", "kd", "--resume", "--json")
    assert told.code == 0, told.err
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    assert answer == {"folder": str(folder), **json.loads((folder / "results.json").read_text())}
    assert answer["rows"][0]["method"] == "teacher"
    assert "kd: accuracy" in told.err


def test_a_comparison_that_is_done_is_not_begun_anew(made: tuple[Path, Any]) -> None:
    told = call("compare", "digits", *SMALL, "--methods", "kd", "--out", made[0])
    assert told.code == 2
    assert told.err == f"{made[0]}: already holds a run. Go on with it: --resume. Or choose another folder: --out.\n"


def test_a_stopped_comparison_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def stop(*args: Any, **more: Any) -> Any:
            raise Interrupted("stopped.")

        patch.setattr(trained, "train_stage", stop)
        told = call("compare", "digits", *SMALL, "--methods", "kd,dkd", "--tune")
    assert told.code == 5
    words = "understudy compare runs/digits-methods --methods kd,dkd --tune --resume"
    assert told.err == f"stopped; runs/digits-methods holds what is done. Go on: {words}\n"
    seen: list[Any] = []
    monkeypatch.setattr(compare_module, "compare", lambda *args, **more: seen.append((args, more)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(*shlex.split(words)[1:])
    ((document, folder), more) = seen[0]
    assert (str(folder), more["names"], more["tune"], more["resume"]) == (
        "runs/digits-methods",
        ["kd", "dkd"],
        True,
        True,
    )
    assert (document.value["epochs"], document.value["seeds"]) == (1, 2)
    assert more["command"] == ()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--methods", "kdd"), "--methods: there is no method 'kdd'. "),
        (("--methods", ","), "--methods: names no method. "),
        (("--out", ""), "--out .: is not the name of a folder of its own"),
        (("--set", "epoch=3"), "a recipe has no key 'epoch'. Did you mean 'epochs'?"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple[str, ...], told: str) -> None:
    answer = call("compare", "digits", *SMALL, *options)
    assert (answer.code, answer.out) == (2, "")
    assert re.search(re.escape(told), answer.err)
    assert not Path("runs").exists()


# -- ways to a small model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--tune",), "--tune: weighs methods; say which: --methods all --tune."),
        (("--methods", "kd", "--ladder"), "--methods: ranks methods, and --ladder is about ways."),
        (("--methods", "kd", "--ways", "alone"), "--methods: ranks methods, and --ways is about ways."),
        (("--methods", "kd", "--price-per-hour", 0), "--methods: ranks methods, and --price-per-hour is about ways."),
        (("--price-per-hour", -2), "--price-per-hour -2: must be a number above 0."),
        (("--ways", "distil"), "--ways: there is no way 'distil'. Did you mean 'distilled'"),
        (("--budget", "phon"), "'phon' is none of them. Did you mean 'phone'?"),
    ],
)
def test_what_is_asked_wrongly_is_refused(words: tuple[Any, ...], told: str) -> None:
    answer = call("compare", "digits", *words)
    assert answer.code == 2
    assert told in answer.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "folder", "given"),
    [
        ((), "runs/digits-compare", {"names": None, "steps": False, "price": None, "budget": None}),
        (("--ladder",), "runs/digits-ladder", {"names": None, "steps": True, "seeds": 3}),
        (("--ladder", "--seeds", 2), "runs/digits-ladder", {"steps": True, "seeds": 2}),
        (("--ways", "distilled, alone"), "runs/digits-compare", {"names": ["distilled", "alone"]}),
        (("--price-per-hour", 0.5, "--budget", "phone"), "runs/digits-compare", {"price": 0.5, "budget": "phone"}),
    ],
)
def test_ways_are_compared_where_no_methods_are_named(
    words: tuple[Any, ...], folder: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def stop(document: Any, out: Path, **more: Any) -> Any:
        seen.append({"seeds": document.value.get("seeds"), **more})
        out.mkdir(parents=True)
        (out / "recipe.yaml").write_text("")
        raise Interrupted("stopped.")

    monkeypatch.setattr(contest_module, "contest", stop)
    answer = call("compare", "digits", *words)
    assert answer.code == 5
    assert {key: seen[0][key] for key in given} == given
    told = answer.err.partition("Go on: ")[2].split()
    assert told[:3] == ["understudy", "compare", folder]
    assert told[-1] == "--resume"
    assert "--seeds" not in told  # the folder knows them
