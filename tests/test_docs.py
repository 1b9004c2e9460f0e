"""What README and docs say is run and checked."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy as us
from understudy.address import Address
from understudy.testing import Says

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_code_comes_by_line_15() -> None:
    assert README[: README.index("```python")].count("\n") < 15


def test_the_readmes_code_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(README, "python"):
        exec(re.sub(r"epochs=20", "epochs=4", block), names)
    assert names["loss"].requires_grad
    assert "student alone" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "student.onnx"]


def test_the_readmes_table_is_what_the_demo_printed() -> None:
    printed = (ROOT / "docs/results/demo.txt").read_text()
    table = printed[printed.index("On test") : printed.index("The page:")].rstrip()
    assert table in README


def test_every_address_in_the_docs_parses_and_is_read_back() -> None:
    page = (ROOT / "docs/addresses.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(rows) > 8
    assert [str(Address.parse(row)) for row in rows] == rows


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert len(links) > 5
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_shipped_fake_counts_and_cannot_be_spoilt() -> None:
    teacher = Says(torch.tensor([[0.0, 1.0]]))
    method = us.methods.kd(torch.nn.Linear(3, 2), teacher, alpha=1.0)
    method.loss(torch.zeros(1, 3)).backward()
    assert teacher.calls == 1
    teacher(1, b=2).zero_()
    assert teacher.inputs == ((1,), {"b": 2})
    assert teacher(1).tolist() == [[0.0, 1.0]]
    assert Says({"logits": 3})(0) == {"logits": 3}


def test_the_readmes_textbook_table_is_what_the_example_printed() -> None:
    assert (ROOT / "docs/results/textbook.txt").read_text().rstrip() in README
