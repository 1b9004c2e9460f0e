"""Methods of several players, of attacked inputs, of several domains, and without data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from understudy import methods

from .method_case import Case, data


def two_domains(rows: int = 12) -> dict[str, Tensor]:
    """Pictures with labels, and brighter ones without."""
    inputs, label = data(rows)
    return {"input": inputs, "label": label, "target": inputs.flip(0) * 2 + 1}


@dataclass(frozen=True)
class TwoDomains(Case):
    """Batches with a field more."""

    def batch(self, rows: int = 12) -> dict[str, Any]:
        return {**two_domains(rows), "index": torch.arange(rows)}


EXAMPLE = data()
ATTACK = {"steps": 2, "bounds": None}
NO_LABEL = "it learns from what is generated alone"

CASES = {
    # The unit of distance is of the batch as a whole.
    "domain_adaptation": TwoDomains(
        partial(methods.domain_adaptation, example=EXAMPLE), plain={"weight": 0, "soft_weight": 0}, per_sample=False,
        data=two_domains,
    ),
    "adversarial_kd": Case(methods.adversarial_kd, plain={"weight": 0, "soft_weight": 0, "label_weight": 1}),
    # Where an attack begins is drawn for the batch as it is.
    "ard": Case(partial(methods.ard, **ATTACK), plain={"alpha": 0}, per_sample=False),
    "rslad": Case(
        partial(methods.rslad, **ATTACK), plain={"weight": 0, "natural_weight": 0, "label_weight": 1}, per_sample=False
    ),
    "dafl": Case(partial(methods.dafl, latent=4, example=EXAMPLE), why_not_plain=NO_LABEL, per_sample=False),
    "deep_inversion": Case(
        partial(methods.deep_inversion, steps=3, pool=6, example=EXAMPLE), why_not_plain=NO_LABEL, per_sample=False
    ),
    "gan_distillation": Case(
        partial(methods.gan_distillation, example=EXAMPLE), why_not_plain="a generator has no labels to learn from alone"
    ),
    "feature_transfer": Case(partial(methods.feature_transfer, example=EXAMPLE), plain={"weight": 0}),
}  # fmt: skip
