"""One step: the moves of every micro-batch, played in lock step."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from understudy import parallel
from understudy.batch import Batch
from understudy.errors import InputError, NonFiniteError, choices
from understudy.method import Method, Move, Progress
from understudy.optimize import Player

__all__ = ["Outcome", "build_players", "play", "prepare"]

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass
class Outcome:
    """What one step came to; every value is this rank's share of the step's."""

    loss: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    watched: dict[str, Tensor] = field(default_factory=dict)
    gradient_norm: dict[str, float] = field(default_factory=dict)
    skipped: int = 0

    def add(self, move: Move) -> None:
        """Take in one micro-batch's move."""
        _add(self.loss, move.player, move.loss)
        for name, part in move.parts.items():
            _add(self.terms, name, part.value)
            self.weights[name] = part.weight
        for name, value in move.watched.items():
            _add(self.watched, name, value)

    def record(self, device: torch.device) -> dict[str, object]:
        """The whole step's values, for the log; one exchange between ranks."""
        groups = {"loss": self.loss, "terms": self.terms, "watched": self.watched}
        flat = [value.double().cpu() for group in groups.values() for value in group.values()]
        values = iter(parallel.mean_over_ranks(torch.stack(flat), device).tolist())
        told: dict[str, dict[str, float]] = {
            kind: {name: next(values) for name in group} for kind, group in groups.items()
        }
        watched = told.pop("watched")
        more = {"weights": self.weights, "gradient_norm": self.gradient_norm}
        return {**told, **watched, **more, **({"skipped": self.skipped} if self.skipped else {})}


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    value = value.detach()
    sums[name] = sums[name] + value if name in sums else value


def build_players(method: Method, optim_for: Callable[[str], object], scaled: bool) -> dict[str, Player]:
    """A player for each of the method's, which must be a partition of what trains."""
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
    method: Method, batches: Sequence[Batch], progress: Progress, players: Mapping[str, Player], autocast: Autocast
) -> Outcome:
    """Play every move of a step: all micro-batches of one, its optimizer's step, then the next.

    Raises: NonFiniteError before the optimizer's step, naming term and batch.
    """
    outcome = Outcome()
    games = [method.moves(batch, progress) for batch in batches]
    for turn in itertools.count():
        player = _backward(games, players, outcome, autocast)
        if player is None:
            break
        norm = player.reduce()
        if _finite(outcome.loss[player.name], norm):
            player.step(progress, norm)
        elif outcome.loss[player.name].isfinite() and player.skip():
            outcome.skipped += 1
        else:
            raise NonFiniteError(_diagnosis(method, batches, progress, turn, player, autocast))
        outcome.gradient_norm[player.name] = float(norm)
    for player in players.values():
        player.zero()
    return outcome


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
            outcome.loss.pop(player.name, None)  # a player that moves twice in a step logs its last loss
        outcome.add(move)
        (move.loss if player.scale == 1.0 else move.loss * player.scale).backward()
    return player


def _finite(loss: Tensor, norm: Tensor) -> bool:
    """Whether loss and gradient are finite, on every rank."""
    bad = (~(loss.isfinite() & norm.to(loss.device).isfinite())).long()
    return not bool(parallel.sum_over_ranks(bad))


def _diagnosis(
    method: Method, batches: Sequence[Batch], progress: Progress, turn: int, player: Player, autocast: Autocast
) -> str:
    """Which term in which micro-batch is not finite, found by playing the move again, one term at a time."""
    found = []
    for batch in batches:
        with autocast():
            move = next(itertools.islice(method.moves(batch, progress), turn, None))
        for name, part in move.parts.items():
            what = None if part.value.isfinite() else f"value of {name} is {float(part.value)}"
            if what is None and part.value.requires_grad:
                player.zero()
                (part.weight * part.value * player.scale).backward(retain_graph=True)
                bad = player.non_finite()
                what = f"gradient of {name} is not finite in {', '.join(bad[:3])}" if bad else None
            if what is not None:
                index = batch.get("index")
                samples = (
                    f" (samples {', '.join(str(int(i)) for i in index[:8])}{', ...' if len(index) > 8 else ''})"
                    if index is not None
                    else ""
                )
                found.append(f"{what}{samples}")
    player.zero()
    told = [t for t in parallel.gather_text("; ".join(found), player.parameters[0].device) if t]
    return (
        f"step {progress.step}, player {player.name!r}: {'; '.join(told) or 'loss or gradient is not finite'}. "
        "The weights are those from before this step. Look at these samples, lower the learning rate, or clip the gradient."
    )
