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


def test_the_readmes_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    first, *others = blocks(README, "python")
    exec(first.replace("epochs=20", "epochs=4"), names)
    assert "'accuracy': 0." in capsys.readouterr().out
    for block in others:
        exec(block.replace("epochs=20", "epochs=1"), names)
    assert names["loss"].requires_grad


def test_the_readmes_table_is_what_the_demo_printed() -> None:
    printed = (ROOT / "docs/results/demo.txt").read_text()
    table = printed[printed.index("5 seeds") :].rstrip()
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
