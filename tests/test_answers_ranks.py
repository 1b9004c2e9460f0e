"""Several processes ask a teacher together: each row once, and the same store as one process makes."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from test_parallel import forked, well
from understudy.store import Store

ROWS = {(draw, sample) for draw in range(2) for sample in range(3000)}
SHOWN = 2  # rows that are asked for the shapes


def asked(folder: Path, ranks: int) -> list[list[tuple[int, int]]]:
    folder.mkdir()
    well(forked("storing.py", folder, ranks=ranks, logs=folder / "logs"))
    told = [json.loads((folder / f"asked-{rank}.json").read_text()) for rank in range(ranks)]
    return [[(draw, sample) for draw, sample in rows] for rows in told]


def test_two_ranks_fill_the_store_that_one_fills_and_share_the_work(tmp_path: Path) -> None:
    (alone,) = asked(tmp_path / "one", 1)
    first, second = asked(tmp_path / "two", 2)
    own = [{row for row in rows if row[1] >= SHOWN} for rows in (first, second)]
    assert set(alone) == ROWS
    assert set(first) | set(second) == ROWS
    assert not own[0] & own[1]
    assert min(len(first), len(second)) > 0.3 * len(ROWS)
    stores = [Store.open(tmp_path / name / "said") for name in ("one", "two")]
    assert stores[0].manifest == stores[1].manifest
    for draw in range(2):
        ids = torch.randperm(3000, generator=torch.Generator().manual_seed(draw))
        one, two = (store.reader().rows(ids, draw)[""] for store in stores)
        assert torch.equal(one, two)
    assert not torch.equal(stores[0].reader().rows(ids, 0)[""], one), "a view is not another"
