"""Contrast with a bank and with the batch: the number of published code, what is drawn, what is kept."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses import CRD, crd_in_batch
from understudy.losses.contrastive import drawn, noise_contrast
from understudy.progress import START

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "relation.json").read_text())["values"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(samples: int = 40, **options: float) -> CRD:
    """One that has seen its first batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        crd = CRD(**{"samples": samples, "negatives": 16, "features": 8, **options})
        with torch.no_grad():
            crd.eval()(*batch())
    return crd.train()


def batch(rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return randn(rows, 4, seed=seed), randn(rows, 7, seed=seed + 1), torch.randperm(
        40, generator=torch.Generator().manual_seed(seed)
    )[:rows]  # fmt: skip


# -- the number of published code --------------------------------------------------------------------------------------


def test_the_contrast_gives_the_number_of_the_published_code():
    p = ((torch.arange(36, dtype=torch.float64).reshape(4, 9) % 7) + 1) / 50
    value = noise_contrast(p[:, 0].log(), p[:, 1:].log(), 100)
    expected = GOLDEN["noise_contrast, mean over the batch"]["value"]
    assert value.mean().item() == pytest.approx(expected, rel=1e-6)
    for wrong in (
        noise_contrast(p[:, 0].log(), p[:, 1:].log(), 50),
        noise_contrast(p[:, 0], p[:, 1:], 100),
        noise_contrast(p[:, 1].log(), p[:, 1:].log(), 100),
    ):
        assert wrong.mean().item() != pytest.approx(expected, rel=1e-3)


def straight(crd: CRD, student: Tensor, teacher: Tensor, index: Tensor, others: Tensor) -> Tensor:
    """The formula with the exponentials as they are, for each sample by itself, its own taken out of the negatives."""
    s = torch.nn.functional.normalize(crd.embed_student(student))
    t = torch.nn.functional.normalize(crd.embed_teacher(teacher))
    values = []
    for i, sample in enumerate(index.tolist()):
        left = others[others != sample]
        value = torch.zeros(())
        for f, bank, z in ((s[i], crd.bank_teacher, crd.partition[0]), (t[i], crd.bank_student, crd.partition[1])):
            own = torch.exp(bank[sample] @ f / crd.temperature) / z
            p = torch.exp(bank[left] @ f / crd.temperature) / z
            noise = len(others) / crd.samples
            rejected = torch.log(noise / (p + noise + 1e-7)).sum() * len(others) / len(left)
            value = value - torch.log(own / (own + noise + 1e-7)) - rejected
        values.append(value)
    return torch.stack(values)


def test_crd_is_the_formula_in_value_and_gradient():
    crd, given = made(), batch(seed=3)
    others = drawn(crd.seed, 0, crd.negatives, crd.samples)
    assert torch.isin(given[2], others).any(), "a sample is among its own negatives, so that leaving it out is tested"
    for student, loss in ((given[0].clone().requires_grad_(), crd), (given[0].clone().requires_grad_(), straight)):
        more = () if loss is crd else (others,)
        head = () if loss is crd else (crd,)
        value = loss(*head, student, *given[1:], *more)
        gradient = torch.autograd.grad(value.sum(), [student, *crd.parameters()])
        if loss is crd:
            expected, expected_gradient = value, gradient
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_partition_is_the_mean_exponential_of_the_first_batch_times_the_samples():
    crd = CRD(samples=40, negatives=16, features=8)
    assert crd.partition.eq(0).all()
    student, teacher, index = batch()
    with torch.no_grad():
        crd.eval()(student, teacher, index)
        others = drawn(crd.seed, 0, 16, 40).expand(6, -1)
        chosen = torch.cat([index[:, None], others], 1)
        s = torch.nn.functional.normalize(crd.embed_student(student))
        scores = torch.exp((crd.bank_teacher[chosen] @ s[:, :, None])[..., 0] / 0.07)
    torch.testing.assert_close(crd.partition[0], scores.mean() * 40, rtol=1e-5, atol=0)
    before = crd.partition.clone()
    with torch.no_grad():
        crd(*batch(seed=8))
    assert torch.equal(crd.partition, before)


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_what_is_drawn_is_a_function_of_seed_and_step():
    first = drawn(0, 0, 1000, 50_000)
    assert torch.equal(first, drawn(0, 0, 1000, 50_000))
    assert torch.equal(first[:10], drawn(0, 0, 10, 50_000))
    others = [
        drawn(0, 1, 1000, 50_000),
        drawn(1, 0, 1000, 50_000),
        drawn(-1, 0, 1000, 50_000),
        drawn(0, 10**12, 1000, 50_000),
    ]
    for other in others:
        assert (first == other).float().mean() < 0.01
    torch.manual_seed(1)
    assert torch.equal(first, drawn(0, 0, 1000, 50_000)), "the global generator has no say in it"


def test_what_is_drawn_is_even_over_the_samples_and_steps():
    samples, count = 97, 200
    found = torch.cat([drawn(5, step, count, samples) for step in range(200)])
    assert found.min() == 0
    assert found.max() == samples - 1
    expected = len(found) / samples
    chi_square = ((found.bincount(minlength=samples) - expected) ** 2 / expected).sum()
    assert abs(chi_square - (samples - 1)) < 5 * math.sqrt(2 * samples)
    # Neighbours in one draw, and the same place in neighbouring steps, know nothing of one another.
    table = found.reshape(200, count).double()
    for a, b in ((table[:, 1:], table[:, :-1]), (table[1:], table[:-1])):
        both = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(both) < 5 / math.sqrt(a.numel())


def test_control_a_poor_draw_is_seen():
    table = (torch.arange(200)[:, None] + torch.arange(200) * 7) % 97
    both = torch.corrcoef(torch.stack([table[1:].flatten(), table[:-1].flatten()]).double())[0, 1]
    assert abs(both) > 5 / math.sqrt(table.numel())


def test_the_negatives_are_others_in_each_step_and_are_the_same_after_a_resume():
    crd = made()
    values = []
    for _ in range(3):
        values.append(crd(*batch()).detach())
        crd._seen.clear()  # so that the banks stay, and only the negatives change
        crd.after(START)
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])
    fresh = made()
    fresh.load_state_dict(crd.state_dict())
    assert torch.equal(fresh(*batch()), crd(*batch()))


def test_a_small_training_set_has_no_more_negatives_than_other_samples():
    assert made(samples=40, negatives=16384).negatives == 39
    assert CRD(samples=1).negatives == 1


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_after_a_step_the_banks_have_moved_half_way_to_what_it_saw():
    crd = made(momentum=0.5)
    student, teacher, index = batch()
    before = copy.deepcopy(crd)
    crd(student, teacher, index)
    assert torch.equal(crd.bank_student, before.bank_student), "within the step they stay as they are"
    crd.after(START)
    s = torch.nn.functional.normalize(crd.embed_student(student)).detach()
    half = torch.nn.functional.normalize((before.bank_student[index] + s) / 2)
    torch.testing.assert_close(crd.bank_student[index], half)
    rest = torch.ones(40, dtype=torch.bool)
    rest[index] = False
    assert torch.equal(crd.bank_student[rest], before.bank_student[rest])
    assert not torch.equal(crd.bank_teacher[index], before.bank_teacher[index])


def test_micro_batches_move_the_banks_as_the_whole_batch_does():
    whole, parts = made(), made()
    given = batch()
    whole(*given)
    for rows in (slice(0, 2), slice(2, 6)):
        parts(*(x[rows] for x in given))
    torch.testing.assert_close(
        torch.cat([parts(*(x[rows] for x in given)) for rows in (slice(0, 2), slice(2, 6))]), whole(*given)
    )
    whole.after(START)
    parts.after(START)
    torch.testing.assert_close(whole.bank_teacher, parts.bank_teacher)
    assert int(whole.step) == int(parts.step) == 1


def test_what_is_only_evaluated_moves_nothing():
    crd = made()
    before = copy.deepcopy(crd.state_dict())
    with torch.no_grad():
        crd(*batch())
    crd.eval()(*batch())
    crd.after(START)
    after = crd.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k != "step")
    assert int(after["step"]) == 1


def test_an_index_beyond_the_bank_is_refused():
    student, teacher, index = batch()
    for wrong in (index + 40, index - 40):
        with pytest.raises(InputError, match="40 samples of the bank"):
            made()(student, teacher, wrong)
    with pytest.raises(ShapeError, match=r"batch\.index"):
        made()(student, teacher, index.float())
    with pytest.raises(ShapeError, match=r"batch\.index"):
        made()(student, teacher, index[:3])


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"negatives": 0}, {"features": 0}, {"temperature": 0.0}, {"momentum": 1.0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=r"CRD: .*momentum"):
        CRD(**{"samples": 5, **wrong})


def recognised(crd: CRD, student: Tensor, teacher: Tensor) -> float:
    """How many of the student's are nearest to the same sample of the teacher's."""
    s, t = crd.embed_student(student), crd.embed_teacher(teacher)
    likeness = torch.nn.functional.normalize(s) @ torch.nn.functional.normalize(t).T
    return (likeness.argmax(1) == torch.arange(len(s))).float().mean().item()


def test_a_contrast_that_learns_tells_its_samples_apart():
    """A few steps on fixed features bring both models' vectors of a sample together."""
    student, index = randn(20, 6), batch(rows=20)[2]
    teacher = student @ randn(6, 9, seed=1)
    torch.manual_seed(0)
    crd = CRD(samples=40, negatives=30, features=8)
    with torch.no_grad():
        crd(student, teacher, index)
    assert recognised(crd, student, teacher) < 0.5
    optimizer = torch.optim.Adam(crd.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        crd(student, teacher, index).mean().backward()
        optimizer.step()
        crd.after(START)
    assert recognised(crd, student, teacher) > 0.9


# -- in the batch ------------------------------------------------------------------------------------------------------


def test_without_a_difference_between_samples_it_is_the_logarithm_of_their_number():
    same = torch.ones(8, 3)
    assert crd_in_batch(same, same).item() == pytest.approx(math.log(8), rel=1e-6)


def test_both_directions_count():
    student, teacher = randn(5, 3), randn(5, 3, seed=1)
    value = crd_in_batch(student, teacher)
    assert crd_in_batch(teacher, student).item() == pytest.approx(value.item(), rel=1e-6)
    s, t = (torch.nn.functional.normalize(x) for x in (student, teacher))
    one = torch.nn.functional.cross_entropy(s @ t.T / 0.07, torch.arange(5))
    assert one.item() != pytest.approx(value.item(), rel=1e-3)


def test_it_asks_for_a_projector_where_features_differ():
    with pytest.raises(ShapeError, match=r"project=Linear\(\)"):
        crd_in_batch(randn(5, 3), randn(5, 4))
    with pytest.raises(InputError, match="temperature"):
        crd_in_batch(randn(5, 3), randn(5, 3), temperature=0.0)


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_two_ranks_keep_the_banks_of_the_whole_batch(tmp_path):
    script = Path(__file__).parents[1] / "parallel_scripts" / "bank.py"
    ranks = [subprocess.Popen([sys.executable, script, str(rank), tmp_path]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    whole, alone, *each = (load_file(tmp_path / name) for name in ("whole", "alone", "rank-0", "rank-1"))
    for state in each:
        for name, tensor in whole.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(alone["bank_student"], whole["bank_student"]), "one rank's part alone is another bank"
