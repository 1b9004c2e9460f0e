"""A model card, README.md as Hugging Face reads it.

card(told: Mapping[str, Any]) -> str; the keys are in its docstring, all but name may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["card"]


def card(told: Mapping[str, Any]) -> str:
    """The card, from plain data. What is not told is named as not recorded.

    Args:
        told: a mapping with

            - ``name``: of the model (needed); ``about``: a sentence or two;
            - ``task``: "classification", "multi-label" or "regression"; ``classes``: their names;
            - ``metric``: key of the main figure in ``row``; ``figures``: further keys of quality figures in ``row``;
            - ``row``: the model's figures, keys as a row of a comparison's ``results.json`` has them
              (``<metric>``, ``<metric>_ci95``, ``seeds``, ``file_<metric>``, ``parameters``, ``size_bytes``, ``latency_ms_p50``, ...);
            - ``teacher``: the same of the teacher; ``others``: rows to stand beside it, such as the student alone;
            - ``lineage``: texts in order, from the teacher to the file;
            - ``data``: ``{"name", "split", "samples", "about"}``: what the figures were measured on;
            - ``recipe``: ``{name: text}``: how it was trained;
            - ``target``, ``runtime``, ``file``: what was exported; ``raw``: whether read_raw.py lies beside predict.py;
            - ``checked``: ``{"samples", "max_error", "agreement"}``: the file against the model;
            - ``measured``: ``{name: text}``: how size, latency, memory, energy were measured: machine, threads, batch, runtime;
            - ``limits``: texts, beside those that always hold;
            - ``license``: an identifier; "other" if left out; ``tags``: further ones;
            - ``command``: what makes it again.
    """
    raise NotImplementedError
