"""The textbook example: a small run of it, and what its stored table says."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy import Settings

ROOT = Path(__file__).parents[1]
STORED = (ROOT / "docs/results/textbook.txt").read_text()
VERDICT = re.compile(r"^(CNN\(\d+\)), ([a-z+→ ]+): distillation (.*)\.$", flags=re.MULTILINE)
ROW = re.compile(
    r"^ (CNN\(\d+\)) [\d,]+ +(hard|[a-z]+ [+→] [a-z]+)  .*?([+-][\d.]+) ± ([\d.]+) +([\d.]+) ", flags=re.MULTILINE
)


@pytest.fixture
def textbook() -> ModuleType:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("example_textbook", ROOT / "examples/textbook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_seed_of_one_size_runs_and_is_not_judged(textbook: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    rows = textbook.main(sizes=[2], seeds=[0], steps=20)
    text = capsys.readouterr().out
    assert [row["labels"] for row in rows] == ["hard", "hard", "hard + soft", "soft → hard"]
    assert [row["student"] for row in rows] == ["teacher 56,554", *["CNN(2) 304"] * 3]
    assert VERDICT.findall(text) == [("CNN(2)", way, "cannot be judged by one seed") for way in textbook.WAYS[1:]]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_every_way_has_the_same_steps_on_the_same_images_from_the_same_start(
    textbook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[Settings, dict[str, Tensor], Tensor]] = []

    def train(method: Any, data: Any, settings: Settings, **options: Any) -> None:
        runs.append((settings, data, method.student.head.weight.detach().clone()))

    monkeypatch.setattr(textbook.us, "train", train)
    textbook.three_ways(2, torch.zeros(1000, 10), steps=640, seed=3)
    assert [settings.steps for settings, *_ in runs] == [640, 640, 576, 64]
    assert all(torch.equal(start, runs[0][2]) for *_, start in runs)
    assert {(settings.seed, settings.batch_size) for settings, *_ in runs} == {(3, 64)}
    assert all(data["input"] is runs[0][1]["input"] and bool((data["label"] >= 0).all()) for _, data, _ in runs)


def judged(text: str) -> dict[tuple[str, str], str]:
    """By student and way, what its figures say: an interval without 0 is a difference."""
    said = {}
    for student, way, change, half, p in ROW.findall(text):
        if abs(abs(float(change)) - float(half)) > 0.001:  # nearer than that, rounding decides
            assert (abs(float(change)) > float(half)) == (float(p) < 0.05)
        word = "helped" if float(change) > 0 else "hurt"
        said[student, way] = word if float(p) < 0.05 else "made no clear difference"
    return said


def test_the_stored_words_are_those_that_the_stored_figures_bear_out() -> None:
    words = {(student, way): said for student, way, said in VERDICT.findall(STORED)}
    assert len(words) == 8
    assert words == judged(STORED)
    # The control: with other figures, or other words, they differ.
    assert words != judged(STORED.replace("+0.021 ± 0.011   0.006", "-0.021 ± 0.011   0.006"))
    assert "helped" in words.values()
    assert "made no clear difference" in words.values()  # as the guide says


def test_the_stored_table_is_of_this_example(textbook: ModuleType) -> None:
    assert STORED.startswith("1,000 labelled digits, 640 steps, 5 seeds")
    assert {student for student, _ in judged(STORED)} == {f"CNN({size})" for size in (2, 3, 4, 8)}
    assert {way for _, way in judged(STORED)} == set(textbook.WAYS[1:])
    assert not [line for line in STORED.splitlines() if line != line.rstrip() or len(line) > 80]
