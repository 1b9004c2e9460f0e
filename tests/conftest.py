"""One thread: the tensors are small, and several test processes share the cores."""

import torch

torch.set_num_threads(1)
