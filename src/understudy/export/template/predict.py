"""What model.onnx says of the samples in a file; needs numpy and onnxruntime only.

python predict.py input.npy                          prints JSON, one entry for each sample
python predict.py input.npy --out predictions.npy    writes class indices, a 0 or 1 for each label, or values"""

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDER = Path(__file__).resolve().parent
FACTS = json.loads((FOLDER / "preprocessing.json").read_text(encoding="utf-8"))


def prepare(raw: np.ndarray, facts: Any) -> np.ndarray:
    """Samples as they are in the file, one or many, in the form that the model takes."""
    raw = raw[None] if list(raw.shape) == facts["shape"] else raw
    if list(raw.shape[1:]) != facts["shape"]:
        raise SystemExit(f"The samples have the shape {list(raw.shape[1:])}, but {facts['shape']} is needed.")
    array = raw.astype(facts["dtype"], casting="same_kind")
    array = np.moveaxis(array, -1, 1) if facts["layout"] == "channels_last" else array
    if facts["scale"] is None:  # whole numbers, which the model takes as they are
        return array
    mean, std = (np.array(facts[k], array.dtype).reshape(-1, *[1] * (array.ndim - 2)) for k in ("mean", "std"))
    return np.asarray((array * array.dtype.type(facts["scale"]) - mean) / std)


def predict(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The predictions for prepared inputs: as an array, and as an entry for each sample."""
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    parts = zip(*(np.array_split(x, -(-len(x) // FACTS["batch"]) or 1) for x in inputs.values()), strict=True)
    y = np.concatenate([session.run(None, batch)[0] for batch in (dict(zip(inputs, p, strict=True)) for p in parts)])
    names = np.array(FACTS["classes"])
    if FACTS["task"] == "classification":
        p, best = np.exp(y - np.logaddexp.reduce(y, 1, keepdims=True)).tolist(), y.argmax(1)
        return best, [{"class": str(names[k]), "index": k, "probabilities": p[i]} for i, k in enumerate(best.tolist())]
    if FACTS["task"] == "multi-label":
        has, p = y > 0, (0.5 + np.tanh(y / 2) / 2).tolist()
        return has.astype(int), [{"labels": names[row].tolist(), "probabilities": p[i]} for i, row in enumerate(has)]
    return y, [{"values": row.tolist()} for row in y.reshape(len(y), -1)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the model says of the samples in a file.")
    parser.add_argument("file", type=Path, help="samples as .npy or .npz; beside read_raw.py: also as they come")
    parser.add_argument("--out", type=Path, help="write the predictions to this .npy instead of printing them")
    given = parser.parse_args()
    raw = "raw" in FACTS and given.file.suffix not in (".npy", ".npz")
    opened = runpy.run_path(str(FOLDER / "read_raw.py"))["opened"](given.file, FACTS["raw"]) if raw else None
    with opened or given.file.open("rb") as file:
        stored = np.load(file)
        stored = dict(zip(FACTS["inputs"], [stored], strict=True)) if isinstance(stored, np.ndarray) else dict(stored)
    array, entries = predict({k: prepare(stored[k], facts) for k, facts in FACTS["inputs"].items()})
    entries = [{"sample": name, **e} for name, e in zip(opened.names, entries, strict=True)] if opened else entries
    np.save(given.out, array) if given.out else print(json.dumps(entries, allow_nan=False))
