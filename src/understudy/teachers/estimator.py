"""A teacher of scikit-learn, XGBoost or LightGBM."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.errors import InputError
from understudy.teachers.black_box import FLOOR, BlackBox

__all__ = ["Estimator"]


class Estimator(BlackBox):
    """An estimator that has been fitted, of scikit-learn or with its interface, as XGBoost's and LightGBM's have.

    Of a classifier the output is the logarithm of ``predict_proba``, as float32, each probability at least ``floor``; of a
    regressor it is ``predict``, a column for each value. All axes of a sample but its own are made one: pictures become rows.

    An estimator comes in from Python, or through ``--plugin``; there is no path to give: what joblib and pickle write is code,
    and loading it runs that code. Load it yourself where you trust the file. Or export it to ONNX (skl2onnx, onnxmltools),
    and give :class:`~understudy.teachers.Onnx` the file with ``gives="probabilities"``.

    Args:
        estimator: fitted on labels 0, 1, ..., C - 1: its columns are the classes in this order.
        floor: smallest probability; a forest's are often 0.

    Raises: InputError for what is no estimator or has not been fitted, for one that knows no probabilities, or for other labels.
    """

    def __init__(self, estimator: Any, *, floor: float = FLOOR) -> None:
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
        if labels is not None and not np.array_equal(labels, np.arange(len(labels))):
            raise InputError(
                f"Estimator: {what} was fitted on the labels {labels.tolist()[:8]}; its columns must be the student's classes: fit it on 0 to {len(labels) - 1}."
            )
        self.classifies = labels is not None
        super().__init__(self._ask, what, gives="probabilities" if self.classifies else "logits", floor=floor)

    def _ask(self, array: Any) -> Any:
        rows = array.reshape(len(array), -1)
        answer = self.estimator.predict_proba(rows) if self.classifies else self.estimator.predict(rows)
        return answer[:, None] if not self.classifies and answer.ndim == 1 else answer


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
