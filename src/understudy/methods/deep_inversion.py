"""Without any data: pictures that the teacher's own running statistics recall, and a student that learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.batch import Batch, Call
from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.losses import batch_norm_statistics, cross_entropy, kl, total_variation
from understudy.losses.ranks import of_all
from understudy.method import Distillation, Progress, Reading
from understudy.methods.generator import shape_of
from understudy.methods.taught import of_classes
from understudy.modes import evaluating
from understudy.progress import START
from understudy.reading import Reader
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["Recalled", "deep_inversion", "synthesize"]

TEACHER = Address.parse("teacher")


def deep_inversion(
    student: nn.Module,
    teacher: nn.Module,
    *,
    temperature: float = 4.0,
    pool: int = 1024,
    steps: int = 1000,
    lr: float = 0.1,
    norm_weight: float = 1.0,
    class_weight: float = 1.0,
    variation_weight: float = 1e-5,
    size_weight: float = 0.0,
    jitter: int = 2,
    shape: Sequence[int] | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    r"""Soft labels of pictures that are made from noise by descent on the teacher's losses.

    .. math:: \min_x\ \mathrm{CE}(t(x), y) + \sum_l \left(\| \mu_l(x) - \mu_l \|_2 + \| \sigma_l^2(x) - \sigma_l^2 \|_2\right)
              + 10^{-5}\, \mathrm{TV}(x), \quad \min_s\ T^2\, \mathrm{KL}(t(x) \,\|\, s(x))

    Pictures are made a batch a step, of classes drawn at random, until the pool is full; from then on the student learns from the
    pool, which is saved with the run. Of a batch only the number of samples is used: any data will do, noise too.

    Args:
        student: what learns: a module from an input to logits ``[N, C]``.
        teacher: a frozen module to logits of the same classes, with BatchNorm layers.
        temperature: of the student's soft labels, above 0.
        pool: how many pictures are made in all.
        steps: of descent for each batch of them.
        lr: of that descent, by Adam with betas of .5 and .99.
        norm_weight: of the BatchNorm layers' statistics.
        class_weight: of the cross-entropy against the class that is drawn.
        variation_weight: of :func:`~understudy.losses.total_variation`, with power 2.
        size_weight: of the pictures' Euclidean norm.
        jitter: each step sees the pictures moved by up to so many pixels.
        shape: of an input without the samples' axis; that of the example if not given.
        label: not read.
        task: classification, which it is if not given.
        example: a small batch, to know the shape by.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, a teacher without BatchNorm, or if there is neither ``shape`` nor ``example``.
    Family: data-free.
    Source: Yin et al. 2020 (DeepInversion), arXiv:1912.08795; numbers as in the port of Fang et al. 2021 (CMI), arXiv:2110.09074.
    Differs: no competition with the student (the paper's adaptive form); no flips; the student's temperature is ours.
    """
    task = of_classes("deep_inversion", task)
    descent: dict[str, Any] = {
        "steps": steps,
        "lr": lr,
        "norm_weight": norm_weight,
        "class_weight": class_weight,
        "variation_weight": variation_weight,
        "size_weight": size_weight,
        "jitter": jitter,
    }
    return Recalled(
        Term(partial(kl, temperature=temperature), "student", "teacher"),
        pool=pool,
        shape=shape_of("deep_inversion", shape, example),
        descent=descent,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


def synthesize(
    teacher: nn.Module,
    label: Tensor,
    shape: Sequence[int],
    *,
    steps: int = 1000,
    lr: float = 0.1,
    norm_weight: float = 1.0,
    class_weight: float = 1.0,
    variation_weight: float = 1e-5,
    size_weight: float = 0.0,
    jitter: int = 2,
    call: Call = plain_call,
) -> Tensor:
    """Inputs ``[N, *shape]`` that a teacher takes for these classes ``[N]``, and that its BatchNorm layers recall.

    The teacher stays as it is, and none of its parameters gets a gradient. Options as of :func:`deep_inversion`. What is drawn, the
    noise at the start and the jitter, comes from torch's generator.

    Raises: InputError if the teacher has no BatchNorm layer with running statistics, and these have a weight.
    """
    layers = {
        path: layer
        for path, layer in teacher.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    }
    if not layers and norm_weight != 0:
        raise InputError(
            "deep_inversion: the teacher has no BatchNorm layer with running statistics, from which pictures are recalled. "
            "Give norm_weight=0, or use dafl."
        )
    like = next((p for p in teacher.parameters() if p.is_floating_point()), label)
    reader = Reader({"teacher": teacher}, (), call=call)
    entering = {path: Address.parse(f"teacher.{path}<") for path in (layers if norm_weight else ())}
    with torch.enable_grad():
        picture = torch.randn(len(label), *shape, device=like.device).requires_grad_()
        optimizer = torch.optim.Adam([picture], lr=lr, betas=(0.5, 0.99))
        for _ in range(steps):
            read = reader.read(Batch.of(_moved(picture, jitter)), [TEACHER, *entering.values()])
            loss = class_weight * cross_entropy(read[TEACHER], label.to(like.device)).mean()
            for path, at in entering.items():
                mean, variance = layers[path].running_mean, layers[path].running_var
                assert mean is not None
                assert variance is not None
                loss = loss + norm_weight * batch_norm_statistics(read[at], mean, variance)
            if variation_weight and picture.ndim == 4:
                loss = loss + variation_weight * total_variation(picture, power=2).mean()
            if size_weight:
                loss = loss + size_weight * picture.flatten(1).norm(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return picture.detach().clone()


def _moved(picture: Tensor, jitter: int) -> Tensor:
    if not jitter or picture.ndim != 4:
        return picture
    most = [min(jitter, side - 1) for side in picture.shape[2:]]
    by = [int(torch.randint(-m, m + 1, ())) for m in most]
    return picture.roll(by, (2, 3))


class Recalled(Distillation):
    """A distillation whose batches are drawn from a pool of pictures, which it makes as it goes.

    Args:
        *terms: of the student and the teacher.
        pool: how many pictures.
        shape: of each.
        descent: options of :func:`synthesize`.
        **options: of :class:`~understudy.Distillation`; one model is the ``teacher``.
    """

    pool: Tensor
    filled: Tensor

    def __init__(
        self,
        *terms: Term,
        pool: int,
        shape: Sequence[int],
        descent: dict[str, Any],
        call: Call = plain_call,
        **options: Any,
    ) -> None:
        super().__init__(*terms, call=call, **options)
        if pool < 1 or descent["steps"] < 1:
            raise InputError(f"deep_inversion: pool={pool!r} and steps={descent['steps']!r} must be 1 or more.")
        self.descent = descent
        self.register_buffer("pool", torch.zeros(pool, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """Pictures of the pool, as many as the batch has samples, counted."""
        given = Batch.of(batch)
        if given.counts is not None:
            return given
        if int(self.filled) < len(self.pool):
            self._recall(given.rows)
        drawn = torch.randint(int(self.filled), (given.rows,), device=self.pool.device)
        return super().prepare(Batch.of(self.pool[drawn]), progress)

    def _recall(self, rows: int) -> None:
        """New pictures, which every rank has: a checkpoint holds one pool."""
        teacher, at = self.frozen["teacher"], int(self.filled)
        label = self._classes(min(rows, len(self.pool) - at))
        made = self.pool[:0]
        if len(label):
            made = synthesize(teacher, label, self.pool.shape[1:], call=self.reader.call, **self.descent)
        made = of_all(made.to(self.pool))[: len(self.pool) - at]
        self.pool[at : at + len(made)] = made
        self.filled += len(made)

    def _classes(self, rows: int) -> Tensor:
        classes = self.reader.read(Batch.of(self.pool[:1]), [TEACHER])[TEACHER].shape[-1]
        return torch.randint(classes, (rows,), device=self.pool.device)

    @torch.no_grad()
    def dry_run(self, batch: Any) -> list[Reading]:
        """As of every distillation, on noise: no picture is made yet."""
        noise = torch.randn(Batch.of(batch).rows, *self.pool.shape[1:], device=self.pool.device, dtype=self.pool.dtype)
        with evaluating(self):
            return self._try_terms(super().prepare(Batch.of(noise), START))
