"""Every named method by itself, with a step's batch in parts: micro-batches, and two ranks.

All methods are trained by the same few processes: ``parallel_scripts/methods.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from test_parallel import forked, well
from understudy import methods

from .method_case import merged

PER_SAMPLE = {name for name, case in merged().items() if case.per_sample}
MEANS, OWN_BANK = "kd by means of means", "ps_kd with a bank on each rank"
"""Mistakes that must show."""


class Ended(dict[str, Tensor]):
    """All that the methods were at the end, on one rank."""

    @property
    def runs(self) -> set[str]:
        return {name.partition("/")[0] for name in self}

    def further_than(self, bound: float, other: Ended) -> set[str]:
        """Runs with a tensor that differs by more."""
        assert {n: v.shape for n, v in self.items()} == {n: v.shape for n, v in other.items()}
        distance = {n: (v.double() - other[n].double()).abs() for n, v in self.items() if v.numel()}
        return {n.partition("/")[0] for n, d in distance.items() if not d.max() <= bound}


def ended(folder: Path, accumulate: int, ranks: int) -> list[Ended]:
    folder.mkdir()
    well(forked("methods.py", folder, accumulate, ranks=ranks, logs=folder / "logs"))
    return [Ended(load_file(folder / f"weights-{rank}")) for rank in range(ranks)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One process, and no micro-batches."""
    return ended(tmp_path_factory.mktemp("ranks") / "whole", 1, 1)[0]


def test_micro_batches_equal_the_whole_batch_where_a_sample_has_a_loss_of_its_own(whole: Ended, tmp_path: Path) -> None:
    (parts,) = ended(tmp_path / "parts", 2, 1)
    differ = whole.further_than(1e-10, parts)
    assert differ & PER_SAMPLE == set()
    assert MEANS in differ
    assert set(methods.__all__) - PER_SAMPLE <= differ, "these are said to look beyond a sample"


def test_two_ranks_equal_one_process_where_a_sample_has_a_loss_of_its_own_and_agree_for_all_methods(
    whole: Ended, tmp_path: Path
) -> None:
    one, two = ended(tmp_path / "ranks", 1, 2)
    assert set(methods.__all__) <= one.runs
    assert one.further_than(0, two) == {OWN_BANK}
    differ = whole.further_than(1e-10, one)
    assert differ & PER_SAMPLE == set()
    assert {MEANS, OWN_BANK} <= differ
    assert len(PER_SAMPLE) > 30
