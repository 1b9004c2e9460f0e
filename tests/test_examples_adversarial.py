"""The adversarial example: a small run of it, and what its stored table says."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs/results/adversarial.txt"
ROW = re.compile(r"^ (CNN\(\d\) .+?|another teacher)  +(\d\.\d+) ± (\d\.\d+) +(\d\.\d+) ± ", flags=re.MULTILINE)
VERDICT = re.compile(
    r"^(.+): (harder|easier|not clearly harder or easier) to tell .* \(([+-][\d.]+) ± ([\d.]+)", flags=re.MULTILINE
)


@pytest.fixture
def example() -> ModuleType:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("example_adversarial", ROOT / "examples/adversarial.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_seed_runs_and_every_way_is_judged_alike(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = example.main(seeds=[0], steps=10, sizes=[2])
    text = capsys.readouterr().out
    names = ["CNN(2) alone", "CNN(2) kd", *[f"CNN(2) {name}" for name in example.ADVERSARIAL], "another teacher"]
    assert list(found) == names
    assert all(0 <= values[0] <= 1 for figures in found.values() for values in figures.values())
    assert text.count("cannot be judged against kd by one seed") == len(example.ADVERSARIAL)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_who_says_the_same_cannot_be_told_apart_and_who_does_not_can(example: ModuleType) -> None:
    torch.manual_seed(0)
    model, other = example.CNN(4).eval(), example.CNN(4).eval()
    assert example.judged(model, model, 0)["told_apart"] <= 0.5
    assert example.judged(model, other, 0)["told_apart"] > 0.9


def stored(text: str) -> dict[str, float]:
    """The figure of each row; a name that is too long for its column goes on in the line below."""
    joined = re.sub(r"^( .+?)(  +\d.*)\n ([\d.]+)$", r"\1 \3\2", text, flags=re.MULTILINE)
    return {name: float(mean) for name, mean, *_ in ROW.findall(joined)}


def unfounded(text: str) -> list[str]:
    """Who is said to be harder or easier to tell, and is not by the figures."""
    told, wrong = stored(text), []
    for name, word, change, half in VERDICT.findall(text):
        against = told[name] - told[f"{name.split()[0]} kd"]
        clear = abs(float(change)) > float(half)
        said = ("harder" if float(change) < 0 else "easier") if clear else "not clearly harder or easier"
        if word != said or abs(float(change) - against) > 0.0011:
            wrong.append(name)
    return wrong


def test_the_stored_table_is_of_this_example(example: ModuleType) -> None:
    text, ways = STORED.read_text(), ["alone", "kd", *example.ADVERSARIAL]
    assert list(stored(text)) == [*[f"CNN({size}) {way}" for size in (4, 8) for way in ways], "another teacher"]
    assert "640 steps, 5 seeds" in text


def test_what_it_says_follows_from_its_figures() -> None:
    text = STORED.read_text()
    assert len(VERDICT.findall(text)) == 4
    assert unfounded(text) == []


@pytest.mark.parametrize(("figure", "other"), [("0.814", "0.914"), (": harder", ": easier"), ("(-0.186", "(+0.186")])
def test_the_check_of_the_words_sees_what_the_figures_do_not_say(figure: str, other: str) -> None:
    text = STORED.read_text()
    assert figure in text
    assert unfounded(text.replace(figure, other))
