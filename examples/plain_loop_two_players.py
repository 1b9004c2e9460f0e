"""A method of two moves in a plain PyTorch loop: one optimizer for each player, one step for each move.

- optimizer = SGD(student.parameters(), lr=0.05)
+ optimizers = {name: SGD(parameters, lr=0.05) for name, parameters in method.players().items()}
-         loss = cross_entropy(student(images), labels)
-         optimizer.zero_grad(); loss.backward(); optimizer.step()
+         for move in method.moves(method.prepare(batch, progress), progress):
+             optimizers[move.player].zero_grad(); move.loss.backward(); optimizers[move.player].step()
+         method.after(progress)
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import understudy as us
from understudy.data.digits import digits
from understudy.losses import kl
from understudy.zoo import CNN


def tell_apart(critic: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    return F.softplus(critic(student)).squeeze(1) + F.softplus(-critic(teacher)).squeeze(1)


def pass_for_teacher(critic: nn.Module, student: Tensor) -> Tensor:
    return F.softplus(-critic(student)).squeeze(1)


class Adversarial(us.Distillation):
    """A critic learns to tell the student's logits from the teacher's; then the student learns to pass for the teacher."""

    def __init__(self, student: nn.Module, teacher: nn.Module, critic: nn.Module) -> None:
        super().__init__(
            us.Term(partial(tell_apart, critic), "stop student", "teacher"),
            us.Term(partial(pass_for_teacher, critic), "student", weight=0.1),
            us.Term(kl, "student", "teacher"),
            student=student,
            teacher=teacher,
        )
        self.critic = critic

    def players(self):
        return {"critic": list(self.critic.parameters()), "student": list(self.student.parameters())}

    def moves(self, batch, progress):
        yield self.move(batch, progress, player="critic", only=[0])
        yield self.move(batch, progress, player="student", only=[1, 2])


def fit(method: us.Method, loader: DataLoader, epochs: int, lr: float = 0.05) -> list[dict[str, float]]:
    method.dry_run(next(iter(loader)))
    optimizers = {name: SGD(parameters, lr=lr, momentum=0.9) for name, parameters in method.players().items()}
    losses = []
    method.train()
    for epoch in range(epochs):
        for batch in loader:
            progress = us.Progress(len(losses), epochs * len(loader), epoch)
            losses.append({})
            for move in method.moves(method.prepare(batch, progress), progress):
                optimizers[move.player].zero_grad()
                move.loss.backward()
                optimizers[move.player].step()
                losses[-1][move.player] = move.loss.item()
            method.after(progress)
    return losses


def main(epochs: int = 8) -> tuple[us.Method, list[dict[str, float]]]:
    torch.manual_seed(0)
    data, teacher, student = digits(), CNN(32), CNN(8)
    us.train(us.methods.alone(teacher), data.train, us.Settings(epochs=5, batch_size=50, optimizer=us.Optim(lr=3e-3)))
    method = Adversarial(student, teacher, critic=nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1)))
    losses = fit(method, DataLoader(TensorDataset(*data.train), batch_size=50, shuffle=True), epochs)
    images, labels = data.test
    accuracy = (student.eval()(images).argmax(1) == labels).float().mean().item()
    print(f"student's loss {losses[0]['student']:.3f} to {losses[-1]['student']:.3f}, test accuracy {accuracy:.3f}")
    return method, losses


if __name__ == "__main__":
    main()
