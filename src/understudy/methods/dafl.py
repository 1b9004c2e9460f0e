"""Without any data: a generator makes what the teacher knows, and the student learns from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.batch import Batch, tensors
from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.losses import activation, information_entropy, kl, one_hot
from understudy.matching import penultimate
from understudy.method import Distillation, Move, Progress, Reading
from understudy.methods.generator import Generator, shape_of
from understudy.methods.taught import of_classes
from understudy.modes import evaluating
from understudy.progress import START, Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["Generated", "dafl"]


def dafl(
    student: nn.Module,
    teacher: nn.Module,
    *,
    one_hot_weight: float | Curve = 1.0,
    entropy_weight: float | Curve = 5.0,
    activation_weight: float | Curve = 0.1,
    temperature: float = 1.0,
    latent: int = 100,
    shape: Sequence[int] | None = None,
    generator: nn.Module | None = None,
    layer: str | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    r"""A generator of samples of which the teacher is certain, of all classes, and excited; and soft labels of them for the student.

    .. math:: \min_G\ \mathrm{oh} + 5\, \mathrm{ie} + 0.1\, \mathrm{act}, \quad
              \min_S\ T^2\, \mathrm{KL}(t(G(z)) \,\|\, s(G(z)))

    with the losses :func:`~understudy.losses.one_hot`, :func:`~understudy.losses.information_entropy` and
    :func:`~understudy.losses.activation` of the teacher's outputs and features, through which the generator learns. Two moves a
    step, of two players, ``generator`` and ``student``, on the same samples. Of a batch only the number of samples is used: any data
    will do, noise too.

    Args:
        student: what learns: a module from an input to logits ``[N, C]``.
        teacher: a frozen module to logits of the same classes, through which a gradient reaches its input.
        one_hot_weight: of certainty.
        entropy_weight: of all classes being as frequent.
        activation_weight: of the size of the teacher's features.
        temperature: of the student's soft labels, above 0.
        latent: numbers of noise that a sample is made of.
        shape: of an input without the samples' axis, for the generator; that of the example if not given.
        generator: instead of :class:`~understudy.methods.generator.Generator`: a module from noise ``[N, latent]`` to inputs.
        layer: the teacher's whose output are its features; what goes into its last linear layer if not given.
        label: not read.
        task: classification, which it is if not given.
        example: a small batch, to find shape and layer by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or if there is neither what is to be found nor an ``example``.
    Family: data-free.
    Source: Chen et al. 2019 (DAFL), arXiv:1904.01186; weights as in its code, where the learning rate of the generator is 0.2 with
        Adam for digits.
    Differs: the student learns after the generator's step, on samples from before it, as in the code but for the order.
    """
    task = of_classes("dafl", task)
    at = layer or penultimate(teacher, example, call=options.get("call", plain_call))
    made = generator or Generator(shape_of("dafl", shape, example), latent=latent)
    return Generated(
        Term(one_hot, "teacher@generated", weight=one_hot_weight),
        Term(information_entropy, "teacher@generated", weight=entropy_weight),
        Term(activation, f"teacher@generated.{at}", weight=activation_weight),
        Term(partial(kl, temperature=temperature), "student@generated", "teacher@generated"),
        generator=made,
        latent=latent,
        teaches=(0, 1, 2),
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student@generated", "teacher@generated")},
        **options,
    )


class Generated(Distillation):
    """A distillation whose samples a generator makes, which learns beside the student.

    A batch has two fields more: ``noise``, and ``generated``, what the generator makes of it.

    Args:
        *terms: some of which read ``teacher@generated`` or ``student@generated``.
        generator: from noise ``[N, latent]`` to inputs.
        latent: numbers of noise for a sample.
        teaches: which of the terms the generator minimises; the student minimises the others.
        **options: of :class:`~understudy.Distillation`.
    """

    def __init__(self, *terms: Term, generator: nn.Module, latent: int, teaches: Sequence[int], **options: Any) -> None:
        super().__init__(*terms, **options)
        if not any(p.requires_grad for p in generator.parameters()):
            raise InputError("generator: has no parameter that trains.")
        self.generator = generator
        self.latent = latent
        self.teaches = frozenset(teaches)

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The student and the generator."""
        return {**super().trained, "generator": self.generator}

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch with its noise, counted."""
        given = Batch.of(batch)
        if "noise" not in given:
            like = next(self.generator.parameters())
            given = Batch.of(given, noise=torch.randn(given.rows, self.latent, device=like.device, dtype=like.dtype))
        return super().prepare(given, progress)

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        """The generator's move, then the student's."""
        if "noise" not in batch:
            batch = self.prepare(batch, progress)
        made = self.generator(batch["noise"])
        students = [i for i in range(len(self.terms)) if i not in self.teaches]
        yield self.move(Batch.of(batch, generated=made), progress, player="generator", only=self.teaches)
        yield self.move(Batch.of(batch, generated=made.detach()), progress, player="student", only=students)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The generator's parameters, and all the others."""
        generator = {p: None for p in self.generator.parameters() if p.requires_grad}
        others = [p for p in self.parameters() if p.requires_grad and p not in generator]
        return {"generator": list(generator), "student": others}

    @torch.no_grad()
    def dry_run(self, batch: Any) -> list[Reading]:
        """As of every distillation, with what the generator makes at first."""
        with evaluating(self):
            prepared = self.prepare(batch, START)
            made = self.generator(prepared["noise"])
            self._check(made)
            return self._try_terms(Batch.of(prepared, generated=made))

    def _check(self, made: Any) -> None:
        if len(list(tensors(made))) != 1 or not isinstance(made, Tensor):
            raise InputError(f"generator: gave a {type(made).__name__}; it makes one tensor, the inputs.")
