import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from understudy.measure import accuracy, agreement, parameters, size_mb
from understudy.zoo import CNN


class Fixed(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return self.logits[x.long().flatten()]


def test_accuracy_counts_the_labelled_only_and_puts_the_mode_back() -> None:
    model = Fixed(torch.eye(3)).train()
    inputs = torch.tensor([0, 1, 2, 0])
    assert accuracy(model, inputs, torch.tensor([0, 1, 1, -100]), batch_size=3) == 2 / 3
    assert model.modes == [False, False]
    assert model.training


def test_agreement_is_per_sample() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    assert agreement(student, teacher).tolist() == [1.0, 0.0]
    assert agreement(torch.stack([student, student], 1), torch.stack([student, teacher], 1)).tolist() == [1.0, 0.5]


def test_parameters_and_size_count_each_tensor_once() -> None:
    model = nn.Linear(3, 3, bias=False)
    twice = nn.Sequential(model, model)
    assert parameters(twice) == 9
    assert size_mb(twice) == 36 / 1e6


def test_a_tensor_made_of_others_takes_their_bytes() -> None:
    model = nn.Linear(3, 3, bias=False)
    plain = size_mb(model)
    model.weight = nn.Parameter(
        TwoTensor(torch.zeros(3, 3), torch.zeros(3, 3))
    )  # of a shape and dtype like one of them
    assert (plain, size_mb(model), parameters(model)) == (36 / 1e6, 72 / 1e6, 9)


def test_the_reference_network_has_the_sizes_its_docstring_says() -> None:
    assert (parameters(CNN(32)), parameters(CNN(8))) == (56_554, 3_778)
    assert "56,554" in (CNN.__doc__ or "")
    assert "3,778" in (CNN.__doc__ or "")
