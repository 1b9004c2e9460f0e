"""Distillation inside the Hugging Face Trainer. In a script of your own, these lines change:

+ method.dry_run(default_data_collator(rows[:2]))   # names every mistake, and gives the projector its sizes
- arguments = TrainingArguments(folder)
+ arguments = TrainingArguments(folder, remove_unused_columns=False, label_names=["labels"])
- trainer = Trainer(student, arguments, train_dataset=rows)
+ trainer = Distiller(method, arguments, train_dataset=rows, callbacks=[After()])     # two classes, as below
- trainer.save_model(folder)
+ student.save_pretrained(folder)                   # the bare student, for from_pretrained
"""

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.data.data_collator import default_data_collator

import understudy as us
from understudy.data.digits import digits


def progress(state) -> us.Progress:
    return us.Progress(state.global_step, state.max_steps, int(state.epoch or 0))


class Distiller(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:  # evaluate() and predict() ask for them: of the student alone
            outputs = self.model.student(**inputs)
            return outputs.loss, outputs
        return model(inputs, progress(self.state))

    def _save(self, output_dir=None, state_dict=None):
        # Copies, since the file's format takes no tied weights, which most language models have.
        named = state_dict or self.model.state_dict()
        super()._save(output_dir, {name: tensor.to("cpu", copy=True) for name, tensor in named.items()})


class After(TrainerCallback):
    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.after(progress(state))  # moving averages and memory banks, if it has any


def bert(width: int, layers: int) -> BertForSequenceClassification:
    size = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4}
    words = {"vocab_size": 16, "max_position_embeddings": 16, "initializer_range": 0.1}
    return BertForSequenceClassification(BertConfig(**size, **words, num_labels=10))


def as_text(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Each image as a sentence of 16 words out of 16: blocks of 2 by 2 pixels, each dark or light."""
    blocks = (images > 0.5).long().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).flatten(1, 3)
    return {"input_ids": blocks @ torch.tensor([8, 4, 2, 1]), "labels": labels}


def main(folder: str = "runs/with_transformers", epochs: int = 8) -> tuple[us.Method, list[float]]:
    torch.manual_seed(0)
    train, teacher, student = as_text(*digits().train), bert(64, layers=2), bert(32, layers=1)
    alone = us.methods.alone(teacher, label="batch.labels")
    us.train(alone, train, us.Settings(epochs=15, batch_size=50, optimizer=us.Optim(lr=2e-3)))
    layers = {"student_layer": "bert.encoder.layer.0", "teacher_layer": "bert.encoder.layer.1"}
    method = us.methods.fitnets(
        student, teacher, **layers, weight=1.0, project=us.projectors.Linear(), label="batch.labels"
    )
    rows = [{"input_ids": words, "labels": int(label)} for words, label in zip(*train.values(), strict=True)]
    method.dry_run(default_data_collator(rows[:2]))
    arguments = TrainingArguments(
        folder, remove_unused_columns=False, label_names=["labels"], report_to="none", logging_steps=20,
        num_train_epochs=epochs, per_device_train_batch_size=50, learning_rate=5e-3,
    )  # fmt: skip
    trainer = Distiller(method, arguments, train_dataset=rows, callbacks=[After()])
    trainer.train()
    student.save_pretrained(f"{folder}/student")
    return method, [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    main()
