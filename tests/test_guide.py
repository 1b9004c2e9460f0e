"""The guide: its code runs from top to bottom, and prints what the page shows."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from understudy import evaluate

PAGE = (Path(__file__).parents[1] / "docs/guide.md").read_text()
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^\n]*) -->\n)?```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<shown>.*?)```\n)?", flags=re.DOTALL
)


class Block(NamedTuple):
    """A piece of code, what the page shows below it, and the note before it, which a reader does not see."""

    note: str
    code: str
    shown: str | None

    @property
    def short(self) -> str:
        """The code with fewer epochs and seeds, where its note says so."""
        code = self.code
        for before, after in re.findall(r"(\w+=\d+) is (\w+=\d+)", self.note):
            assert before in code
            code = code.replace(before, after)
        return code

    @property
    def varies(self) -> bool:
        """Whether its figures differ from machine to machine, because something was trained."""
        return "figures vary" in self.note


def read(page: str) -> list[Block]:
    found = [Block(m["note"] or "", m["code"], m["shown"]) for m in BLOCK.finditer(page)]
    assert len(found) == page.count("```python\n")
    return found


def forms(text: str) -> list[str]:
    """The sentences, of which a table is one, without figures and without the words that the figures decide."""
    text = re.sub(r"helped against|hurt against|made no clear difference to", "compares with", " ".join(text.split()))
    text = re.sub(r"(?<![\w.])[+-]?\d[\d,]*(\.\d+)?(e-\d+)?%?|(?<= )-(?= )|─+", "#", text)
    return text.split(". ")


def same(block: Block, printed: str) -> bool:
    """Whether it prints what is shown; where figures vary, it may say more than is shown."""
    shown = (block.shown or "").rstrip()
    printed = "\n".join(line.rstrip() for line in printed.splitlines()).rstrip()
    return set(forms(shown)) <= set(forms(printed)) if block.varies else shown == printed


def play(blocks: list[Block], capsys: pytest.CaptureFixture[str], *, short: bool) -> tuple[list[str], dict[str, Any]]:
    """What each block prints, and the names that they leave behind."""
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    printed = []
    for block in blocks:
        exec(compile(block.short if short else block.code, "docs/guide.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    return printed, names


@pytest.fixture
def soften(capsys: pytest.CaptureFixture[str]) -> Any:
    return play(read(PAGE)[:2], capsys, short=True)[1]["soften"]


# -- the code ----------------------------------------------------------------------------------------------------------


def test_the_code_runs_and_prints_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "_memory", lambda *args: 1.0)  # an export for each model, which takes seconds
    blocks = read(PAGE)
    printed, _ = play(blocks, capsys, short=True)
    differ = [f"shown:\n{b.shown}\nprinted:\n{p}" for b, p in zip(blocks, printed, strict=True) if not same(b, p)]
    assert differ == []
    (command,) = re.findall(r"```bash\npython (.*?)(?: #.*)?\n```", PAGE)
    told = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, check=True).stdout
    assert len(json.loads(told)) == 400
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.long
def test_at_full_length_the_figures_and_the_verdicts_are_about_those_that_the_page_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = read(PAGE)
    printed, names = play(blocks, capsys, short=False)
    assert all(same(b, p) for b, p in zip(blocks, printed, strict=True))
    shown = "".join(b.shown or "" for b in blocks)
    for row in names["result"].rows:
        (accuracy,) = re.findall(rf"^ {re.escape(row['model'])} +(\d\.\d+) .* (?:-|\d+%) ", shown, flags=re.MULTILINE)
        assert float(accuracy) == pytest.approx(row["accuracy"], abs=0.03)
    assert "helped" in names["result"].verdict[0]
    assert "Distillation helped" in shown


def test_control_a_figure_or_a_word_that_is_not_what_is_printed_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = read(PAGE)[:2]
    printed, _ = play(blocks, capsys, short=True)
    assert same(blocks[1], printed[1])
    assert not same(blocks[1], printed[1].replace("0.518", "0.519"))
    assert not same(Block("", "", None), "a word that the page does not show")
    table = next(b for b in read(PAGE) if b.varies and "gap" in (b.shown or ""))
    assert table.shown is not None
    assert same(table, table.shown.replace("0.0", "0.1").replace("helped against", "hurt against"))
    assert not same(table, table.shown.replace("+ fine-tuned", "fine-tuned"))
    assert not same(table, table.shown.replace(" 3,778", ""))
    assert not same(table, "")


# -- what it says of temperature ---------------------------------------------------------------------------------------


def scores(seed: int, classes: int = 5) -> Tensor:
    return torch.randn(classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def entropies(soften: Any, seed: int) -> Tensor:
    """At temperatures from a tenth to fifty."""
    temperatures = torch.logspace(-1, 1.7, 60).tolist()
    return torch.stack([torch.special.entr(soften(scores(seed), T)).sum() for T in temperatures])


def hardened(shares: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(shares.argmax(), len(shares)).double()


@pytest.mark.parametrize("seed", range(5))
def test_entropy_rises_with_the_temperature(soften: Any, seed: int) -> None:
    assert (entropies(soften, seed).diff() > 0).all()
    # The control: divided by what should multiply, it falls.
    assert not (entropies(lambda s, T: soften(s, 1 / T), seed).diff() > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_towards_a_temperature_of_0_soft_labels_become_the_hard_label(soften: Any, seed: int) -> None:
    label = hardened(scores(seed))
    gaps = [float((soften(scores(seed), T) - label).abs().max()) for T in (1.0, 0.3, 0.1, 0.03, 0.001)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-12 < 1e-3 < gaps[0]


def test_towards_an_endless_temperature_all_classes_become_equal(soften: Any) -> None:
    torch.testing.assert_close(soften(scores(0), 1e9), torch.full((5,), 0.2, dtype=torch.float64))
    assert f"{torch.log(torch.tensor(3.0)).item():.3f}" in PAGE


def test_no_temperature_changes_the_order_of_the_classes(soften: Any) -> None:
    for T in (0.5, 2, 20):
        assert torch.equal(soften(scores(1), T).argsort(), scores(1).argsort())


# -- the page ----------------------------------------------------------------------------------------------------------


def test_it_can_be_read_in_ten_minutes() -> None:
    prose = re.sub(r"```.*?```|<!--.*?-->", "", PAGE, flags=re.DOTALL)
    assert 1000 < len(prose.split()) < 2300
