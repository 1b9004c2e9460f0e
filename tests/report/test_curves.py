import math
from typing import Any

import pytest

from understudy.report import curves as module
from understudy.report import plots
from understudy.report.curves import curves


@pytest.fixture(autouse=True)
def panels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, plots.Panel, str]]:
    """What would be drawn, in place of the drawings."""
    found: list[tuple[str, plots.Panel, str]] = []

    def curve(panel: plots.Panel, *, name: str, title: str, description: str) -> str:
        found.append((title, panel, description))
        return f"<svg id={name}></svg>"

    monkeypatch.setattr(plots, "curve", curve)
    return found


Panels = list[tuple[str, plots.Panel, str]]


def stage(records: list[dict[str, Any]], name: str = "alone", seed: int = 0) -> dict[str, Any]:
    return {"stage": name, "seed": seed, "records": records}


def card(*runs: dict[str, Any]) -> dict[str, Any]:
    found = curves(runs)
    assert found is not None
    return found["cards"][0]


def test_each_term_is_a_series_and_each_seed_a_line(panels: Panels) -> None:
    runs = [stage([{"step": s, "terms": {"kl": 1.0 * s, "mse": 2.0}} for s in (1, 2)], seed=seed) for seed in (0, 1)]
    found = card(*runs)
    ((title, panel, ends),) = panels
    assert title == "alone: loss by term"
    assert [(line.series, list(line.x), list(line.y)) for line in panel.lines] == [
        (0, [1, 2], [1.0, 2.0]), (0, [1, 2], [1.0, 2.0]), (1, [1, 2], [2.0, 2.0]), (1, [1, 2], [2.0, 2.0]),
    ]  # fmt: skip
    assert ends == "kl from 1 to 2; mse from 2 to 2"
    assert (found["terms"], found["seeds"]) == (["kl", "mse"], 2)


def test_validated_figures_have_panels_of_their_own_on_one_scale_for_all_stages(panels: Panels) -> None:
    low = stage(
        [{"step": 0, "valid": {"accuracy": 0.0, "flat": 1.0}}, {"step": 1, "valid": {"accuracy": 0.5, "flat": 1.0}}],
        "a",
    )
    high = stage([{"step": 0, "valid": {"accuracy": 0.5}}, {"step": 1, "valid": {"accuracy": 1.0}}], "b")
    curves([low, high])
    assert [(title, panel.limits) for title, panel, _ in panels] == [
        ("a: validated accuracy", (-0.05, 1.05)), ("a: validated flat", None), ("b: validated accuracy", (-0.05, 1.05)),
    ]  # fmt: skip
    assert [line.series for _, panel, _ in panels for line in panel.lines] == [None, None, None]


def test_a_record_without_terms_shows_its_loss(panels: Panels) -> None:
    assert card(stage([{"step": 1, "loss": {"student": 2.0}}]))["terms"] == ["student"]


def test_null_is_a_gap(panels: Panels) -> None:
    card(stage([{"step": i, "terms": {"kl": value}} for i, value in enumerate([1.0, None, 3.0])]))
    values = list(panels[0][1].lines[0].y)
    assert (values[0], values[2]) == (1.0, 3.0)
    assert math.isnan(values[1])


def test_a_run_without_points_is_no_stage() -> None:
    assert curves([stage([]), stage([{"step": 1, "lr": {"student": [0.1]}}])]) is None


def test_a_long_curve_is_thinned_out_and_keeps_its_peaks(panels: Panels) -> None:
    records = [{"step": i, "terms": {"kl": 1.0}} for i in range(12_000)]
    records[7777]["terms"] = {"kl": 99.0}
    records[3333]["terms"] = {"kl": -99.0}
    found = card(stage(records))
    line = panels[0][1].lines[0]
    assert len(line.x) <= module.POINTS
    assert list(line.x) == sorted(line.x)
    assert dict(zip(line.x, line.y, strict=True))[7777] == 99.0
    assert dict(zip(line.x, line.y, strict=True))[3333] == -99.0
    assert (
        "Of 12,000 points a curve, the least and the greatest of each of 1,000 stretches are drawn." in found["notes"]
    )


def test_every_sixth_point_would_have_lost_the_peak() -> None:
    assert 7777 not in range(0, 12_000, 6)


def test_a_short_curve_is_drawn_whole_without_a_word(panels: Panels) -> None:
    found = card(stage([{"step": i, "terms": {"kl": float(i)}} for i in range(module.POINTS)]))
    assert len(panels[0][1].lines[0].x) == module.POINTS
    assert [note for note in found["notes"] if note] == []


def test_what_does_not_fit_is_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch, panels: Panels) -> None:
    monkeypatch.setattr(module, "STAGES", 1)
    monkeypatch.setattr(module, "SEEDS", 2)
    monkeypatch.setattr(module, "FIGURES", 1)
    record = {"step": 1, "terms": {f"term {i}": 1.0 for i in range(plots.SERIES + 2)}, "valid": {"a": 1.0, "b": 1.0}}
    found = curves([*(stage([record], seed=seed) for seed in range(3)), stage([record], "other")])
    assert found is not None
    assert found["note"] == "The first 1 of 2 stages are shown."
    assert [note for note in found["cards"][0]["notes"] if note] == [
        "The first 2 of 3 seeds are shown.",
        f"The first {plots.SERIES} of {plots.SERIES + 2} terms are shown.",
        "The first 1 of 2 validated figures are shown.",
    ]
    assert len(panels[0][1].lines) == 2 * plots.SERIES
    assert [title for title, _, _ in panels] == ["alone: loss by term", "alone: validated a"]
