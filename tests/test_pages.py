"""The page of a job, made at its end and made again from its folder."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import evaluate, pages
from understudy.errors import CorruptError, InputError
from understudy.examples import Examples
from understudy.outcome import Distilled
from understudy.pages import contents, page_of, write_page


def images(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bright stripe, upright or not."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.3 * torch.randn(samples, 1, 6, 6, generator=generator)
    labels = torch.arange(samples) % 2
    pictures[labels == 0, :, :, 2] += 1
    pictures[labels == 1, :, 2, :] += 1
    return pictures, labels


def model(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Linear(width, 2))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distilled]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "to_onnx", lambda *args: None)
        patch.setattr(evaluate, "peak_memory", lambda *args: {"peak_memory_mb": 1.0})
        yield us.distill(
            lambda: model(2), model(16), images(60, 0), images(40, 1), test=images(40, 2), epochs=2, seeds=2,
            teacher_epochs=20, classes=["upright", "flat"], accept={"accuracy": ">= 0.1"}, progress=False, device="cpu",
            folder=tmp_path_factory.mktemp("job") / "run",
        )  # fmt: skip


def folder_of(result: Distilled) -> Path:
    assert result.path is not None
    return result.path


def test_the_page_made_again_from_the_folder_is_the_same_to_the_last_byte(done: Distilled, tmp_path: Path) -> None:
    first = done.report(tmp_path / "first.html").read_bytes()
    again = write_page(tmp_path / "again.html", page_of(folder_of(done))).read_bytes()
    assert again == first
    assert b"data:image/png" in first  # the pictures have made the way through JSON, too


def test_another_page_would_be_another_file(done: Distilled, tmp_path: Path) -> None:
    shown = page_of(folder_of(done))
    shown["rows"][0]["accuracy"] = 0.123
    first = done.report(tmp_path / "first.html").read_bytes()
    assert write_page(tmp_path / "again.html", shown).read_bytes() != first


def test_the_file_holds_exactly_what_the_page_shows(done: Distilled) -> None:
    text = (folder_of(done) / "page.json").read_text(encoding="utf-8")
    assert json.loads(text) == done.page == contents(done)


def test_a_figure_that_is_not_defined_is_none_on_both_pages(done: Distilled, tmp_path: Path) -> None:
    rows = [{**row, "accuracy": math.nan, "loss_nats_ci95": math.inf} for row in done.rows]
    shown = contents(dataclasses.replace(done, rows=rows))
    assert [row["accuracy"] for row in shown["rows"]] == [None] * len(rows)
    assert [row["loss_nats"] for row in shown["rows"]] == [row["loss_nats"] for row in rows]  # without its interval
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    write_page(tmp_path / "page.html", shown)


class Ruled(nn.Module):
    """A model that rules out a class."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, -math.inf]).expand(len(x), 2)


def test_a_class_that_is_ruled_out_has_no_share_on_the_page(done: Distilled, tmp_path: Path) -> None:
    evidence = dataclasses.replace(done.evidence, teacher=Ruled())
    shown = contents(dataclasses.replace(done, evidence=evidence))
    logits = shown["soft_labels"]["samples"][0]["logits"]
    assert torch.tensor(logits, dtype=torch.float64).softmax(0).tolist() == [1.0, 0.0]
    write_page(tmp_path / "page.html", shown)


def test_a_picture_has_whole_numbers_from_dark_to_bright(done: Distilled) -> None:
    picture = torch.tensor(done.page["soft_labels"]["samples"][0]["image"])
    pixels = done.evidence.data.inputs()
    assert pixels is not None
    expected = (pixels[0, 0] - pixels[0, 0].min()) / (pixels[0, 0].max() - pixels[0, 0].min())
    assert (int(picture.min()), int(picture.max())) == (0, 255)
    assert not picture.is_floating_point()
    assert float((picture / 255 - expected).abs().max()) <= 0.5 / 255 + 1e-6


def test_only_the_samples_that_are_shown_are_held_as_pictures(done: Distilled, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = Examples.inputs

    def counting(self: Any) -> Any:
        asked.append(self.samples)
        return real(self)

    monkeypatch.setattr(Examples, "inputs", counting)
    contents(done)
    assert max(asked) <= pages.DIFFERENT < done.evidence.data.samples


def test_a_folder_without_a_finished_job_has_no_page(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds no finished job: there is no page\.json"):
            page_of(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"title": "x"}', '{"rows": 3}'])
def test_a_damaged_page_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(content)
    with pytest.raises(CorruptError, match=r"page\.json: is damaged"):
        page_of(tmp_path)
