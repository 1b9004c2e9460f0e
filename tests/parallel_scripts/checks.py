"""``checks.py FOLDER``: what two ranks must have in common, one function a claim; writes which claims held on each rank."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from material import Network, sequences, settings
from torch import Tensor, nn

from understudy import Distillation, Ema, Optim, Term, parallel, play, train
from understudy.data.order import permutation
from understudy.errors import InputError, NonFiniteError
from understudy.losses import cross_entropy, kl, mse
from understudy.projectors import Linear
from understudy.zoo import CNN

CPU = torch.device("cpu")
FOLDER = Path(sys.argv[1])


def everywhere(value: object) -> list:
    """Every rank's value, so that a check sees all of them."""
    told: list = [None] * parallel.ranks()
    dist.all_gather_object(told, value)
    return told


def distance(state: dict[str, Tensor]) -> float:
    """The largest difference between the ranks' tensors."""
    a, b = everywhere({k: v.detach() for k, v in state.items()})
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@contextlib.contextmanager
def patched(owner: object, name: str, value: object):
    """A deliberately broken version, for the control of a check."""
    whole = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, whole)


def nothing(*args: object, **kwargs: object) -> None:
    """In place of what must be missed."""


# -- exchanges ---------------------------------------------------------------------------------------------------------


def gather_joins_rows_of_different_lengths() -> None:
    r = parallel.rank()
    for mine, both in (
        (torch.arange(6.0).view(3, 2)[: 3 - 2 * r] + 10 * r, [[0, 1], [2, 3], [4, 5], [10, 11]]),
        (torch.full((2 * r, 2), 7, dtype=torch.int64), [[7, 7], [7, 7]]),
        (torch.zeros(0, 2), []),
        (torch.tensor([[r == 1, True]]), [[False, True], [True, True]]),
        (torch.arange(4.0).view(2, 2).t()[r:], [[0, 2], [1, 3], [1, 3]]),
    ):
        joined = parallel.gather(mine)
        assert joined.dtype == mine.dtype
        assert joined.tolist() == both, joined
    weight = torch.ones(2, requires_grad=True)
    assert not parallel.gather(weight * 2).requires_grad


def gather_text_gives_every_rank_every_text() -> None:
    for texts in (["", ""], ["", "b"], ["ä€𝄞 no\0ne", "x" * 5000], ["line\nline", "日本語"]):
        assert parallel.gather_text(texts[parallel.rank()], CPU) == texts


def gradients_are_averaged_and_a_missing_one_is_zero_unless_it_misses_everywhere() -> None:
    r = parallel.rank()
    single, double, here, nowhere = (
        nn.Parameter(torch.zeros(2, 2)),
        nn.Parameter(torch.zeros(3, dtype=torch.float64)),
        nn.Parameter(torch.zeros(2)),
        nn.Parameter(torch.zeros(2)),
    )
    single.grad = torch.arange(4.0).view(2, 2).t() + r  # not contiguous, as a backward may leave it
    double.grad = torch.full((3,), 0.1 * (1 + r), dtype=torch.float64)
    here.grad = torch.tensor([4.0, -2.0]) if r == 1 else None
    parallel.average_gradients([single, double, here, nowhere])
    assert single.grad.tolist() == [[0.5, 2.5], [1.5, 3.5]]
    assert torch.allclose(double.grad, torch.full((3,), 0.15, dtype=torch.float64), atol=1e-16, rtol=0)
    assert here.grad is not None
    assert here.grad.tolist() == [2, -1]
    assert nowhere.grad is None


def as_bytes(tensor: Tensor) -> bytes:
    """In the order of the indices, whatever the strides."""
    return bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).tolist())


def broadcast_takes_tensors_of_any_kind() -> None:
    r = parallel.rank()
    generator = torch.Generator().manual_seed(r)
    base = torch.randn(2, 3, 4, 4, generator=generator)
    tensors = {
        "strided": base.flatten()[::2],
        "other memory format": base.to(memory_format=torch.channels_last) if r else base.clone(),
        "bool": base > 0,
        "int16": (base * 100).to(torch.int16),
        "float8": base.to(torch.float8_e4m3fn),
        "bfloat16": base.bfloat16(),
        "complex": torch.complex(base, base),
        "number": torch.tensor(float(r)),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(base.clone()),
    }
    first = everywhere({k: as_bytes(v) for k, v in tensors.items()})[0]
    parallel.broadcast(tensors.values())
    for name, value in tensors.items():
        assert as_bytes(value) == first[name], name


# -- what ranks must have alike before they start ----------------------------------------------------------------------


def simple(seed: int = 1, teacher: int = 2, weight: float = 1.0, width: int = 8) -> Distillation:
    student, frozen = Network(width, seed), Network(12, teacher)
    return Distillation(Term(kl, "student", "teacher", weight=weight), student=student, teacher=frozen)


def refusal(method: Distillation, data: object, given: object, **options: object) -> str:
    """What train says; fails if it made a step or changed a weight first."""
    before = {k: v.clone() for k, v in method.student.state_dict().items()}
    try:
        with patched(play, "_turns", None):
            train(method, data, given, **options)
    except InputError as error:
        assert all(torch.equal(before[k], v) for k, v in method.student.state_dict().items())
        return str(error)
    raise AssertionError("was not refused")


def ranks_that_differ_are_refused_with_the_fact_in_which_they_differ() -> None:
    r, data = parallel.rank(), sequences()
    adam = partial(Optim, "AdamW", lr=1e-3, betas=(0.9, 0.999))
    shorter = {k: v[: len(v) - r] for k, v in data.items()}
    cases = {
        "seed": (simple(), data, settings(5, seed=r)),
        "batch_size": (simple(), data, settings(5, batch_size=9 - r)),
        "accumulate": (simple(), data, settings(5, accumulate=1 + r)),
        "optimizer": (simple(), data, settings(5, optimizer=adam(weight_decay=0.1 * (1 + r)))),
        "samples": (simple(), shorter, settings(5)),
        "frozen model 'teacher'": (simple(teacher=2 + r), data, settings(5)),
        "method": (simple(weight=1.0 + r), data, settings(5)),
        "log_every": (simple(), data, settings(5, log_every=1 + r)),
        "save_every": (simple(), data, settings(5, save_every=1 + r)),
    }
    for name, case in cases.items():
        said = refusal(*case)
        assert f"ranks differ in {name}: rank 0 has " in said, (name, said)
        assert "same script" in said
        a, b = said.split("rank 0 has ")[1].split(", rank 1 has ")
        assert a != b.split(".\n")[0], f"the values that are shown are equal: {said}"
    said = refusal(simple(width=8 + r), data, settings(5))
    assert "ranks differ in parameters and buffers" in said
    said = refusal(simple(), data, settings(5), validate=(lambda model: {"accuracy": 1.0}) if r else None)
    assert "ranks differ in validate" in said
    said = refusal(simple(), data, settings(5), folder=FOLDER / "only-one" if r else None)
    assert "ranks differ in folder" in said
    said = refusal(simple(seed=1 + r, teacher=2 + r), data, settings(5, seed=r))
    assert all(name in said for name in ("seed", "frozen model 'teacher'")), "all at once"


def what_differs_by_its_place_in_memory_alone_is_not_refused() -> None:

    def far(student: Tensor, teacher: Tensor, *, by: object = None) -> Tensor:
        return mse(student, teacher)

    kept = [object() for _ in range(5000 * parallel.rank())]  # so that the next one lies elsewhere
    term = Term(partial(far, by=object()), "student", "teacher")
    method = Distillation(term, student=Network(8, 1), teacher=Network(12, 2))
    told = everywhere(repr(method))
    assert told[0] != told[1], (len(kept), "the texts must differ, or this shows nothing")
    train(method, sequences(), settings(1))


def a_checkpoint_that_one_rank_does_not_see_is_refused() -> None:
    r, folder = parallel.rank(), FOLDER / "shared"
    train(simple(), sequences(), settings(2), folder=folder)
    said = refusal(simple(), sequences(), settings(2), folder=FOLDER / "local" if r else folder, resume=True)
    assert "ranks differ in checkpoints: rank 0 has 'step-00000002', rank 1 has ''" in said


def data_that_cannot_be_dealt_out_is_refused() -> None:
    data = sequences()
    said = refusal(simple(), data, settings(5, batch_size=3, accumulate=2, drop_last=True))
    assert "batch_size is 3 samples for 2 micro-batches on 2 ranks" in said
    said = refusal(simple(), data, settings(5, batch_size=10, accumulate=1))
    assert "an epoch's last batch has 1 samples for 1 micro-batches on 2 ranks" in said
    said = refusal(simple(), iter([data]), settings(5))
    assert "an iterable cannot be dealt out to several processes" in said


# -- what ranks have alike ever after ----------------------------------------------------------------------------------


class Shared(nn.Module):
    """A term's loss with a buffer, to have one that is not the student's."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.register_buffer("kept", torch.full((3,), fill))
        self.register_buffer("passing", torch.full((3,), fill), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mse(student, teacher)


def twins_that_differ() -> tuple[Distillation, Ema]:
    """Weights, an average, a projector and buffers of another value on each rank."""
    r = parallel.rank()
    student = Network(8, seed=1 + r)
    ema = Ema(student, 0.9)
    torch.manual_seed(r)
    terms = (
        Term(kl, "student", "teacher"),
        Term(kl, "student", "ema", weight=0.3),
        Term(Shared(r), "student", "teacher"),
    )
    hint = Term(mse, "student.body", "teacher.body", project=Linear(8, 12).double())
    return Distillation(*terms, hint, student=student, teacher=Network(12, 2), ema=ema), ema


def differently_initialised_students_become_rank_0s() -> None:
    for steps in (0, 5):
        method, ema = twins_that_differ()
        told = everywhere({k: v.clone() for k, v in method.state_dict().items()})
        assert distance(method.state_dict()) > 1e-2
        with contextlib.ExitStack() as stack:
            if not steps:
                stack.enter_context(patched(play.Player, "step", nothing))
                stack.enter_context(patched(Ema, "after", nothing))
            train(method, sequences(), settings(steps or 1))
        assert distance({**method.state_dict(), **dict(method.named_buffers())}) == 0
        assert distance(ema.model.state_dict()) == 0
        if not steps:
            assert all(torch.equal(told[0][k], v) for k, v in method.state_dict().items())
    method, _ = twins_that_differ()
    with patched(parallel, "broadcast", nothing):
        train(method, sequences(), settings(5))
    assert distance(method.state_dict()) > 1e-2, "control: without the broadcast they stay different"


def the_average_that_is_kept_is_that_of_rank_0s_student() -> None:
    method, _ = twins_that_differ()
    train(method, sequences(), settings(5, ema=0.999))
    assert distance(method.student.state_dict()) == 0


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 1, 8, 8, generator=generator), torch.randint(0, 10, (24,), generator=generator)


class Normed(nn.Module):
    """A projector with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def normed() -> Distillation:
    torch.manual_seed(3)
    student, teacher = CNN(4), CNN(8)
    return Distillation(
        Term(cross_entropy, "student", "batch.label"),
        Term(mse, "student.layer2", "teacher.layer2", project=Normed()),
        Term(kl, "student", "teacher"),
        student=student,
        teacher=teacher,
    )


def batch_norm_statistics_and_weights_are_equal_after_training_with_taps() -> None:
    method = normed()
    start = {k: v.clone() for k, v in method.state_dict().items()}
    train(method, images(), settings(4, batch_size=8, accumulate=2, optimizer=Optim("SGD", lr=0.1)))
    assert distance(method.state_dict()) == 0
    moved = [k for k in start if k.endswith("running_mean") and not torch.equal(start[k], method.state_dict()[k])]
    assert len(moved) == 4, moved
    control = normed()
    with patched(parallel, "sync_batch_norm", nothing):
        train(control, images(), settings(4, batch_size=8, optimizer=Optim("SGD", lr=0.1)))
    drift = {k: v for k, v in control.state_dict().items() if k in moved}
    assert distance(drift) > 1e-4, "control: each rank's statistics are of its own samples"
    assert min(distance({k: v}) for k, v in drift.items()) > 1e-4


def a_tap_reads_this_ranks_own_rows() -> None:
    method, r = normed(), parallel.rank()
    x, y = images()
    batch = method.prepare((x[8 * r : 8 * r + 8 - r], y[8 * r : 8 * r + 8 - r]), play.Progress())
    method.eval()
    address = method.terms[1].addresses[0]
    read = method.reader.read(batch, [address])[address]
    expected = method.student.layer2(method.student.layer1(x[8 * r : 8 * r + 8 - r]))
    assert torch.equal(read, expected)


class Bank(nn.Module):
    """The last 16 features of the teacher: what comes in is put there after the step, from all ranks."""

    def __init__(self, joined: bool = True) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(16, 12, dtype=torch.float64))
        self.joined, self.fresh = joined, torch.zeros(0, 12, dtype=torch.float64)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.fresh = torch.cat([self.fresh, teacher[:, 0].detach()]) if self.training else self.fresh
        return (student[:, 0] @ self.rows.T).square().mean(1) + mse(student, teacher)

    def after(self, progress: object) -> None:
        fresh = parallel.gather(self.fresh) if self.joined else self.fresh
        self.rows = torch.cat([self.rows, fresh])[-16:]
        self.fresh = self.fresh[:0]


def banked(joined: bool) -> Distillation:
    torch.manual_seed(5)
    term = Term(Bank(joined), "student.body", "teacher.body", project=Linear())
    return Distillation(term, student=Network(8, 1), teacher=Network(12, 2))


def a_memory_bank_that_gathers_is_equal_on_all_ranks_and_holds_everybodys_rows() -> None:
    method = banked(joined=True)
    data = sequences()
    train(method, data, settings(5, batch_size=10, accumulate=2, drop_last=True))
    assert distance(method.state_dict()) == 0
    with torch.no_grad():
        known = method.frozen["teacher"].body(data["input"])[:, 0]
    order = [int((known - row).abs().sum(1).argmin()) for row in method.state_dict()["terms.0.loss.rows"]]
    expected = torch.cat([samples_of(step, 10) for step in range(5)])[-16:].tolist()
    assert order == expected, "in the order of the whole batch"
    control = banked(joined=False)
    train(control, data, settings(5, batch_size=10, drop_last=True))
    assert distance({"rows": control.state_dict()["terms.0.loss.rows"]}) > 1e-3, "control: without gather they differ"


def samples_of(step: int, batch: int, samples: int = len(sequences()["input"])) -> Tensor:
    """The samples of a step, in their order."""
    epoch, at = divmod(step, samples // batch)
    return permutation(samples, 0, epoch)[at * batch : (at + 1) * batch]


# -- one rank alone sees it --------------------------------------------------------------------------------------------


def a_value_that_is_not_finite_on_one_rank_stops_all_of_them_at_the_same_step() -> None:
    data = sequences()
    sick = int(samples_of(2, 8)[-1])  # in rank 1's part of the third step
    data["input"] = data["input"].index_fill(0, torch.tensor([sick]), float("nan"))
    for precision in ("fp32", "fp16"):
        method = simple()
        steps = []
        with patched(play.Player, "step", counted(play.Player.step, steps)), pytest.raises(NonFiniteError) as caught:
            train(method, data, settings(10, batch_size=8, precision=precision))
        assert "step 2" in str(caught.value)
        assert str(sick) in str(caught.value)
        assert steps == [0, 1]
        assert distance(method.state_dict()) == 0


def counted(step, steps: list):
    def counting(self, progress, norm):
        steps.append(progress.step)
        return step(self, progress, norm)

    return counting


def a_rank_whose_samples_all_lack_what_a_term_reads_still_takes_part() -> None:
    x, y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(12) % 4

    class Some:
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return {"input": x[i], "label": y[i] if i < 5 else None}

    def collate(rows):
        batch = {"input": torch.stack([row["input"] for row in rows])}
        labels = [row["label"] for row in rows]
        return batch if None in labels else {**batch, "label": torch.stack(labels)}

    loader = torch.utils.data.DataLoader(Some(), batch_size=2, collate_fn=collate)
    student = nn.Sequential(nn.Linear(6, 4)).double()
    with torch.no_grad():
        student[0].weight.fill_(0.1)
    method = Distillation(
        Term(cross_entropy, "student", "batch.label"),
        student=student,
        watch={"size": (lambda logits: logits.abs().mean(1), "student")},
    )
    given = settings(12, batch_size=2, optimizer=Optim("SGD", lr=0.1), log_every=1)
    train(method, loader, given, folder=FOLDER / "labels")
    assert distance(method.state_dict()) == 0
    lines = [json.loads(line) for line in (FOLDER / "labels" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    labelled = [(samples_of(step, 2, 12) < 5).any() for step in range(12)]
    assert ["size" in line for line in lines] == labelled, "only a step in which nobody read it says nothing of it"
    assert [line["loss"]["student"] > 0 for line in lines] == labelled
    assert 2 < sum(labelled) < 12


CHECKS = [
    value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and value.__doc__ is None and "_" in name
]


if __name__ == "__main__":
    torch.set_num_threads(1)
    parallel.HANG_TIMEOUT = timedelta(seconds=30)
    parallel.start(CPU)
    warnings.simplefilter("error")
    results = {}
    for check in CHECKS:
        try:
            check()
            results[check.__name__] = "held"
        except Exception:
            results[check.__name__] = traceback.format_exc()
        (FOLDER / f"results-{os.environ['RANK']}.json").write_text(json.dumps(results, indent=1))
