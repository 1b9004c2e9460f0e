"""Read this file first.

A **method** is a module that yields **moves**. A move is a scalar loss and the **player**, a named set of parameters,
that minimises it. The engine makes one optimizer step of each move, in the order in which they are yielded, and knows
nothing else of what is trained.

:class:`Distillation` is the method made of :class:`~understudy.Term` objects. Whatever can be said with terms needs no
class of its own; methods that are sequences (adversarial, data-free, on-policy) override :meth:`Method.moves`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.batch import Batch, Call, call
from understudy.errors import InputError, UnderstudyError, raise_all
from understudy.modes import evaluating
from understudy.naming import check_models, mislaid_label, unique, warn_of_idle
from understudy.progress import START, Progress
from understudy.reading import Reader
from understudy.teachers.ema import Ema
from understudy.term import Term

__all__ = ["Distillation", "Method", "Move", "Part", "Progress", "Reading"]


class Part(NamedTuple):
    """A term's share of a move: ``weight * value``."""

    weight: float
    value: Tensor


@dataclass(frozen=True, eq=False)
class Move:
    """A scalar loss, and the player that minimises it.

    ``parts`` (by the terms' names) and ``watched`` go to the log; with ``parts`` a non-finite gradient can be traced to
    its term.
    """

    loss: Tensor
    player: str = "student"
    parts: Mapping[str, Part] = field(default_factory=dict)
    watched: Mapping[str, Tensor] = field(default_factory=dict)


class Reading(NamedTuple):
    """A line of the dry run: what a term found at its addresses."""

    term: str
    shapes: dict[str, tuple[int, ...]]
    value: float


class Method(nn.Module):
    """All that the engine may touch.

    Trained models, projectors and losses with state are submodules, so that ``parameters()`` is what trains and
    ``state_dict()`` what a checkpoint holds. Frozen models are in :attr:`frozen`, a plain dictionary: no optimizer, no
    checkpoint and no ``train()`` reaches them there, but placement does.
    """

    def __init__(self, frozen: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.frozen: dict[str, Any] = dict(frozen or {})

    @property
    def student(self) -> nn.Module:
        """The bare model: what is evaluated, saved and exported."""
        raise TypeError(f"{type(self).__name__} does not say which model is its student.")

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The user's models that train, by name."""
        return {"student": self.student}

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch in its normal form, counted, before any move and without gradient. An on-policy student writes here."""
        normal = Batch.of(batch)
        return normal.counted([torch.tensor(normal.rows)])

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        """The moves of one step. What is between two yields runs after the first one's optimizer step."""
        raise TypeError(f"{type(self).__name__} must say its moves.")

    def loss(self, batch: Any, progress: Progress = START) -> Tensor:
        """The loss of a method of one move, for someone else's training loop.

        Raises: InputError if the method makes several moves in a step.
        """
        with torch.no_grad():
            prepared = self.prepare(batch, progress)
        moves = self.moves(prepared, progress)
        move = next(moves)
        if next(moves, None) is not None:
            raise InputError(
                f"{type(self).__name__}.loss: this method makes several moves in a step. Use moves() or understudy.train."
            )
        return move.loss

    def forward(self, batch: Any, progress: Progress = START) -> Tensor:
        """:meth:`loss`, so that wrappers that call the module (DDP, Accelerate) work."""
        return self.loss(batch, progress)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """A partition of what trains."""
        return {"student": [p for p in self.parameters() if p.requires_grad]}

    def after(self, progress: Progress) -> None:
        """Once after each step, in step on all ranks: moving averages and memory banks.

        Calls ``after(progress)`` of every submodule that has one, the user's models left out.
        """
        users = {self, *(m for model in self.trained.values() for m in model.modules())}
        for module in self.modules():
            if module not in users and callable(after := getattr(module, "after", None)):
                after(progress)

    def dry_run(self, batch: Any) -> list[Reading]:
        """Run everything once on one batch without training anything, so that mistakes show before the first step."""
        return []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Method:
        for model in self.frozen.values():
            if isinstance(model, nn.Module) and _movable(model):
                model._apply(lambda t: t.to(fn(t).device))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise InputError(
            f"nn.DataParallel cannot copy a {type(self).__name__}: frozen models would stay behind on the first GPU. "
            "Start a process for each GPU with torchrun, or show this one a single GPU: CUDA_VISIBLE_DEVICES=0."
        )


def _movable(model: nn.Module) -> bool:
    """Placement follows the method, unless the model is quantized or its user spread it over devices."""
    spread = len({p.device for p in model.parameters()}) > 1 or getattr(model, "hf_device_map", None)
    return not (spread or getattr(model, "is_quantized", False))


class Distillation(Method):
    """Terms over models: one move, the weighted sum of the terms.

    Args:
        *terms: what is minimised.
        train: names of the models that train; the first of them is the student. All others are frozen.
        call: how a batch's inputs reach a model; see :func:`understudy.call`.
        compile: run the models through ``torch.compile``.
        watch: values for the log that are not trained on: ``{"agreement": (function, "student", "teacher")}``. Read
            only where the terms run the same models anyway.
        **models: by the names that the addresses use. An :class:`~understudy.teachers.Ema` is frozen, and moves.

    Raises: AddressError or InputError that lists everything that is wrong with names and addresses.

    >>> from understudy.losses import cross_entropy, kl
    >>> method = Distillation(
    ...     Term(cross_entropy, "student", "batch.label", weight=0.1), Term(kl, "student", "teacher", weight=0.9),
    ...     student=nn.Linear(4, 3), teacher=nn.Linear(4, 3))
    >>> method.loss((torch.zeros(2, 4), torch.tensor([0, 2]))).ndim
    0
    """

    def __init__(
        self,
        *terms: Term,
        train: Sequence[str] = ("student",),
        call: Call = call,
        compile: bool = False,
        watch: Mapping[str, tuple[Callable[..., Tensor], *tuple[str, ...]]] | None = None,
        **models: Any,
    ) -> None:
        train = (train,) if isinstance(train, str) else tuple(train)
        check_models(terms, train, models, watch or {})
        readable = {name: model.model if isinstance(model, Ema) else model for name, model in models.items()}
        reader = Reader(readable, train, call=call, compile=compile)
        super().__init__({n: m for n, m in reader.models.items() if n not in train and not isinstance(models[n], Ema)})
        self.reader = reader
        self.models = nn.ModuleDict({name: reader.models[name] for name in train})
        self.averages = nn.ModuleDict({name: model for name, model in models.items() if isinstance(model, Ema)})
        self.terms = nn.ModuleList(terms)
        self._counted: Tensor | None = None  # by each term in the first epoch, of a run that began at its start
        self.names = unique([term.name for term in terms])
        self.watch = {name: (fn, tuple(map(Address.parse, at))) for name, (fn, *at) in (watch or {}).items()}
        reader.check([a for t in terms for a in t.addresses] + [a for _, at in self.watch.values() for a in at])

    @property
    def student(self) -> nn.Module:
        """The first of the trained models, bare."""
        return next(iter(self.models.values()))

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The user's models that train, by name."""
        return dict(self.models.items())

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch in its normal form, with the count of what each term counts in it."""
        normal = Batch.of(batch)
        return normal.counted([*(term.count(normal) for term in self._terms()), torch.tensor(normal.rows)])

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        """One move: the weighted sum of the terms."""
        yield self.move(batch, progress)

    def move(
        self, batch: Batch, progress: Progress, *, player: str = "student", only: Collection[int] | None = None
    ) -> Move:
        """The move of one player: the weighted sum of the terms, or of ``only`` those at these positions."""
        if not isinstance(batch, Batch) or batch.counts is None:
            batch = self.prepare(batch, progress)
        weights = {i: term.weight_at(progress) for i, term in enumerate(self._terms()) if only is None or i in only}
        if progress.step == 0 or self._counted is not None:
            self._counted = batch.share(slice(None))[1] + (0 if self._counted is None else self._counted)
        active = {i: w for i, w in weights.items() if w != 0}
        if not active:
            raise InputError(
                f"at step {progress.step} every term has weight 0: nothing to minimise in {', '.join(self.names)}."
            )
        asking = [i for i in active if not self._term(i).unlabelled(batch)]
        asked = {a: None for i in asking for a in self._term(i).addresses}
        runs = {None, *map(self.reader.run_of, asked)}  # what is watched is read only where its models run anyway
        watch = {n: w for n, w in self.watch.items() if all(self.reader.run_of(a) in runs for a in w[1])}
        read = self.reader.read(batch, {**asked, **{a: None for _, at in watch.values() for a in at}})
        values = {i: self._term(i)(read, batch, *batch.share(i)) for i in asking}
        parts = {self.names[i]: Part(w, values.get(i, torch.zeros(()))) for i, w in active.items()}
        watched = {name: batch.mean(fn(*(read[a].detach() for a in at))) for name, (fn, at) in watch.items()}
        return Move(self._sum(parts, bool(asking)), player, parts, watched)

    def supply(self, name: str, model: Any) -> None:
        """Read a frozen model elsewhere from now on: an ``Inference`` of it, or a table of what it puts out."""
        self.reader.supply(name, model)
        self.frozen[name] = self.reader.models[name]
        self.reader.check(
            [a for t in self._terms() for a in t.addresses] + [a for _, at in self.watch.values() for a in at]
        )

    def _sum(self, parts: Mapping[str, Part], asked: bool) -> Tensor:
        if not asked:  # nothing but losses of labels, and this batch has none
            return torch.zeros((), requires_grad=True)
        loss = sum((weight * value for weight, value in parts.values()), torch.zeros(()))
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise InputError(
                f"no gradient flows from {', '.join(parts)} into what trains ({', '.join(self.models)}). "
                "Is every address a frozen model's or a 'stop', or are the student's parameters frozen?"
            )
        return loss

    def after(self, progress: Progress) -> None:
        """Let every loss with an ``after`` and every moving average take in the step; warn of terms that count nothing."""
        for module in dict.fromkeys([*(term.loss for term in self._terms()), *self.averages.values()]):
            if isinstance(module, nn.Module) and callable(after := getattr(module, "after", None)):
                after(progress)
        if self._counted is not None and (progress.epoch > 0 or progress.step + 1 == progress.steps):
            warn_of_idle(self.names, self._terms(), self._counted.tolist(), progress)
            self._counted = None

    @torch.no_grad()
    def dry_run(self, batch: Any) -> list[Reading]:
        """Run every model once in eval mode, check every address, fit the projectors, evaluate every term.

        Returns: a line for each term.
        Raises: InputError that lists what is wrong with any of them.
        """
        with evaluating(self):
            return self._try_terms(self.prepare(batch, START))

    def _try_terms(self, batch: Batch) -> list[Reading]:
        lines, problems = [], []
        for i, (name, term) in enumerate(zip(self.names, self._terms(), strict=True)):
            if term.weight == 0:  # a share that was set to nothing, as in kd(alpha=1), asks for nothing
                lines.append(Reading(name, {}, 0.0))
                continue
            if term.unlabelled(batch):
                problems += mislaid_label(name, batch)
                lines.append(Reading(name, {}, 0.0))
                continue
            try:
                read = self.reader.read(batch, term.addresses)
                term.fit(read)
                value = term(read, batch, *batch.share(i))
                lines.append(Reading(name, {str(a): tuple(t.shape) for a, t in read.items()}, float(value)))
            except UnderstudyError as error:
                problems.append(f"terms[{i}] {name}: {error}")
        raise_all(InputError, problems)
        return lines

    def _terms(self) -> list[Term]:
        return cast("list[Term]", list(self.terms))

    def _term(self, at: int) -> Term:
        return cast("Term", self.terms[at])
