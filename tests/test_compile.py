"""Reading under torch.compile: taps fire whatever was compiled before, and numbers are those of eager code.

Compiled code is looked up by code object, and by default nothing asks whether a module's hooks are still the same. So
code that was compiled without hooks, of this model or of a twin of its class, runs on without them and says nothing.
The tests called "naive" show that; the others, that it does not happen to a reading.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from understudy import Distillation, ModelInputs, Term
from understudy.address import Address
from understudy.batch import Batch
from understudy.errors import TapError
from understudy.losses import cross_entropy, kl, mse
from understudy.reading import Reader

torch.set_num_threads(1)
COMPILE = torch.compile

# Where a graph breaks, torch asks for the .grad of tensors that are no leaves, and hides its own warning by other means.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.fc(self.trunk(x)) * scale


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        torch._dynamo.graph_break()
        return self.b(x).tanh()


class Breaking(nn.Module):
    """A model whose graph breaks within its submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.second = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.fixture(autouse=True)
def _fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test finds another one's code; all but the long ones trace without generating any."""
    torch.manual_seed(0)
    torch.compiler.reset()
    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(torch, "compile", functools.partial(COMPILE, backend="aot_eager"))
    yield
    torch.compiler.reset()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def reading(
    models: dict[str, Any], *texts: str, train: tuple[str, ...] = ("student",), **more: Any
) -> Callable[[Any], list[Tensor]]:
    """A function from a batch to what one reader finds at each address."""
    reader, addresses = Reader(models, train, **more), [Address.parse(text) for text in texts]

    def read(batch: Any) -> list[Tensor]:
        found = reader.read(Batch.of(batch), addresses)
        return [found[address] for address in addresses]

    return read


def naive(module: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """What a plain hook sees."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: seen.append(output))
    run()
    handle.remove()
    return seen


def in_both_modes(run: Callable[[Tensor], Any], x: Tensor) -> None:
    """Evaluated and trained with, so that code of either kind is there to be found."""
    run(x)
    with torch.no_grad():
        run(x)


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- the danger: what a plain hook misses ------------------------------------------------------------------------------


def test_a_naive_hook_on_a_model_that_was_compiled_and_run_before_misses(x: Tensor) -> None:
    model = Net()
    compiled = torch.compile(model)
    in_both_modes(compiled, x)
    assert naive(model.fc, lambda: compiled(x)) == []
    assert len(naive(model.fc, lambda: model(x))) == 1


def test_a_naive_hook_on_a_model_that_was_compiled_in_place_misses(x: Tensor) -> None:
    model = Net()
    model.compile()
    in_both_modes(model, x)
    assert naive(model.fc, lambda: model(x)) == []


def test_a_naive_hook_misses_where_a_twin_of_the_class_was_compiled_before(x: Tensor) -> None:
    in_both_modes(torch.compile(Net()), x)
    model = Net()
    fresh = torch.compile(model)
    assert naive(model.fc, lambda: fresh(x)) == []
    torch.compiler.reset()
    assert len(naive(model.fc, lambda: fresh(x))) == 1


# -- the guard ---------------------------------------------------------------------------------------------------------


def wrapped(model: nn.Module) -> Any:
    return torch.compile(model)


def in_place(model: nn.Module) -> Any:
    model.compile()
    return model


def in_parts(model: nn.Module) -> Any:
    for part in (model.trunk, model.fc):
        part.compile()
    return model


@pytest.mark.parametrize("compiled", [wrapped, in_place, in_parts])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_a_model_that_the_user_compiled_is_tapped(
    compiled: Callable[[nn.Module], Any], before: bool, grad: bool, x: Tensor
) -> None:
    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    given = compiled(model)
    if before:
        in_both_modes(given, x)
        plain.load_state_dict(model.state_dict())
    addresses = ("student.trunk.0", "student.fc", "student")
    with torch.set_grad_enabled(grad):
        close(reading({"student": given}, *addresses)(x), reading({"student": plain}, *addresses)(x))


@pytest.mark.parametrize("compiled", [wrapped, in_place, in_parts])
def test_a_teacher_that_the_user_compiled_and_ran_is_tapped(compiled: Callable[[nn.Module], Any], x: Tensor) -> None:
    teacher = Net()
    given = compiled(teacher)
    in_both_modes(given, x)
    found = reading({"student": Net(), "teacher": given}, "teacher.trunk.0", "teacher.fc")(x)
    plain = copy.deepcopy(teacher).eval()
    close(found, [plain.trunk[0](x), plain(x)])
    assert teacher.training


@pytest.mark.parametrize("compiled", [True, False])
def test_a_twin_of_the_class_that_was_compiled_before_does_no_harm(compiled: bool, x: Tensor) -> None:
    in_both_modes(torch.compile(Net()), x)
    in_both_modes(torch.compile(Net().eval()), x)
    student, teacher = Net(), Net()
    read = reading({"student": student, "teacher": teacher}, "student.fc", "teacher.fc", compile=compiled)
    expected = [copy.deepcopy(student)(x), copy.deepcopy(teacher).eval()(x)]
    close(read(x), expected)


def test_two_models_of_one_class_are_each_read_with_their_own_taps(x: Tensor) -> None:
    student, teacher = Net().eval(), Net().eval()
    addresses = ("student.trunk.0", "teacher.fc", "student.fc", "teacher.trunk.0", "teacher")
    read = reading({"student": student, "teacher": teacher}, *addresses, compile=True)
    for batch in (x, x + 1):
        close(read(batch), reading({"student": student, "teacher": teacher}, *addresses)(batch))


def test_the_users_compiled_code_is_there_again_after_a_reading(x: Tensor) -> None:
    model = Net()
    model.compile()
    model.fc.compile()
    code = (model._compiled_call_impl, model.fc._compiled_call_impl)
    reading({"student": model}, "student.fc")(x)
    assert (model._compiled_call_impl, model.fc._compiled_call_impl) == code
    assert None not in code

    def refuse(model: Any, inputs: Any) -> Any:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        reading({"student": model}, "student.fc", call=refuse)(x)
    assert (model._compiled_call_impl, model.fc._compiled_call_impl) == code


def test_a_model_that_is_compiled_between_two_readings_is_still_tapped(x: Tensor) -> None:
    model = Net().eval()
    read = reading({"student": model}, "student.fc")
    expected = read(x)
    model.compile()
    in_both_modes(model, x)
    assert naive(model.fc, lambda: model(x)) == []
    close(read(x), expected)


def test_a_compiled_student_is_unwrapped_for_whoever_saves_it() -> None:
    student = Net()
    method = Distillation(
        Term(mse, "student.fc", "teacher"), student=torch.compile(student), teacher=torch.compile(Net())
    )
    assert method.student is student
    assert type(method.frozen["teacher"]) is Net
    assert not any("_orig_mod" in key for key in method.state_dict())


def test_evaluating_the_compiled_student_between_steps_does_not_stop_its_taps(x: Tensor) -> None:
    student = Net()
    given = torch.compile(student)
    method = Distillation(Term(mse, "student.trunk.0", "teacher.trunk.0"), student=given, teacher=Net())
    losses = []
    for _ in range(3):
        given.eval()
        in_both_modes(given, x)
        given.train()
        loss = method.loss(x)
        loss.backward()
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
        losses.append(float(loss.detach()))
    assert losses[0] > losses[1] > losses[2]


# -- graph breaks ------------------------------------------------------------------------------------------------------

BROKEN = ("student.first.b", "teacher.second.a", "student.first", "teacher")


def test_models_whose_graphs_break_are_each_read_with_their_own_taps(x: Tensor) -> None:
    models = {"student": Breaking(), "teacher": Breaking()}
    read, eager = reading(models, *BROKEN, compile=True), reading(models, *BROKEN)
    for batch in (x, x + 1):
        close(read(batch), eager(batch))


def test_without_guards_on_hooks_a_model_would_run_its_twins_code(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.taps._hook_guards", lambda compiled: contextlib.nullcontext())
    with pytest.raises(TapError):
        test_models_whose_graphs_break_are_each_read_with_their_own_taps(x)


def test_where_older_code_cannot_be_avoided_the_error_says_what_helps(x: Tensor) -> None:
    in_both_modes(torch.compile(Breaking()), x)
    read = reading({"student": Breaking(), "teacher": Breaking()}, *BROKEN, compile=True)
    with pytest.raises(TapError, match=r"teacher\.second\.a did not run(.|\n)*torch\.compiler\.reset\(\)"):
        read(x)
    torch.compiler.reset()
    assert len(read(x)) == len(BROKEN)


# -- the numbers -------------------------------------------------------------------------------------------------------


def distillation(compiled: bool, **models: nn.Module) -> Distillation:
    return Distillation(
        Term(cross_entropy, "student", "batch.label", weight=0.3),
        Term(functools.partial(kl, temperature=3), "student", "teacher", weight=0.7),
        Term(mse, "student.trunk.0", "teacher.trunk.0"),
        Term(lambda a, b: (a * b).sum(1), "stop student.fc", "student:fc.bias", weight=0.1),
        compile=compiled,
        **copy.deepcopy(models),
    )


def close_in_values_and_gradients(steps: int, x: Tensor) -> None:
    models = {"student": Net(), "teacher": Net()}
    eager, compiled = distillation(False, **models), distillation(True, **models)
    optimizers = [torch.optim.SGD(m.student.parameters(), lr=0.1) for m in (eager, compiled)]
    for step in range(steps):
        batch = (x + step, torch.tensor([0, 1, 2, -100, 1]))
        losses = []
        for method, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(method.loss(batch))
            losses[-1].backward()
        close(losses[:1], losses[1:], 1e-5)
        pairs = zip(eager.student.named_parameters(), compiled.student.named_parameters(), strict=True)
        for (name, a), (_, b) in pairs:
            assert a.grad is not None, name
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(eager.student.buffers(), compiled.student.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert all(p.grad is None for m in compiled.frozen.values() for p in m.parameters())


def test_a_compiled_method_has_the_values_and_gradients_of_an_eager_one(x: Tensor) -> None:
    graphs = counters["stats"]["unique_graphs"]
    close_in_values_and_gradients(3, x)
    assert counters["stats"]["unique_graphs"] >= graphs + 2  # student and teacher were compiled


def test_the_comparison_would_show_a_wrong_gradient(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Reader._run

    def detached(self: Reader, *args: Any) -> Any:
        output, caught = whole(self, *args)
        cut = {tap: [c._replace(output=c.output.detach()) for c in calls] for tap, calls in caught.items()}
        return output, cut if self._compiled else caught

    monkeypatch.setattr(Reader, "_run", detached)
    with pytest.raises(AssertionError):
        close_in_values_and_gradients(1, x)


@pytest.mark.long
def test_a_method_compiled_to_machine_code_has_the_values_and_gradients_of_an_eager_one(x: Tensor) -> None:
    close_in_values_and_gradients(3, x)


@pytest.mark.parametrize("compiled", [wrapped, in_place])
def test_a_model_that_the_user_compiled_is_compiled_anew(compiled: Callable[[nn.Module], Any], x: Tensor) -> None:
    given = compiled(Net())
    before = counters["stats"]["unique_graphs"]
    reading({"student": given}, "student.fc")(x)
    assert counters["stats"]["unique_graphs"] > before


def test_many_models_of_one_class_are_all_compiled(x: Tensor) -> None:
    limit = torch._dynamo.config.recompile_limit
    before = counters["stats"]["unique_graphs"]
    for _ in range(limit + 2):
        reading({"student": nn.Sequential(nn.Linear(4, 2))}, "student.0", compile=True)(x)
    assert counters["stats"]["unique_graphs"] == before + limit + 2  # one code object for all would stop at the limit


def test_a_second_reading_compiles_nothing_anew(x: Tensor) -> None:
    read = reading({"student": Net(), "teacher": Breaking()}, "student.fc", "teacher.first.b", compile=True)
    before = counters["stats"]["unique_graphs"]
    read(x)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > before
    for step in range(4):
        read(x + step)
    assert counters["stats"]["unique_graphs"] == graphs


def test_weights_modes_and_sizes_may_change_between_compiled_readings(x: Tensor) -> None:
    models = {"student": Net(), "teacher": Net()}
    addresses = ("student.trunk", "student", "teacher.trunk", "teacher")
    read = reading(models, *addresses, compile=True)
    for batch, training in ((x, True), (x[:3], True), (x, False), (x[:2], False)):
        models["student"].train(training)
        with torch.no_grad():
            models["student"].fc.weight.mul_(2)
        expected = reading(copy.deepcopy(models), *addresses)(batch)
        close(read(batch), expected)


def test_a_gradient_flows_through_a_compiled_frozen_model(x: Tensor) -> None:
    teacher, noise, plain = Net(), x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    before = copy.deepcopy(teacher.state_dict())
    output, tapped = reading({"student": Net(), "teacher": teacher}, "teacher", "teacher.trunk.0", compile=True)(noise)
    (output.square().sum() + tapped.sum()).backward()
    evaluated = copy.deepcopy(teacher).eval()
    (evaluated(plain).square().sum() + evaluated.trunk[0](plain).sum()).backward()
    torch.testing.assert_close(noise.grad, plain.grad)
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert all(m.training for m in teacher.modules())


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))
        self.fc = nn.Linear(6, 3)
        self.checked = True

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(checkpoint(self.trunk, x, use_reentrant=False) if self.checked else self.trunk(x))


def test_compiled_non_reentrant_checkpointing_gives_the_eager_models_gradients(x: Tensor) -> None:
    plain, compiled = Checkpointed(), Checkpointed()
    compiled.load_state_dict(plain.state_dict())
    plain.checked = False
    for model in (plain, compiled):
        found = reading({"student": model}, "student.trunk.0", "student.trunk", "student", compile=model is compiled)(x)
        sum((i + 1) * t.square().sum() for i, t in enumerate(found)).backward()
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)


def test_what_goes_into_a_layer_is_read_of_a_compiled_model(x: Tensor) -> None:
    model = Net()
    eager = reading({"student": model}, "student.fc<", "student")(x)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            close(reading({"student": model}, "student.fc<", "student", compile=True)(x), eager)


def test_an_output_that_compiled_code_changes_in_place_is_read_as_it_was_put_out(x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    expected = model[0](x)
    assert expected.min() < 0
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            close(
                reading({"student": model}, "student.0", compile=True)(x), [expected.detach() if not grad else expected]
            )


@pytest.mark.parametrize(
    "batch",
    [
        lambda x: x,
        lambda x: {"x": x, "label": x, "caption": "a"},
        lambda x: ModelInputs((x,), {"scale": 2.0}),
        lambda x: (x, x),
    ],
)
def test_a_batch_of_any_form_reaches_a_compiled_model(batch: Callable[[Tensor], Any], x: Tensor) -> None:
    model = Net().eval()
    close(
        reading({"student": model}, "student.fc", "student", compile=True)(batch(x)),
        reading({"student": model}, "student.fc", "student")(batch(x)),
    )


def test_a_compiled_callable_teacher_is_read(x: Tensor) -> None:
    found = reading({"student": Net(), "teacher": lambda x: x.sin()}, "teacher", compile=True)(x)
    close(found, [x.sin()])


def test_a_layer_that_does_not_run_is_named_under_compile_too(x: Tensor) -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(4, 4)])
    model.forward = lambda x: model.layers[0](x)
    with pytest.raises(TapError, match=r"student\.layers did not run"):
        reading({"student": model}, "student.layers", "student.layers.0", compile=True)(x)


def test_a_copy_of_a_compiled_method_reads_its_own_models(x: Tensor) -> None:
    original = Distillation(Term(mse, "student.fc", "teacher.fc"), compile=True, student=Net().eval(), teacher=Net())
    before = original.loss(x)
    twin = copy.deepcopy(original)
    with torch.no_grad():
        twin.student.fc.weight.mul_(3)
    assert (twin.loss(x) - before).abs() > 1e-3
    close([original.loss(x)], [before])
    twin.loss(x).backward()
    assert all(p.grad is None for p in original.student.parameters())
    assert all(p.grad is not None for p in twin.student.parameters())
