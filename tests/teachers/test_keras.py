"""Teachers of Keras and TensorFlow, by these libraries themselves. test_black_box.py has what can be tested without them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy import Distillation, Term, methods
from understudy.errors import AddressError, CorruptError, InputError
from understudy.losses import mse
from understudy.projectors import Linear
from understudy.state import digest
from understudy.teachers import Keras, SavedModel, keras

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LAST = X.permute(0, 2, 3, 1).numpy()

MAKE = """
import sys
import keras
assert keras.backend.backend() == sys.argv[2]
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    layers.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu", name="conv"), layers.BatchNormalization(), layers.Flatten(),
    layers.Dropout(0.5), layers.Dense(5, name="head", activation="softmax"),
])
model.save(sys.argv[1])
"""

READ = """
import sys, numpy, torch
from understudy.teachers import BlackBox, keras
teacher = keras(sys.argv[1], gives="probabilities", channels="last")
assert type(teacher) is BlackBox, type(teacher)
numpy.save(sys.argv[2], teacher(torch.from_numpy(numpy.load(sys.argv[3]))).numpy())
"""


def need(library: str) -> None:
    """Skip without it; by importing keras it would get its backend."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def in_another_process(code: str, backend: str, *arguments: str) -> None:
    """Keras has one backend for as long as a process lives."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    need("keras")
    path = tmp_path_factory.mktemp("keras") / "teacher.keras"
    in_another_process(MAKE, "torch", str(path), "torch")
    return path


@pytest.fixture(scope="module")
def loaded(file) -> Any:
    teacher = keras(file, gives="probabilities", channels="last")
    if not isinstance(teacher, Keras):
        pytest.skip("keras was imported before, with another backend")
    return teacher


def student() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))


def test_a_keras_file_on_torch_is_a_module_that_says_what_keras_says(loaded):
    raw = loaded._held[0](LAST, training=False)
    torch.testing.assert_close(loaded(X).softmax(-1), raw, rtol=1e-4, atol=1e-6)
    before = digest(loaded)
    method = methods.kd(student(), loaded, alpha=1.0)
    method.loss((X, torch.zeros(6).long())).backward()
    assert digest(loaded) == before
    assert all(p.grad is None for p in loaded.parameters())


def test_its_layers_have_addresses_by_their_keras_names(loaded):
    method = Distillation(Term(mse, "student", "teacher.head", project=Linear()), student=student(), teacher=loaded)
    (line,) = method.dry_run((X, torch.zeros(6).long()))
    assert line.shapes == {"student": (6, 5), "teacher.head": (6, 5)}
    with pytest.raises(AddressError, match=r"no submodule 'conf'. Did you mean 'conv'"):
        Distillation(Term(mse, "student", "teacher.conf"), student=student(), teacher=loaded)


def found(teacher: Any, *addresses: str) -> dict[str, torch.Tensor]:
    """What a term finds at these addresses."""
    seen: list[tuple[torch.Tensor, ...]] = []

    def loss(student: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        seen.append(others)
        return student.square().mean(1)

    Distillation(Term(loss, "student", *addresses), student=student(), teacher=teacher).loss((X,))
    return dict(zip(addresses, seen[0], strict=True))


def test_maps_of_layers_are_turned_as_the_pictures_are(loaded):
    layer = loaded._held[0].get_layer("conv")
    at = found(loaded, "teacher.conv", "teacher.conv<", "teacher:conv.kernel", "teacher")
    torch.testing.assert_close(at["teacher.conv"].permute(0, 2, 3, 1), layer(LAST))
    assert at["teacher.conv"].shape == (6, 4, 6, 6)
    assert torch.equal(at["teacher.conv<"], X)
    assert torch.equal(at["teacher:conv.kernel"], layer.kernel.value)
    torch.testing.assert_close(at["teacher"], loaded(X))
    as_they_are = Keras(loaded._held[0], gives="probabilities")
    raw = Distillation(
        Term(lambda s, t: t.flatten(1).mean(1) * s.mean(), "student", "teacher.conv"),
        student=student(),
        teacher=as_they_are,
    )
    assert raw.dry_run((X.permute(0, 2, 3, 1),))[0].shapes["teacher.conv"] == (6, 6, 6, 4)
    assert not any(m._forward_hooks for m in loaded._held[0].layers)  # they are there while it runs


def test_feature_methods_choose_layers_of_a_keras_teacher(loaded):
    small = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 5))
    data = (X, torch.zeros(6).long())
    method = methods.fitnets(small, loaded, example=data)
    assert [str(a) for a in method.terms[1].addresses] == ["student.1", "teacher.batch_normalization"]
    method.dry_run(data)
    method.loss(data).backward()
    assert small[0].weight.grad.ne(0).any()
    assert all(p.grad is None for p in loaded.parameters())


NESTED = """
import sys, keras, numpy
from understudy import Distillation, Term
from understudy.state import digest
from understudy.teachers import Keras, keras as load
import copy, torch
L = keras.layers
base = keras.Sequential([L.Input((8, 8, 1)), L.Conv2D(4, 3, name="c1"), L.Conv2D(4, 3, name="c2")], name="base")
given = L.Input((8, 8, 1))
inner = L.MultiHeadAttention(1, 2, name="train")  # a name that modules have
x = L.Flatten()(base(given))
y = L.Dense(6, name="middle")(x)
z = L.Reshape((3, 2))(y)
out = L.Dense(5, name="head")(L.Flatten()(inner(z, z)))
model = keras.Model(given, out)
teacher = Keras(model, channels="last")
names = [n for n, _ in teacher.named_parameters()]
assert {"base.c1.kernel", "base.c2.bias", "middle.kernel", "train_.query_kernel", "head.bias"} <= set(names), names
assert len(names) == len(model.weights) and sum(p.numel() for p in teacher.parameters()) == model.count_params()
X = torch.randn(3, 1, 8, 8)
seen = []
def loss(student, *others):
    seen.extend(others)
    return student.mean(1)
student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
Distillation(Term(loss, "student", "teacher.base.c1", "teacher.base", "teacher.middle"), student=student, teacher=teacher).loss((X,))
assert [tuple(t.shape) for t in seen] == [(3, 4, 6, 6), (3, 4, 4, 4), (3, 6)], seen
# A copy is one of its own.
twin = copy.deepcopy(teacher)
assert torch.equal(twin(X), teacher(X)) and digest(twin) == digest(teacher)
before = teacher(X).clone()
with torch.no_grad():
    twin.head.kernel.zero_()
assert torch.equal(teacher(X), before) and not torch.equal(twin(X), before) and digest(twin) != digest(teacher)
# What it is known by is the same after each loading.
model.save(sys.argv[1])
again = load(sys.argv[1], channels="last")
assert torch.equal(again(X), before) and digest(again) == digest(load(sys.argv[1], channels="last"))
try:
    teacher(X[:, :, :4])
except Exception as error:
    assert type(error).__name__ == "InputError" and "cannot take [3, 1, 4, 8]" in str(error), error
else:
    raise AssertionError
plain = torch.nn.functional.mse_loss
eager = Distillation(Term(loss, "student", "teacher.base.c1"), student=student, teacher=teacher, compile=True)
seen.clear(); eager.loss((X,))
assert tuple(seen[0].shape) == (3, 4, 6, 6)
"""


def test_layers_within_a_model_within_a_model_have_addresses_and_a_copy_is_its_own(tmp_path):
    need("keras")
    in_another_process(NESTED, "torch", str(tmp_path / "nested.keras"))


def test_a_file_with_a_python_function_in_it_is_refused(tmp_path):
    need("keras")
    make = """
import sys, keras
keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]).save(sys.argv[1])
"""
    in_another_process(make, "torch", str(tmp_path / "code.keras"))
    with pytest.raises(InputError, match="without running code that it holds"):
        keras(tmp_path / "code.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK not a zip")
    with pytest.raises((InputError, CorruptError)):
        keras(tmp_path / "broken.keras")


def test_a_keras_file_on_tensorflow_is_a_black_box_that_says_the_same(file, loaded, tmp_path):
    import numpy as np

    pytest.importorskip("tensorflow")
    np.save(tmp_path / "x.npy", X.numpy())
    in_another_process(READ, "tensorflow", str(file), str(tmp_path / "y.npy"), str(tmp_path / "x.npy"))
    there = torch.from_numpy(np.load(tmp_path / "y.npy"))
    torch.testing.assert_close(there, loaded(X).detach(), rtol=1e-4, atol=1e-5)


# -- TensorFlow --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    tf = pytest.importorskip("tensorflow")

    class Net(tf.Module):
        def __init__(self, leaky: bool = False) -> None:
            self.weight, self.leaky = tf.Variable(tf.random.stateless_normal((64, 5), (1, 2))), leaky

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="pictures")])
        def __call__(self, pictures: Any) -> dict[str, Any]:
            if self.leaky:
                tf.io.write_file("leak", "text")
            logits = tf.reshape(pictures, (-1, 64)) @ self.weight
            return {"logits": logits, "class": tf.argmax(logits, -1)}

    root = tmp_path_factory.mktemp("tensorflow")
    for name, net in (("sound", Net()), ("leaky", Net(leaky=True))):
        tf.saved_model.save(net, str(root / name), signatures={"serving_default": net.__call__})
    return root


def test_a_saved_model_says_what_tensorflow_says(folder):
    import tensorflow as tf

    teacher = SavedModel(folder / "sound", channels="last")
    told = tf.saved_model.load(str(folder / "sound")).signatures["serving_default"](pictures=tf.constant(LAST))[
        "logits"
    ]
    torch.testing.assert_close(teacher(X), torch.from_numpy(told.numpy()))
    assert methods.kd(student(), teacher, alpha=1.0).loss((X, torch.zeros(6).long())).isfinite()
    assert digest(teacher) == digest(SavedModel(folder / "sound", channels="last"))
    with pytest.raises(
        InputError, match=r"takes pictures of \(None, 8, 8, 1\), and not \[6, 1, 8, 8\].*channels='last'"
    ):
        SavedModel(folder / "sound")(X)


def test_a_saved_model_that_cannot_be_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="WriteFile, which reach files"):
        SavedModel(folder / "leaky")
    with pytest.raises(InputError, match="has no signature 'serve'"):
        SavedModel(folder / "sound", signature="serve")
    with pytest.raises(InputError, match=r"has no output 'logit'\. Did you mean 'logits'"):
        SavedModel(folder / "sound", output="logit")
    with pytest.raises(InputError, match="no such file"):
        SavedModel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff no graph")
    with pytest.raises(CorruptError, match="is damaged"):
        SavedModel(tmp_path)


# -- they teach --------------------------------------------------------------------------------------------------------

TEACH = """
import sys, pathlib, torch
import understudy.evaluate
understudy.evaluate._memory = lambda *_: None
sys.path.insert(0, sys.argv[1])
from teaching import CLASSES, INPUTS, NEW, labels, put_to_it
import keras
from understudy.teachers import BlackBox, Keras, SavedModel, keras as load
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[2])
L = keras.layers
x, y = INPUTS.permute(0, 2, 3, 1).numpy(), labels(INPUTS).numpy()
teachers = []
for seed in (0, 1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([L.Input((4, 4, 1)), L.Flatten(), L.Dense(24, activation="relu"), L.Dense(CLASSES, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, verbose=0)
    said = torch.as_tensor(keras.ops.convert_to_numpy(model(NEW.permute(0, 2, 3, 1).numpy(), training=False)))
    options = {"gives": "probabilities", "channels": "last"}
    if sys.argv[3] == "saved_model":
        model.export(str(folder / str(seed)), verbose=False)
        teachers.append(SavedModel(folder / str(seed), **options))
    else:
        model.save(folder / f"{seed}.keras")
        teachers.append(load(folder / f"{seed}.keras", **options))
    assert (teachers[-1](NEW).exp() - said.clamp(min=1e-6)).abs().max() < 1e-6
kind = {"torch": Keras, "tensorflow": BlackBox, "saved_model": SavedModel}[sys.argv[3]]
assert type(teachers[0]) is kind
put_to_it(*teachers, folder / "run")
"""


@pytest.mark.parametrize("kind", ["torch", "tensorflow", "saved_model"])
def test_models_of_keras_teach_and_are_known_again(kind, tmp_path):
    need("keras")
    if kind != "torch":
        need("tensorflow")
    backend = "torch" if kind == "torch" else "tensorflow"
    in_another_process(TEACH, backend, str(Path(__file__).parent), str(tmp_path), kind)
