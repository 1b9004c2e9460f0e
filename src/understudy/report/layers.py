"""What layers look at: from a run's plain data to cards of pictures, words and matrices for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from understudy.errors import InputError
from understudy.report.picture import data_uri
from understudy.report.words import cut, fit, left_out

__all__ = ["VIEWS", "layers"]

VIEWS, SAMPLES, WORDS = 8, 12, 48
SIDE = 96  # pixels of a drawn map's shorter side, at least

# Dark to bright, so that brightness alone tells, on paper and to whoever does not see colours.
_RAMP = np.array([[6, 4, 22], [70, 16, 102], [164, 44, 96], [229, 92, 48], [251, 172, 32], [252, 250, 184]], float)

_Array = np.ndarray[Any, Any]


def layers(views: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A card for each pair of layers; None without any."""
    if not views:
        return None
    shown = list(views)[:VIEWS]
    cards = [_card(i, view) for i, view in enumerate(shown)]
    kinds = {card["kind"] for card in cards}
    return {"cards": cards, "kinds": kinds, "note": left_out(len(shown), len(views), "pairs of layers")}


def _card(at: int, view: Mapping[str, Any]) -> dict[str, Any]:
    student, teacher = fit(str(view["student"]), 60), fit(str(view["teacher"]), 60)
    title = student if student == teacher else f"{student}, teacher's {teacher}"
    card = {"title": title, "term": str(view["term"]), "kind": view["kind"], "notes": [], "figures": []}
    if view.get("failed") is not None:
        return {**card, "kind": "failed", "notes": [f"This could not be drawn. {cut(str(view['failed']), 300)}"]}
    card["figures"] = [{"model": str(name), "value": _figure(value)} for name, value in view["figures"].items()]
    card["measured"] = f"{view['measured']:,}"
    where = f"layers[{at}]"
    if view["kind"] == "heat":
        samples = list(view["samples"])
        cards = [_sample(f"{where}.samples[{i}]", i, sample) for i, sample in enumerate(samples[:SAMPLES])]
        cut_off = [c["note"] for c in cards if c["note"]][:1]
        return {**card, "samples": cards, "notes": [left_out(len(cards), len(samples), "samples"), *cut_off]}
    return {**card, "matrices": _matrices(where, view), "classes": _spans(view.get("labels"))}


def _figure(value: Any) -> str:
    mean, half = (value["mean"], value.get("half")) if isinstance(value, Mapping) else (value, None)
    if mean is None:
        return "none"
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def _sample(where: str, at: int, sample: Mapping[str, Any]) -> dict[str, Any]:
    maps = {str(name): np.asarray(found["values"], float) for name, found in sample["maps"].items()}
    likeness = {str(name): found.get("likeness") for name, found in sample["maps"].items()}
    if len({values.ndim for values in maps.values()}) != 1 or any(
        v.ndim not in (1, 2) or not v.size for v in maps.values()
    ):
        raise InputError(f"{where}.maps: give rows of numbers for each, or one row for each, not empty.")
    label, image = sample.get("label"), sample.get("image")
    told = {"label": None if label is None else str(label), "name": f"Sample {at + 1}", "note": ""}
    # One scale for the three: what one model looks at harder than another is brighter there.
    most = max(float(values.max()) for values in maps.values()) or 1.0
    if next(iter(maps.values())).ndim == 1:
        return told | _worded(sample, maps, likeness, most)
    under = None if image is None else _grey(image, f"{where}.image")
    pictures = [
        {
            "model": name,
            "image": data_uri(_drawn(values / most, under)),
            "alt": f"{name}: most at the {_place(values)}{_like(likeness[name])}",
            "likeness": None if likeness[name] is None else f"{likeness[name]:.2f}",
        }
        for name, values in maps.items()
    ]
    return told | {"image": None if image is None else data_uri(image, f"{where}.image"), "pictures": pictures}


def _like(likeness: float | None) -> str:
    return "" if likeness is None else f"; cosine {likeness:.2f} with the teacher"


def _place(values: _Array) -> str:
    """Where in the picture the greatest value is, in words."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    down = ("top", "middle", "bottom")[min(2, row * 3 // values.shape[0])]
    across = ("left", "centre", "right")[min(2, column * 3 // values.shape[1])]
    return "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


# -- over pixels -------------------------------------------------------------------------------------------------------


def _grey(image: Any, where: str) -> _Array:
    """The picture's brightness, in [0, 1]."""
    array = np.asarray(image, float)
    if array.ndim == 3:
        array = array.mean(0 if array.shape[0] in (1, 3, 4) else -1)
    if array.ndim != 2:
        raise InputError(f"{where}: has shape {list(np.shape(image))}; allowed: height x width, or with channels.")
    low, high = float(array.min()), float(array.max())
    return (array - low) / ((high - low) or 1.0)


def _drawn(values: _Array, under: _Array | None) -> list[Any]:
    """The map in colour, with the picture in grey behind it where the map is dark: whole numbers ``[H][W][3]``."""
    height, width = values.shape if under is None else under.shape
    scale = max(1, math.ceil(SIDE / min(height, width)))
    size = (height * scale, width * scale)
    heat = np.clip(_stretched(values, size), 0, 1)
    coloured = _coloured(heat)
    if under is not None:
        grey = np.repeat(np.repeat(under, scale, 0), scale, 1)[:, :, None] * 190 + 25
        share = (0.30 + 0.60 * heat)[:, :, None]
        coloured = share * coloured + (1 - share) * grey
    drawn: list[Any] = coloured.round().astype(int).tolist()
    return drawn


def _coloured(values: _Array) -> _Array:
    """Values in [0, 1] as colours from the ramp."""
    steps = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(values, steps, _RAMP[:, i]) for i in range(3)], -1)


def _stretched(values: _Array, size: tuple[int, int]) -> _Array:
    """The map at this size, linearly between the middles of its positions."""
    for axis, length in enumerate(size):
        own = values.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * own / length - 0.5, 0, own - 1)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, own - 1), at - low
        share = share[:, None] if axis == 0 else share[None]
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


# -- over words --------------------------------------------------------------------------------------------------------


def _worded(
    sample: Mapping[str, Any], maps: Mapping[str, _Array], likeness: Mapping[str, float | None], most: float
) -> dict[str, Any]:
    """A line of words for each model, marked by how much there is at each."""
    lines = []
    note = ""
    for name, values in maps.items():
        given = sample.get("words")
        words = [str(word) for word in given] if given else [str(i + 1) for i in range(len(values))]
        shown = [
            {"text": fit(word, 24), "step": math.ceil(10 * max(0.0, float(value)) / most)}
            for word, value in zip(words[:WORDS], values, strict=False)
        ]
        order = np.argsort(-values[: len(shown)], kind="stable")[:3]
        lines.append(
            {
                "model": name,
                "words": shown,
                "most": ", ".join(fit(words[i], 24) for i in order),
                "likeness": None if likeness[name] is None else f"{likeness[name]:.2f}",
            }
        )
        note = note or left_out(len(shown), len(values), "tokens")
    return {"lines": lines, "positions": not sample.get("words"), "note": note}


# -- samples with samples ----------------------------------------------------------------------------------------------


def _matrices(where: str, view: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = {str(name): np.asarray(matrix["values"], float) for name, matrix in view["matrices"].items()}
    for name, values in found.items():
        if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
            raise InputError(f"{where}.matrices[{name!r}]: has shape {list(values.shape)}; allowed: samples x samples.")
    # The diagonal is 1 in all of them; the least of all is the darkest, in each.
    low = min(float(values.min()) for values in found.values())
    cards = []
    for name, values in found.items():
        told = view["matrices"][name]
        facts = [
            f"{key} classes {told[k]:.2f}" for k, key in (("within", "within"), ("between", "between")) if k in told
        ]
        likeness = told.get("likeness")
        like = "" if likeness is None else f"; correlation {likeness:.2f} with the teacher's"
        cards.append(
            {
                "model": name,
                "image": data_uri(_coloured((values - low) / ((1 - low) or 1.0)).round().astype(int)),
                "alt": f"{name}: likenesses of {len(values)} samples"
                + (f", {', '.join(facts)}" if facts else "")
                + like,
                "facts": ", ".join(facts),
                "likeness": None if likeness is None else f"{likeness:.2f}",
            }
        )
    return cards


def _spans(labels: Sequence[Any] | None) -> str:
    """The classes in the order of the rows, and how many rows each has."""
    if not labels:
        return ""
    counts: dict[str, int] = {}
    for label in labels:
        counts[str(label)] = counts.get(str(label), 0) + 1
    return ", ".join(f"{fit(label, 20)} ({count})" for label, count in counts.items())
