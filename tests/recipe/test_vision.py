"""The ready recipe of a ResNet-152 and a ResNet-50, with smaller nets and pictures of noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from understudy import Settings, methods, train
from understudy.cli import main
from understudy.measure import parameters
from understudy.recipe.ready import ready
from understudy.recipe.text import read
from understudy.state import digest
from understudy.zoo import from_config

NAME = "vision/resnet152-resnet50-fitnets"
SMALL = [
    "data.size=64", "teacher.model.config.depths=[1, 2, 2, 1]", "teacher.model.config.hidden_sizes=[32, 64, 64, 64]",
    "student.config.depths=[1, 1, 1, 1]", "student.config.hidden_sizes=[16, 32, 32, 32]", "data.valid=0.25", "teacher.epochs=8", "epochs=1", "batch_size=4",
    "threads=1",
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each of two classes, whose pictures differ in their brightness."""
    images = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(0)
    for name, light in (("day", 160), ("night", 0)):
        (tmp_path / "photos/train" / name).mkdir(parents=True)
        for i in range(24):
            pixels = torch.randint(light, light + 90, (64, 64, 3), generator=generator, dtype=torch.uint8)
            images.fromarray(pixels.numpy()).save(tmp_path / f"photos/train/{name}/{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def laid(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def test_recipes_in_a_sub_folder_are_named_with_it() -> None:
    assert list(ready())[-1] == NAME
    assert "digits" in ready()
    assert ready()[NAME].told.startswith("ResNet-152 teaches ResNet-50 by hints")


@pytest.mark.long
def test_the_models_have_the_parameters_of_the_paper() -> None:
    pytest.importorskip("transformers")
    raw = read(ready()[NAME].path).value

    def count(config: dict[str, object]) -> int:
        with torch.device("meta"):
            model: nn.Module = from_config("resnet", 1000, config, inputs=3)
        return parameters(model)

    assert count(raw["teacher"]["model"]["config"]) == 60_192_808
    assert count(raw["student"]["config"]) == 25_557_032
    assert count({**raw["student"]["config"], "depths": [3, 4, 6, 2]}) != 25_557_032


@pytest.mark.long
def test_two_steps_of_the_whole_models_train() -> None:
    pytest.importorskip("transformers")
    raw = read(ready()[NAME].path).value
    student = from_config("resnet", 2, raw["student"]["config"], inputs=3)
    teacher = from_config("resnet", 2, raw["teacher"]["model"]["config"], inputs=3)
    data = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    method = methods.fitnets(student, teacher, example=data, weight=raw["method"]["weight"])
    assert [str(a) for a in method.terms[1].addresses] == [
        f"{m}.resnet.encoder.stages.1" for m in ("student", "teacher")
    ]
    before = digest(student)
    assert train(method, data, Settings(steps=2, batch_size=2, device="cpu", save_every=None)).steps == 2
    assert digest(student) != before
    assert method.terms[1].project.fitted == (512, 512)


@pytest.mark.long
def test_check_names_the_layers_that_were_chosen_and_the_projector(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    assert main(["check", NAME, *laid(*SMALL)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for words in (
        "student.resnet.encoder.stages.1 [4, 32, 8, 8]",
        "teacher.resnet.encoder.stages.1 [4, 64, 8, 8]",
        "projected by Conv1x1(32, 64)",
        "times smaller, and for one sample",
    ):
        assert words in told


@pytest.mark.long
def test_it_trains(photos: Path) -> None:
    pytest.importorskip("transformers")
    assert main(["run", NAME, "--out", "run", *laid(*SMALL, "fine_tune=false", "export=null")]) == 0
    rows = {row["model"]: row for row in json.loads((photos / "run/results.json").read_text())["rows"]}
    assert rows["distilled"]["parameters"] < rows["teacher"]["parameters"]
    lines = (photos / "run/distilled/seed-0/metrics.jsonl").read_text().splitlines()
    hints = [json.loads(line)["terms"] for line in lines if "terms" in line]
    assert hints[0].keys() == {
        "cross_entropy(student, batch.label)",
        "mse(student.resnet.encoder.stages.1, teacher.resnet.encoder.stages.1)",
    }
