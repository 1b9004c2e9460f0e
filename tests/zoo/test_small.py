"""The three models of our own: what they compute, how large they are, what they refuse."""

import importlib
import itertools
from typing import Any

import pytest
import torch
from torch import nn

import understudy as us
from understudy.errors import InputError
from understudy.zoo import CNN, MLP, ResNet
from understudy.zoo.limits import check_parameters


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def resnet_by_hand(channels: int, blocks: tuple[int, ...], inputs: int, classes: int) -> int:
    """Convolutions without bias, two numbers of each channel for BatchNorm, and a linear layer."""
    total, before = 9 * inputs * channels + 2 * channels, channels
    for stage, count in enumerate(blocks):
        width = channels * 2**stage
        for _ in range(count):
            total += 9 * before * width + 2 * width + 9 * width * width + 2 * width
            before = width
    return total + before * classes + classes


@pytest.mark.parametrize(
    ("channels", "blocks", "inputs", "classes"),
    [(16, (3, 3, 3), 3, 10), (16, (1, 1, 1), 3, 10), (4, (2,), 1, 3), (5, (1, 2, 1, 1), 2, 7)],
)
def test_a_resnet_has_as_many_parameters_as_by_hand(channels: int, blocks: Any, inputs: int, classes: int) -> None:
    assert parameters(ResNet(channels, blocks, inputs, classes)) == resnet_by_hand(channels, blocks, inputs, classes)


def test_resnet_20_has_the_papers_number_of_parameters() -> None:
    twenty = ResNet(blocks=(3, 3, 3))
    assert parameters(twenty) == 269_722  # 0.27 M in table 6 of the paper
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in twenty.modules()) == 20
    assert parameters(ResNet(blocks=(9, 9, 9))) == pytest.approx(0.85e6, rel=0.01)
    assert parameters(ResNet()) == 75_290


def test_stages_halve_the_area_from_the_second_on_and_double_the_channels() -> None:
    model, seen = ResNet(4, (1, 2, 1), inputs=1), {}
    for name in ("stem", "layer1", "layer2", "layer3"):
        getattr(model, name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: tuple(o.shape[1:])}))
    assert model(torch.zeros(2, 1, 9, 6)).shape == (2, 10)
    assert seen == {"stem": (4, 9, 6), "layer1": (4, 9, 6), "layer2": (8, 5, 3), "layer3": (16, 3, 2)}


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 32), (33, 47)])
def test_a_resnet_takes_images_of_any_size(size: tuple[int, int]) -> None:
    assert ResNet(2)(torch.randn(2, 3, *size)).isfinite().all()


def test_a_block_whose_convolutions_say_nothing_is_its_shortcut() -> None:
    layer = ResNet(2, (1, 1), inputs=2).layer2.eval()
    assert isinstance(layer, nn.Sequential)
    nn.init.zeros_(layer[0].norm2.weight)
    x = torch.rand(1, 2, 5, 4)
    out = layer(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert out[:, [0, 3]].eq(0).all()


def test_an_mlp_is_linear_layers_with_relu_between() -> None:
    model = MLP(3, 2, hidden=(5, 4)).eval()
    x = torch.randn(6, 3)
    by_hand = x
    for layer in (model.layer1, model.layer2):
        assert isinstance(layer, nn.Sequential)
        by_hand = (by_hand @ layer[0].weight.T + layer[0].bias).clamp(min=0)
    assert torch.allclose(model(x), by_hand @ model.head.weight.T + model.head.bias, atol=1e-6)
    widths = (3, 5, 4, 2)
    assert parameters(model) == sum((a + 1) * b for a, b in itertools.pairwise(widths))


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = MLP(3, 2, hidden=())
    assert parameters(model) == 8
    assert torch.equal(model(torch.ones(1, 3)), model.head(torch.ones(1, 3)))


def test_dropout_is_for_training_only() -> None:
    model, x = MLP(4, 2, hidden=(50,), dropout=0.5), torch.randn(3, 4)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    still = MLP(4, 2, hidden=(50,))
    assert torch.equal(still(x), still(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(0, 2), "MLP: inputs=0 is not allowed; give a whole number, 1 or above"),
        (lambda: MLP(3, 2, hidden=(4, 0)), r"MLP: hidden=\(4, 0\) is not allowed; give a list of whole numbers"),
        (lambda: MLP(3, 2, hidden="64"), "hidden='64' is not allowed"),  # type: ignore[arg-type]
        (lambda: MLP(3, 2, hidden=64), "hidden=64 is not allowed"),  # type: ignore[arg-type]
        (lambda: MLP(3, 2, dropout=1.0), r"dropout=1\.0 is not allowed; give a share from 0 to below 1"),
        (lambda: MLP(True, 2.5), r"(?s)inputs=True is not.*classes=2\.5 is not"),  # type: ignore[arg-type]
        (lambda: MLP(10**5, 2, hidden=(10**5,)), "MLP: would have 10,000,300,002 parameters; allowed are 1,000,000,000"),
        (lambda: ResNet(0, (1, 0)), r"(?s)channels=0 is not allowed.*blocks=\(1, 0\) is not allowed"),
        (lambda: ResNet(blocks=()), "blocks='none' is not allowed; give a list"),
        (lambda: ResNet(blocks=(1,) * 40), "ResNet: would have"),
        (lambda: ResNet(10**6), "ResNet: would have"),
        (lambda: CNN(10**6), "CNN: would have"),
        (lambda: CNN(0), "CNN: channels=0 is not allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_before_it_takes_memory(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "make"),
    [("mlp", lambda: MLP(3, 2, (5,))), ("cnn", lambda: CNN(8)), ("resnet", lambda: ResNet(8, (2, 1)))],
)
def test_the_size_is_estimated_before_the_model_is_made(name: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    module = importlib.import_module(f"understudy.zoo.{name}")
    monkeypatch.setattr(module, "check_parameters", lambda where, count: told.append(count))
    exact = parameters(make())
    assert 0.8 * exact < told[0] < 1.3 * exact


def test_control_the_limit_itself_is_allowed() -> None:
    check_parameters("x", 10**9)
    with pytest.raises(InputError):
        check_parameters("x", 10**9 + 1)


@pytest.mark.parametrize("kind", ["MLP", "ResNet"])
def test_a_model_learns(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (64,), generator=generator)
    images = torch.randn(64, 1, 6, 6, generator=generator) + labels[:, None, None, None]
    torch.manual_seed(0)
    student, inputs = (MLP(36, 2), images.flatten(1)) if kind == "MLP" else (ResNet(4, (1, 1), 1, 2), images)
    method = us.Distillation(us.Term(us.losses.cross_entropy, "student", "batch.label"), student=student)
    us.train(method, (inputs, labels), us.Settings(steps=60, batch_size=32, optimizer=us.Optim("Adam", lr=0.01)))
    assert (student.eval()(inputs).argmax(1) == labels).float().mean() > 0.95
