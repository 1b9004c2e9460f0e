"""What a job chooses by itself: on what grounds, and once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, choices, distill, probe
from understudy.batch import Batch, call
from understudy.choices import FILE, Choices
from understudy.errors import InputError
from understudy.inference import Inference
from understudy.probe import Choice, choose
from understudy.state import digest
from understudy.writing import read_json
from understudy.zoo import CNN

FEW: dict[str, Any] = {
    "epochs": 2, "seeds": 1, "fine_tune": False, "progress": False, "batch_size": 16, "device": "cpu",
    "optimizer": Optim("SGD", lr=0.05),
}  # fmt: skip


def data(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (samples,), generator=generator)
    return torch.randn(samples, 1, 8, 8, generator=generator) + label[:, None, None, None], label


TRAIN, VALID = data(48, 0), data(32, 1)


def taught() -> nn.Module:
    torch.manual_seed(0)
    model = CNN(4, classes=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()
    return model.eval()


class Slow(nn.Module):
    """A model that takes its time, unless it computes in bfloat16; and may then be wrong."""

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        if logits.dtype == torch.bfloat16:
            return logits + self.wrong * torch.randn_like(logits)
        time.sleep(0.02)
        return logits


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [Batch.of(torch.randn(32, 4, generator=generator)) for _ in range(2)]


def chosen(teacher: Any, times: int = 700, **options: Any) -> Choice:
    student = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    return choose(teacher, batches(), times, give=call, student=student, **options)[0]


# -- the teacher -------------------------------------------------------------------------------------------------------


def test_the_fastest_way_that_gives_the_same_is_chosen() -> None:
    found = chosen(Slow())
    assert found.way == "bf16"
    assert "of the time of fp32" in found.told
    assert found == Choice.of(found.facts())


def test_a_faster_way_that_says_something_else_is_not_chosen() -> None:
    found = chosen(Slow(wrong=1.0))
    assert found.way in ("fp32", "channels_last")
    (bf16,) = (tried for tried in found.tried if tried.way == "bf16")
    assert "% off; allowed: 2 %" in (bf16.refused or "")


def test_a_tolerance_that_allows_all_would_have_let_it_pass() -> None:
    assert chosen(Slow(wrong=1.0), tolerance=1e9).way == "bf16"


def test_a_short_run_is_not_worth_a_trial() -> None:
    found = chosen(Slow(), times=3)
    assert found.way == "fp32"
    assert [tried.way for tried in found.tried] == ["fp32"]


def test_compiling_is_not_tried_where_it_cannot_pay() -> None:
    told = {tried.way: tried.refused for tried in chosen(Slow()).tried}
    assert "compiling takes longer" in (told["compiled-bf16"] or "")


def test_a_way_that_fails_is_none() -> None:
    class Refuses(Slow):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no such kernel\nat line 3")
            return super().forward(x)

    (bf16,) = (tried for tried in chosen(Refuses()).tried if tried.way == "bf16")
    assert bf16.refused == "RuntimeError: no such kernel"


def test_a_tap_that_is_off_counts() -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + (torch.randn_like(x) if torch.is_autocast_enabled("cpu") else 0)

    class Two(Slow):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = Hidden()

        def forward(self, x: Tensor) -> Tensor:
            self.hidden(x)
            return super().forward(x)

    assert chosen(Two()).way == "bf16"
    assert chosen(Two(), taps=["hidden"]).way != "bf16"


def test_what_is_no_module_runs_as_it_does() -> None:
    def teacher(x: Tensor) -> Tensor:
        return x

    assert choose(teacher, batches(), 10**6, give=call)[1] is teacher


# -- in a job ----------------------------------------------------------------------------------------------------------


def worth(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
    """As if a short run were worth a trial."""
    monkeypatch.setattr(probe, "WORTH_SECONDS", seconds)
    monkeypatch.setattr(choices, "WORTH_SECONDS", seconds)


def fixed(monkeypatch: pytest.MonkeyPatch, way: str) -> list[str]:
    """A trial that always ends so."""
    calls: list[str] = []

    def choose(teacher: nn.Module, *args: Any, **options: Any) -> tuple[Choice, Any]:
        calls.append(way)
        return Choice(way, "it was so decided"), Inference(teacher, way)

    monkeypatch.setattr(choices, "choose", choose)
    return calls


def test_a_resumed_job_keeps_what_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job: dict[str, Any] = {
        **FEW,
        "method": "attention_transfer",
        "layers": [("layer2", "layer2")],
        "folder": tmp_path / "run",
    }
    fixed(monkeypatch, "bf16")
    first = distill(CNN(2, classes=3), taught(), TRAIN, VALID, **job)
    calls = fixed(monkeypatch, "fp32")
    again = distill(CNN(2, classes=3), taught(), TRAIN, VALID, resume=True, **job)
    assert calls == []
    assert read_json(tmp_path / "run" / FILE)["teacher"]["way"] == "bf16"
    assert digest(again.student) == digest(first.student)


def ends(**options: Any) -> str:
    torch.manual_seed(3)
    job = FEW | {"method": "attention_transfer", "layers": [("layer2", "layer2")]} | options
    return digest(distill(CNN(2, classes=3), taught(), TRAIN, VALID, **job).student)


def test_what_is_set_by_hand_is_done() -> None:
    plain = ends(teacher_run="fp32", precision="fp32")
    assert ends() == plain  # a short job chooses nothing
    assert ends(teacher_run="bf16") != plain
    assert ends(precision="bf16") != plain


@pytest.mark.parametrize(("bf16", "taken"), [(0.1, "bf16"), (0.9, "fp32")])
def test_bf16_is_taken_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: float, taken: str
) -> None:
    worth(monkeypatch)
    fixed(monkeypatch, "fp32")
    seconds: Callable[..., float] = lambda self, precision: {"fp32": 1.0, "bf16": bf16}[precision.name]  # noqa: E731
    monkeypatch.setattr(Choices, "_seconds", seconds)
    distill(CNN(2, classes=3), taught(), TRAIN, VALID, folder=tmp_path / "run", **FEW)
    told = read_json(tmp_path / "run" / FILE)["precision"]
    assert told["name"] == taken
    assert f"{bf16:.2f}" in told["told"]


def test_the_time_of_a_step_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worth(monkeypatch)
    distill(CNN(2, classes=3), taught(), TRAIN, VALID, folder=tmp_path / "run", **FEW)
    told = read_json(tmp_path / "run" / FILE)
    assert "of the time" in told["precision"]["told"]


def test_ways_and_precisions_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)teacher_run='bf17'.*precision='int8'"):
        distill(CNN(2, classes=3), taught(), TRAIN, VALID, teacher_run="bf17", precision="int8", **FEW)
