from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Ema, Optim, Progress, Settings, Term, train
from understudy.errors import InputError
from understudy.losses import cross_entropy, kl, mse
from understudy.progress import START
from understudy.state import digest


def net(seed: int = 0, width: int = 6) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def data(rows: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 4, generator=generator), torch.randint(3, (rows,), generator=generator)


def shift(model: nn.Module, seed: int) -> None:
    """Something like a training step: every weight moves, and BatchNorm sees a batch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn(p.shape, generator=generator)
        model.train()(torch.randn(8, 4, generator=generator))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_average_is_that_of_the_formula_in_a_loop(decay):
    source = net().double()
    ema = Ema(source.to(torch.float32).double(), decay)
    expected = {k: v.tolist() for k, v in source.state_dict().items()}

    def follow(average: object, value: object) -> object:
        if isinstance(average, list):
            return [follow(a, v) for a, v in zip(average, value, strict=True)]
        return decay * average + (1 - decay) * value if isinstance(average, float) else value

    def shifted(model: nn.Module, seed: int) -> None:
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p += torch.sin(torch.arange(p.numel(), dtype=p.dtype).reshape(p.shape) + seed + i)
            model.train()(data()[0].double() * seed)

    for step in range(1, 6):
        shifted(source, step)
        ema.after(Progress(step, 10))
        expected = {k: follow(expected[k], v.tolist()) for k, v in source.state_dict().items()}
    for name, value in ema.model.state_dict().items():
        wanted = torch.tensor(expected[name], dtype=value.dtype)
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    assert ema.model[1].num_batches_tracked == source[1].num_batches_tracked == 5
    if decay:
        assert not torch.allclose(ema.model[0].weight, source[0].weight)
        assert not torch.allclose(ema.model[1].running_mean, source[1].running_mean)


def test_the_average_starts_as_the_source_and_follows_only_when_told():
    source = net()
    ema = Ema(source, 0.9)
    before = digest(source)
    assert digest(ema.model) == before
    shift(source, 1)
    assert digest(ema.model) == before
    ema.after(START)
    assert digest(ema.model) != before


def test_the_average_is_frozen_and_in_eval_mode_and_the_source_is_left_as_it_was():
    source = net().train()
    source[0].bias.requires_grad_(False)
    ema = Ema(source, 0.9)
    assert ema.source is source
    assert source.training
    assert [p.requires_grad for p in source.parameters()] == [True, False, True, True, True, True]
    assert not any(m.training for m in ema.train().model.modules())
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_neither_the_average_nor_the_source_is_among_parameters_buffers_or_modules():
    ema = Ema(net(), 0.9)
    assert list(ema.parameters()) == []
    assert list(ema.buffers()) == []
    assert list(ema.modules()) == [ema]


def test_forward_is_the_averages():
    ema = Ema(net(), 0.9)
    x, _ = data()
    assert torch.equal(ema(x), ema.model(x))


def test_the_state_is_the_averages_under_bare_names_and_goes_round_trip():
    source = net()
    ema = Ema(source, 0.9)
    shift(source, 1)
    ema.after(START)
    assert list(ema.state_dict()) == list(source.state_dict())
    other = Ema(net(seed=5), 0.9)
    other.load_state_dict(ema.state_dict())
    assert digest(other.model) == digest(ema.model)
    assert digest(other.source) == digest(net(seed=5))


def test_a_state_of_another_model_is_refused():
    ema = Ema(net(), 0.9)
    state = ema.state_dict()
    wrong = {("x" + k if k == "0.bias" else k): v for k, v in state.items()}
    with pytest.raises(RuntimeError) as error:
        ema.load_state_dict(wrong)
    assert 'Missing key(s) in state_dict: "0.bias"' in str(error.value)
    assert 'Unexpected key(s) in state_dict: "x0.bias"' in str(error.value)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ema.load_state_dict(Ema(net(width=7), 0.9).state_dict())


def test_placement_and_dtype_reach_the_average_but_not_the_source():
    source = net()
    ema = Ema(source, 0.9).to("meta", torch.float64)
    assert {(p.device.type, p.dtype) for p in ema.model.parameters()} == {("meta", torch.float64)}
    assert {(p.device.type, p.dtype) for p in source.parameters()} == {("cpu", torch.float32)}


def test_a_compiled_source_is_followed_bare():
    source = net()
    ema = Ema(torch.compile(source), 0.9)
    assert ema.source is source
    assert list(ema.state_dict()) == list(source.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(InputError, match=r"Ema: decay .* is not allowed; it must be in \[0, 1\), and \.99 to \.9999"):
        Ema(net(), decay)


# -- in a method -------------------------------------------------------------------------------------------------------


def mean_teacher(student: nn.Module, decay: float = 0.5) -> Distillation:
    return Distillation(
        Term(cross_entropy, "student", "batch.label"),
        Term(kl, "student", "ema"),
        Term(mse, "student.0", "ema.0"),
        student=student,
        ema=Ema(student, decay),
    )


def average(method: Distillation) -> Ema:
    return method.averages["ema"]


def test_the_average_of_a_method_is_saved_with_it_and_does_not_train():
    student = net()
    method = mean_teacher(student)
    assert set(method.parameters()) == set(student.parameters())
    assert method.frozen == {}
    saved = [k for k in method.state_dict() if k.startswith("averages.ema.")]
    assert [k.removeprefix("averages.ema.") for k in saved] == list(student.state_dict())


def test_a_methods_state_brings_the_average_back():
    method = mean_teacher(net())
    shift(method.student, 1)
    method.after(START)
    assert digest(average(method).model) != digest(method.student)
    other = mean_teacher(net(seed=7))
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert digest(average(other).model) == digest(average(method).model)
    assert digest(other.student) == digest(method.student)
    assert average(other).source is other.student


def test_no_gradient_reaches_the_average_and_train_leaves_it_in_eval_mode():
    method = mean_teacher(net()).train()
    shift(method.student, 1)
    before = digest(average(method).model)
    method.loss(data()).backward()
    assert not any(m.training for m in average(method).model.modules())
    assert all(p.grad is None for p in average(method).model.parameters())
    assert digest(average(method).model) == before


def test_training_moves_the_average_once_a_step():
    student = net()
    method = mean_teacher(student, decay=0.25)
    expected, seen = copy.deepcopy(student), []
    after = method.after

    def spy(progress: Progress) -> None:
        with torch.no_grad():
            for mine, theirs in zip(expected.parameters(), student.parameters(), strict=True):
                mine.copy_(0.25 * mine + 0.75 * theirs)
        seen.append(progress.step)
        after(progress)

    method.after = spy
    train(method, data(), Settings(steps=4, batch_size=4, optimizer=Optim("SGD", lr=0.1), device="cpu"))
    assert seen == [0, 1, 2, 3]
    for mine, theirs in zip(expected.parameters(), average(method).model.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine)
    assert not torch.allclose(average(method).model[0].weight, student[0].weight)


def test_a_copy_of_a_method_has_an_average_of_its_own_that_follows_the_copys_student():
    method = mean_teacher(net())
    twin = copy.deepcopy(method)
    assert average(twin).source is twin.student
    assert average(twin).source is not method.student
    assert twin.reader.models["ema"] is average(twin).model
    before = digest(average(method).model)
    shift(twin.student, 3)
    twin.after(START)
    assert digest(average(method).model) == before
    assert digest(average(twin).model) != before


def test_placement_of_a_method_reaches_the_average_and_keeps_it_alike():
    method = mean_teacher(net()).to(torch.float64)
    shift_double = {p.dtype for p in average(method).model.parameters()}
    assert shift_double == {torch.float64}
    method.after(START)
    assert {p.device.type for p in average(method.to("meta")).model.parameters()} == {"meta"}
    assert method.reader.models["ema"] is average(method).model


def test_a_frozen_model_of_the_name_ema_is_no_average():
    method = Distillation(Term(kl, "student", "ema"), student=net(), ema=net(seed=1))
    before = digest(method.frozen["ema"])
    method.after(START)
    assert len(method.averages) == 0
    assert digest(method.frozen["ema"]) == before
