"""A frozen model in every way it may run: the same answers, the same taps, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Optim, Settings, Term, train
from understudy.batch import Batch, ModelInputs, mapped
from understudy.errors import InputError
from understudy.inference import WAYS, Inference
from understudy.losses import kl, mse
from understudy.state import digest
from understudy.zoo import ResNet

EAGER = [name for name, way in WAYS.items() if not way.compiled]
COMPILED = [name for name, way in WAYS.items() if way.compiled]
EVERY = [*EAGER, *(pytest.param(name, marks=pytest.mark.long) for name in COMPILED)]


def images(rows: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def net(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(channels=8).eval()


def method(teacher: nn.Module) -> Distillation:
    torch.manual_seed(1)
    return Distillation(
        Term(kl, "student", "teacher"), Term(mse, "student.layer2", "teacher.layer2"), student=net(2), teacher=teacher
    )


def near(found: Tensor, wanted: Tensor, way: str) -> bool:
    return float((found - wanted).norm() / wanted.norm()) < (2e-2 if WAYS[way].bf16 else 1e-5)


@pytest.mark.parametrize("way", EVERY)
def test_every_way_gives_what_the_model_gives(way: str) -> None:
    teacher = net()
    asked = Inference(teacher, way)
    with torch.no_grad():
        assert near(asked(images()), teacher(images()), way)
    assert asked(images()).dtype == torch.float32
    assert not asked(images()).requires_grad


@pytest.mark.parametrize("way", [w for w in EVERY if w != "fp32"])
def test_another_model_is_not_near(way: str) -> None:
    name = way if isinstance(way, str) else way.values[0]
    with torch.no_grad():
        assert not near(Inference(net(5), name)(images()), net()(images()), name)


@pytest.mark.parametrize("way", EVERY)
def test_taps_are_read_in_every_way(way: str) -> None:
    teacher = net()
    batch = Batch.of(images())
    plain, fast = method(teacher), method(Inference(teacher, way))
    at = fast.terms[1].addresses[1]
    wanted, found = (m.reader.read(batch, [at])[at] for m in (plain, fast))
    assert found.dtype == torch.float32
    assert near(found, wanted, way)
    assert not any(m._forward_hooks for m in teacher.modules())


@pytest.mark.parametrize("way", EVERY)
def test_a_smaller_last_batch_is_answered_too(way: str) -> None:
    teacher = net()
    asked = Inference(teacher, way)
    with torch.no_grad():
        for rows in (8, 3, 8, 5):
            assert near(asked(images(rows)), teacher(images(rows)), way)


@pytest.mark.parametrize("way", EAGER)
def test_training_leaves_the_teacher_as_it_was(way: str) -> None:
    teacher = net()
    strides, before = [p.stride() for p in teacher.parameters()], digest(teacher)
    made = method(Inference(teacher, way))
    train(made, images(16), Settings(steps=2, batch_size=8, optimizer=Optim("SGD", lr=0.1), device="cpu"))
    assert digest(teacher) == before
    assert [p.stride() for p in teacher.parameters()] == strides
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert made.frozen["teacher"] is teacher
    assert not any(name.startswith("teacher") for name in made.state_dict())


def test_fp32_is_the_model_itself_bit_for_bit() -> None:
    teacher = net()
    ends = []
    for given in (teacher, Inference(teacher, "fp32")):
        made = method(given)
        train(made, images(16), Settings(steps=3, batch_size=8, optimizer=Optim("SGD", lr=0.1), device="cpu"))
        ends.append(digest(made.student))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("way", EAGER)
def test_a_gradient_through_the_teacher_takes_the_model_itself(way: str) -> None:
    teacher = net()
    made = method(Inference(teacher, way))
    at = made.terms[0].addresses[1]
    grads = []
    for ask in (lambda x: made.reader.read(Batch.of(x), [at])[at], teacher):
        x = images().requires_grad_()
        ask(x).square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(grads[0], grads[1])


def test_what_the_teacher_computes_with_follows_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    teacher = net()
    asked = Inference(teacher, "bf16")
    asked._converted().head.register_forward_hook(lambda m, args, out: seen.append((out.dtype, True)))
    asked(images())
    assert seen == [(torch.bfloat16, True)]


def test_a_copy_asks_a_copy() -> None:
    asked = Inference(net(), "bf16")
    asked(images())
    other = copy.deepcopy(asked)
    with torch.no_grad():
        for p in other._orig_mod.parameters():
            p.zero_()
    assert not torch.equal(other(images()), asked(images()))


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"'bf17' is no way to run a teacher.*bf16"):
        Inference(net(), "bf17")
    with pytest.raises(InputError, match="is no module"):
        Inference(lambda x: x, "bf16")  # type: ignore[arg-type]


def test_models_of_vectors_run_too() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(6, 4)
    with torch.no_grad():
        assert near(Inference(teacher, "bf16")(x), teacher(x), "bf16")


def test_a_nest_is_mapped_with_its_forms() -> None:
    given = ModelInputs((torch.ones(1), [torch.ones(2)]), {"a": (torch.ones(3), "word")}, {"label": torch.ones(4)})
    made = mapped(lambda t: 2 * t, given)
    assert made.args[1][0].tolist() == [2, 2]
    assert made.kwargs["a"][1] == "word"
    assert made.fields["label"].sum() == 8


def test_images_are_laid_out_once_for_fields_and_inputs() -> None:
    batch = Batch.of((images(), torch.zeros(8))).to("cpu", channels_last=True)
    assert batch["input"].is_contiguous(memory_format=torch.channels_last)
    assert batch["input"] is batch.inputs[0]
    assert torch.equal(batch["input"], images())


def test_a_student_trained_with_channels_last_has_its_own_layout_again() -> None:
    ends = []
    for last in (False, True):
        made = method(net())
        seen: list[bool] = []
        conv = made.student.stem[0]
        conv.register_forward_hook(
            lambda m, args, out, seen=seen: seen.append(m.weight.is_contiguous(memory_format=torch.channels_last))
        )
        optimizer = Optim("SGD", lr=0.1)
        train(made, images(16), Settings(steps=3, batch_size=8, optimizer=optimizer, channels_last=last, device="cpu"))
        assert set(seen[1:]) == {last}
        assert conv.weight.is_contiguous()
        ends.append(conv.weight)
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


@pytest.mark.parametrize("way", EAGER)
def test_a_model_with_kernels_of_five_axes_runs_in_every_way(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 8, 2)).eval()
    volumes = torch.randn(2, 3, 4, 4, 4)
    assert torch.allclose(Inference(model, way)(volumes), model(volumes), atol=0.05)
    if way != "fp32":
        with pytest.raises(RuntimeError, match="rank 4"):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
