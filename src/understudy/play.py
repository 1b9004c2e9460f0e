"""One step: the moves of every micro-batch, played in lock step."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from understudy import parallel
from understudy.batch import Batch
from understudy.data.order import remembered
from understudy.errors import InputError, NonFiniteError, choices
from understudy.method import Method, Move, Progress
from understudy.optimize import Player
from understudy.reading import reshard

__all__ = ["Outcome", "Undo", "build_players", "play", "prepare"]

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass
class Outcome:
    """What one step came to; every value is this rank's share of the step's."""

    loss: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    watched: dict[str, Tensor] = field(default_factory=dict)
    gradient_norm: dict[str, float] = field(default_factory=dict)
    skipped: int = 0  # so far in the run, by all players

    def begin(self, move: Move) -> None:
        """Forget what an earlier move of this step told under the same names: the last one counts."""
        self.loss.pop(move.player, None)
        for name in move.parts:
            self.terms.pop(name, None)
        for name in move.watched:
            self.watched.pop(name, None)

    def add(self, move: Move) -> None:
        """Take in one micro-batch's move."""
        _add(self.loss, move.player, move.loss)
        for name, part in move.parts.items():
            _add(self.terms, name, part.value)
            self.weights[name] = part.weight
        for name, value in move.watched.items():
            _add(self.watched, name, value)

    def record(self, device: torch.device) -> dict[str, object]:
        """The whole step's values, for the log. A rank whose samples lack what another's have adds nothing there."""
        groups = {"loss": self.loss, "terms": self.terms, "watched": self.watched}
        mine = [(kind, name) for kind, group in groups.items() for name in group]
        texts = parallel.gather_text(json.dumps(mine), device) if parallel.ranks() > 1 else [json.dumps(mine)]
        everybodys = dict.fromkeys((kind, name) for text in texts for kind, name in json.loads(text))
        flat = [groups[kind].get(name, torch.zeros(())).double().cpu() for kind, name in everybodys]
        told: dict[str, dict[str, float]] = {kind: {} for kind in groups}
        for (kind, name), value in zip(everybodys, parallel.mean_over_ranks(torch.stack(flat), device), strict=True):
            told[kind][name] = float(value)
        watched = told.pop("watched")
        more = {"weights": self.weights, "gradient_norm": self.gradient_norm}
        return {**told, **watched, **more, **({"skipped": self.skipped} if self.skipped else {})}


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    value = value.detach()
    sums[name] = sums[name] + value if name in sums else value


def build_players(method: Method, optim_for: Callable[[str], object], scaled: bool) -> dict[str, Player]:
    """A player for each of the method's, which must be a partition of what trains."""
    reshard(method)
    names = {p: n.removeprefix("models.") for n, p in method.named_parameters()}
    groups = method.players()
    owners: dict[nn.Parameter, list[str]] = {p: [] for p in names if p.requires_grad}
    problems = []
    for player, parameters in groups.items():
        for p in parameters:
            if p in owners:
                owners[p].append(player)
            else:
                problems.append(
                    f"player {player!r} has a parameter that does not train: {names.get(p, 'not in method.parameters()')}."
                )
    lost = [names[p] for p, players in owners.items() if not players]
    shared = [f"{names[p]} ({', '.join(players)})" for p, players in owners.items() if len(players) > 1]
    if lost:
        problems.append(
            f"no player trains {', '.join(lost[:5])}. Name them in players(), or freeze them with requires_grad_(False)."
        )
    if shared:
        problems.append(f"several players train {', '.join(shared[:5])}; each parameter has one.")
    problems += [
        f"player {player!r} has no parameter to train." for player, parameters in groups.items() if not parameters
    ]
    if problems:
        raise InputError("\n".join(problems))
    return {name: Player(name, parameters, names, optim_for(name), scaled) for name, parameters in groups.items()}  # type: ignore[arg-type]


@torch.no_grad()
def prepare(
    method: Method, batches: Sequence[Batch], progress: Progress, asked_to_stop: bool
) -> tuple[list[Batch], bool]:
    """The step's micro-batches, each with the counts of the whole step; and whether any rank was asked to stop.

    One exchange of a few integers, before the first forward.
    """
    prepared = [method.prepare(batch, progress) for batch in batches]
    counts = [b.counts for b in prepared if b.counts is not None]
    if len(counts) < len(prepared):
        raise InputError(f"{type(method).__name__}.prepare gave a batch without counts; return batch.counted([...]).")
    stop = torch.tensor([asked_to_stop], device=counts[0].device)
    together = parallel.sum_over_ranks(torch.cat([torch.stack(counts).sum(0), stop]))
    totals, stop = together[:-1], together[-1]
    ranks = parallel.ranks()
    return [dataclasses.replace(b, totals=totals, ranks=ranks) for b in prepared], bool(stop)


def play(
    method: Method,
    batches: Sequence[Batch],
    progress: Progress,
    players: Mapping[str, Player],
    autocast: Autocast,
    undo: Undo,
) -> Outcome:
    """Play every move of a step: all micro-batches of one, its optimizer's step, then the next.

    Raises: NonFiniteError before the optimizer's step, naming term and batch.
    """
    try:
        return _turns(method, batches, progress, players, autocast, undo)
    finally:
        for player in players.values():
            player.zero()


def _turns(
    method: Method,
    batches: Sequence[Batch],
    progress: Progress,
    players: Mapping[str, Player],
    autocast: Autocast,
    undo: Undo,
) -> Outcome:
    outcome = Outcome()
    put_back = undo.remember()
    games = [method.moves(batch, progress) for batch in batches]
    for turn in itertools.count():
        player = _backward(games, players, outcome, autocast)
        if player is None:
            break
        norm = player.reduce()
        loss_is_finite, gradient_is_finite = _finite(outcome.loss[player.name], norm)
        if loss_is_finite and gradient_is_finite:
            player.step(progress, norm)
        elif not (loss_is_finite and player.skip()):
            put_back()
            try:
                raise NonFiniteError(_diagnosis(method, batches, progress, turn, player, autocast, outcome))
            finally:
                put_back()
        outcome.gradient_norm[player.name] = float(norm)
    if not outcome.loss:
        raise InputError(f"{type(method).__name__}.moves made no move at step {progress.step}; allowed: one or more.")
    outcome.skipped = sum(player.skipped for player in players.values())
    return outcome


class Undo:
    """How to undo what a forward changes: the generators of random numbers and running statistics.

    With the first a failed move is played again as it was. The second would stay spoilt by what made it fail. Every step asks
    for it and hardly any needs it, so that the layers are looked up once.

    Args:
        method: of the run, with all the layers that it will have.
    """

    def __init__(self, method: Method) -> None:
        self._norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def remember(self) -> Callable[[], None]:
        """A function that puts everything back to where it is now."""
        random = remembered()
        training = [m for m in self._norms if m.training]
        copies = [(b, b.clone()) for m in training for b in m._buffers.values() if b is not None]

        def put_back() -> None:
            random()
            for buffer, copy in copies:
                buffer.copy_(copy)

        return put_back


def _backward(
    games: Sequence[Iterator[Move]], players: Mapping[str, Player], outcome: Outcome, autocast: Autocast
) -> Player | None:
    """One move's backward over all micro-batches; the player whose it is, or None at the end of the step."""
    player: Player | None = None
    for i, game in enumerate(games):
        with autocast():
            move = next(game, None)
        expected = None if i and player is None else (player.name if player else (move.player if move else None))
        if (move.player if move else None) != expected:
            raise InputError(
                f"micro-batch {i} plays {move.player if move else 'no move'} where micro-batch 0 plays {expected}; all play alike."
            )
        if move is None:
            continue
        if player is None:
            if move.player not in players:
                raise InputError(
                    f"a move names the player {move.player!r}, which players() does not have. {choices(move.player, players)}"
                )
            player = players[move.player]
            player.zero()
            outcome.begin(move)
        outcome.add(move)
        (move.loss if player.scale == 1.0 else move.loss * player.scale).backward()
    return player


def _finite(loss: Tensor, norm: Tensor) -> tuple[bool, bool]:
    """Whether the loss is finite on every rank, and whether the gradient is."""
    bad = torch.stack([~loss.isfinite(), ~norm.to(loss.device).isfinite()]).long()
    loss_is_bad, gradient_is_bad = parallel.sum_over_ranks(bad).tolist()
    return not loss_is_bad, not gradient_is_bad


def _diagnosis(
    method: Method,
    batches: Sequence[Batch],
    progress: Progress,
    turn: int,
    player: Player,
    autocast: Autocast,
    outcome: Outcome,
) -> str:
    """Which term in which micro-batch is not finite, found by playing the move again, one term at a time."""
    found: list[str] = []
    for batch in batches:
        with autocast():
            move = next(itertools.islice(method.moves(batch, progress), turn, None))
        for name, part in move.parts.items():
            what = None if part.value.isfinite() else f"value of {name} is {part.value.item()}"
            if what is None and part.value.requires_grad:
                player.zero()
                (part.weight * part.value * player.scale).backward(retain_graph=True)
                bad = player.non_finite()
                what = f"gradient of {name} is not finite in {', '.join(bad[:3])}" if bad else None
            if what is not None:
                found.append(what + _samples([batch]))
    if not found:  # it was not to be repeated: several moves, or a method that does not say its parts
        bad = [f"value of {n} is {float(v)}" for n, v in outcome.terms.items() if not v.isfinite()]
        found = [f"{', '.join(bad) or 'loss or gradient is not finite'}{_samples(batches)}"]
    told = [t for t in parallel.gather_text("; ".join(found), player.parameters[0].device) if t]
    return (
        f"step {progress.step}, player {player.name!r}: {'; '.join(told)}. "
        "Its weights are those from before this step. Look at these samples, lower the learning rate, or clip the gradient."
    )


def _samples(batches: Sequence[Batch]) -> str:
    index = [int(i) for batch in batches if "index" in batch for i in batch["index"]]
    return f" (samples {', '.join(map(str, index[:8]))}{', ...' if len(index) > 8 else ''})" if index else ""
