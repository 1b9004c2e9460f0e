"""A Keras model that has learnt the handwritten digits, as two files for the recipes teachers/keras and teachers/tensorflow.

    pip install 'understudy[tf,demo]'
    python examples/keras_teacher.py teachers
    understudy run teachers/keras         # teachers/digits.keras, read on torch: a module with layers
    understudy run teachers/tensorflow    # teachers/digits, a SavedModel, run by TensorFlow

It is what a user of TensorFlow has already: pictures [N, H, W, C], a softmax at the end, trained by ``fit``.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from understudy.data.digits import digits


def main(folder: Path, epochs: int = 30) -> float:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, valid = ((x.permute(0, 2, 3, 1).numpy(), y.numpy()) for x, y in (digits().train, digits().valid))
    model.fit(*train, epochs=epochs, batch_size=64, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "digits.keras")
    model.export(folder / "digits", verbose=False)
    return model.evaluate(*valid, verbose=0)[1]


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "teachers")
    print(f"accuracy on valid {main(where):.3f}; written: {where / 'digits.keras'}, {where / 'digits'}")
