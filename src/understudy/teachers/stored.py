"""A teacher's outputs that were computed before."""

from __future__ import annotations

from torch import Tensor

from understudy.batch import Batch
from understudy.errors import InputError

__all__ = ["Stored"]


class Stored:
    """A teacher that is a table: the output for each sample, by the batch's ``index``.

    Args:
        outputs: ``[samples, ...]``, in the order of the samples' ids.
    """

    reads_batch = True
    """Tells the reader to give it the batch itself, and not what models are called with."""

    def __init__(self, outputs: Tensor) -> None:
        self.outputs = outputs

    def state_dict(self) -> dict[str, Tensor]:
        """What identifies it: a run that is resumed must have the same table."""
        return {"outputs": self.outputs}

    def __call__(self, batch: Batch) -> Tensor:
        """The rows of the batch's samples."""
        index = batch["index"]
        if len(index) and int(index.max()) >= len(self.outputs):
            raise InputError(
                f"stored outputs: sample {int(index.max())} is not among the {len(self.outputs)} that were stored."
            )
        return self.outputs[index.to(self.outputs.device)].to(index.device)
