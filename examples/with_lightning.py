"""Distillation inside Lightning. In a LightningModule of your own, these lines change:

- self.student = student
+ self.method = method                              # the teacher follows it to the device, but not into checkpoints
-     return cross_entropy(self.student(images), labels)                            # in training_step
+     return self.method(batch, self.progress)
-     return SGD(self.student.parameters(), lr=0.05)                                # in configure_optimizers
+     return SGD(self.method.parameters(), lr=0.05)
+ def optimizer_step(self, *args, **kwargs): ...    # as below: moving averages and memory banks, if it has any
"""

from pathlib import Path

import lightning
import torch
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import understudy as us
from understudy.data.digits import digits
from understudy.zoo import CNN


class Distilled(lightning.LightningModule):
    def __init__(self, method: us.Method, lr: float = 0.05) -> None:
        super().__init__()
        self.method, self.lr, self.losses = method, lr, []

    @property
    def progress(self) -> us.Progress:
        return us.Progress(self.global_step, int(self.trainer.estimated_stepping_batches), self.current_epoch)

    def training_step(self, batch, batch_idx):
        loss = self.method(batch, self.progress)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self.method.student(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def optimizer_step(self, *args, **kwargs):
        progress = self.progress
        super().optimizer_step(*args, **kwargs)
        self.method.after(progress)

    def configure_optimizers(self):
        return SGD(self.method.parameters(), lr=self.lr, momentum=0.9)


def main(folder: str = "runs/with_lightning", epochs: int = 5) -> tuple[us.Method, list[float]]:
    torch.manual_seed(0)
    data, teacher, student = digits(), CNN(32), CNN(8)
    us.train(us.methods.alone(teacher), data.train, us.Settings(epochs=5, batch_size=50, optimizer=us.Optim(lr=3e-3)))
    method = us.methods.fitnets(student, teacher, student_layer="layer2", teacher_layer="layer2", weight=1.0)
    train = DataLoader(TensorDataset(*data.train), batch_size=50, shuffle=True)
    method.dry_run(next(iter(train)))  # before fit: the projector gets its sizes
    distilled = Distilled(method)
    trainer = lightning.Trainer(max_epochs=epochs, default_root_dir=folder, logger=False)
    trainer.fit(distilled, train, DataLoader(TensorDataset(*data.valid), batch_size=50))
    torch.save(student.state_dict(), Path(folder) / "student.pt")
    return method, distilled.losses


if __name__ == "__main__":
    main()
