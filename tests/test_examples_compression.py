"""The example of compression: a small run of it, and what the docs say of its stored table."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from understudy import compress

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs/results/compression.txt"


@pytest.fixture
def example() -> ModuleType:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("example_compression", ROOT / "examples/compression.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_small_run_prints_a_row_for_each_way(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    ways = {"2:4": example.WAYS["2:4"], "channels 50 %": example.WAYS["channels 50 %"]}
    found = example.main(seeds=range(2), steps=20, ways=ways)
    text = capsys.readouterr().out
    assert list(found) == [*ways, "a small model from nothing"]
    assert all(f"\n {name} " in text for name in found)
    assert {parameters for parameters, _, _ in found["channels 50 %"]} == {14_458}
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_the_ways_of_the_example_are_sound(example: ModuleType) -> None:
    assert [compress.check_steps(row) for row in example.WAYS.values()] == [[]] * len(example.WAYS)


def test_the_docs_show_the_stored_table_of_these_ways(example: ModuleType) -> None:
    stored = STORED.read_text().strip()
    assert stored in (ROOT / "docs/compression.md").read_text()
    names = re.findall(r"^ (.+?)  +[\d,]+  ", stored, flags=re.MULTILINE)
    assert names == [*example.WAYS, "a small model from nothing"]
