from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import understudy as us
from understudy.errors import InputError
from understudy.state import digest, snapshot, whole
from understudy.writing import load_tensors


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


def test_the_written_student_has_every_key_though_weights_are_tied(tmp_path: Path) -> None:
    student = Tied()
    us.train(us.methods.alone(student), (torch.randn(8, 4), torch.arange(8) % 4), us.Settings(steps=2), folder=tmp_path)
    written = load_tensors(tmp_path / "student.safetensors")
    assert set(written) == set(student.state_dict())
    Tied().load_state_dict(written)


def test_a_snapshot_does_not_follow_the_model() -> None:
    model = nn.Linear(2, 2)
    before, live = snapshot(model), model.state_dict()
    with torch.no_grad():
        model.weight.add_(1)
    assert not torch.equal(before["weight"], model.weight)
    assert torch.equal(live["weight"], model.weight)  # the control: what state_dict() alone gives


def test_the_digest_sees_one_bit_a_name_and_a_shape() -> None:
    model = nn.Linear(2, 2)
    first = digest(model)
    assert digest(model) == first
    with torch.no_grad():
        model.weight[0, 0] = torch.nextafter(model.weight[0, 0], torch.tensor(9.0))
    assert digest(model) != first
    flat, square = nn.ParameterDict({"w": torch.zeros(4)}), nn.ParameterDict({"w": torch.zeros(2, 2)})
    assert digest(flat) != digest(square)
    assert digest(flat) != digest(nn.ParameterDict({"v": torch.zeros(4)}))


def test_whole_leaves_out_what_is_no_tensor() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"n": 1}

        def set_extra_state(self, state: dict[str, int]) -> None:
            pass

    assert set(whole(Extra(2, 2))) == {"weight", "bias"}


def test_fitnets_logs_the_agreement_though_no_term_reads_the_teachers_output(tmp_path: Path) -> None:
    student, teacher = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    method = us.methods.fitnets(
        student, teacher, student_layer="0", teacher_layer="0", project=us.projectors.Linear(), weight=1.0
    )
    inputs = torch.randn(16, 4)
    method.dry_run((inputs, torch.zeros(16, dtype=torch.long)))
    move = next(method.moves((inputs, torch.zeros(16, dtype=torch.long)), us.Progress()))
    expected = (student(inputs).argmax(-1) == teacher(inputs).argmax(-1)).float().mean()
    assert torch.equal(move.watched["agreement"], expected)


@pytest.mark.parametrize(
    "wrong", [(nn.Linear(2, 2), us.Settings(steps=1)), (us.methods.alone(nn.Linear(2, 2)), {"epochs": 1})]
)
def test_a_bare_model_and_a_dictionary_of_settings_are_refused(wrong: tuple[Any, Any]) -> None:
    method, settings = wrong
    with pytest.raises(InputError, match=r"is no (Method|Settings)"):
        us.train(method, torch.zeros(4, 2), settings)
