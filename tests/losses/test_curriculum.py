from __future__ import annotations

import math

import pytest
import torch
from response_golden import logits
from torch import Tensor

from understudy.errors import InputError
from understudy.losses import CTKD, kl
from understudy.losses.distributions import divergence, log_softened
from understudy.progress import Progress


def gradients(module: CTKD) -> tuple[Tensor, Tensor]:
    """Of the student and of what the temperature is made of."""
    student = logits(6, 5).requires_grad_()
    module.double()(student, logits(6, 5, seed=1)).mean().backward()
    return student.grad, module.theta.grad


def test_ctkd_is_kl_at_the_temperature_that_it_has():
    module = CTKD().double()
    temperature = 1 + 20 / (1 + math.exp(-1))
    assert float(module.temperature.detach()) == pytest.approx(temperature, rel=1e-12)
    value = module(logits(6, 5), logits(6, 5, seed=1))
    torch.testing.assert_close(value, kl(logits(6, 5), logits(6, 5, seed=1), temperature=temperature))
    student = logits(6, 5).requires_grad_()
    kl(student, logits(6, 5, seed=1), temperature=temperature).mean().backward()
    torch.testing.assert_close(gradients(CTKD())[0], student.grad, rtol=1e-9, atol=1e-12)


def test_the_temperatures_gradient_is_turned_round_by_a_share_that_rises_over_the_epochs():
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    temperature = 1 + 20 * theta.sigmoid()
    log_q, log_p = (log_softened(logits(6, 5, seed=i), temperature) for i in (0, 1))
    (divergence(log_p, log_q) * temperature**2).mean().backward()
    assert theta.grad.abs() > 1e-4
    for epoch, share in ((0, (1 - math.cos(math.pi / 10)) / 2), (4, 0.5), (9, 1.0), (200, 1.0)):
        module = CTKD()
        module.after(Progress(step=0, steps=1, epoch=epoch))
        torch.testing.assert_close(gradients(module)[1], -share * theta.grad, rtol=1e-6, atol=0)


def test_the_temperature_learns_to_make_the_loss_large():
    module = CTKD(ramp=1).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = module(logits(6, 5), logits(6, 5, seed=1)).mean()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values == sorted(values)
    assert values[-1] > values[0] + 1e-3


def test_what_it_has_learnt_is_in_its_state():
    module = CTKD()
    module.after(Progress(step=7, steps=10, epoch=5))
    with torch.no_grad():
        module.theta.fill_(-2.0)
    fresh = CTKD()
    fresh.load_state_dict(module.state_dict())
    assert fresh.temperature == module.temperature != CTKD().temperature
    assert fresh.strength == module.strength != CTKD().strength


@pytest.mark.parametrize("options", [{"start": 0}, {"span": -1}, {"start": math.inf}, {"ramp": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match=f"CTKD: .*{next(iter(options))}="):
        CTKD(**options)
