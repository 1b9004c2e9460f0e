"""Door two: the examples run, and a method does the same in every host's loop as in our own."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import understudy as us
from understudy.data.digits import digits
from understudy.errors import InputError, TapError
from understudy.losses import cross_entropy, kl, mse
from understudy.zoo import CNN

ROOT = Path(__file__).parents[1]
LR = 0.05
HOSTS = [
    "plain_loop",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("with_accelerate", "with_lightning", "with_transformers")
    ),
]
ALL = ["plain_loop", "plain_loop_two_players", "with_accelerate", "with_lightning", "with_transformers"]

# What the hosts say of small runs on a CPU; none of it is about the method.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{said}")
    for said in (
        ".*does not have many workers",
        ".*isinstance.treespec, LeafSpec.",
        ".*but have no `val_dataloader`",
        ".*'pin_memory' argument is set as true but no accelerator",
    )
]


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    if "accelerate" in sys.modules:  # it keeps the first Accelerator's settings for the whole process
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


def example(name: str) -> ModuleType:
    for extra in ("accelerate", "lightning", "transformers"):
        if name == f"with_{extra}":
            pytest.importorskip(extra)
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- a small task, and each host's way to train on it ------------------------------------------------------------------


@functools.cache
def images(count: int = 64) -> tuple[Tensor, Tensor]:
    inputs, labels = digits().train
    return inputs[:count], labels[:count]


def rows(count: int = 64) -> list[dict[str, Any]]:
    return [{"input": image, "labels": label} for image, label in zip(*images(count), strict=True)]


def distillation(kind: type[us.Distillation] = us.Distillation, **more: Any) -> us.Distillation:
    """Soft labels and a hint with a projector. The teacher comes in train mode: nobody may change that, or train it."""
    torch.manual_seed(1)
    hint = more.pop("hint", 1.0)
    temperature = more.pop("temperature", 4.0)
    models = {"student": CNN(4), "teacher": CNN(8).train(), **more}
    method = kind(
        us.Term(cross_entropy, "student", "batch.labels", weight=0.1),
        us.Term(functools.partial(kl, temperature=temperature), "student", "teacher", weight=0.9),
        us.Term(mse, "student.layer2", "teacher.layer2", weight=hint, project=us.projectors.Conv1x1(8, 16)),
        **models,
    )
    torch.manual_seed(0)
    return method


class Ran(NamedTuple):
    losses: list[float]
    optimized: set[nn.Parameter]
    saved: set[str]
    """The names in the host's own checkpoint, as the method calls them."""


def run(
    host: str,
    method: us.Method,
    folder: Path,
    *,
    batch_size: int = 16,
    epochs: int = 1,
    accumulate: int = 1,
    lr: float = LR,
) -> Ran:
    module = example(host)
    optimizers: list[torch.optim.Optimizer] = []

    def recorded(*args: Any, **options: Any) -> torch.optim.Optimizer:
        optimizers.append(torch.optim.SGD(*args, **options))
        return optimizers[-1]

    module.SGD = recorded
    loader: DataLoader[Any] = DataLoader(rows(), batch_size=batch_size)  # type: ignore[arg-type]
    losses, saved = RUNNERS[host](module, method, loader, folder, epochs, accumulate, lr, optimizers)
    optimized = {p for group in optimizers[0].param_groups for p in group["params"]}
    return Ran(losses, optimized, saved)


def plain(module, method, loader, folder, epochs, accumulate, lr, optimizers):
    return module.fit(method, loader, epochs, lr), set(method.state_dict())


def accelerate(module, method, loader, folder, epochs, accumulate, lr, optimizers):
    accelerator = module.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    losses = module.fit(accelerator, method, loader, epochs, lr)
    accelerator.save_state(folder)
    return losses, set(load_file(folder / "model.safetensors"))


def quiet_lightning(module, folder, **more):
    return module.lightning.Trainer(
        accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False, **more
    )  # fmt: skip


def lightning(module, method, loader, folder, epochs, accumulate, lr, optimizers):
    distilled = module.Distilled(method, lr)
    quiet_lightning(module, folder, max_epochs=epochs, accumulate_grad_batches=accumulate).fit(distilled, loader)
    checkpoint = torch.load(next(folder.glob("checkpoints/*.ckpt")), weights_only=True)
    assert {n for n in checkpoint["state_dict"] if not n.startswith("method.")} == set()
    return distilled.losses, {n.removeprefix("method.") for n in checkpoint["state_dict"]}


def arguments(folder, **more):
    from transformers import TrainingArguments

    common = {
        "remove_unused_columns": False, "label_names": ["labels"], "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False, "logging_steps": 1, "save_strategy": "epoch", "max_grad_norm": 0.0, "optim": "sgd",
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**common, **more})


def transformers(module, method, loader, folder, epochs, accumulate, lr, optimizers):
    settings = arguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=loader.batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=lr,
    )
    trainer = module.Distiller(method, settings, train_dataset=loader.dataset, callbacks=[module.After()])
    trainer.train()
    optimizers.append(trainer.optimizer)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, set(load_file(next(folder.glob("checkpoint-*")) / "model.safetensors"))


RUNNERS: dict[str, Callable[..., tuple[list[float], set[str]]]] = {
    "plain_loop": plain,
    "with_accelerate": accelerate,
    "with_lightning": lightning,
    "with_transformers": transformers,
}


# -- the same in every host --------------------------------------------------------------------------------------------


def distance(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between two modules' states."""
    theirs = b.state_dict()
    return max(float((v.double() - theirs[k].double()).abs().max()) for k, v in a.state_dict().items())


def one_step_of_our_own(method: us.Method) -> us.Method:
    data = dict(zip(("input", "labels"), images(), strict=True))
    us.train(method, data, us.Settings(steps=1, batch_size=64, optimizer=us.Optim("SGD", lr=LR), device="cpu"))
    return method


@pytest.mark.parametrize("host", HOSTS)
def test_one_step_in_a_host_is_one_step_of_our_own_loop(host: str, tmp_path: Path) -> None:
    method = distillation()
    run(host, method, tmp_path, batch_size=64)
    assert distance(method, one_step_of_our_own(distillation())) <= 1e-6
    assert distance(method, distillation()) > 1e-3  # and a step was made


def test_control_a_teacher_that_is_read_in_train_mode_makes_another_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, method = one_step_of_our_own(distillation()), distillation()
    monkeypatch.setattr("understudy.reading._frozen", lambda model, modules, through: contextlib.nullcontext())
    run("plain_loop", method, tmp_path, batch_size=64)
    assert distance(method, ours) > 1e-6


def everything_about(model: nn.Module) -> dict[str, Any]:
    return {
        "weights": {k: v.tolist() for k, v in model.state_dict().items()},
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "classes": [type(m) for m in model.modules()],
    }


def complaints(method: us.Method, teacher: nn.Module, host: str, folder: Path) -> list[str]:
    """What is wrong after a run with who learnt, who did not, and what was saved."""
    before, bare = everything_about(teacher), set(method.student.state_dict())
    projector = {n: p.detach().clone() for n, p in method.named_parameters() if "project" in n}
    ran = run(host, method, folder)
    after = everything_about(teacher)
    found = [f"teacher's {k}" for k in before if before[k] != after[k]]
    found += [f"{n} did not move" for n, p in projector.items() if torch.equal(p, method.get_parameter(n))]
    if ran.optimized & set(teacher.parameters()):
        found.append("teacher in the optimizer")
    if ran.optimized != set(method.parameters()):
        found.append("the optimizer has other parameters than the method")
    if ran.saved != {f"models.student.{n}" for n in bare} | set(projector):
        found.append("something else than student and projector in the checkpoint")
    if set(method.student.state_dict()) != bare:
        found.append("student's names")
    return found


@pytest.mark.parametrize("host", HOSTS)
def test_student_and_projector_learn_and_are_saved_and_the_teacher_is_not_touched(host: str, tmp_path: Path) -> None:
    method = distillation()
    assert complaints(method, method.frozen["teacher"], host, tmp_path) == []


class HoldsItsTeacher(us.Distillation):
    def __init__(self, *terms: us.Term, **models: Any) -> None:
        super().__init__(*terms, **models)
        self.teacher = models["teacher"]


@pytest.mark.parametrize("host", HOSTS)
def test_control_a_teacher_that_is_a_submodule_is_noticed(host: str, tmp_path: Path) -> None:
    method = distillation(HoldsItsTeacher)
    found = complaints(method, method.frozen["teacher"], host, tmp_path)
    assert "teacher in the optimizer" in found
    assert "something else than student and projector in the checkpoint" in found


def test_control_a_projector_without_gradient_is_noticed(tmp_path: Path) -> None:
    method = distillation(hint=0.0)
    found = complaints(method, method.frozen["teacher"], "plain_loop", tmp_path)
    assert found == ["terms.2.project.layer.weight did not move", "terms.2.project.layer.bias did not move"]


ACCUMULATING = [pytest.param(*host.values, 2, 1, marks=pytest.mark.long) for host in HOSTS[1:]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("host", "accumulate", "epochs"),
    [("plain_loop", 1, 2), *ACCUMULATING, pytest.param("with_lightning", 1, 2, marks=pytest.mark.long)],
)
def test_a_host_says_where_the_run_is_and_calls_after_once_a_step(
    host: str, accumulate: int, epochs: int, tmp_path: Path
) -> None:
    told: list[us.Progress] = []
    after: list[us.Progress] = []

    def weight(progress: us.Progress) -> float:
        told.append(progress)
        return 1.0

    method = distillation(hint=weight)
    method.after = after.append
    run(host, method, tmp_path, batch_size=16, epochs=epochs, accumulate=accumulate)
    steps = epochs * 4 // accumulate
    expected = [us.Progress(step, steps, step * accumulate // 4) for step in range(steps)]
    assert after == expected
    assert told == [progress for progress in expected for _ in range(accumulate)]


@pytest.mark.parametrize("host", HOSTS)
def test_the_loss_falls_in_every_host_and_does_not_where_nothing_learns(host: str, tmp_path: Path) -> None:
    moving, still = (run(host, distillation(), tmp_path / str(lr), epochs=6, lr=lr).losses for lr in (LR, 0.0))
    assert sum(moving[-4:]) < 0.9 * sum(moving[:4])
    assert sum(still[-4:]) > 0.98 * sum(still[:4])


# -- the examples as they are ------------------------------------------------------------------------------------------


def test_the_plain_loop_distils() -> None:
    method, losses = example("plain_loop").main(epochs=2)
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert set(method.student.state_dict()) == set(CNN(8).state_dict())
    assert all(p.grad is None for p in method.frozen["teacher"].parameters())


@pytest.mark.long
@pytest.mark.parametrize("name", ["with_accelerate", "with_lightning"])
def test_a_host_distils_as_the_plain_loop_does(name: str, tmp_path: Path) -> None:
    method, losses = example(name).main(str(tmp_path), epochs=2)
    _, plainly = example("plain_loop").main(epochs=2)
    assert len(losses) == len(plainly)
    assert losses[:20] == pytest.approx(plainly[:20], rel=1e-4)  # validation shuffles the second epoch anew
    files = {"with_accelerate": "student/model.safetensors", "with_lightning": "student.pt"}
    file = tmp_path / files[name]
    kept = torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file)
    CNN(8).load_state_dict(kept)
    assert all(torch.equal(v, kept[k]) for k, v in method.student.state_dict().items())


@pytest.mark.long
def test_the_hugging_face_trainer_distils_into_a_student_that_loads_by_itself(tmp_path: Path) -> None:
    module = example("with_transformers")
    method, losses = module.main(str(tmp_path), epochs=3)
    assert losses[-1] < 0.9 * losses[0]
    student = module.BertForSequenceClassification.from_pretrained(tmp_path / "student")
    words = module.as_text(*images(8))["input_ids"]
    assert torch.equal(student.eval()(words).logits, method.student.eval()(words).logits)


# -- several moves -----------------------------------------------------------------------------------------------------


def test_two_players_play_in_the_plain_loop() -> None:
    method, losses = example("plain_loop_two_players").main(epochs=2)
    first, last = ({k: sum(line[k] for line in part) for k in part[0]} for part in (losses[:5], losses[-5:]))
    assert set(first) == {"critic", "student"}
    assert last["student"] < 0.9 * first["student"]
    assert last["critic"] < first["critic"]
    assert set(method.student.state_dict()) == set(CNN(8).state_dict())


def adversarial(module: ModuleType) -> us.Method:
    torch.manual_seed(1)
    return module.Adversarial(CNN(4), CNN(8), nn.Linear(10, 1))


def first_batch() -> list[Tensor]:
    return [t[:16] for t in images()]


def test_a_step_of_two_players_in_the_plain_loop_is_one_of_our_own() -> None:
    module = example("plain_loop_two_players")
    ours, theirs, start = adversarial(module), adversarial(module), adversarial(module)
    module.fit(theirs, [first_batch()], epochs=1)
    us.train(
        ours,
        tuple(first_batch()),
        us.Settings(steps=1, batch_size=16, optimizer=us.Optim("SGD", lr=LR), device="cpu"),
    )
    assert distance(ours, theirs) <= 1e-6
    assert distance(ours.critic, start.critic) > 1e-4
    assert distance(ours.student, start.student) > 1e-4


def test_control_stepping_both_players_at_once_is_another_game() -> None:
    module = example("plain_loop_two_players")
    method, right = adversarial(module), adversarial(module)
    module.fit(right, [first_batch()], epochs=1)
    method.train()
    optimizers = {name: torch.optim.SGD(parameters, lr=LR) for name, parameters in method.players().items()}
    moves = list(method.moves(method.prepare(first_batch(), us.Progress()), us.Progress()))
    sum(move.loss for move in moves).backward()
    for optimizer in optimizers.values():
        optimizer.step()
    assert distance(method, right) > 1e-6


def test_a_copy_of_the_two_players_is_another_game() -> None:
    module = example("plain_loop_two_players")
    method = adversarial(module)
    twin = copy.deepcopy(method)
    module.fit(twin, [first_batch()], epochs=1)
    assert distance(method, adversarial(module)) == 0
    assert distance(twin.critic, method.critic) > 0


def test_moves_of_a_distillation_take_a_batch_as_the_loader_gives_it() -> None:
    method = distillation()
    batch = torch.utils.data.default_collate(rows(8))
    (move,) = method.moves(batch, us.Progress())
    assert move.loss.item() == method.loss(batch).item()


# -- where a host's ways and the method meet ---------------------------------------------------------------------------


def test_data_parallel_is_refused_since_it_leaves_frozen_models_behind() -> None:
    method = distillation()
    with pytest.raises(InputError, match="torchrun"):
        method._replicate_for_data_parallel()
    copied = nn.Module._replicate_for_data_parallel(
        method
    )  # what would happen: it reads the models of the first device
    assert copied.reader.models["student"] is method.student


@pytest.mark.long
@pytest.mark.parametrize("host", ["with_accelerate", "with_lightning"])
def test_a_host_that_moves_the_method_moves_the_teacher(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, method = example(host), distillation()
    if host == "with_accelerate":
        monkeypatch.setattr(module.Accelerator, "device", torch.device("meta"))
        module.Accelerator().prepare_model(method)
    else:
        module.Distilled(method).to("meta")
    teacher = method.frozen["teacher"]
    assert {t.device.type for t in [*teacher.parameters(), *teacher.buffers()]} == {"meta"}


@pytest.mark.long
def test_autocast_of_accelerate_reaches_the_models_and_not_the_losses() -> None:
    module, method = example("with_accelerate"), distillation()
    accelerator = module.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare_model(method)
    seen = []
    method.student.layer2.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    loss = prepared(torch.utils.data.default_collate(rows(8)))
    accelerator.backward(loss)
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert accelerator.unwrap_model(prepared) is method
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.long
def test_a_run_inside_accelerate_goes_on_in_a_method_made_anew(tmp_path: Path) -> None:
    module = example("with_accelerate")
    method, fresh = distillation(), distillation()
    run("with_accelerate", method, tmp_path)
    accelerator = module.Accelerator(cpu=True)
    accelerator.prepare(fresh, torch.optim.SGD(fresh.parameters(), lr=LR, momentum=0.9))
    assert distance(method, fresh) > 0
    accelerator.load_state(tmp_path)
    assert distance(method, fresh) == 0


@pytest.mark.long
def test_a_run_inside_lightning_goes_on_in_a_method_made_anew(tmp_path: Path) -> None:
    module = example("with_lightning")
    method, fresh = distillation(), distillation()
    run("with_lightning", method, tmp_path)
    assert distance(method, fresh) > 0
    module.Distilled.load_from_checkpoint(next(tmp_path.glob("checkpoints/*.ckpt")), method=fresh)
    assert distance(method, fresh) == 0


@pytest.mark.long
def test_lightning_validates_the_student_without_gradient_and_trains_on(tmp_path: Path) -> None:
    module, method = example("with_lightning"), distillation()

    class OnTuples(module.Distilled):
        def validation_step(self, batch, batch_idx):
            super().validation_step((batch["input"], batch["labels"]), batch_idx)
            self.log("loss", self.method(batch))  # under inference_mode, between steps

    loader: DataLoader[Any] = DataLoader(rows(), batch_size=16)  # type: ignore[arg-type]
    trainer = quiet_lightning(module, tmp_path, max_epochs=2, enable_checkpointing=False)
    trainer.fit(OnTuples(method, LR), loader, loader)
    unwatched = distillation()
    run("with_lightning", unwatched, tmp_path, epochs=2)
    assert set(trainer.callback_metrics) == {"accuracy", "loss"}
    assert distance(method, unwatched) <= 1e-6


# -- transformers ------------------------------------------------------------------------------------------------------


def tiny_bert(kind: str, width: int) -> nn.Module:
    from transformers import BertConfig, models

    torch.manual_seed(width)
    size = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": 16, "max_position_embeddings": 16, "initializer_range": 0.1, "num_labels": 10}
    return getattr(models.bert, kind)(BertConfig(**size, **words))


def tiny_method(
    kind: str = "BertForSequenceClassification", student_layer: str = "bert.encoder.layer.0"
) -> us.Distillation:
    method = us.Distillation(
        us.Term(cross_entropy, "student", "batch.labels", weight=0.1),
        us.Term(kl, "student", "teacher", weight=0.9),
        us.Term(mse, f"student.{student_layer}", "teacher.bert.encoder.layer.1", project=us.projectors.Linear(16, 32)),
        student=tiny_bert(kind, 16),
        teacher=tiny_bert(kind, 32),
    )
    method.dry_run(words(4) if kind == "BertForSequenceClassification" else guessing(words(4)))
    torch.manual_seed(0)
    return method


def guessing(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The words are their own labels."""
    return {"input_ids": batch["input_ids"], "labels": batch["input_ids"]}


def words(count: int) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = example("with_transformers").as_text(*images(count))
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def sentences(count: int) -> list[dict[str, Any]]:
    batch = words(count)
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def distiller(method: us.Method, folder: Path, data: Any, **more: Any) -> Any:
    module = example("with_transformers")
    more = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8, **more}
    return module.Distiller(
        method, arguments(folder, **more), train_dataset=data, eval_dataset=data, callbacks=[module.After()]
    )


@pytest.mark.long
def test_the_trainer_evaluates_and_predicts_with_the_student_alone(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    method, data = tiny_method(), sentences(32)
    trainer = distiller(method, tmp_path, data, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    trainer.train()
    calls: list[str] = []
    method.frozen["teacher"].register_forward_hook(lambda *a: calls.append("teacher"))
    told, predicted = trainer.evaluate(), trainer.predict(data).predictions
    with torch.no_grad():
        output = method.student.eval()(**words(32))
    expected = torch.nn.functional.cross_entropy(output.logits, words(32)["labels"])
    assert told["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert torch.allclose(torch.tensor(predicted), output.logits, atol=1e-5)
    assert calls == []


@pytest.mark.long
def test_the_trainer_saves_and_resumes_a_student_with_tied_weights(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data = [guessing(row) for row in sentences(32)]
    unbroken, resumed = tiny_method("BertForMaskedLM"), tiny_method("BertForMaskedLM")
    assert len(dict(unbroken.named_parameters())) < len(unbroken.state_dict())  # they are tied
    distiller(unbroken, tmp_path, data).train()
    distiller(resumed, tmp_path, data).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert distance(unbroken, resumed) == 0
    assert distance(unbroken, tiny_method("BertForMaskedLM")) > 0


def gradients(method: us.Method, batch: Any) -> dict[str, Tensor]:
    method.train()
    method.zero_grad()
    torch.manual_seed(2)  # dropout's
    method.loss(batch).backward()
    return {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


TAPS = [
    "bert.encoder.layer.0",
    "bert.encoder.layer.1",
    "bert.encoder.layer.0.output.dense",
    "bert.encoder.layer.0.attention.output",
    "bert.embeddings",
]


@pytest.mark.long
@pytest.mark.parametrize("layer", TAPS)
def test_gradient_checkpointing_of_a_tapped_student_changes_nothing(layer: str) -> None:
    pytest.importorskip("transformers")
    method = tiny_method(student_layer=layer)
    whole = gradients(method, words(16))
    runs: list[int] = []
    method.student.bert.encoder.layer[0].output.dense.register_forward_hook(lambda *a: runs.append(1))
    method.student.activation_checkpointing_enable()
    recomputed = gradients(method, words(16))
    assert len(runs) == 2  # it was recomputed
    assert set(whole) == set(recomputed)
    assert all(torch.allclose(whole[n], recomputed[n], atol=1e-7) for n in whole)
    assert whole["terms.2.project.layer.weight"].abs().max() > 0


@pytest.mark.long
def test_reentrant_checkpointing_is_refused_where_it_would_cut_the_gradient() -> None:
    pytest.importorskip("transformers")
    reentrant = {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    outside, inside = tiny_method(), tiny_method(student_layer="bert.encoder.layer.0.output.dense")
    whole = gradients(outside, words(16))
    for method in (outside, inside):
        method.student.activation_checkpointing_enable(**reentrant)
    assert all(torch.allclose(whole[n], g, atol=1e-7) for n, g in gradients(outside, words(16)).items())
    with pytest.raises(TapError, match="use_reentrant=False"):
        gradients(inside, words(16))


# -- two processes -----------------------------------------------------------------------------------------------------


def two_ranks(folder: Path, *more: str) -> list[dict[str, Tensor]]:
    script = ROOT / "tests/parallel_scripts/accelerated.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, str(script), str(folder), *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.long
def test_two_ranks_inside_accelerate_train_as_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    script = ROOT / "tests/parallel_scripts/accelerated.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    alone = load_file(tmp_path / "rank0.safetensors")
    first, second = two_ranks(tmp_path)
    assert far(first, second) == 0
    assert far(first, alone) <= 1e-12


@pytest.mark.long
def test_control_ranks_drift_apart_if_the_prepared_method_is_not_called(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    first, second = two_ranks(tmp_path, "unwrapped")
    assert far(first, second) > 1e-6


# -- the page ----------------------------------------------------------------------------------------------------------


def difference(text: str) -> list[str]:
    """The lines of a diff, without their comments."""
    return [re.sub(r"\s+#.*", "", line.strip()) for line in text.splitlines() if re.match(r"\s*[+-] ", line)]


@pytest.mark.parametrize("name", ALL)
def test_the_page_shows_the_examples_own_difference_in_few_lines(name: str) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text()
    header = difference(source.split('"""')[1])
    sections = (ROOT / "docs/door_two.md").read_text().split("\n## ")
    (section,) = [s for s in sections if f"examples/{name}.py" in s]
    (block,) = re.findall(r"```diff\n(.*?)```", section, flags=re.DOTALL)
    assert difference(block) == header
    assert 3 <= len([line for line in header if line.startswith("+")]) <= 6
