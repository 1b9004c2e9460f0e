"""``accelerated.py FOLDER [unwrapped]``: the example's loop inside Accelerate; every rank writes all weights.

With ``unwrapped`` the loop calls the bare method instead of the prepared one: the mistake to be told apart.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import with_accelerate

import understudy as us
from understudy.losses import cross_entropy, kl, mse

torch.set_num_threads(1)
torch.manual_seed(0)
folder, *unwrapped = sys.argv[1:]


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).tanh())


class Bare(Accelerator):
    """Prepares everything but the model, as if each rank trained for itself."""

    def prepare_model(self, model: nn.Module, *args: object, **kwargs: object) -> nn.Module:
        return model


method = us.Distillation(
    us.Term(cross_entropy, "student", "batch.label", weight=0.1),
    us.Term(partial(kl, temperature=2), "student", "teacher", weight=0.9),
    us.Term(mse, "student.layer", "teacher.layer", project=us.projectors.Linear()),
    student=Network(5).double(),
    teacher=Network(7).double(),
)
accelerator = (Bare if unwrapped else Accelerator)(cpu=True)
data = TensorDataset(torch.randn(64, 4).double(), torch.randint(3, (64,)))
with_accelerate.fit(accelerator, method, DataLoader(data, batch_size=8 // accelerator.num_processes), epochs=3)
state = {k: v.detach().contiguous() for k, v in method.state_dict().items()}
save_file(state, Path(folder) / f"rank{accelerator.process_index}.safetensors")
accelerator.end_training()
