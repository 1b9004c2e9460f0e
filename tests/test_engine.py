import ast
import copy
import functools
import io
import json
import math
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import understudy
from examples_methods import Adversarial, ByHand, Critic, Net, contrastive
from understudy import (
    Batch,
    Callback,
    Distillation,
    Ema,
    Move,
    Optim,
    Part,
    Progress,
    Settings,
    TensorBoard,
    Term,
    constant,
    cosine,
    linear,
    train,
)
from understudy import engine as engine_module
from understudy import play as play_module
from understudy.callbacks import flattened
from understudy.checkpoint import Checkpoints, thaw
from understudy.data.order import permutation
from understudy.errors import InputError, MachineError, NonFiniteError
from understudy.losses import cross_entropy, kl, mse
from understudy.measure.quality import agreement
from understudy.projectors import Linear
from understudy.writing import load_tensors

torch.set_num_threads(1)

soft = functools.partial(kl, temperature=2.0)


def data(samples: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 12, generator=g)
    return x, x[:, :5].argmax(1)


def nets(norm: bool = True, dropout: float = 0.3) -> tuple[Net, Net]:
    torch.manual_seed(0)
    return Net(6, norm=norm, dropout=dropout), Net(10, norm=norm, dropout=dropout)


def kd(norm: bool = True, dropout: float = 0.3, **more: Any) -> Distillation:
    student, teacher = nets(norm, dropout)
    terms = (Term(cross_entropy, "student", "batch.label", weight=0.4), Term(soft, "student", "teacher", weight=0.6))
    return Distillation(
        *terms, student=student, teacher=teacher, watch={"agreement": (agreement, "student", "teacher")}, **more
    )


def settings(**options: Any) -> Settings:
    if "epochs" not in options:
        options.setdefault("steps", 6)
    return Settings(**{"batch_size": 8, "log_every": 1, "optimizer": Optim("SGD", lr=0.1)} | options)


class Spy(Callback):
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.records: list[dict[str, Any]] = []

    def started(self, progress: Progress) -> None:
        self.events.append(("started", progress.step))

    def stepped(self, progress: Progress) -> None:
        self.events.append(("stepped", progress.step))

    def logged(self, record: Any) -> None:
        self.events.append(("valid" if "valid" in record else "logged", record["step"]))
        self.records.append(record)

    def finished(self) -> None:
        self.events.append(("finished",))


def logged(method: Any, fed: Any = None, **options: Any) -> list[dict[str, Any]]:
    spy = Spy()
    train(method, data() if fed is None else fed, settings(**options), callbacks=[spy])
    return [r for r in spy.records if "loss" in r]


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def accuracy(x: Tensor, y: Tensor) -> Any:
    return lambda model: {"accuracy": float((model(x).argmax(1) == y).float().mean())}


# -- it learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer", [Optim("AdamW", lr=0.02), Optim("SGD", lr=0.3, momentum=0.9)], ids=lambda o: o.name
)
def test_losses_go_down(optimizer: Optim) -> None:
    method, (x, _) = kd(dropout=0.0), data()
    label = method.frozen["teacher"].eval()(x).argmax(1)
    records = logged(method, (x, label), epochs=30, optimizer=optimizer)
    first, last = records[0], records[-1]
    assert last["loss"]["student"] < 0.7 * first["loss"]["student"]
    assert last["agreement"] > first["agreement"]


def test_without_a_learning_rate_they_do_not() -> None:
    method = kd(dropout=0.0)
    before = {k: v.clone() for k, v in method.named_parameters()}
    train(method, data(), settings(epochs=3, optimizer=Optim("SGD", lr=0.0)))
    assert all(torch.equal(v, before[k]) for k, v in method.named_parameters())


DENSE = sorted(
    n
    for n, c in vars(torch.optim).items()
    if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and n not in ("Optimizer", "LBFGS", "SparseAdam")
)


@pytest.mark.parametrize("name", DENSE)
def test_every_optimizer_of_torch_trains_and_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    def method() -> Distillation:
        m = kd()
        if name == "Muon":  # takes matrices only
            for n, p in m.named_parameters():
                p.requires_grad_(p.ndim == 2 and "body" in n)
        return m

    options: dict[str, Any] = {"optimizer": Optim(name, lr=0.01), "save_every": 4}
    whole, halves = method(), method()
    before = copied(whole)
    train(whole, data(), settings(**options), folder=tmp_path / "whole")
    assert not equal(copied(whole), before)
    with pytest.raises(ZeroDivisionError):
        train(halves, data(), settings(**options), folder=tmp_path / "halves", callbacks=[Fails(5)])
    halves = method()
    train(halves, data(), settings(**options), folder=tmp_path / "halves", resume=True)
    assert equal(copied(halves), copied(whole))


class Fails(Callback):
    """Ends the run with an error that is nobody's, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("LBFGS", "Optim: LBFGS evaluates the loss several times in one step, but a move has one loss"),
        ("SparseAdam", "Optim: SparseAdam takes sparse gradients only"),
        ("Optimizer", "torch.optim has no optimizer 'Optimizer'"),
        ("AdamX", "torch.optim has no optimizer 'AdamX'. Did you mean 'Adamax'"),
    ],
)
def test_an_optimizer_that_cannot_work_is_refused_by_name(name: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        Optim(name)


@pytest.mark.parametrize("optimizer", [Optim("Muon"), Optim("SGD", momentum=-1)])
def test_what_torch_refuses_is_an_error_of_the_users(optimizer: Optim) -> None:
    with pytest.raises(InputError, match=rf"Optim\('{optimizer.name}'\): torch refuses it: "):
        train(kd(), data(), settings(optimizer=optimizer))


@pytest.mark.parametrize("name", ["NAdam", "ASGD"])
def test_a_bf16_model_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """Their float32 scalars would be rounded to the weights' dtype by torch's own load_state_dict."""

    def run(folder: str, **more: Any) -> dict[str, Tensor]:
        method = kd(norm=False, dropout=0.0).to(torch.bfloat16)
        method.frozen["teacher"].to(torch.bfloat16)
        x, y = data()
        train(
            method,
            (x.bfloat16(), y),
            settings(steps=30, save_every=7, optimizer=Optim(name, lr=0.05)),
            folder=tmp_path / folder,
            **more,
        )
        _, tensors = Checkpoints(tmp_path / folder / "checkpoints").load()
        return dict(sorted(tensors.items()))

    whole = run("whole")
    with pytest.raises(ZeroDivisionError):
        run("halves", callbacks=[Fails(22)])
    assert equal(run("halves", resume=True), whole)


# -- the optimizer's settings ------------------------------------------------------------------------------------------


def test_parameter_groups_follow_patterns_and_the_first_match_counts() -> None:
    method = kd(norm=False, dropout=0.0)
    before = copied(method)
    groups = {"*.head.*": {"lr": 0.0}, "*.bias": {"lr": 0.0}, "student.body*": {"lr": 0.2}}
    records = logged(method, optimizer=Optim("SGD", lr=0.1, groups=groups))
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"models.student.body.0.weight"}
    assert records[0]["lr"] == {"student": [0.0, 0.0, 0.2]}


def test_a_projector_is_in_the_groups_by_its_name() -> None:
    student, teacher = nets(norm=False)
    term = Term(mse, "student.body", "teacher.body", project=Linear())
    method = Distillation(term, student=student, teacher=teacher)
    before: dict[str, Tensor] = {}

    class Before(Callback):
        def started(self, progress: Progress) -> None:
            before.update(copied(method))

    optimizer = Optim("SGD", lr=0.1, groups={"student.*": {"lr": 0.0}})
    train(method, data(), settings(optimizer=optimizer), callbacks=[Before()])
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"terms.0.project.layer.weight", "terms.0.project.layer.bias"}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"groups \['\*\.bais'\] match no parameter"):
        train(kd(), data(), settings(optimizer=Optim(groups={"*.bais": {"lr": 0.0}})))


def test_all_options_that_torch_does_not_know_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Optim("SGD", lr=-1, momentm=0.9, clip=0, groups={"a": {"nestrov": True}})
    assert [re.sub(r".*: ", "", line) for line in str(caught.value).splitlines()] == [
        "momentm is not an option. Did you mean 'momentum'?",
        "nestrov is not an option. Did you mean 'nesterov'?",
        "lr=-1 must be a finite number, 0 or above.",
        "clip=0 must be above 0, or None.",
    ]


def test_the_schedule_and_the_warm_up_are_what_was_logged() -> None:
    optimizer = Optim("SGD", lr=0.5, schedule=cosine(1, 0.1), warmup=4, groups={"*.bias": {"lr": 0.2}})
    records = logged(kd(), steps=20, optimizer=optimizer)
    expected = []
    for step in range(20):
        curve = 0.1 + 0.9 * (1 + math.cos(math.pi * step / 20)) / 2
        factor = curve * min(1.0, (step + 1) / 4)
        expected.append([0.2 * factor, 0.5 * factor])
    assert torch.tensor([r["lr"]["student"] for r in records]).allclose(torch.tensor(expected), rtol=1e-6)


def test_the_learning_rate_that_is_logged_is_the_one_that_was_used() -> None:
    method = ByHand(nn.Linear(3, 2, bias=False))
    weight, x = method.student.weight.detach().clone(), torch.randn(8, 3)
    records = logged(method, x, steps=5, batch_size=8, optimizer=Optim("SGD", lr=0.5, schedule=linear(1, 0)))
    for record in records:
        w = weight.clone().requires_grad_()
        ((x @ w.T) ** 2).mean().backward()
        weight = weight - record["lr"]["student"][0] * w.grad
    assert method.student.weight.allclose(weight, atol=1e-6)
    assert records[0]["lr"]["student"] != records[4]["lr"]["student"]


def test_the_gradient_is_clipped_to_the_norm_and_logged_before_it() -> None:
    x = torch.randn(8, 3) * 10
    student = nn.Linear(3, 2, bias=False)
    before = student.weight.detach().clone()
    (record,) = logged(ByHand(student), x, steps=1, optimizer=Optim("SGD", lr=1.0, clip=0.25))
    w = before.clone().requires_grad_()
    ((x @ w.T) ** 2).mean().backward()
    assert record["gradient_norm"]["student"] == pytest.approx(float(w.grad.norm()), rel=1e-5)
    assert float((student.weight.detach() - before).norm()) == pytest.approx(0.25, rel=1e-4)


def test_a_gradient_within_the_norm_is_left_alone() -> None:
    plain, clipped = kd(), kd()
    logged(plain, optimizer=Optim("SGD", lr=0.1))
    logged(clipped, optimizer=Optim("SGD", lr=0.1, clip=1e6))
    assert equal(copied(plain), copied(clipped))


# -- portions ----------------------------------------------------------------------------------------------------------


def weights_after(accumulate: int, moves: type[Distillation] = Distillation) -> dict[str, Tensor]:
    student, teacher = nets(norm=False, dropout=0.0)
    x, label = data(41)
    label[::3] = -100  # so that parts count differently
    terms = (Term(cross_entropy, "student", "batch.label"), Term(soft, "student", "teacher"))
    method = moves(*terms, student=student, teacher=teacher).double()
    options = {"steps": 30, "batch_size": 13, "accumulate": accumulate, "optimizer": Optim("SGD", lr=0.2, momentum=0.9)}
    teacher.double()
    train(method, (x.double(), label), settings(**options, drop_last=True))
    return copied(method.student)


def largest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


class MeanOfMeans(Distillation):
    """The control: each micro-batch by its own count, and their mean."""

    def move(self, batch: Batch, progress: Progress, **options: Any) -> Move:
        whole = super().move(self.prepare(batch, progress), progress, **options)
        parts = round(13 / batch.rows)
        return Move(whole.loss / parts, whole.player, whole.parts, whole.watched)


def test_accumulation_gives_the_weights_of_the_whole_batch() -> None:
    whole = weights_after(1)
    assert largest(whole, weights_after(4)) <= 1e-12
    assert largest(whole, weights_after(13)) <= 1e-12


def test_a_mean_over_micro_batches_does_not() -> None:
    assert largest(weights_after(1), weights_after(4, MeanOfMeans)) > 1e-4


def test_accumulated_values_are_logged_as_the_whole_batchs() -> None:
    one = logged(kd(norm=False, dropout=0.0), epochs=2)
    four = logged(kd(norm=False, dropout=0.0), epochs=2, accumulate=4)
    for a, b in zip(one, four, strict=True):
        assert flattened(a) == pytest.approx(flattened(b), rel=1e-4)


# -- what the log says -------------------------------------------------------------------------------------------------


def test_logged_values_are_those_of_a_computation_by_hand(tmp_path: Path) -> None:
    x, label = data(40)
    label = label.clone()
    label[::4] = -100
    student, teacher = nets(norm=False, dropout=0.0)
    method = Distillation(
        Term(cross_entropy, "student", "batch.label", weight=linear(0.5, 0.1), name="hard"),
        Term(soft, "student", "teacher", weight=0.6, name="soft"),
        student=student,
        teacher=teacher,
        watch={"agreement": (agreement, "student", "teacher")},
    )
    still = settings(epochs=2, batch_size=16, accumulate=2, optimizer=Optim("SGD", lr=0.0))
    train(method, (x, label), still, folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1]
    for line in lines:
        epoch, at = divmod(line["step"] - 1, 3)
        rows = permutation(40, 0, epoch)[16 * at : 16 * at + 16]
        s, t = student(x[rows]), teacher(x[rows]).detach()
        known = label[rows] != -100
        hard = -s.log_softmax(1)[known, label[rows][known]].mean()
        p = (t / 2).softmax(1)
        kind = 4 * (p * (p.log() - (s / 2).log_softmax(1))).sum(1).mean()
        weight = 0.5 + (0.1 - 0.5) * (line["step"] - 1) / 6
        loss = weight * hard + 0.6 * kind
        grads = torch.autograd.grad(loss, list(student.parameters()))
        hard, kind, loss = hard.detach(), kind.detach(), loss.detach()
        assert line["terms"] == pytest.approx({"hard": float(hard), "soft": float(kind)}, rel=1e-5)
        assert line["weights"] == pytest.approx({"hard": weight, "soft": 0.6})
        assert line["loss"]["student"] == pytest.approx(float(loss), rel=1e-5)
        assert line["agreement"] == pytest.approx(float((s.argmax(1) == t.argmax(1)).float().mean()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        assert line["gradient_norm"]["student"] == pytest.approx(norm, rel=1e-4)
        assert set(line) == {"step", "epoch", "loss", "terms", "weights", "agreement", "gradient_norm", "lr"}


def test_the_log_is_written_every_so_many_steps_and_at_the_last() -> None:
    assert [r["step"] for r in logged(kd(), steps=11, log_every=4)] == [4, 8, 11]


def test_a_player_that_moves_twice_in_a_step_logs_its_last_move() -> None:
    x = torch.randn(8, 3)
    student = nn.Linear(3, 2)
    twin = copy.deepcopy(student)
    (record,) = logged(ByHand(student, sweeps=2), x, steps=1, optimizer=Optim("SGD", lr=0.1))
    first = (twin(x) ** 2).mean()
    first.backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= 0.1 * p.grad
        second = float((twin(x) ** 2).mean())
    assert second < float(first.detach())
    assert record["loss"]["student"] == pytest.approx(second, rel=1e-5)
    assert record["terms"]["square"] == pytest.approx(second, rel=1e-5)
    assert record["size"] == pytest.approx(math.sqrt(second), rel=1e-5)


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains_in_half_precision_and_keeps_the_weights_whole(precision: Any) -> None:
    dtypes: set[torch.dtype] = set()
    method = kd(dropout=0.0)
    method.student.head.register_forward_hook(lambda m, i, o: dtypes.add(o.dtype))
    records = logged(method, epochs=20, precision=precision, optimizer=Optim("AdamW", lr=0.02))
    method.student.head._forward_hooks.clear()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert dtypes == {torch.float32, half}  # float32 in the dry run
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert records[-1]["loss"]["student"] < 0.8 * records[0]["loss"]["student"]
    full = logged(kd(dropout=0.0), epochs=20, optimizer=Optim("AdamW", lr=0.02))
    assert records[-1]["loss"]["student"] == pytest.approx(full[-1]["loss"]["student"], rel=0.2)
    assert "skipped" not in records[-1]


class Steep(nn.Module):
    """A loss whose gradient overflows float16 once it is scaled, and not before."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, student: Tensor) -> Tensor:
        return student.float().sum(1) * self.slope


def steep(slope: float) -> Distillation:
    return Distillation(Term(Steep(slope), "student"), student=nn.Linear(3, 1, bias=False).half())


def test_an_overflow_in_fp16_is_skipped_and_counted_and_the_scale_falls() -> None:
    method = steep(8.0)
    before = method.student.weight.detach().clone()
    weights = []

    class Weights(Spy):
        def logged(self, record: Any) -> None:
            super().logged(record)
            weights.append(method.student.weight.detach().clone())

    spy = Weights()
    x = torch.ones(8, 3, dtype=torch.half)
    options = settings(steps=6, precision="fp16", optimizer=Optim("SGD", lr=0.001))
    train(method, x, options, callbacks=[spy])
    # 8 * 2^16 and 8 * 2^15, ... do not go into float16; 8 * 2^12 = 32768 does.
    assert [r.get("skipped", 0) for r in spy.records] == [1, 2, 3, 4, 4, 4]
    assert all(torch.equal(w, before) for w in weights[:4])
    assert not torch.equal(weights[4], before)
    assert spy.records[4]["gradient_norm"]["student"] == pytest.approx(8 * math.sqrt(3), rel=1e-3)


def test_skipped_steps_are_counted_also_where_the_log_has_no_line_and_over_a_resume(tmp_path: Path) -> None:
    x = torch.ones(8, 3, dtype=torch.half)
    options = settings(steps=6, log_every=6, save_every=2, precision="fp16", optimizer=Optim("SGD", lr=0.001))
    with pytest.raises(ZeroDivisionError):
        train(steep(8.0), x, options, folder=tmp_path, callbacks=[Fails(2)])
    train(steep(8.0), x, options, folder=tmp_path, resume=True)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["skipped"] == 4


def test_an_overflow_that_no_scale_can_mend_stops_the_run() -> None:
    method = steep(1e5)
    before = method.student.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"step 16, .*gradient of Steep\(student\) is not finite"):
        train(method, torch.ones(8, 3).half(), settings(steps=40, precision="fp16", optimizer=Optim("SGD", lr=0.001)))
    assert torch.equal(method.student.weight, before)


# -- averages, validation, the best ------------------------------------------------------------------------------------


def test_the_moving_average_is_what_is_validated_and_kept() -> None:
    method = kd()
    own: list[dict[str, Tensor]] = [copied(method.student)]

    class Follow(Callback):
        def stepped(self, progress: Progress) -> None:
            own.append(copied(method.student))

    seen: list[dict[str, Tensor]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not any(m.training for m in model.modules())
        seen.append(copied(model))
        return {"accuracy": float(len(seen))}

    train(method, data(), settings(steps=5, ema=0.8, validate_every=5), validate=validate, callbacks=[Follow()])
    average = own[0]
    for state in own[1:]:
        for k, v in state.items():
            average[k] = average[k] * 0.8 + v * 0.2 if v.is_floating_point() else v
    assert all(v.allclose(average[k], atol=1e-6) for k, v in seen[-1].items())
    assert equal(copied(method.student), seen[-1])
    assert not equal(own[-1], seen[-1])


def test_without_validation_the_average_or_else_the_last_weights_are_kept(tmp_path: Path) -> None:
    plain, averaged = kd(), kd()
    train(plain, data(), settings(), folder=tmp_path / "plain")
    train(averaged, data(), settings(ema=0.9), folder=tmp_path / "averaged")
    assert not equal(copied(plain.student), copied(averaged.student))
    for method, name in [(plain, "plain"), (averaged, "averaged")]:
        saved = load_tensors(tmp_path / name / "student.safetensors")
        assert {k: v.tolist() for k, v in saved.items()} == {k: v.tolist() for k, v in copied(method.student).items()}


@pytest.mark.parametrize(
    ("best_is", "figures", "kept"), [("max", [9, 0.2, 0.7, 0.7, 0.3], 4), ("min", [0, 0.6, 0.9, 0.2, 0.3], 6)]
)
def test_the_best_weights_are_kept_and_those_before_training_are_never_best(
    best_is: Any, figures: list[float], kept: int
) -> None:
    method, values, states = kd(), iter(figures), {}

    def validate(model: nn.Module) -> dict[str, float]:
        states[2 * len(states)] = copied(model)
        return {"score": next(values)}

    options = settings(steps=8, validate_every=2, best="score", best_is=best_is)
    result = train(method, data(), options, validate=validate)
    assert result.best == {"step": kept, "epoch": kept // 5, "valid": {"score": figures[kept // 2]}}
    assert [h["step"] for h in result.history] == [0, 2, 4, 6, 8]
    assert result.last == result.history[-1]
    assert equal(copied(method.student), states[kept])
    assert not equal(states[kept], states[8])


def test_patience_ends_the_run_early() -> None:
    values = iter([0.0, 0.5, 0.6, 0.6, 0.4, 0.9])
    options = settings(steps=100, validate_every=3, patience=2)
    result = train(kd(), data(), options, validate=lambda m: {"accuracy": next(values)})
    assert (result.steps, result.stopped_early, result.best["step"]) == (12, True, 6)


def test_a_figure_that_is_not_a_number_is_never_better() -> None:
    values = iter([0.0, 0.5, math.nan, math.nan, 0.6])
    options = settings(steps=4, validate_every=1, patience=3)
    result = train(kd(), data(), options, validate=lambda m: {"accuracy": next(values)})
    assert result.best["step"] == 4


def test_the_figure_to_judge_by_must_be_there() -> None:
    with pytest.raises(InputError, match=r"best='accuracy' is not among the validated figures\. Allowed: f1"):
        train(kd(), data(), settings(), validate=lambda m: {"f1": 1.0})


def test_validation_does_not_change_what_is_trained() -> None:
    plain, watched = kd(), kd()
    train(plain, data(), settings(steps=10))

    def validate(model: nn.Module) -> dict[str, float]:
        torch.rand(7), model(data()[0])
        return {"accuracy": 0.0}

    last = {}

    class Last(Callback):
        def stepped(self, progress: Progress) -> None:
            last.update(copied(watched.student))

    train(watched, data(), settings(steps=10, validate_every=1), validate=validate, callbacks=[Last()])
    assert equal(copied(plain.student), last)


# -- what is not finite ------------------------------------------------------------------------------------------------


def spoilt(kind: str, at: int) -> Any:
    """A loss that is not finite, or has a gradient that is not, once the sample ``at`` comes."""

    def loss(student: Tensor, index: Tensor) -> Tensor:
        bad = (index == at).float()
        if kind == "gradient":
            return (student.square().sum(1) * (1 - bad)).sqrt()  # finite; d sqrt(0) is not
        value = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[kind]
        return student.sum(1) + torch.where(bad > 0, value, 0.0)

    loss.__name__ = "spoilt"
    return loss


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["nan", "inf", "-inf", "gradient"])
def test_what_is_not_finite_stops_before_the_step_and_names_term_step_and_samples(
    kind: str, accumulate: int, tmp_path: Path
) -> None:
    sample = int(permutation(40, 0, 0)[19])
    step, rows = 2, permutation(40, 0, 0)[16:24].tolist()
    student, teacher = nets()
    method = Distillation(
        Term(soft, "student", "teacher"),
        Term(spoilt(kind, sample), "student", "batch.index"),
        student=student,
        teacher=teacher,
    )
    states: list[dict[str, Tensor]] = []

    class States(Callback):
        def stepped(self, progress: Progress) -> None:
            states.append(copied(method))

    with pytest.raises(NonFiniteError) as caught:
        train(method, data(), settings(epochs=1, accumulate=accumulate), folder=tmp_path, callbacks=[States()])
    told = str(caught.value)
    assert len(states) == step
    assert equal(copied(method), states[-1]), "weights or running statistics have changed"
    assert caught.value.exit_code == 2
    assert f"step {step}, player 'student'" in told
    what = "gradient of" if kind == "gradient" else "value of"
    assert f"{what} spoilt(student, batch.index)" in told
    assert "kl(student, teacher)" not in told
    named = [int(n) for n in re.search(r"samples ([\d, ]+)", told)[1].strip(", ").split(",")]
    assert named == (rows if accumulate == 1 else rows[:4])


def test_without_the_gate_the_weights_would_be_spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_module, "_finite", lambda loss, norm: (True, True))
    student = nn.Linear(12, 5)
    method = Distillation(Term(spoilt("gradient", 33), "student", "batch.index"), student=student)
    train(method, data(), settings(epochs=1))
    assert not student.weight.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_teacher_that_says_nonsense_is_found_before_it_is_learnt(value: float) -> None:
    method = kd()
    before = copied(method)
    with torch.no_grad():
        method.frozen["teacher"].head.bias[2] = value
    with pytest.raises(NonFiniteError, match=r"step 0, player 'student': (value|gradient) of kl\(student, teacher\)"):
        train(method, data(), settings())
    assert equal(copied(method), before)


def test_a_broken_sample_does_not_spoil_batch_norm() -> None:
    method, (x, y) = kd(), data()
    x[3, 0] = math.inf
    with pytest.raises(NonFiniteError):
        train(method, (x, y), settings(epochs=2))
    assert all(v.isfinite().all() for v in method.state_dict().values())


def test_what_only_a_rare_draw_brings_out_is_found_again_with_the_same_random_numbers() -> None:
    def unlucky(student: Tensor) -> Tensor:
        return student.sum(1) * (math.inf if torch.rand(()) < 0.01 else 1.0)

    method = Distillation(Term(unlucky, "student"), Term(soft, "student", "student.head"), student=nets()[0])
    with pytest.raises(
        NonFiniteError,
        match=r"player 'student': (value|gradient) of unlucky\(student\) is [^;]*\(samples (\d+, ){3}\d+\)",
    ):
        train(method, data(), settings(steps=2000, accumulate=2, optimizer=Optim("SGD", lr=0.0)))


class Unexplained(ByHand):
    """A method that does not say its parts."""

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        for move in super().moves(batch, progress):
            yield Move(move.loss * (math.nan if progress.step == 2 else 1.0))


def test_a_method_without_parts_still_tells_step_and_samples() -> None:
    student = nn.Linear(12, 2)
    with pytest.raises(
        NonFiniteError, match=r"step 2, player 'student': loss or gradient is not finite \(samples \d+, "
    ):
        train(Unexplained(student), data()[0], settings())
    assert student.weight.isfinite().all()


def test_the_last_checkpoint_before_a_broken_step_resumes(tmp_path: Path) -> None:
    x, y = data()
    broken = x.clone()
    broken[permutation(40, 0, 0)[30]] = math.nan
    whole, halves = kd(), kd()
    options = settings(epochs=2, save_every=1)
    train(whole, (x, y), options, folder=tmp_path / "whole")
    with pytest.raises(NonFiniteError):
        train(halves, (broken, y), options, folder=tmp_path / "halves")
    halves = kd()
    train(halves, (x, y), options, folder=tmp_path / "halves", resume=True)
    assert equal(copied(halves), copied(whole))


# -- several players ---------------------------------------------------------------------------------------------------


def adversarial(norm: bool = True) -> Adversarial:
    student, teacher = nets(norm)
    return Adversarial(student, teacher, Critic())


def bank() -> Distillation:
    student, teacher = nets()
    return contrastive(student, teacher, samples=40)


def test_two_players_move_in_turn_each_with_its_own_optimizer() -> None:
    method = adversarial()
    optimizers = {"critic": Optim("SGD", lr=0.05), "student": Optim("AdamW", lr=0.01)}
    records = logged(method, steps=8, optimizer=optimizers)
    assert list(records[0]["loss"]) == ["critic", "student"]
    assert records[0]["lr"] == {"critic": [0.05], "student": [0.01]}
    assert set(records[0]["terms"]) == {"critic", "cross_entropy(student, batch.label)", "fool"}
    assert records[-1]["loss"]["critic"] < records[0]["loss"]["critic"]


@pytest.mark.parametrize("frozen", ["critic", "student"])
def test_a_move_changes_its_own_players_parameters_only(frozen: str) -> None:
    method = adversarial(norm=False)  # before BatchNorm a bias has no gradient
    before = copied(method)
    players = {n: [id(p) for p in ps] for n, ps in method.players().items()}
    optimizers = {n: Optim("SGD", lr=0.0 if n == frozen else 0.1) for n in players}
    train(method, data(), settings(optimizer=optimizers))
    for name, p in method.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) in players[frozen]), name


def test_the_students_move_sees_the_critic_after_its_step() -> None:
    """Between two yields the first optimizer steps: the second term's value is that of the new critic."""
    method = adversarial()
    student, critic = method.student, method.critic
    for m in student.modules():
        m.p = 0.0 if isinstance(m, nn.Dropout) else None
    x = data()[0]
    optimizers = {"critic": Optim("SGD", lr=0.5), "student": Optim("SGD", lr=0.0)}
    old = copy.deepcopy(critic)
    (record,) = logged(method, steps=1, batch_size=40, optimizer=optimizers)
    logits = copy.deepcopy(student).train()(x)
    fool = {
        n: float(nn.functional.softplus(-c.net(logits)).mean().detach()) for n, c in [("old", old), ("new", critic)]
    }
    assert record["terms"]["fool"] == pytest.approx(fool["new"], rel=1e-4)
    assert record["terms"]["fool"] != pytest.approx(fool["old"], rel=1e-4)


@pytest.mark.parametrize("make", [adversarial, bank])
def test_methods_that_the_package_does_not_have_resume_to_the_same_bits(make: Any, tmp_path: Path) -> None:
    options = settings(steps=14, accumulate=2, save_every=4, optimizer=Optim("Adam", lr=0.02))
    whole, halves = make(), make()
    train(whole, data(), options, folder=tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(halves, data(), options, folder=tmp_path / "halves", callbacks=[Fails(9)])
    halves = make()
    train(halves, data(), options, folder=tmp_path / "halves", resume=True)
    assert equal(copied(halves), copied(whole))
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "halves/metrics.jsonl").read_bytes()


def test_a_memory_bank_is_filled_by_training_and_saved(tmp_path: Path) -> None:
    method = bank()
    train(method, data(), settings(steps=3), folder=tmp_path)
    seen = method.terms[0].loss.seen
    assert int(seen.sum()) == 24  # the dry run has left nothing in it
    tree, tensors = Checkpoints(tmp_path / "checkpoints").load()
    saved = thaw(tree, tensors)["method"]
    assert torch.equal(saved["terms.0.loss.seen"], seen)
    assert torch.equal(saved["terms.0.loss.memory"], method.terms[0].loss.memory)


def test_a_method_written_by_hand_trains() -> None:
    records = logged(ByHand(nn.Linear(12, 3)), data()[0], epochs=4)
    assert records[-1]["loss"]["student"] < records[0]["loss"]["student"]


class Partition(ByHand):
    def __init__(self, groups: Any) -> None:
        super().__init__(nn.Linear(12, 3))
        self.other = nn.Linear(2, 2)
        self.still = nn.Parameter(torch.ones(()), requires_grad=False)
        self.groups = groups

    def players(self) -> dict[str, list[nn.Parameter]]:
        return self.groups(self)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (lambda m: {"student": list(m.student.parameters())}, "no player trains other.weight, other.bias."),
        (
            lambda m: {"student": [p for p in m.parameters() if p.requires_grad], "b": [m.other.bias]},
            "several players train other.bias (student, b); each parameter has one.",
        ),
        (
            lambda m: {"student": [p for p in m.parameters() if p.requires_grad], "b": []},
            "player 'b' has no parameter to train.",
        ),
        (lambda m: {"student": list(m.parameters())}, "player 'student' has a parameter that does not train: still."),
        (
            lambda m: {"student": [*(p for p in m.parameters() if p.requires_grad), nn.Parameter(torch.ones(2))]},
            "player 'student' has a parameter that does not train: not in method.parameters().",
        ),
    ],
)
def test_players_that_are_no_partition_are_refused_with_names(groups: Any, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        train(Partition(groups), data()[0], settings())


class Odd(ByHand):
    def __init__(self, how: str) -> None:
        super().__init__(nn.Linear(12, 3))
        self.how = how

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        name = {"stranger": "studnet"}.get(self.how, "student")
        times = {"none": 0, "uneven": 1 + int(batch["index"][0] % 2)}.get(self.how, 1)
        for _ in range(times):
            value = batch.mean(self.student(batch["input"]).square().mean(1))
            yield Move(value, name, {"a": Part(1.0, value)})


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("stranger", "a move names the player 'studnet', which players() does not have. Did you mean 'student'?"),
        ("none", "Odd.moves made no move at step 0"),
        ("uneven", "all play alike"),
    ],
)
def test_moves_that_make_no_sense_are_refused(how: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        train(Odd(how), data()[0], settings(epochs=3, accumulate=2))


# -- the user's models and the user's folder ---------------------------------------------------------------------------


def condition(model: nn.Module) -> dict[str, Any]:
    return {
        "training": {n: m.training for n, m in model.named_modules()},
        "classes": {n: type(m) for n, m in model.named_modules()},
        "hooks": sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()
        ),
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": {n: p.grad is None for n, p in model.named_parameters()},
        "keys": list(model.state_dict()),
    }


class Breaks(nn.Module):
    """A loss that fails at the third step, in the forward or in the backward."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.calls = where, 0

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == 3 and self.where == "forward":
            raise ZeroDivisionError
        value = (student - teacher).square().mean(1)
        if self.calls == 3 and self.where == "backward":
            value.register_hook(lambda grad: 1 / 0)
        return value


@pytest.mark.parametrize("where", ["forward", "backward", "callback", "validate", "nowhere"])
def test_models_come_back_as_they_were_also_after_an_error_in_the_middle(where: str, tmp_path: Path) -> None:
    student, teacher = nets()
    student.eval(), teacher.train()
    student.body[3].train()
    student.body[0].bias.requires_grad_(False)
    before = condition(student), condition(teacher), copied(teacher)
    method = Distillation(
        Term(Breaks(where), "student.body", "teacher.body"), student=student, teacher=Projected(teacher, 6)
    )
    calls = iter([0, 1] + [1, 1 / 1] * 9)

    def validate(model: nn.Module) -> dict[str, float]:
        if where == "validate" and next(calls):
            raise ZeroDivisionError
        return {"accuracy": 0.0}

    def go() -> None:
        train(
            method,
            data(),
            settings(validate_every=2),
            validate=validate,
            folder=tmp_path,
            callbacks=[Fails(2)] if where == "callback" else [],
        )

    if where == "nowhere":
        go()
    else:
        with pytest.raises(ZeroDivisionError):
            go()
    after = condition(student), condition(teacher), copied(teacher)
    assert after[:2] == before[:2]
    assert equal(after[2], before[2])
    train(kd(), data(), settings(), folder=tmp_path / "again")


class Projected(nn.Module):
    """The first columns of a teacher's layer, read at the same name."""

    def __init__(self, teacher: nn.Module, width: int) -> None:
        super().__init__()
        self.teacher, self.body = teacher, nn.Identity()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.teacher.body(x)[:, : self.width])


def test_the_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    class Bad(Callback):
        def finished(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(kd(), data(), settings(steps=2), folder=tmp_path, callbacks=[Bad()])
    train(kd(), data(), settings(steps=2), folder=tmp_path, resume=True)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(kd(), data(), settings(), folder=tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"already holds a run\. Say resume=True to go on with it"):
        train(kd(), data(), settings(), folder=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_that_is_resumed_only_gives_its_result_again(tmp_path: Path) -> None:
    x, y = data()
    first, again = kd(), kd()
    options = settings(steps=10, validate_every=5, save_every=5)
    result = train(first, data(), options, folder=tmp_path, validate=accuracy(x, y))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    spy = Spy()
    told = train(again, data(), options, folder=tmp_path, resume=True, validate=accuracy(x, y), callbacks=[spy])
    assert spy.events == [("started", 10), ("finished",)]
    assert (told.steps, told.history, told.best) == (result.steps, result.history, result.best)
    assert equal(copied(first.student), copied(again.student))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = settings(steps=12, save_every=4)
    whole = kd()
    train(whole, data(), options, folder=tmp_path / "whole")
    real, saves = safetensors.torch.save_file, []

    def full(tensors: Any, path: Any) -> None:
        saves.append(path)
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(MachineError, match=r"step-00000008: cannot be written: the disk is full") as caught:
            train(kd(), data(), options, folder=tmp_path / "halves")
    assert caught.value.exit_code == 4
    assert [p.name for p in (tmp_path / "halves/checkpoints").glob("*step*")] == ["step-00000004"]
    resumed = kd()
    train(resumed, data(), options, folder=tmp_path / "halves", resume=True)
    assert equal(copied(resumed), copied(whole))
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "halves/metrics.jsonl").read_bytes()


def test_debris_of_a_killed_run_is_swept_from_its_folder(tmp_path: Path) -> None:
    debris = tmp_path / (".student.safetensors." + "0" * 32)
    debris.write_bytes(b"half")
    bystander = tmp_path / ".notes"
    bystander.write_text("mine")
    train(kd(), data(), settings(steps=1), folder=tmp_path)
    assert not debris.exists()
    assert bystander.exists()


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_callbacks_hear_everything_in_its_order() -> None:
    first, second = Spy(), Spy()
    options = settings(steps=4, log_every=2, validate_every=2)
    train(kd(), data(), options, validate=lambda m: {"accuracy": 0.0}, callbacks=[first, second])
    assert first.events == second.events
    assert first.events == [
        ("valid", 0), ("started", 0),
        ("stepped", 0), ("stepped", 1), ("logged", 2), ("valid", 2),
        ("stepped", 2), ("stepped", 3), ("logged", 4), ("valid", 4), ("finished",),
    ]  # fmt: skip


def test_what_callbacks_hear_is_what_the_journal_holds(tmp_path: Path) -> None:
    spy, options = Spy(), settings(steps=4, validate_every=2)
    train(kd(), data(), options, validate=lambda m: {"accuracy": 0.25}, folder=tmp_path, callbacks=[spy])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == spy.records


def test_every_callback_is_finished_in_its_order_also_after_an_error() -> None:
    order: list[str] = []

    class Says(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def finished(self) -> None:
            order.append(self.name)

    with pytest.raises(ZeroDivisionError):
        train(kd(), data(), settings(), callbacks=[Says("a"), Fails(1), Says("b")])
    assert order == ["a", "b"]


@pytest.mark.long
def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spy, options = Spy(), settings(steps=4, validate_every=2)
    callbacks = [TensorBoard(tmp_path), spy]
    train(kd(), data(), options, validate=lambda m: {"accuracy": 0.5}, callbacks=callbacks)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    told = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    expected = {
        (name, record["step"]): value
        for record in spy.records
        for name, value in flattened({k: v for k, v in record.items() if k not in ("step", "epoch")}).items()
    }
    assert told == pytest.approx(expected, rel=1e-5)
    assert ("terms/kl(student, teacher)", 4) in told


# -- the engine names nothing ------------------------------------------------------------------------------------------

METHODS = (
    "kd kl distill distillation fitnets hint crd attention gan adversarial critic generator bank contrastive ce mse"
)
MODALITIES = "image images pixel pixels token tokens logits label labels class classes vocabulary sentence"
FIGURES = "accuracy f1 bleu perplexity agreement teacher teachers temperature projector projectors"
ALLOWED = {"from understudy.teachers.ema import Ema"}


def named(source: str) -> list[str]:
    """Words of methods and modalities in a source, in code and in comments, Python's own keywords left out."""
    source = "\n".join(line for line in source.splitlines() if line not in ALLOWED)
    words = set(f"{METHODS} {MODALITIES} {FIGURES}".split())
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string == "class":
            continue
        said = token.string.replace(":class:", "")
        parts = said + " " + re.sub(r"([a-z])([A-Z])", r"\1 \2", said)
        found += [w for w in re.findall(r"[a-z0-9]+", parts.lower()) if w in words]
    return found


@pytest.mark.parametrize("name", ["engine.py", "play.py"])
def test_the_engine_names_no_method_and_no_modality(name: str) -> None:
    assert named((Path(understudy.__file__).parent / name).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from understudy.methods import kd",
        "if isinstance(method, FitNets): pass",
        "x = batch['label']",
        "self.teacher = None",
        "# for images only",
        "def class_weights(): ...",
        "from understudy.teachers.ensemble import Ensemble",
        "logitsOf = 1",
    ],
)
def test_the_check_for_names_sees_them(source: str) -> None:
    assert named(source)


@pytest.mark.parametrize("module", [engine_module, play_module])
def test_the_engine_asks_no_method_what_it_is(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    asked = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "isinstance"]
    assert all("method" not in call.lower() for call in asked), asked


# -- an average that teaches -------------------------------------------------------------------------------------------


def test_a_teacher_that_follows_its_student_is_averaged_once_a_step() -> None:
    student = nets(dropout=0.0)[0]
    ema = Ema(student, decay=0.5)
    method = Distillation(
        Term(soft, "student", "mean"), Term(cross_entropy, "student", "batch.label"), student=student, mean=ema
    )
    expected = copied(student)

    class Follow(Callback):
        def stepped(self, progress: Progress) -> None:
            for k, v in copied(student).items():
                expected[k] = expected[k] * 0.5 + v * 0.5 if v.is_floating_point() else v

    train(method, data(), settings(steps=5, accumulate=2), callbacks=[Follow()])
    assert all(v.allclose(expected[k], atol=1e-6) for k, v in ema.model.state_dict().items())


def test_a_weight_may_follow_the_epoch() -> None:
    student, teacher = nets()
    curve = lambda progress: float(progress.epoch)  # noqa: E731
    method = Distillation(
        Term(cross_entropy, "student", "batch.label", weight=constant(1.0), name="hard"),
        Term(soft, "student", "teacher", weight=curve, name="soft"),
        student=student,
        teacher=teacher,
    )
    records = logged(method, epochs=3)
    assert (
        [r["weights"].get("soft", 0) for r in records] == [r["epoch"] for r in records] == [0] * 5 + [1] * 5 + [2] * 5
    )
