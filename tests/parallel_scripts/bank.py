"""``bank.py RANK FOLDER``: two ranks with unequal parts of three steps, of which one is empty on the second; each writes its banks."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed

from understudy.losses import CRD
from understudy.progress import START

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
PARTS = ((slice(0, 4), slice(4, 6)), (slice(0, 6), slice(6, 6)), (slice(0, 1), slice(1, 6)))


def steps(crd: CRD, part: int | None) -> dict[str, torch.Tensor]:
    """The state after three steps on one rank's part of each, or on the whole."""
    for step, parts in enumerate(PARTS):
        generator = torch.Generator().manual_seed(step)
        student, teacher = (torch.randn(6, d, generator=generator) for d in (4, 7))
        index = torch.randperm(20, generator=generator)[:6]
        rows = slice(None) if part is None else parts[part]
        if len(index[rows]):
            crd(student[rows], teacher[rows], index[rows])
        crd.after(START)
    return crd.state_dict()


def made() -> CRD:
    torch.manual_seed(0)
    crd = CRD(samples=20, negatives=8, features=8)
    with torch.no_grad():
        crd(torch.ones(2, 4), torch.ones(2, 7), torch.tensor([0, 1]))
    return crd


if rank == 0:
    save_file(steps(made(), None), folder / "whole")
    save_file(steps(made(), 0), folder / "alone")
distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
save_file(steps(made(), rank), folder / f"rank-{rank}")
distributed.destroy_process_group()
