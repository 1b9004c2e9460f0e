"""What a comparison says, on outputs that are made up."""

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import Tensor

from understudy.measure import interval, paired
from understudy.ranking.ranking import ALONE, Entrant, Ranking, near_boundary
from understudy.tasks import TASKS
from understudy.tasks.classification import Classification

TASK = Classification()
SAMPLES = 200


def logits(right: float, seed: int, labels: Tensor) -> Tensor:
    """Outputs of which about this share is right."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.rand(len(labels), 4, generator=generator)
    hit = torch.rand(len(labels), generator=generator) < right
    made[hit, labels[hit]] += 2
    return made


LABELS = torch.arange(SAMPLES) % 4
TAUGHT = logits(0.9, 1, LABELS)


def entrant(name: str, right: float, *, seeds: int = 5, **more: object) -> Entrant:
    outputs = [logits(right, 100 + seed, LABELS) for seed in range(seeds)]
    return Entrant(name, outputs=outputs, step_ms=[2.0, 4.0, 3.0], memory_mb=1.5, **more)


def ranked(*methods: Entrant, seeds: int = 5, left_out: tuple[dict[str, str], ...] = ()) -> Ranking:
    alone = entrant(ALONE, 0.5, seeds=seeds)
    alone.step_ms = [1.5]
    return Ranking.of(TASK, TAUGHT, LABELS, alone, methods, left_out, {"seeds": str(seeds)}, "test")


def row(ranking: Ranking, name: str) -> dict[str, object]:
    (found,) = [r for r in ranking.rows if r["method"] == name]
    return found


MADE = ranked(entrant("good", 0.8), entrant("same", 0.5), entrant("bad", 0.2, factor=0.1))


def test_the_best_stands_first_below_the_teacher_and_the_student_alone_at_its_place() -> None:
    assert [r["method"] for r in MADE.rows] == ["teacher", "good", ALONE, "same", "bad"]


def test_figures_differences_and_p_values_are_those_of_the_statistics() -> None:
    def accuracies(right: float) -> list[float]:
        return [float((logits(right, 100 + s, LABELS).argmax(1) == LABELS).double().mean()) for s in range(5)]

    good, alone = accuracies(0.8), accuracies(0.5)
    told, test = row(MADE, "good"), paired(good, alone)
    assert told["values"] == good
    assert (told["accuracy"], told["accuracy_ci95"]) == (interval(good).mean, interval(good).half)
    assert (told["difference"], told["difference_ci95"]) == (test.difference.mean, test.difference.half)
    assert told["p_value"] == test.p_value


def test_verdicts_follow_the_sign_of_what_is_not_chance() -> None:
    assert [row(MADE, name)["verdict"] for name in ("good", "same", "bad")] == ["helped", "no clear difference", "hurt"]
    assert row(MADE, ALONE)["verdict"] is None


def test_where_less_is_better_less_has_helped() -> None:
    task = dataclasses.replace(TASK, metric="loss_nats")
    made = Ranking.of(
        task, TAUGHT, LABELS, entrant(ALONE, 0.5), [entrant("good", 0.8), entrant("bad", 0.2)], (), {}, "test"
    )
    assert [r["method"] for r in made.rows] == ["teacher", "good", ALONE, "bad"]
    assert [row(made, n)["verdict"] for n in ("good", "bad")] == ["helped", "hurt"]
    assert row(made, "good")["difference"] < 0  # of the figure itself


def test_the_nearest_tenth_is_of_the_smallest_lead_of_the_teachers_first_class() -> None:
    near = near_boundary(TASK, TAUGHT)
    ordered = TAUGHT.sort(1).values
    lead = ordered[:, -1] - ordered[:, -2]
    assert near is not None
    assert len(near) == 20
    assert set(near.tolist()) == {i for i in range(SAMPLES) if int((lead < lead[i]).sum()) < 20}


def test_likeness_near_the_boundary_counts_those_samples_alone() -> None:
    near = near_boundary(TASK, TAUGHT)
    away = TAUGHT.clone()
    away[near] = TAUGHT[near].flip(1)
    differs = (away.argmax(1) != TAUGHT.argmax(1))[near].double().mean()
    assert differs > 0  # else nothing is tested
    told = row(ranked(Entrant("m", outputs=[away] * 5)), "m")
    assert told["agreement_near"] == pytest.approx(1 - float(differs))
    assert told["agreement"] == pytest.approx(1 - float(differs) * len(near) / SAMPLES)


def test_a_regression_has_no_boundary() -> None:
    task, taught = TASKS["regression"], torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    alone, better = ([taught + d * (1 + s) for s in range(3)] for d in (0.5, 0.1))
    made = Ranking.of(
        task, taught, taught, Entrant(ALONE, outputs=alone), [Entrant("m", outputs=better)], (), {}, "test"
    )
    assert row(made, "m")["agreement_near"] is None
    assert not any("boundary" in line for line in made.told)


def test_steps_are_medians_and_their_ratio_is_to_the_student_alone() -> None:
    assert (row(MADE, "good")["step_ms"], row(MADE, "good")["step_ratio"]) == (3.0, 2.0)
    assert row(ranked(Entrant("m", outputs=[TAUGHT] * 5)), "m")["step_ratio"] is None


def test_many_comparisons_are_corrected_for_and_the_table_says_so() -> None:
    alike = [entrant(f"m{i}", 0.5 + i / 300) for i in range(19)]
    made = ranked(entrant("good", 0.8), *alike)
    assert row(made, "good")["p_holm"] == pytest.approx(20 * row(made, "good")["p_value"])
    assert all(r["p_holm"] >= r["p_value"] for r in made.rows if r.get("p_value") is not None)
    assert "Of 20 comparisons about 1 would come out so by chance" in made.told[0]


def test_only_what_holds_after_the_correction_has_a_star() -> None:
    page = ranked(entrant("good", 0.8), *(entrant(f"m{i}", 0.5) for i in range(3))).markdown("x", "y")
    assert "*" in next(line for line in page.splitlines() if line.startswith("| good"))
    assert "*" not in next(line for line in page.splitlines() if line.startswith("| m0"))


def test_whether_a_student_beat_its_teacher_is_answered_either_way() -> None:
    assert MADE.told[-1] == f"Did any student beat its teacher (accuracy {MADE.rows[0]['accuracy']:.3f})? No."
    made = ranked(entrant("great", 1.0), entrant("good", 0.8))
    assert row(made, "great")["beats_teacher"] == 5
    assert "great 5 of 5. By more than chance" in made.told[-1]
    assert "good" not in made.told[-1]


def test_as_much_above_the_teacher_as_below_is_not_beyond_chance() -> None:
    right = TAUGHT.argmax(1) == LABELS
    fixed, spoilt = TAUGHT.clone(), TAUGHT.clone()
    fixed[(~right).nonzero()[0, 0]] = torch.nn.functional.one_hot(LABELS, 4).float()[(~right).nonzero()[0, 0]]
    spoilt[right.nonzero()[0, 0]] = spoilt[right.nonzero()[0, 0]].roll(1)
    made = ranked(Entrant("even", outputs=[fixed, spoilt, fixed, spoilt]), seeds=4)
    assert made.told[-1].endswith("even 2 of 4. By more than chance (p < 0.05 after Holm's correction): none.")


def test_one_seed_gives_figures_and_no_verdict() -> None:
    made = ranked(entrant("good", 0.8, seeds=1), seeds=1)
    assert made.told[0] == "One seed: no interval, no test, no verdict."
    assert row(made, "good")["verdict"] is None
    assert row(made, "good")["difference_ci95"] is None
    json.dumps(made.results(), allow_nan=False)


def test_a_figure_that_is_not_defined_stands_last_and_is_null_in_json() -> None:
    nothing = Entrant("nothing", outputs=[torch.full_like(TAUGHT, math.nan)] * 5)
    task = dataclasses.replace(TASK, metric="loss_nats")
    made = Ranking.of(task, TAUGHT, LABELS, entrant(ALONE, 0.5), [nothing, entrant("good", 0.8)], (), {}, "test")
    assert made.rows[-1]["method"] == "nothing"
    assert json.loads(json.dumps(made.results(), allow_nan=False))["rows"][-1]["loss_nats"] is None


def test_the_screen_has_eighty_columns_and_says_what_is_left_out() -> None:
    screen = io.StringIO()
    left = {"method": "views", "why": "skipped", "reason": "views: needs two views."}
    made = ranked(entrant("correlation_congruence", 0.8), entrant("bad", 0.2, factor=0.1), left_out=(left,))
    made.show(Console(file=screen, width=80))
    lines = screen.getvalue().splitlines()
    tables = lines[: next(i for i, line in enumerate(lines) if line.startswith("Against"))]
    assert max(len(line.rstrip()) for line in tables) <= 80
    assert "…" not in screen.getvalue()
    assert "Skipped: views: needs two views." in lines
    for words in ("correlation_congruence", "bad (x0.1)", "helped", "hurt", "On test; 5 seeds, ± 95 % t-interval"):
        assert words in screen.getvalue()
    # Each column whose title is no sentence is told in one.
    for title in ("To alone: ", "As the teacher: ", "Near the boundary: ", "Above the teacher: "):
        assert sum(line.startswith(title) for line in lines) == 1
        assert f"- {title}" in made.markdown("Methods", "understudy compare digits")


def test_of_one_seed_the_table_says_that_there_is_no_interval() -> None:
    screen = io.StringIO()
    ranked(entrant("good", 0.8, seeds=1), seeds=1).show(Console(file=screen, width=80))
    assert screen.getvalue().splitlines()[0].rstrip() == "On test; one seed, and so no interval"
    assert "±" not in screen.getvalue()


def test_the_page_is_one_table_of_as_many_cells_in_every_line() -> None:
    left = {"method": "views", "why": "skipped", "reason": "views: a | b"}
    page = ranked(entrant("good", 0.8), left_out=(left,)).markdown("Methods on digits", "understudy compare digits")
    table, rest = page.split("\n\n")[3:5]
    assert {line.count("|") for line in table.splitlines()} == {12}
    assert page.startswith("# Methods on digits\n\n```sh\nunderstudy compare digits\n```\n\n- seeds: 5\n")
    assert rest.startswith("- Against the student alone")
    assert "| views | skipped | a \\| b |" in page
