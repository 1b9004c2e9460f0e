"""All ways to a small model in one table, on a part of the digits."""

import copy
import functools
import io
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from understudy import job, trained
from understudy.accept import parse
from understudy.compress import narrower
from understudy.contest import contest as contest_module
from understudy.contest import entrants, tryout
from understudy.contest import ways as ways_module
from understudy.contest.board import Board
from understudy.contest.contest import contest
from understudy.contest.entrants import Entrants, renewed
from understudy.contest.standings import (
    BASE,
    costs,
    four,
    judged,
    mark_pareto,
    nearest,
    ratios,
    tenth,
    usual,
    winner,
)
from understudy.contest.tryout import Tryout
from understudy.contest.ways import LADDER, Way, chosen, ladder, ways
from understudy.errors import InputError, Interrupted, MissingExtra
from understudy.export import run_file
from understudy.measure import Bench
from understudy.progress import Progress
from understudy.recipe.examine import examine
from understudy.recipe.text import Document, read, read_setting
from understudy.zoo import CNN

RECIPE = """\
task: classification
data: {name: digits, train: 400, valid: 150}
student: {name: CNN, channels: 4}
teacher: {model: {name: CNN, channels: 12}, epochs: 3}
method: {name: kd, temperature: 3, alpha: 0.5}
epochs: 2
seeds: 2
batch_size: 50
optimizer: {name: AdamW, lr: 1e-2}
device: cpu
threads: 1
"""

NAMES = ("distilled", "distilled-int8", "low-rank")
VALID, TEST = 150, 1797 - 400 - 150


def measured(models: Any, inputs: Tensor, *, tell: Any, **more: Any) -> Bench:
    """In the place of processes and clocks: a model takes a millisecond for each kilobyte, and half of it in a file."""
    assert len(inputs) == min(VALID, tryout.FEW)
    facts, rows = [], []
    for name, model in models.items():
        module = isinstance(model, nn.Module)
        size = sum(p.nbytes for p in model.parameters()) if module else (Path(model) / "model.onnx").stat().st_size
        facts.append({"model": name, "size_bytes": size, "size_compressed_bytes": size // 2})
        facts[-1] |= {"runtime": "torch" if module else "onnxruntime", "int8": str(model).count("-int8/") > 0}
        facts[-1] |= {"parameters": sum(p.numel() for p in model.parameters()), "flops": 8} if module else {}
        ms = size / 1e3 * (1.0 if module else 0.5)
        row = {"model": name, "latency_ms_p50": ms, "latency_ms_p99": 2 * ms, "throughput_per_s": 1e3 / ms}
        rows.append({**row, "peak_memory_mb": 9.0, "energy_mj": ms, "energy_how": "estimated"})
    return Bench({"processor": "a", "cores": 2, "load_average": 0.5}, facts, rows, ["Energy is estimated."])


def written(folder: Path, model: nn.Module, *data: Any, target: str, **more: Any) -> None:
    """In the place of an export: the model itself, a little off where it is rounded."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = copy.deepcopy(model)
    if target == "onnx-int8":
        kept = kept.bfloat16().float()
    torch.save(kept, folder / "model.onnx")
    facts = {"target": target, "runtime": "onnxruntime", "file": "model.onnx", "classes": None, "checked": {}}
    (folder / "preprocessing.json").write_text(json.dumps(facts))


@torch.no_grad()
def said(folder: Path, inputs: Tensor) -> Tensor:
    """What such a file says."""
    made: Tensor = torch.load(folder / "model.onnx", weights_only=False)(inputs)
    return made


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    lighten(monkeypatch)


def lighten(patch: pytest.MonkeyPatch) -> None:
    """Neither clocks nor exports, of which each takes seconds, nor pages, which have tests of their own."""
    pages(patch)
    patch.setattr(tryout, "deploy", written)
    patch.setattr(tryout, "run_file", said)
    patch.setattr(contest_module, "to_file", lambda model, inputs, path: None)


def pages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tryout, "bench", measured)
    patch.setattr(contest_module, "pareto_page", lambda rows, **more: f"{len(rows)} rows")
    patch.setattr(contest_module, "card", json.dumps)


def document(folder: Path, *settings: str) -> Document:
    file = folder / "small.yaml"
    file.write_text(RECIPE)
    made = read(file)
    for where, value, place in map(read_setting, settings):
        made.set(where, value, place)
    return made


def held(folder: Path, *names: str, settings: Sequence[str] = (), **more: Any) -> Board:
    console = Console(quiet=True)
    given = names or NAMES
    return contest(document(folder, *settings), folder / "out", names=given, console=console, **more)


def entered(folder: Path, *settings: str) -> Entrants:
    """Entrants of models that are not trained."""
    material = examine(document(folder, *settings), folder=folder / "out", progress=False).material
    return Entrants(material, folder / "out", Console(quiet=True))


def noted(seen: list[tuple[str, int]], patch: pytest.MonkeyPatch) -> None:
    """What reads how many samples: their number tells the parts from each other."""

    def of(where: Any, name: str, count: Any) -> None:
        make = getattr(where, name)

        @functools.wraps(make)
        def noting(*arguments: Any, **more: Any) -> Any:
            seen.append((f"{where.__name__}.{name}", count(*arguments)))
            return make(*arguments, **more)

        patch.setattr(where, name, noting)

    of(job, "outputs", lambda model, data: data.samples)
    of(tryout, "outputs", lambda model, data: data.samples)
    of(tryout, "run_file", lambda path, inputs: len(inputs))
    of(tryout, "deploy", lambda path, model, data, *more: data.samples)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, Path, list[tuple[str, int]]]:
    folder, seen = tmp_path_factory.mktemp("contest"), list[tuple[str, int]]()
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        noted(seen, patch)
        made = held(folder, price=3.6, command=["understudy", "compare", "small.yaml"])
    return made, folder / "out", seen


# -- the table -----------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_asked_for_and_those_that_they_are_held_against(done: Any) -> None:
    names = [row["name"] for row in done[0].rows]
    assert names == [BASE, "teacher", "teacher-int8", "alone", "distilled", "distilled-int8", "low-rank"]
    assert [done[0].row(name)["seeds"] for name in names] == [1, 1, 1, 2, 2, 2, 1]
    assert done[0].row("distilled-int8")["precision"] == "int8"
    assert done[0].row("low-rank")["chain"][0].startswith("low_rank(budget=")


def test_a_rounding_file_is_scored_for_every_seed_and_others_by_their_modules(done: Any) -> None:
    board, out, _ = done
    material = examine(document(out.parent), folder=out, resume=True, progress=False).material
    test = material.data["test"]
    assert test.samples == TEST

    def figure(name: str, seed: int) -> float:
        made = said(out / "models" / name / f"seed-{seed}", tryout._inputs(test))
        return float((made.argmax(1) == test.labels).double().mean())

    int8 = [figure("distilled-int8", seed) for seed in (0, 1)]
    assert board.row("distilled-int8")["accuracy"] == pytest.approx(sum(int8) / 2)
    assert board.row("distilled-int8")["file_accuracy"] in int8
    (one,) = (out / "models/distilled").iterdir()  # of the seed that is best by validation
    assert board.row("distilled")["file_accuracy"] == pytest.approx(figure("distilled", int(one.name[-1])))
    assert board.row("distilled")["path"] == f"models/distilled/{one.name}"
    assert board.row("teacher")["accuracy_ci95"] is None


def test_real_files_say_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pages(monkeypatch)
    monkeypatch.setattr(contest_module, "_try_export", lambda material: None)  # it has a test of its own
    made = held(
        tmp_path, "distilled-int8", settings=["seeds=1", "epochs=10", "teacher.epochs=8", "accept={accuracy: '>= 0.1'}"]
    )
    material = examine(document(tmp_path), folder=tmp_path / "out", resume=True, progress=False).material
    assert made.winner is not None
    row = made.row(made.winner)
    output = run_file(tmp_path / "out/deploy", tryout._inputs(material.data["test"]))
    assert float((output.argmax(1) == material.data["test"].labels).double().mean()) == row["file_accuracy"]
    facts = json.loads((tmp_path / "out/deploy/preprocessing.json").read_text())
    assert (facts["target"] == "onnx-int8") == (row["precision"] == "int8")
    assert (tmp_path / "out/deploy/predict.py").exists()


def test_a_student_made_from_the_teacher_is_told_with_how_it_was_made(tmp_path: Path) -> None:
    steps = ["student=teacher", "compress=[{name: narrower, ratio: 0.25}]", "seeds=1", "epochs=1", "teacher.epochs=1"]
    made = held(tmp_path, "distilled", settings=[*steps, "accept={accuracy: '>= 0'}"])
    assert made.protocol["student"].split(" parameters, ")[1].startswith("compressed: narrower(ratio=0.25, ")
    told = json.loads((tmp_path / "out/deploy/README.md").read_text())
    assert any("compressed: narrower(ratio=0.25, " in line for line in told["lineage"])


def test_the_file_handed_on_is_the_smallest_accepted_and_the_very_one_that_was_measured(tmp_path: Path) -> None:
    made = held(tmp_path, settings=["accept={accuracy: '>= 0'}", "seeds=1"])
    assert made.winner == min(made.rows[1:], key=lambda row: row["size_bytes"])["name"]
    model = Path(made.row(made.winner)["path"]) / "model.onnx"
    assert (tmp_path / "out/deploy/model.onnx").read_bytes() == (tmp_path / "out" / model).read_bytes()
    told = json.loads((tmp_path / "out/deploy/README.md").read_text())
    assert told["row"]["name"] == made.winner
    assert told["lineage"][-1].startswith("exported: onnx")
    assert not any("compressed" in line for line in told["lineage"])  # the control of the test below
    # The same again with a bar that nothing reaches: there is nothing to hand on, and it says what was nearest.
    none = held(tmp_path, settings=["accept={accuracy: '>= 1.1'}", "seeds=1"], resume=True)
    assert none.winner is None
    assert none.told[0].startswith("No row is accepted (accuracy >= 1.1, on valid). Nearest is ")
    assert not (tmp_path / "out/deploy").exists()


def test_what_is_written_is_what_is_told(done: Any) -> None:
    board, out, _ = done
    assert json.loads((out / "results.json").read_text()) == board.results()
    page = (out / "compression.md").read_text()
    command = "understudy compare small.yaml --ways distilled,distilled-int8,low-rank --price-per-hour 3.6"
    assert page.startswith(f"# Ways to a small model on small\n\n```sh\n{command}\n```\n")
    for row in board.rows:
        assert f"| {row['name']} | {row['accuracy']:.3f}" in page
    assert (out / "compare.html").read_text() == f"{len(board.rows)} rows"
    assert str(out) not in page


def test_the_tables_fit_eighty_columns(done: Any) -> None:
    console = Console(record=True, width=80, file=io.StringIO(), highlight=False)
    done[0].show(console)
    tables = console.export_text().partition("Handed on")[0].partition("No row")[0]
    assert "distilled-int8" in tables
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables


# -- the test data ---------------------------------------------------------------------------------------------------------


def peeked(seen: Sequence[tuple[str, int]]) -> list[str]:
    """What read the test data before all else was settled."""
    last = max(i for i, (_, count) in enumerate(seen) if count != TEST)
    return [who for who, count in seen[:last] if count == TEST]


def test_the_test_data_is_touched_once_and_at_the_end(done: Any) -> None:
    assert peeked(done[2]) == []
    read = [who for who, count in done[2] if count == TEST]
    assert read.count("understudy.contest.tryout.run_file") == 7  # six rows, of which one has a file of each seed
    assert (
        read.count("understudy.contest.tryout.outputs") == 1 + 1 + 2 + 2 + 1
    )  # the teacher, and all rows that do not round


def test_a_contest_that_chooses_by_the_test_data_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    noted(seen, monkeypatch)
    validate = Tryout._validate

    def cheating(self: Tryout, rows: Any, status: Any) -> None:
        self.material.data["valid"], own = self.material.data["test"], self.material.data["valid"]
        validate(self, rows, status)
        self.material.data["valid"] = own
        tryout.outputs(self.teacher, own)

    monkeypatch.setattr(Tryout, "_validate", cheating)
    held(tmp_path, "distilled", settings=["seeds=1", "epochs=1", "teacher.epochs=3"])
    assert peeked(seen)


# -- stopped ---------------------------------------------------------------------------------------------------------------


def plain(made: Board) -> list[dict[str, Any]]:
    """All but what clocks say."""
    timed = ("seconds", "training_seconds", "pays_after")
    return [{key: value for key, value in row.items() if key not in timed} for row in made.rows]


def test_a_stopped_contest_goes_on_to_the_same_rows(done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, stepped = [45], trained.Shown.stepped

    def counted(self: Any, progress: Progress) -> None:
        stepped(self, progress)
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted("stopped.")

    monkeypatch.setattr(trained.Shown, "stepped", counted)
    with pytest.raises(Interrupted):
        held(tmp_path, price=3.6)
    assert not (tmp_path / "out/results.json").exists()
    went_on = held(tmp_path, price=3.6, resume=True)
    assert plain(went_on) == plain(done[0])
    # What is done is not done again, and ways can be added.
    monkeypatch.setattr(entrants, "trained", lambda *arguments: pytest.fail("trained again"))
    more = held(tmp_path, *NAMES, "magnitude", resume=True)
    assert [row["name"] for row in more.rows] == [*(row["name"] for row in went_on.rows), "magnitude"]
    with pytest.raises(InputError, match="already holds a run"):
        held(tmp_path)


def test_weights_of_another_compression_are_not_taken_for_those_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("seeds=1", "epochs=2", "teacher.epochs=3")
    held(tmp_path, "magnitude-recovered", settings=quick)
    held(tmp_path, "magnitude-recovered", settings=quick, resume=True)  # the control
    monkeypatch.setattr(ways_module, "ZEROS", 0.5)
    with pytest.raises(InputError, match="compressed"):
        held(tmp_path, "magnitude-recovered", settings=quick, resume=True)


# -- what cannot work ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "more", "told"),
    [
        (("distiled",), {}, "--ways: there is no way 'distiled'. Did you mean 'distilled'"),
        (("teacher",), {}, "--ways: names no way."),
        ((), {"price": 0.0}, "--price-per-hour 0: must be a number above 0."),
        ((), {"price": -1.0}, "--price-per-hour -1: must be a number above 0."),
        ((), {"price": math.nan}, "--price-per-hour nan: must be a number above 0."),
        ((), {"budget": "phones"}, "there is no 'phones'"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_any_work(names: Any, more: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        held(tmp_path, *names, **more)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_exported_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    class Moody(CNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) > -1e9 else x

    material = examine(document(tmp_path), folder=tmp_path / "out", progress=False).material
    material.teacher = Moody(12)
    with pytest.raises(InputError, match=r"^teacher: export of Moody"):
        contest_module._try_export(material)
    material.teacher = CNN(12)
    contest_module._try_export(material)


def test_without_onnxruntime_it_says_so_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **more: Any) -> None:
        raise MissingExtra("Export to ONNX", "onnx")

    monkeypatch.setattr(contest_module, "to_file", missing)
    with pytest.raises(MissingExtra, match=r"understudy\[onnx\]"):
        held(tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_torch_pruning_is_needed_for_is_left_out_without_it_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    made = entered(tmp_path)
    known = [*ways(1030, 10_000)]
    found, left_out = contest_module._checked(made, known, explicit=False)
    lost = {one["way"] for one in left_out}
    assert {"channels", "channels-recovered", "distilled-half-int8"} <= lost
    assert {"distilled", "low-rank", "magnitude"} <= {way.name for way in found}
    assert "understudy[compress]" in left_out[0]["reason"]
    with pytest.raises(MissingExtra):
        contest_module._checked(made, known, explicit=True)
    with pytest.raises(InputError, match=r"no way can be gone here\.\n.*understudy\[compress\]"):
        contest_module._checked(made, [known[0], *ladder()], explicit=False)


def test_a_teacher_that_is_no_module_is_refused(tmp_path: Path) -> None:
    material = examine(document(tmp_path), folder=tmp_path / "out", progress=False).material
    material.teacher = lambda x: x
    with pytest.raises(InputError, match=r"cannot be made smaller or exported\. Methods can be compared with it"):
        contest_module._entered(material, None, False)


# -- ways ------------------------------------------------------------------------------------------------------------------


def test_what_is_pruned_and_factorized_gets_the_students_number_of_parameters() -> None:
    known = {way.name: way for way in ways(4_000, 100_000)}
    assert known["channels-recovered"].model.chains[0] == (("narrower", {"ratio": 0.04, "round_to": 8}),)
    assert known["low-rank"].model.chains[0] == (("low_rank", {"budget": 4_000, "whitened": True}),)
    assert known["low-rank"].model.chains[-1] == (("low_rank", {"budget": 64_000, "whitened": True}),)
    assert not {"channels", "low-rank"} & {way.name for way in ways(100_000, 100_000)}  # there is nothing to be gained


def test_names_are_chosen_with_what_they_are_held_against() -> None:
    known = ways(4_000, 100_000)

    def names(*given: str) -> list[str]:
        return [way.name for way in chosen(known, given)]

    assert names("distilled") == ["teacher", "alone", "distilled"]
    assert names("distilled-int8", "teacher") == ["teacher", "teacher-int8", "alone", "distilled-int8"]
    assert names("teacher-int8") == ["teacher", "teacher-int8"]
    assert chosen(known, None) == known
    assert names("all", "-magnitude") == [way.name for way in known if way.name != "magnitude"]


def test_a_ladder_says_which_of_its_steps_cannot_be_reached(tmp_path: Path) -> None:
    made = entered(tmp_path, "teacher.model.channels=4")
    found, left_out = contest_module._checked(made, ladder(), explicit=True)
    assert [way.name for way in ladder()] == [f"1/{n}-{learns}" for n in LADDER for learns in ("alone", "distilled")]
    whole = sum(p.numel() for p in made.teacher.parameters())
    for way in found:
        small = sum(p.numel() for p in made._start(way.model, 0).parameters())
        assert small <= whole / int(way.model.name.split("-")[1])
    assert {"way", "reason"} == set(left_out[-1])
    assert left_out[-1]["way"] == "1/50-distilled"
    assert "cannot be reached" in left_out[-1]["reason"]
    assert {way.name for way in found} | {one["way"] for one in left_out} == {way.name for way in ladder()}


def test_a_step_of_a_ladder_has_the_teachers_shape_and_none_of_its_weights(tmp_path: Path) -> None:
    teacher = CNN(16)
    thin = narrower(teacher, torch.zeros(1, 1, 8, 8), ratio=0.3, round_to=1)
    kept = thin.layer2[0].weight.detach().clone()
    assert _is_in(kept, teacher.layer2[0].weight)  # the control
    new = renewed(thin)
    assert not _is_in(new.layer2[0].weight, teacher.layer2[0].weight)
    made = entered(tmp_path)
    way = made.checked(ladder()[2].model)
    first, again, other = (made._start(way, seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def _is_in(part: Tensor, whole: Tensor) -> bool:
    return bool(torch.isin(part.flatten(), whole.flatten()).all())


# -- ratios and words ------------------------------------------------------------------------------------------------------


def row(name: str, **figures: Any) -> dict[str, Any]:
    plain = {"runtime": "onnxruntime", "precision": "fp32", "size_bytes": 100, "latency_ms_p50": 1.0}
    return {"name": name, **plain, "parameters": 1000, "accuracy": 0.9, "missed": 0, "why": [], **figures}


def test_every_ratio_is_there_twice() -> None:
    rows = [
        row(BASE, runtime="torch", size_bytes=120, latency_ms_p50=6.0),
        row("teacher", size_bytes=100, latency_ms_p50=2.0),
        row("teacher-int8", precision="int8", size_bytes=30, latency_ms_p50=1.5),
        row("distilled-int8", precision="int8", size_bytes=3, latency_ms_p50=0.5),
    ]
    ratios(rows)
    keys = ("times_smaller", "times_faster", "times_smaller_overall", "times_faster_overall")
    assert [rows[3][key] for key in keys] == [10.0, 3.0, 40.0, 12.0]
    assert [rows[1][key] for key in keys] == [1.0, 1.0, 1.2, 3.0]
    assert [rows[0][key] for key in keys] == [1.0, 1.0, 1.0, 1.0]
    ratios(without := [rows[0], rows[3]])
    assert (without[1]["times_smaller"], without[1]["times_smaller_overall"]) == (None, 40.0)


def test_what_is_hardly_faster_never_pays() -> None:
    rows = [
        row("teacher", throughput_per_s=100.0, training_seconds=0.0),
        row("fast", throughput_per_s=200.0, training_seconds=10.0),
        row("alike", throughput_per_s=104.0, training_seconds=10.0),
        row("slow", throughput_per_s=50.0, training_seconds=10.0),
    ]
    costs(rows, 0.36)
    assert [r["pays_after"] for r in rows] == [None, 2000, None, None]  # 10 s at 5 ms saved each
    assert [r["cost_per_million"] for r in rows] == pytest.approx([1.0, 0.5, 100 / 104, 2.0])
    costs(rows, None)
    assert [r["cost_per_million"] for r in rows] == [None] * 4
    assert rows[1]["pays_after"] == 2000


def test_the_front_has_what_nothing_else_beats_in_all_three() -> None:
    rows = [
        row("good", accuracy=0.95),
        row("small", accuracy=0.9, size_bytes=10),
        row("worse", accuracy=0.9, size_bytes=20),
        row("fast", accuracy=0.8, latency_ms_p50=0.1, size_bytes=20),
    ]
    mark_pareto(rows, "accuracy", 1)
    assert [r["name"] for r in rows if r["pareto"]] == ["good", "small", "fast"]
    mark_pareto(rows, "accuracy", -1)  # where less is better
    assert [r["name"] for r in rows if r["pareto"]] == ["small", "fast"]


def test_the_smallest_that_misses_nothing_wins_and_of_equal_ones_the_fastest() -> None:
    rows = [
        row("tiny", missed=1, size_bytes=1, valid={"accuracy": 0.5}),
        row("slow", size_bytes=10, valid={"accuracy": 0.9}),
        row("fast", size_bytes=10, latency_ms_p50=0.5, valid={"accuracy": 0.8}),
        row("large", size_bytes=90, valid={"accuracy": 0.99}),
    ]
    assert winner(rows)["name"] == "fast"  # type: ignore[index]
    for one in rows:
        one["missed"] = 2 if one["name"] == "large" else 1
    assert winner(rows) is None
    assert nearest(rows, "accuracy", 1)["name"] == "slow"
    assert nearest(rows, "accuracy", -1)["name"] == "tiny"


def test_conditions_are_checked_by_figures_on_valid_and_costs_of_the_row() -> None:
    conditions = parse({"accuracy": ">= 0.97 * teacher", "latency_ms_p50": "<= 0.5 * teacher"})
    teacher, alone = row(BASE, valid={"accuracy": 1.0}, accuracy=0.1), row("alone", valid={"accuracy": 0.5})
    own = row("small", valid={"accuracy": 0.98}, accuracy=0.2, latency_ms_p50=0.4)
    assert [met for met, _ in judged(conditions, own, teacher, alone)] == [True, True]
    own["valid"]["accuracy"] = 0.96
    assert judged(conditions, own, teacher, alone)[0] == (
        False,
        "accuracy 0.960 >= 0.97 * teacher = 0.970: not met",
    )
    own["within_budget"] = False
    assert judged(conditions, own, teacher, alone)[-1] == (False, "the budget is not kept")


def test_the_short_table_has_measured_figures_and_equal_sizes_only() -> None:
    rows = [
        row("teacher", size_bytes=1000, latency_ms_p50=8.0, parameters=50_000),
        row("teacher-int8", size_bytes=250, latency_ms_p50=4.0, parameters=50_000, accuracy=0.97),
        row("distilled", size_bytes=20, latency_ms_p50=1.0, parameters=1000, accuracy=0.95),
        row("channels", size_bytes=20, latency_ms_p50=2.0, parameters=1000, accuracy=0.3),
        row("channels-recovered", size_bytes=22, latency_ms_p50=2.0, parameters=1090, accuracy=0.94),
        row("low-rank-recovered", size_bytes=40, latency_ms_p50=3.2, parameters=2000, accuracy=0.9),
    ]
    table = {one["way"]: one for one in four(rows, "accuracy")}
    assert [one["row"] for one in table.values()] == [
        "channels-recovered",
        "teacher-int8",
        "low-rank-recovered",
        "distilled",
    ]
    assert [one["times_faster"] for one in table.values()] == [4.0, 2.0, 2.5, 8.0]
    assert table["quantization"]["times_smaller"] == 4.0
    assert [one["at_equal_size"] for one in table.values()] == [0.94, None, None, 0.95]
    (told,) = usual(list(table.values()))
    assert "this does not hold: pruning 4.0x, quantization 2.0x, low-rank 2.5x, distillation 8.0x." in told
    table["quantization"]["times_faster"] = 5.0
    assert "this holds: " in usual(list(table.values()))[0]
    assert usual(four(rows[:2], "accuracy")) == []


def test_the_step_at_a_tenth_is_named() -> None:
    small = {"parameters": 1234, "times_smaller": 9.5, "times_faster": 4.25}
    rows = [row(BASE, accuracy=0.99), row("1/10-alone", accuracy=0.9), row("1/10-distilled", accuracy=0.95, **small)]
    assert tenth(rows, "accuracy") == [
        "At a tenth of the parameters (1,234): alone 0.900, distilled 0.950, teacher 0.990; in the same runtime 9.5 times smaller "
        "and 4.2 times faster."
    ]
    assert tenth(rows[:2], "accuracy") == []


def test_a_winner_that_falls_short_on_the_test_data_is_said_to(tmp_path: Path) -> None:
    made = Tryout(entered(tmp_path, "accept={accuracy: '>= 0.97 * teacher'}"), [], [], None, None)
    more = {"times_smaller_overall": 9.0, "times_faster_overall": 8.0, "file_accuracy": 0.955, "why": ["met"]}
    rows = [row(BASE, accuracy=0.99), row("small", **more)]
    assert made._told(rows, rows[1])[1:] == [
        "Mind that on test it falls short: accuracy 0.955 >= 0.97 * teacher = 0.960: not met. A bar that leaves a margin is safer: accept."
    ]
    rows[1]["file_accuracy"] = 0.97
    assert made._told(rows, rows[1])[1:] == []


@pytest.mark.long
def test_a_ladder_is_measured_with_clocks_and_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    settings = ("seeds=1", "teacher.model.channels=24")
    made = contest(document(tmp_path, *settings), tmp_path / "out", steps=True, console=Console(quiet=True))
    assert [r["name"] for r in made.rows[:4]] == [BASE, "teacher", "1/2-alone", "1/2-distilled"]
    sizes = [r["size_bytes"] for r in made.rows if r["name"].endswith("distilled")]
    assert sizes == sorted(sizes, reverse=True)
    assert all(r["latency_ms_p50"] > 0 and r["eager_latency_ms_p50"] > 0 and r["peak_memory_mb"] > 0 for r in made.rows)
    assert any(line.startswith("At a tenth of the parameters") for line in made.told)


def test_ways_are_plain_rows() -> None:
    known = [*ways(4_000, 100_000), *ladder()]
    assert len({way.name for way in known}) == len(known)
    assert len({(way.model.name, way.target) for way in known}) == len(known)
    assert all(isinstance(way, Way) and way.beside in {w.name for w in known} for way in known)


@pytest.mark.parametrize(
    ("row", "again"),
    [
        ({"name": "low-rank", "family": "low-rank"}, "understudy compare my.yaml --price-per-hour 3 --ways low-rank"),
        ({"name": "1/2-alone", "family": "ladder"}, "understudy compare my.yaml --price-per-hour 3 --ladder"),
        ({"name": "teacher", "family": "teacher"}, "understudy compare my.yaml --price-per-hour 3"),
    ],
)
def test_the_command_of_a_row_asks_for_it_alone(row: dict[str, str], again: str) -> None:
    every = "understudy compare my.yaml --ladder --ways distilled,low-rank --price-per-hour 3"
    assert contest_module._alone(every, row) == again


@pytest.mark.parametrize(
    ("then", "now", "together"),
    [
        ((None, False), (None, False), (None, False)),
        ((["distilled"], False), (None, False), (["distilled"], False)),
        ((["distilled"], False), (["alone"], False), (["distilled", "alone"], False)),
        ((None, False), (["alone"], False), (["all", "alone"], False)),
        ((["all", "-alone"], False), (["alone"], False), (["all", "alone"], False)),
        ((None, True), (["alone"], False), (["alone"], True)),
        ((["alone"], False), (None, True), (["alone"], True)),
        ((None, False), (None, True), (["all"], True)),
    ],
)
def test_a_resume_keeps_the_rows_of_before(tmp_path: Path, then: Any, now: Any, together: Any) -> None:
    assert contest_module._asked(tmp_path, *then, resume=True) == then  # nothing is there yet
    (tmp_path / "rows.json").write_text(json.dumps(then))
    assert contest_module._asked(tmp_path, *now, resume=True) == together
    assert contest_module._asked(tmp_path, *now, resume=False) == now  # control
