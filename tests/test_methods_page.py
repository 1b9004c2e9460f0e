"""The page of methods: its code runs, and its table has the families that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy as us
from understudy import evaluate
from understudy.registry import entries
from understudy.state import digest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/methods.md").read_text()
BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*) -->\n)?```python\n(?P<code>.*?)```\n", flags=re.DOTALL)


def code() -> str:
    """All of it, with fewer epochs and seeds where a note says so."""
    made = []
    for block in BLOCK.finditer(PAGE):
        short = block["code"]
        for before, after in re.findall(r"(\w+=\d+) is (\w+=\d+)", block["note"] or ""):
            assert before in short
            short = short.replace(before, after)
        made.append(short)
    assert len(made) == PAGE.count("```python\n")
    return "".join(made)


def named() -> list[str]:
    """The methods that the page names."""
    return re.findall(r"us\.methods\.([a-z]\w*)", PAGE)


def families(page: str = PAGE) -> list[str]:
    """The first column of its table."""
    table = page[page.index("| family |") : page.index("## A teacher")]
    return re.findall(r"^\| ([\w -]+) \| (?!what is handed on)", table, flags=re.MULTILINE)


def test_the_code_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(evaluate, "_memory", lambda *args: 1.0)  # an export for each model, which takes seconds
    names: dict[str, Any] = {}
    exec(compile(code(), "docs/methods.md", "exec"), names)
    assert capsys.readouterr().out.count("\n") >= 3
    assert names["last"].shape == (400, 10)
    assert [len(jobs.evidence.trials) for jobs in names["jobs"]] == [1, 1]
    assert names["jobs"][1].teacher is names["jobs"][0].student
    assert digest(names["student"]) == digest(names["jobs"][1].student)


def test_the_methods_that_it_names_are_there() -> None:
    assert len(set(named())) > 8
    assert set(named()) - {"NAME"} <= set(us.methods.__all__)


def test_the_families_are_those_of_the_methods() -> None:
    there = sorted({entry.family for entry in entries("method").values()})
    assert sorted(families()) == there
    # The control: a family that the page leaves out.
    assert sorted(families(PAGE.replace("| robust | what the teacher says, under attack |\n", ""))) != there
