"""Two players: a critic that learns to tell the student from its teacher, and a student that learns to be mistaken for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from understudy.batch import Batch
from understudy.errors import InputError
from understudy.losses.arithmetic import exact
from understudy.losses.fitted import Fitted
from understudy.losses.maps import same_samples
from understudy.method import Distillation, Move, Progress
from understudy.progress import Curve
from understudy.term import Term

__all__ = ["Adversarial", "Critic", "Watched"]


class Critic(Fitted):
    """A small net that tells a student's tensor from its teacher's, of one shape: a logit that is high for the teacher's.

    For maps ``[N, C, H, W]`` three convolutions and a mean over positions; for anything else, flattened, a net of two hidden layers.

    Args:
        net: instead of these, a module from such tensors to one logit for each sample.
        hidden: units, or channels, of the hidden layers.
    """

    def __init__(self, *, net: nn.Module | None = None, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.net = net
        self.own = net is not None

    def build(self, *sizes: int) -> None:
        """The net."""
        width = self.hidden
        if len(sizes) == 3:
            layers: list[nn.Module] = [nn.Conv2d(sizes[0], width, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
            self.net = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        else:
            features = 1
            for size in sizes:
                features *= size
            hidden = [nn.Linear(features, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
            self.net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 1))

    def judge(self, x: Tensor) -> Tensor:
        """A logit for each sample ``[N]``, high for what seems to be the teacher's."""
        if not self.own:
            self.fit(x.shape[1:], like=x)
        assert self.net is not None
        judged: Tensor = self.net(x)
        return judged.reshape(len(x), -1).mean(1)

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How badly it tells them apart: one value for each pair ``[N]``, in nats; 1.386 where it cannot."""
        same_samples("Critic", student, teacher)
        return F.softplus(self.judge(student)) + F.softplus(-self.judge(teacher))

    def fooled(self, student: Tensor) -> Tensor:
        """How far it is from taking the student for the teacher: one value for each sample ``[N]``, in nats."""
        lost: Tensor = self._fooled(student)
        return lost

    @exact
    def _fooled(self, student: Tensor) -> Tensor:
        return F.softplus(-self.judge(student))


@dataclass(frozen=True)
class Watched:
    """What a critic looks at.

    Attributes:
        student: address of what it should take for the teacher's.
        teacher: address of what it learns to prefer.
        critic: the critic.
        weight: of fooling it, in the student's move.
        name: of its terms in logs.
    """

    student: str
    teacher: str
    critic: Critic
    weight: float | Curve = 1.0
    name: str = "critic"


class Adversarial(Distillation):
    """A distillation of two moves a step: every critic learns to tell student from teacher, then the student learns.

    Where no critic has a weight at a step, there is the student's move alone.

    Args:
        *terms: the student's.
        watched: what critics look at. The student has, for each, a term more: to fool the critic.
        **options: of :class:`~understudy.Distillation`.
    """

    def __init__(self, *terms: Term, watched: Sequence[Watched], **options: Any) -> None:
        if not watched:
            raise InputError("Adversarial: watched=[] has no critic; without one use Distillation.")
        fool = [Term(w.critic.fooled, w.student, weight=w.weight, name=f"fool {w.name}") for w in watched]
        tell = [
            Term(w.critic, f"stop {w.student}", w.teacher, weight=_while_used(w.weight), name=w.name) for w in watched
        ]
        # The critics' terms come first: the dry run makes them, before it asks whether they are fooled.
        super().__init__(*tell, *terms, *fool, **options)
        self.telling = range(len(tell))
        self.learning = range(len(tell), len(tell) + len(terms) + len(fool))

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        """The critics' move, then the student's."""
        if any(self._term(i).weight_at(progress) for i in self.telling):
            yield self.move(batch, progress, player="critic", only=self.telling)
        yield self.move(batch, progress, player="student", only=self.learning)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The critics' parameters, if there are any yet, and all the others."""
        critic = {p: None for i in self.telling for p in self._term(i).parameters() if p.requires_grad}
        others = [p for p in self.parameters() if p.requires_grad and p not in critic]
        return {**({"critic": list(critic)} if critic else {}), "student": others}


def _while_used(weight: float | Curve) -> float | Curve:
    """1 while the student is to fool the critic: else it need not learn."""
    if callable(weight):
        return lambda progress: float(weight(progress) != 0)
    return float(weight != 0)
