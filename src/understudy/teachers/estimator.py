"""A teacher of scikit-learn, XGBoost or LightGBM."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.errors import InputError
from understudy.teachers.black_box import FLOOR, BlackBox, fingerprint

__all__ = ["Estimator"]

SCALES = (0.01, 1.0, 100.0)
"""Of the noise by which it is known: what it was fitted on may be shares, or hundreds."""


class Estimator(BlackBox):
    """An estimator that has been fitted, of scikit-learn or with its interface, as XGBoost's and LightGBM's have.

    Of a classifier the output is the logarithm of ``predict_proba``, as float32, each probability at least ``floor``; of a
    regressor it is ``predict``, a column for each value. All axes of a sample but its own are made one: pictures become rows.

    An estimator comes in from Python, or through ``--plugin``; there is no path to give: what joblib and pickle write is code,
    and loading it runs that code. Load it yourself where you trust the file. Or export it to ONNX (skl2onnx, onnxmltools),
    and give :class:`~understudy.teachers.Onnx` the file with ``gives="probabilities"``.

    It is known by what it says of rows of noise, so that a run is not resumed with another.

    Args:
        estimator: fitted on labels 0, 1, ..., C - 1, its columns in this order; or on others, with ``classes``.
        classes: its labels in the order of the student's outputs, as ``["cat", "dog"]`` where those are 0 and 1.
        floor: smallest probability; a forest's are often 0.

    Raises: InputError for what is no estimator or has not been fitted, for one that knows no probabilities, or for other labels.
    """

    def __init__(self, estimator: Any, *, classes: Sequence[Any] | None = None, floor: float = FLOOR) -> None:
        what = f"{type(estimator).__name__}"
        if isinstance(estimator, str | bytes) or hasattr(estimator, "__fspath__"):
            raise InputError(
                f"Estimator: {estimator!r} is a path; what joblib and pickle write runs code when it is loaded, and is never loaded "
                "here. Load it yourself where you trust it, Estimator(joblib.load(path)), or export it to ONNX."
            )
        if isinstance(estimator, type) or not (hasattr(estimator, "predict_proba") or hasattr(estimator, "predict")):
            raise InputError(f"Estimator: a {what} has neither predict_proba nor predict; give a fitted estimator.")
        self.estimator = estimator
        labels = _labels(estimator)
        if labels is not None and not hasattr(estimator, "predict_proba"):
            raise InputError(
                f"Estimator: {what} is a classifier without probabilities, and a student learns those. Fit "
                "CalibratedClassifierCV around it, or one with predict_proba."
            )
        self.classifies = labels is not None
        self.order = None if labels is None else _order(labels, classes, what)
        if labels is None and classes is not None:
            raise InputError(f"Estimator: {what} is a regressor, which has no classes. Leave classes out.")
        super().__init__(self._ask, what, gives="probabilities" if self.classifies else "logits", floor=floor)
        if (noise := self._of_noise()) is not None:
            self.state_dict = lambda: {"digest": fingerprint([noise])}

    def _ask(self, array: Any) -> Any:
        rows = array.reshape(len(array), -1)
        if self.order is None:
            answer = np.asarray(self.estimator.predict(rows))
            return answer[:, None] if answer.ndim == 1 else answer
        answer = np.asarray(self.estimator.predict_proba(rows))
        if answer.shape != (len(rows), len(self.order)):
            raise InputError(
                f"{self.what}: gave {list(answer.shape)} for {len(rows)} rows of {len(self.order)} classes; it must have a column for each."
            )
        return answer[:, self.order]

    def _of_noise(self) -> bytes | None:
        """What it says of rows of many scales, to four places: sums over threads differ in the last. None if it cannot."""
        width = getattr(self.estimator, "n_features_in_", None)
        if not isinstance(width, int | np.integer):
            return None
        noise = np.random.default_rng(0).normal(size=(32 * len(SCALES), int(width)))
        rows = np.float32(noise * np.repeat(SCALES, 32)[:, None])
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                answer = np.asarray(self._ask(rows), dtype=np.float64)
        except Exception:  # it wants something else than rows of numbers, which its first batch will tell
            return None
        return b"".join(f"{value:.3e}".encode() for value in answer.ravel())


def _order(labels: np.ndarray[Any, Any], classes: Sequence[Any] | None, what: str) -> list[int]:
    """The columns of its answer, as the student has them."""
    known = labels.tolist()
    if classes is None and known != list(range(len(known))):
        raise InputError(
            f"Estimator: {what} was fitted on the labels {known[:8]}; its columns must be the student's classes, 0 to {len(known) - 1} in this "
            f"order. Name its labels in the order of the student's outputs: classes={sorted(known[:8], key=str)}."
        )
    if classes is None:
        return list(range(len(known)))
    if sorted(map(str, classes)) != sorted(map(str, known)) or not set(classes) <= set(known):
        raise InputError(
            f"Estimator: classes={list(classes)} are not the labels that {what} was fitted on: {known[:8]}."
        )
    return [known.index(label) for label in classes]


def _labels(estimator: Any) -> np.ndarray[Any, Any] | None:
    """What a classifier was fitted on; None of a regressor."""
    try:
        found = getattr(estimator, "classes_", None)
    except AttributeError:  # XGBoost's, before it is fitted
        found = None
    if isinstance(found, list):
        raise InputError(
            f"Estimator: {type(estimator).__name__} answers several questions at once; give an estimator for each."
        )
    if found is None and hasattr(estimator, "predict_proba"):
        raise InputError(
            f"Estimator: {type(estimator).__name__} has not been fitted: it has no classes_. Call fit(inputs, labels) first."
        )
    return None if found is None else np.asarray(found)
