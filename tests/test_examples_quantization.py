"""The example of quantization: a small run of it, and what the docs say of its stored table."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs/results/quantization.txt"


def test_a_small_run_prints_a_row_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("example_quantization", ROOT / "examples/quantization.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.main(seeds=range(2), steps=6, labelled=200)
    text = capsys.readouterr().out
    assert [bits for bits, _ in found] == [32, 8, 8, 8, 4, 4, 4]
    assert all(len(values) == 2 for values in found.values())
    # What is scored is what is held: 3,738 numbers in a byte or half of one, their scales and the biases.
    assert re.findall(r"  ([\d,]+)  +0\.", text) == ["15,456", "4,168", "4,168", "4,168", "2,324", "2,324", "2,324"]
    assert "…" not in text


def test_the_docs_show_the_stored_tables() -> None:
    stored = STORED.read_text().strip()
    assert stored in (ROOT / "docs/compression.md").read_text()
    assert re.findall(r"([\d,]+) labels$", stored, flags=re.MULTILINE) == ["1,000", "200"]
