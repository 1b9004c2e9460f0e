"""Students that teach each other."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from understudy.batch import Batch
from understudy.data.order import preserved, seed_all
from understudy.errors import InputError
from understudy.losses import kl
from understudy.method import Distillation, Move
from understudy.methods.taught import of_classes
from understudy.progress import Progress
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["Mutual", "another", "dml"]


def dml(
    student: nn.Module,
    *,
    peers: int | Sequence[nn.Module] = 1,
    temperature: float = 1.0,
    weight: float = 1.0,
    label_weight: float = 1.0,
    seed: int = 0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Two students or more, each with hard labels and with what the others say of the sample.

    .. math:: \mathcal{L}_k = \mathrm{CE}(s_k, y) + \frac{1}{K - 1} \sum_{j \neq k} \mathrm{KL}(p_j \| q_k)

    Each is a player of its own and takes its step by itself: those that follow see what it has become.

    Args:
        student: what learns, and is kept: a module from a batch's inputs to logits ``[*N, C]``.
        peers: the others: modules, of any kind; or a number of them, which are copies of the student with weights drawn anew.
        temperature: T > 0, of the divergences, which are multiplied by T².
        weight: of the divergences.
        label_weight: of the hard labels.
        seed: of the weights that are drawn.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for no peer, or for a student whose weights cannot be drawn anew.
    Family: online.
    Source: Zhang et al. 2018 (DML), arXiv:1706.00384, algorithm 1 and equation 8; temperature and weights as there.
    Differs: nothing.
    """
    task = of_classes("dml", task)
    given = [another(student, seed + i) for i in range(peers)] if isinstance(peers, int) else list(peers)
    if not given or not all(isinstance(peer, nn.Module) for peer in given):
        raise InputError(f"dml: peers={peers!r}: give a number, 1 or more, or a sequence of modules.")
    models: dict[str, Any] = {"student": student, **{f"peer{i}": peer for i, peer in enumerate(given, 1)}}
    share, divergence = weight / len(given), partial(kl, temperature=temperature)
    terms = [
        term
        for name in models
        for term in (
            Term(task.label_loss, name, label, weight=label_weight),
            *(Term(divergence, name, f"stop {other}", weight=share) for other in models if other != name),
        )
    ]
    return Mutual(
        *terms,
        train=tuple(models),
        watch={"agreement": (task.agreement, "student", "stop peer1")},
        **models,
        **options,
    )


class Mutual(Distillation):
    """A distillation of several models that train, each of them a player with the terms that it learns by: those that read it first.

    The moves are played in the order of the models.
    """

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        """One for each model."""
        for name in self.models:
            yield self.move(batch, progress, player=name, only=self._own(name))

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Each model, and what its terms' losses and projectors train."""
        modules = {name: [model, *(self._term(i) for i in self._own(name))] for name, model in self.models.items()}
        trained = {
            name: {p: None for m in own for p in m.parameters() if p.requires_grad} for name, own in modules.items()
        }
        return {name: list(parameters) for name, parameters in trained.items()}

    def _own(self, name: str) -> list[int]:
        return [i for i, term in enumerate(self._terms()) if term.addresses[0].model == name]


def another(model: nn.Module, seed: int) -> nn.Module:
    """A copy with weights drawn anew, by the layers' own ``reset_parameters``.

    Raises: InputError if no layer can draw its weights.
    """
    made = copy.deepcopy(model)
    before = [p.detach().clone() for p in made.parameters()]
    with preserved():
        seed_all(seed, "peer")  # under which nobody draws a student
        for module in made.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    if all(torch.equal(p, old) for p, old in zip(made.parameters(), before, strict=True)):
        raise InputError(
            f"{type(model).__name__}: none of its layers can draw its weights anew (reset_parameters), and a copy with the same "
            "weights has nothing to teach. Give modules: peers=[Model(...)]."
        )
    return made.requires_grad_(True)
