"""Several models as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.errors import InputError, ShapeError, choices
from understudy.lookup import named_tensor
from understudy.taps import unwrap

__all__ = ["Ensemble"]

OF = ("probabilities", "logits")


class Ensemble(nn.Module):
    """Several models that answer as one, and can still be read one by one: ``teacher.0``, ``teacher.1.layer3``.

    Each is called with what the ensemble is called with, of inputs by name with those that it takes. What can be read of a member that is a callable and no module is its
    output alone, ``teacher.1``.

    Args:
        *models: modules, or callables, to logits ``[*N, C]``.
        weights: one for each, >= 0; divided by their sum. All alike if not given.
        of: what the mean is taken of. "probabilities" is for one of several classes: the output is the logarithm of the mean of
            the members' probabilities, which softmax takes back to it. "logits" is for any output, measured values too.
        classes: of each member, where each knows only some: ``[[0, 1, 2], [3, 4]]``, in the order of its outputs. Each class's
            mean is over the members that know it; at least one must know it.

    Raises: InputError for weights or classes that do not fit; ShapeError, when called, if the outputs do not go together.

    >>> never, always = (lambda x: torch.tensor([[9.0, -9.0]])), (lambda x: torch.tensor([[-9.0, 9.0]]))
    >>> Ensemble(never, always, weights=[3, 1])(torch.zeros(1)).softmax(-1)
    tensor([[0.7500, 0.2500]])
    """

    def __init__(
        self,
        *models: Callable[..., Any],
        weights: Sequence[float] | None = None,
        of: Literal["probabilities", "logits"] = "probabilities",
        classes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        _check(models, weights, of, classes)
        for i, model in enumerate(models):
            bare = unwrap(model)
            self.add_module(str(i), bare if isinstance(bare, nn.Module) else _Callable(bare))
        self._names = [_named_inputs(model) for model in models]
        share = torch.ones(len(models)) if weights is None else torch.tensor([float(w) for w in weights])
        self.register_buffer("weights", share / share.sum())
        self.of = of
        self.classes = None if classes is None else [list(own) for own in classes]

    weights: Tensor

    def __len__(self) -> int:
        return len(self._modules)

    @property
    def members(self) -> list[nn.Module]:
        """The models, in their order."""
        return [self.get_submodule(str(i)) for i in range(len(self))]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The mean, as logits."""
        answers = [
            named_tensor(member(*args, **_taken(kwargs, names)), Address.parse(f"ensemble.{i}"))
            for i, (member, names) in enumerate(zip(self.members, self._names, strict=True))
        ]
        if self.of == "probabilities":
            answers = [answer.log_softmax(-1) for answer in answers]
        share = self.weights.to(answers[0].device)
        if self.classes is not None:
            return self._of_specialists(answers, share)
        if len({answer.shape for answer in answers}) > 1:
            raise ShapeError(
                f"Ensemble: the members give {[list(a.shape) for a in answers]}; they must score the same classes in the same "
                "order. Say classes= if each knows only some."
            )
        return self._mean(torch.stack(answers), share.view(-1, *[1] * answers[0].ndim))

    def _mean(self, stacked: Tensor, share: Tensor) -> Tensor:
        """Over the first axis; ``share`` adds up to 1 there, or is 0 where a member has no say."""
        if self.of == "logits":
            return (share.to(stacked.dtype) * stacked.masked_fill(share == 0, 0.0)).sum(0)
        return (stacked + share.to(stacked.dtype).log()).logsumexp(0)

    def _of_specialists(self, answers: Sequence[Tensor], share: Tensor) -> Tensor:
        assert self.classes is not None
        sizes = [len(own) for own in self.classes]
        if [answer.shape[-1] for answer in answers] != sizes or len({a.shape[:-1] for a in answers}) > 1:
            raise ShapeError(
                f"Ensemble: the members give {[list(a.shape) for a in answers]} and classes= has {sizes} of them; "
                "each must have an output for each of its classes."
            )
        count = 1 + max(c for own in self.classes for c in own)
        known = share.new_zeros(len(answers), count)
        spread = []
        for i, (answer, own) in enumerate(zip(answers, self.classes, strict=True)):
            at = torch.tensor(own, device=answer.device)
            known[i, at] = share[i]
            spread.append(answer.new_zeros(*answer.shape[:-1], count).index_copy(-1, at, answer))
        share = (known / known.sum(0)).view(len(answers), *[1] * (answers[0].ndim - 1), count)
        mixed = self._mean(torch.stack(spread), share)
        return mixed.log_softmax(-1) if self.of == "probabilities" else mixed

    def extra_repr(self) -> str:
        """What it is the mean of."""
        told = f"of={self.of!r}, weights={[round(float(w), 4) for w in self.weights]}"
        return told if self.classes is None else f"{told}, classes={self.classes}"


def _named_inputs(model: Any) -> frozenset[str] | None:
    """The names of what a model takes; None for one that takes all."""
    try:
        parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
    except ValueError:  # written in C, which says no names
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else frozenset(p.name for p in parameters)


def _taken(kwargs: dict[str, Any], names: frozenset[str] | None) -> dict[str, Any]:
    return kwargs if names is None else {name: value for name, value in kwargs.items() if name in names}


class _Callable(nn.Module):
    """A callable among modules."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # What it is known by, where it can tell; it has no weights to load.
        told = self._function.state_dict() if hasattr(self._function, "state_dict") else {}
        destination.update({prefix + name: value for name, value in told.items()})

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        pass


def _check(
    models: Sequence[Any], weights: Sequence[float] | None, of: str, classes: Sequence[Sequence[int]] | None
) -> None:
    if not models or not all(map(callable, models)):
        raise InputError("Ensemble: give its models one by one, Ensemble(a, b): modules or callables, at least one.")
    if len({id(model) for model in models}) < len(models):
        raise InputError("Ensemble: a model is in it twice. Say weights=[2, 1] to let it weigh more.")
    if of not in OF:
        raise InputError(f"Ensemble: of={of!r}. {choices(of, OF)}")
    if weights is not None and (
        len(weights) != len(models) or not all(0 <= w < float("inf") for w in weights) or not sum(weights) > 0
    ):
        raise InputError(
            f"Ensemble: weights {list(weights)} do not fit {len(models)} models; allowed: a number for each, none below 0, not all 0."
        )
    if classes is None:
        return
    known = {c for own in classes for c in own}
    if len(classes) != len(models) or not all(len(own) and len(set(own)) == len(own) for own in classes):
        raise InputError(
            f"Ensemble: classes={classes!r}: give a list of different classes for each of {len(models)} models."
        )
    if known != set(range(len(known))):
        missing = sorted(set(range(max(known) + 1)) - known)
        raise InputError(
            f"Ensemble: classes must be 0, 1, ... without a gap; nobody knows {missing or sorted(known)[:1]}."
        )
    if weights is not None and any(
        not sum(w for w, own in zip(weights, classes, strict=True) if c in own) for c in known
    ):
        raise InputError(f"Ensemble: weights {list(weights)} leave a class to members of weight 0.")
