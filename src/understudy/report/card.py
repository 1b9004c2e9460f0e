"""A model card: a README.md as Hugging Face reads it, with the figures for machines at its head and the words for people below.

card(told: Mapping[str, Any]) -> str; the keys are in its docstring, all but name may be left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.errors import InputError, choices, raise_all
from understudy.report.table import Column, markdown
from understudy.report.words import cut, printable

__all__ = ["CARD", "card", "check"]

CARD = "README.md"
"""Its name in an exported folder."""

CLASSES = 20
"""So many classes are named."""

_KEYS = (
    "name", "about", "task", "classes", "metric", "figures", "row", "teacher", "others", "lineage", "data", "recipe", "target",
    "runtime", "file", "raw", "checked", "measured", "limits", "license", "tags", "command",
)  # fmt: skip
_PACKAGES = {
    "torch": "torch",
    "executorch": "executorch",
    "openvino": "openvino",
    "coreml": "coremltools",
    "litert": "ai-edge-litert",
}
_COSTS = (
    Column("size_bytes", "file, bytes", "{:,}"),
    Column("size_compressed_bytes", "compressed, bytes", "{:,}"),
    Column("parameters", "parameters", "{:,}"),
    Column("flops", "FLOPs of a sample", "{:,}"),
    Column("latency_ms_p50", "latency p50, ms", "{:.3g}"),
    Column("latency_ms_p99", "latency p99, ms", "{:.3g}"),
    Column("eager_latency_ms_p50", "in PyTorch p50, ms", "{:.3g}"),
    Column("peak_memory_mb", "peak memory, MB", "{:.0f}"),
    Column("energy_mj", "energy of a sample, mJ", "{:.3g}"),
    Column("energy_how", "energy is"),
    Column("precision", "precision"),
    Column("runtime", "runtime"),
)
_HUB = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_MARKS = str.maketrans({**{sign: f"\\{sign}" for sign in "\\`*[~"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"})


def check(told: Mapping[str, Any]) -> None:
    """Raise InputError for a part that a card does not have."""
    raise_all(InputError, [f"card: has no part {key!r}. {choices(key, _KEYS)}" for key in told if key not in _KEYS])


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
            - ``measured``: ``{name: text}``: how size, latency, memory and energy were measured: machine, threads, batch;
            - ``limits``: texts, beside those that always hold;
            - ``license``: an identifier; "other" if left out; ``tags``: further ones;
            - ``command``: what makes it again.

    Raises: InputError for a part that there is not, or without a name.
    """
    check(told)
    if not told.get("name"):
        raise InputError("card: name is missing: the model has to have one.")
    sections = (
        ("What it is", _what(told)),
        ("Where it comes from", _numbered(told.get("lineage") or ())),
        ("Data", _data(told.get("data") or {})),
        ("Training", _list(told.get("recipe") or {})),
        ("Figures", _figures(told)),
        ("Size, speed, memory, energy", _costs(told)),
        ("Limits", _limits(told)),
        ("Licence", _licence(told.get("license"))),
        ("How to use it", _use(told)),
        ("How to make it again", _fenced(str(told["command"]), "sh") if told.get("command") else ""),
    )
    parts = [f"# {_said(told['name'])}", _said(told.get("about") or "")]
    parts += [f"## {title}\n\n{text or 'Not recorded.'}" for title, text in sections]
    return f"---\n{_head(told)}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


# -- for machines ------------------------------------------------------------------------------------------------------


def _head(told: Mapping[str, Any]) -> str:
    """The front matter."""
    data, target = told.get("data") or {}, str(told.get("target") or "")
    library = {"torch": "pytorch", "web": "onnx"}.get(target, target.split("-")[0])
    dataset, metric = str(data.get("name") or ""), told.get("metric")
    license_ = told.get("license") or "other"
    head: dict[str, Any] = {"license": license_}
    head |= {"license_name": "to-be-filled-in"} if license_ == "other" else {}
    head |= {"library_name": library} if library else {}
    head["tags"] = list(
        dict.fromkeys(
            ["knowledge-distillation", "understudy", *([target] if target else []), *(told.get("tags") or ())]
        )
    )
    head |= {"datasets": [dataset]} if _HUB.fullmatch(dataset) else {}
    head |= {"metrics": [metric]} if metric else {}
    if results := _results(told):
        kind = dataset if _HUB.fullmatch(dataset) else "other"
        on = {"name": dataset or "not recorded", "type": kind} | ({"split": data["split"]} if data.get("split") else {})
        task = str(told.get("task") or "other")
        result = {"task": {"type": task, "name": task}, "dataset": on, "metrics": results}
        head["model-index"] = [{"name": told["name"], "results": [result]}]
    return "".join(f"{line}\n" for line in _yaml(head))


def _results(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The main figure, from the file if it was scored, and the others."""
    row, metric, found = told.get("row") or {}, told.get("metric"), list[dict[str, Any]]()
    if metric:
        own = f"file_{metric}"
        found += [{"type": metric, "name": f"{metric}, scored from the file", "value": row.get(own)}]
        found += [{"type": metric, "name": _mean(metric, row), "value": row.get(metric)}]
    found += [{"type": key, "name": key, "value": row.get(key)} for key in told.get("figures") or () if key != metric]
    return [one for one in found if isinstance(one["value"], int | float) and math.isfinite(one["value"])]


def _mean(metric: str, row: Mapping[str, Any]) -> str:
    seeds, half = row.get("seeds"), row.get(f"{metric}_ci95")
    text = f"{metric}, mean of {seeds} seeds" if seeds and seeds > 1 else metric
    return text if half is None else f"{text}, ± {half:.4f} (95 % interval)"


def _yaml(value: Any, pad: str = "") -> Iterator[str]:
    """Block YAML of mappings, lists, texts and numbers. Texts are quoted, so that YAML 1.1 and 1.2 read the same: no, on, 1e5."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list):
                yield f"{pad}{key}:"
                yield from _yaml(inner, f"{pad}  ")
            else:
                yield f"{pad}{key}: {_scalar(inner)}"
        return
    for inner in value:
        if isinstance(inner, Mapping):
            first, *rest = _yaml(inner, f"{pad}  ")
            yield from (f"{pad}- {first.lstrip()}", *rest)
        else:
            yield f"{pad}- {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, int | float):
        text = f"{value:.6g}"
        return text if "e" not in text or "." in text else text.replace("e", ".0e")  # 1e-05 is a text in YAML 1.1
    return json.dumps(printable(str(value)), ensure_ascii=False)


# -- for people --------------------------------------------------------------------------------------------------------


def _said(text: Any) -> str:
    """A text as it is, on one line, whatever signs of Markdown or HTML are in it."""
    plain = _inline(text)
    return f"\\{plain}" if plain.startswith(("#", "-", "+", "=")) else plain  # else a heading, a list, a line


def _inline(text: Any) -> str:
    """The same within a line."""
    plain = " ".join(printable(str(text)).split()).translate(_MARKS)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", plain)  # within a word it is no emphasis


def _fenced(text: str, language: str = "") -> str:
    """A block of code, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(printable(line) for line in text.splitlines())
    return f"{fence}{language}\n{lines}\n{fence}"


def _list(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {_said(name)}: {_said(cut(str(text), 1000))}" for name, text in facts.items())


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{n}. {_said(line)}" for n, line in enumerate(lines, 1))


def _what(told: Mapping[str, Any]) -> str:
    row, classes = told.get("row") or {}, [str(name) for name in told.get("classes") or ()]
    facts: dict[str, Any] = {"task": told.get("task"), "parameters": row.get("parameters")}
    facts["parameters"] = None if facts["parameters"] is None else f"{facts['parameters']:,}"
    if classes:
        more = f", and {len(classes) - CLASSES:,} more" if len(classes) > CLASSES else ""
        facts["outputs"] = f"{len(classes):,}: {', '.join(classes[:CLASSES])}{more}"
    facts |= {"file": told.get("file"), "made for": told.get("runtime"), "precision": row.get("precision")}
    text = _list({name: value for name, value in facts.items() if value})
    return f"A smaller model that was made from a larger one, its teacher, with understudy.\n\n{text}"


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    samples = "" if data.get("samples") is None else f", {data['samples']:,} samples"
    split = "" if not data.get("split") else f", the {_said(data['split'])} part"
    about = (
        _said(data["about"])
        if data.get("about")
        else "Who or what the data shows, and how it was collected, is not recorded here."
    )
    return f"The figures were measured on {_said(data.get('name') or 'data whose name is not recorded')}{split}{samples}.\n\n{about}"


def _beside(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table: this model, then the others, the teacher first."""
    own = {**(told.get("row") or {}), "name": "this model"}
    teacher = [{"name": "teacher", **told["teacher"]}] if told.get("teacher") else []
    rows = [own, *teacher, *(told.get("others") or ())]
    return [{**row, "name": _said(row.get("name") or "another")} for row in rows]


def _figures(told: Mapping[str, Any]) -> str:
    metric, row = told.get("metric"), told.get("row") or {}
    if not metric or all(row.get(key) is None for key in (metric, f"file_{metric}")):
        return ""
    rows, half = _beside(told), f"{metric}_ci95"
    for one in rows:
        value, around = one.get(metric), one.get(half)
        one["figure"] = None if value is None else f"{value:.4f}" + ("" if around is None else f" ± {around:.4f}")
    more = [Column(key, _said(key), "{:.4f}") for key in told.get("figures") or () if key != metric]
    columns = [
        Column("name", "model"), Column("figure", _said(metric)), Column(f"file_{metric}", f"{_said(metric)}, from the file", "{:.4f}"),
        *more, Column("gap_closed", "share of the gap closed", "{:.0%}"), Column("seeds", "seeds"),
    ]  # fmt: skip
    part = (told.get("data") or {}).get("split")
    notes = [
        f"Measured on the {_said(part)} part of the data." if part else "On which part of the data is not recorded."
    ]
    if any(one.get(half) is not None for one in rows):
        notes.append("± is half of the 95 % interval over seeds.")
    else:
        notes.append("There is no interval: it would need several seeds.")
    return "\n\n".join([markdown(rows, columns), " ".join(notes), *_compared(told.get("checked") or {})])


def _compared(checked: Mapping[str, Any]) -> list[str]:
    """What was found of the file beside the model."""
    if not checked.get("samples"):
        return ["The file was not run: its runtime does not exist on the system that wrote it."] if checked else []
    text = f"The file was compared with the model on {checked['samples']:,.0f} samples"
    error, same = checked.get("max_error"), checked.get("agreement")
    told = [] if error is None else [f"the largest difference of an output is {error:.2g}"]
    told += [] if same is None else [f"the predictions agree on {same:.2%}"]
    return [f"{text}: {', and '.join(told)}." if told else f"{text}."]


def _costs(told: Mapping[str, Any]) -> str:
    """A line for each figure, for they are many and the models are few."""
    rows = _beside(told)
    if all(rows[0].get(column.key) is None for column in _COSTS):
        return ""
    columns = [Column("figure", ""), *(Column(str(i), row["name"]) for i, row in enumerate(rows))]
    lines = [
        {"figure": column.title, **{str(i): _inline(column.cell(row)) for i, row in enumerate(rows)}}
        for column in _COSTS
        if any(row.get(column.key) is not None for row in rows)
    ]
    estimated = any(row.get("energy_how") == "estimated" for row in rows)
    parts = [
        markdown(lines, columns),
        "Energy is an estimate where the table says so, and not a measurement." if estimated else "",
        _list(told.get("measured") or {}) or "How and where this was measured is not recorded.",
    ]
    return "\n\n".join(part for part in parts if part)


def _limits(told: Mapping[str, Any]) -> str:
    data = told.get("data") or {}
    seen = f"the {data['split']} part of {data.get('name') or 'the data'}" if data.get("split") else "the data above"
    lines = [
        f"Tested on {seen} alone. How it does on other data, sources or groups of people is not known.",
        "What the teacher and the data are biased towards is passed on, and making a model smaller can cost rare cases more than "
        "frequent ones. No bias was measured.",
        "Answers to inputs that have been made to mislead it, and to inputs of no class, were not tested.",
        "Times, memory and energy hold for the machine that is named above.",
    ]
    if (told.get("row") or {}).get("precision") == "int8" or str(told.get("target")).endswith("-int8"):
        lines.append(
            "Numbers of 8 bits are fast on processors that have instructions for them, and can be slow on others."
        )
    return "\n".join(f"- {_said(line)}" for line in [*lines, *(told.get("limits") or ())])


def _licence(given: str | None) -> str:
    if given and given != "other":
        return f"{_said(given)}, as whoever made this model has stated it. The licences of the teacher and of the data hold beside it."
    return (
        f"Not stated. Fill it in at the head of this file: `license`, and `license_name` where it is `other`. It depends on those of "
        f"the teacher and of the data. An export to this folder writes {CARD} anew."
    )


def _use(told: Mapping[str, Any]) -> str:
    target = str(told.get("target") or "onnx")
    package = _PACKAGES.get(target.split("-")[0], "onnxruntime")
    lines = [
        f"pip install numpy {package}",
        "python predict.py input.npy                          # prints JSON, an entry for each sample",
        "python predict.py input.npy --out predictions.npy    # writes classes, 0 or 1 for each label, or values",
    ]
    if target == "web":
        lines.append("python -m http.server                                # serves the page: http://localhost:8000")
    raw = (
        "`predict.py` takes CSV files or pictures too; `read_raw.py` beside it opens them. " if told.get("raw") else ""
    )
    return f"{_fenced(chr(10).join(lines), 'sh')}\n\n{raw}`preprocessing.json` has the inputs' shapes and what is done to them before."
