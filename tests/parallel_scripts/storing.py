"""``storing.py FOLDER``: what a teacher says of augmented pictures; each rank writes down which rows it asked for."""

import inspect
import json
import os
import sys
from pathlib import Path

import torch

from understudy import distill, methods
from understudy.answers import Answers
from understudy.data.augment import Augment, Pictures
from understudy.material import Material
from understudy.plan import Plan
from understudy.zoo import CNN

torch.set_num_threads(1)
folder = Path(sys.argv[1])
generator = torch.Generator().manual_seed(0)
images, label = torch.randn(3000, 1, 8, 8, generator=generator), torch.randint(3, (3000,), generator=generator)
torch.manual_seed(1)
teacher, student = CNN(4, classes=3).eval(), CNN(2, classes=3)
train = Pictures((images, label), augment=Augment(crop=1, flip=True))
bound = inspect.signature(distill).bind(
    student, teacher, train, (images[:64], label[:64]), epochs=2, store=folder / "said", progress=False, device="cpu"
)
bound.apply_defaults()
answers = Answers(Material(Plan(**bound.arguments)), teacher, methods.kd(student, teacher))
asked = []
real = answers.ask


def ask(ids, draw):
    asked.extend((draw, int(i)) for i in ids)
    return real(ids, draw)


answers.ask = ask
answers.build(folder / "said")
(folder / f"asked-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(asked))
