"""A frozen model in every way it may run: the same answers, the same taps, and nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Optim, Settings, Term, converted, train
from understudy.batch import Batch, ModelInputs, call, mapped
from understudy.errors import InputError, MissingExtra
from understudy.inference import WAYS, Inference
from understudy.losses import kl, mse
from understudy.state import digest
from understudy.zoo import ResNet

EAGER = [name for name, way in WAYS.items() if not way.prepared]
COMPILED = [name for name, way in WAYS.items() if way.compiled and way.form is None]
EVERY = [*EAGER, *(pytest.param(name, marks=pytest.mark.long) for name in COMPILED)]
FORMS = ["onnx", "int8"]


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


def into_images(ask: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient that reaches what is asked about."""
    x = images().requires_grad_()
    ask(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("way", EAGER)
def test_a_gradient_through_the_teacher_takes_the_model_itself(way: str) -> None:
    teacher = net()
    made = method(Inference(teacher, way))
    at = made.terms[0].addresses[1]
    assert torch.equal(into_images(lambda x: made.reader.read(Batch.of(x), [at])[at]), into_images(teacher))


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


# -- forms that are no module: a graph of ONNX, one of 8-bit integers --------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, pixels: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.conv(pixels).relu().mean((2, 3))
        logits: Tensor = self.head(x if scale is None else x * scale[:, None])
        return logits


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small().eval()


def formed(way: str, teacher: nn.Module | None = None) -> Inference:
    for package in converted.FORMS[way][0]:
        pytest.importorskip(package)
    return Inference(small() if teacher is None else teacher, way, [images(seed=1), images(seed=2)])


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of integers as torch runs it operator by operator: slow, and the same but for rounding."""
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)


@pytest.fixture(scope="module")
def graph() -> Inference:
    """Of ONNX, made once: to export takes seconds."""
    return formed("onnx")


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def holds(asked: Inference, most: float) -> None:
    """What every form must do: answer batches of any number, without gradient, and nothing that the model would not say."""
    teacher = asked._orig_mod
    before = digest(teacher)
    with torch.no_grad():
        for rows in (8, 3, 1, 20):
            found, wanted = asked(images(rows)), teacher(images(rows))
            assert found.shape == wanted.shape
            assert apart(found, wanted) < most
            assert apart(found, small(5)(images(rows))) > 4 * most
    assert not asked(images()).requires_grad
    assert digest(teacher) == before
    assert all(p.requires_grad for p in teacher.parameters())


@pytest.mark.usefixtures("uncompiled")
def test_a_graph_of_integers_says_nearly_what_the_model_says() -> None:
    asked = formed("int8")
    holds(asked, 0.1)
    with torch.no_grad():
        assert apart(asked(images()), asked._orig_mod(images())) > 1e-4  # it is one of integers
    again = formed("int8")
    assert torch.equal(asked(images()), again(images()))
    other = Inference(small(), "int8", [4 * images(seed=1)])
    assert not torch.equal(asked(images()), other(images()))  # what it is depends on the samples


@pytest.mark.long
def test_a_compiled_graph_of_integers_says_nearly_what_the_model_says() -> None:
    holds(formed("int8"), 0.1)


def test_a_graph_of_onnx_says_what_the_model_says(graph: Inference) -> None:
    holds(graph, 1e-5)


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.long) for way in FORMS])
def test_students_learn_from_every_form_and_end_alike(way: str) -> None:
    ends = []
    for _ in range(2):
        torch.manual_seed(1)
        made = Distillation(Term(kl, "student", "teacher"), student=small(2), teacher=formed(way))
        train(made, images(20), Settings(steps=3, batch_size=8, optimizer=Optim("SGD", lr=0.1), device="cpu"))
        ends.append(digest(made.student))
    assert ends[0] == ends[1]
    assert ends[0] != digest(small(2))


def test_a_form_does_not_see_in_which_precision_the_student_learns(graph: Inference) -> None:
    asked = graph
    plain = asked(images())
    other = torch.randn(8, 3, 9, 9)  # of another shape: the model itself
    wanted = asked(other)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(asked(images()), plain)
        assert torch.equal(asked(other), wanted)
        with torch.no_grad():
            assert not torch.equal(asked._orig_mod(other), wanted)


@pytest.mark.parametrize("way", ["fp32", "channels_last", pytest.param("compiled", marks=pytest.mark.long)])
def test_a_teacher_in_float32_computes_in_it_where_the_student_learns_in_bfloat16(way: str) -> None:
    asked, taps, x = Inference(net(), way), frozenset({"layer2"}), images()
    with torch.no_grad():
        wanted, seen = asked.read(call, x, taps)
        with torch.autocast("cpu", torch.bfloat16):
            found, caught = asked.read(call, x, taps)
            assert torch.is_autocast_enabled("cpu")  # again, for the student
            assert not torch.equal(asked._orig_mod(x).float(), wanted)
    assert torch.equal(found, wanted)
    assert torch.equal(caught["layer2"][0].output, seen["layer2"][0].output)


def test_what_a_generator_gives_in_bfloat16_is_answered_by_a_teacher_in_float32() -> None:
    asked, x = Inference(net(), "fp32"), images().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(asked(x), asked(x.float()))
    with pytest.raises(RuntimeError, match="type"):  # as it would be where only autocast was left
        asked._orig_mod(x)


def test_inputs_of_another_shape_are_answered_by_the_model_itself(graph: Inference) -> None:
    asked = graph
    other = torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(asked(other), asked._orig_mod(other))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("way", FORMS)
def test_a_gradient_flows_through_the_model_and_not_through_a_form(way: str) -> None:
    teacher = small()
    made = Distillation(Term(kl, "student", "teacher"), student=small(2), teacher=formed(way, teacher))
    at = made.terms[0].addresses[1]
    assert torch.equal(into_images(lambda x: made.reader.read(Batch.of(x), [at])[at]), into_images(teacher))


@pytest.mark.parametrize("way", FORMS)
def test_a_form_in_which_layers_are_read_is_refused(way: str) -> None:
    made = Distillation(Term(mse, "student.conv", "teacher.conv"), student=small(2), teacher=formed(way))
    with pytest.raises(
        InputError, match=rf"run='{way}' gives the teacher's last output only, and 'conv' is read.*compiled-bf16\."
    ):
        made.reader.read(Batch.of(images()), [made.terms[0].addresses[1]])


def test_forms_are_made_from_samples_of_one_shape() -> None:
    with pytest.raises(InputError, match="is made from samples"):
        Inference(small(), "onnx")
    with pytest.raises(InputError, match="inputs of one shape"):
        Inference(small(), "onnx", [images(), torch.randn(8, 3, 9, 9)])(images())


def test_a_form_whose_package_is_missing_is_refused_by_the_name_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"understudy\[compress\]"):
        Inference(small(), "int8", [images()])
    with pytest.raises(MissingExtra, match=r"understudy\[onnx\]"):
        Inference(small(), "onnx", [images()])


@pytest.mark.parametrize("way", FORMS)
def test_a_form_is_for_the_cpu(way: str) -> None:
    with pytest.raises(InputError, match="is for the CPU, and the teacher is on meta"):
        formed(way, small().to("meta"))(images())


def test_what_a_compiler_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, **options: object) -> None:
        raise RuntimeError("no compiler of C++\nat line 3")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(
        InputError, match=r"Small cannot be made one of 8-bit integers: RuntimeError: no compiler of C\+\+$"
    ):
        formed("int8")(images())


@pytest.mark.usefixtures("uncompiled")
def test_a_model_that_looks_at_the_whole_batch_is_no_graph_of_integers() -> None:
    class Mixes(Small):
        def forward(self, pixels: Tensor, scale: Tensor | None = None) -> Tensor:
            return super().forward(pixels - pixels.mean(0))

    torch.manual_seed(0)
    with pytest.raises(InputError, match="mix the samples of a batch"):
        formed("int8", Mixes().eval())(images())


@pytest.mark.usefixtures("uncompiled")
def test_inputs_by_name_and_outputs_in_containers_stay_so() -> None:
    class Named(Small):
        def forward(self, pixels: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(pixels, scale)}

    torch.manual_seed(0)
    pytest.importorskip("torchao")
    teacher = Named().eval()
    batch = {"scale": torch.rand(8), "pixels": images(), "label": torch.zeros(8)}
    asked = Inference(teacher, "int8", [batch])
    made = Distillation(Term(kl, "student", "teacher/logits"), student=small(2), teacher=asked)
    at = made.terms[0].addresses[1]
    with torch.no_grad():
        assert apart(made.reader.read(Batch.of(batch), [at])[at], teacher(images(), batch["scale"])["logits"]) < 0.1


@pytest.mark.usefixtures("uncompiled")
def test_a_copy_of_a_form_asks_a_copy() -> None:
    asked = formed("int8")
    before = asked(images())
    other = copy.deepcopy(asked)
    with torch.no_grad():
        for p in other._orig_mod.parameters():
            p.zero_()
    assert other(images()).abs().sum() == 0
    assert torch.equal(asked(images()), before)
