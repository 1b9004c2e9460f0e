"""Distillation inside Accelerate. In a loop of your own, these lines change:

+ method.dry_run(next(iter(loader)))                # names every mistake, and gives the projector its sizes
- student, optimizer, loader = accelerator.prepare(student, SGD(student.parameters(), lr=0.05), loader)
+ method, optimizer, loader = accelerator.prepare(method, SGD(method.parameters(), lr=0.05), loader)
-         loss = cross_entropy(student(images), labels)
+         loss = method(batch, progress)            # called, not method.loss: so DDP and autocast have their part in it
+         if accelerator.sync_gradients:            # once for each optimizer step
+             accelerator.unwrap_model(method).after(progress)
"""

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import understudy as us
from understudy.data.digits import digits
from understudy.zoo import CNN


def fit(accelerator: Accelerator, method: us.Method, loader: DataLoader, epochs: int, lr: float = 0.05) -> list[float]:
    method.dry_run(next(iter(loader)))
    method, optimizer, loader = accelerator.prepare(method, SGD(method.parameters(), lr=lr, momentum=0.9), loader)
    losses, step, steps = [], 0, epochs * math.ceil(len(loader) / accelerator.gradient_accumulation_steps)
    method.train()
    for epoch in range(epochs):
        for batch in loader:
            with accelerator.accumulate(method):
                progress = us.Progress(step, steps, epoch)
                loss = method(batch, progress)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                if accelerator.sync_gradients:
                    accelerator.unwrap_model(method).after(progress)
                    step += 1
            losses.append(loss.item())
    return losses


def main(folder: str = "runs/with_accelerate", epochs: int = 5) -> tuple[us.Method, list[float]]:
    torch.manual_seed(0)
    data, teacher, student = digits(), CNN(32), CNN(8)
    us.train(us.methods.alone(teacher), data.train, us.Settings(epochs=5, batch_size=50, optimizer=us.Optim(lr=3e-3)))
    method = us.methods.fitnets(student, teacher, student_layer="layer2", teacher_layer="layer2", weight=1.0)
    accelerator = Accelerator()
    losses = fit(accelerator, method, DataLoader(TensorDataset(*data.train), batch_size=50, shuffle=True), epochs)
    accelerator.save_state(folder)  # the whole run, without the teacher
    accelerator.save_model(student, Path(folder) / "student")
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    return method, losses


if __name__ == "__main__":
    main()
