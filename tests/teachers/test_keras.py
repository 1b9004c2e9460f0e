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
from understudy.errors import CorruptError, InputError
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
    method = Distillation(Term(mse, "student", "teacher.conv"), student=student(), teacher=loaded)
    with pytest.raises(InputError, match=r"\[6, 6, 6, 4\]"):
        method.dry_run((X, torch.zeros(6).long()))


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
