"""The layers of a recipe's models, as addresses name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipe.kit import SMALL, document, without
from understudy.address import Address
from understudy.batch import Batch
from understudy.errors import InputError
from understudy.reading import Reader
from understudy.recipe.layers import layers_of
from understudy.registry import register
from understudy.zoo import CNN


def rows(folder: Path, *settings: str) -> dict[str, dict[str, Any]]:
    return {row["address"]: row for row in layers_of(document(folder, SMALL, *settings))}


def test_a_residual_nets_layers_have_address_class_shape_and_parameters(tmp_path: Path) -> None:
    found = rows(tmp_path, "teacher.model={name: ResNet, channels: 4, blocks: [1, 2]}")
    assert found["teacher.layer2.1.conv1"] == {
        "address": "teacher.layer2.1.conv1", "is": "Conv2d", "shape": "[4, 8, 4, 4]", "parameters": 8 * 8 * 9,
    }  # fmt: skip
    assert found["teacher"]["shape"] == found["student"]["shape"] == "[4, 10]"
    assert found["student.layer1.0"]["is"] == "Conv2d"
    assert found["student"]["parameters"] == sum(
        row["parameters"] for address, row in found.items() if address.count(".") == 1 and address.startswith("student")
    )


def test_each_address_can_be_read_and_has_that_shape(tmp_path: Path) -> None:
    reader = Reader({"student": CNN(2)}, ())
    batch = Batch.of((torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)))
    read = [
        "student",
        "student.layer1",
        "student.layer1.0",
        "student.layer2.2",
        "student.head",
    ]  # what no ReLU overwrites
    shapes = {address: reader.read(batch, [Address.parse(address)])[Address.parse(address)].shape for address in read}
    found = rows(tmp_path)
    assert {address: found[address]["shape"] for address in read} == {a: str(list(s)) for a, s in shapes.items()}


def test_several_calls_several_outputs_and_none_are_told(tmp_path: Path) -> None:
    @register("model")
    class Odd(nn.Module):
        def __init__(self, classes: int = 10) -> None:
            super().__init__()
            self.twice, self.never, self.pair, self.named = nn.ReLU(), nn.ReLU(), Pair(), Named()
            self.head = nn.Linear(64, classes)

        def forward(self, x: Tensor) -> Tensor:
            x = self.twice(self.twice(x))
            self.named(x)
            return self.head(self.pair(x)[0].flatten(1))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x, 3

    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x}

    found = rows(tmp_path, "student=Odd")
    assert found["student.twice"]["shape"] == "[4, 1, 8, 8], 2 calls: #0 to #1"
    assert found["student.never"]["shape"] == "did not run"
    assert found["student.pair"]["shape"] == "/0 [4, 1, 8, 8], /1 int"
    assert found["student.named"]["shape"] == "/a [4, 1, 8, 8]"


def test_the_rest_of_the_recipe_may_be_wrong_still(tmp_path: Path) -> None:
    text = without(SMALL, "method", "epochs") + "epochs: many\nmethod: foo\nterms: 3\n"
    assert layers_of(document(tmp_path, text)) == layers_of(document(tmp_path, SMALL))


def test_models_that_cannot_be_made_are_told_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\.yaml:3: CNN: channels=0 is not allowed"):
        layers_of(document(tmp_path, SMALL.replace("channels: 2", "channels: 0")))


def test_without_a_student_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a recipe needs 'student'"):
        layers_of(document(tmp_path, without(SMALL, "student")))


def test_no_hook_stays_on_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    monkeypatch.setattr(CNN, "__init__", _remembering(CNN.__init__, made))
    layers_of(document(tmp_path, SMALL))
    assert made
    assert all(not module._forward_hooks for model in made for module in model.modules())


def _remembering(init: Any, made: list[nn.Module]) -> Any:
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    return wrapped
