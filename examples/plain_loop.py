"""Distillation in a plain PyTorch loop. In a loop of your own, these lines change:

+ method.dry_run(next(iter(loader)))                # names every mistake, and gives the projector its sizes
- optimizer = SGD(student.parameters(), lr=0.05)
+ optimizer = SGD(method.parameters(), lr=0.05)     # the projector learns too; the teacher is not in there
-         loss = cross_entropy(student(images), labels)
+         loss = method.loss(batch, progress)
+         method.after(progress)                    # moving averages and memory banks, if it has any
"""

import torch
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import understudy as us
from understudy.data.digits import digits
from understudy.zoo import CNN


def fit(method: us.Method, loader: DataLoader, epochs: int, lr: float = 0.05) -> list[float]:
    method.dry_run(next(iter(loader)))
    optimizer = SGD(method.parameters(), lr=lr, momentum=0.9)
    losses = []
    method.train()
    for epoch in range(epochs):
        for batch in loader:
            progress = us.Progress(len(losses), epochs * len(loader), epoch)
            loss = method.loss(batch, progress)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after(progress)
            losses.append(loss.item())
    return losses


def main(epochs: int = 5) -> tuple[us.Method, list[float]]:
    torch.manual_seed(0)
    data, teacher, student = digits(), CNN(32), CNN(8)
    us.train(us.methods.alone(teacher), data.train, us.Settings(epochs=5, batch_size=50, optimizer=us.Optim(lr=3e-3)))
    method = us.methods.fitnets(student, teacher, student_layer="layer2", teacher_layer="layer2", weight=1.0)
    losses = fit(method, DataLoader(TensorDataset(*data.train), batch_size=50, shuffle=True), epochs)
    images, labels = data.test
    accuracy = (student.eval()(images).argmax(1) == labels).float().mean().item()
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}, test accuracy {accuracy:.3f}")
    return method, losses


if __name__ == "__main__":
    main()
