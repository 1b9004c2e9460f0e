from __future__ import annotations

import itertools
import json
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.measure import bench
from understudy.measure.energy import Meter
from understudy.measure.worker import Refused

from .files import written

MODULE = sys.modules["understudy.measure.bench"]
FIGURES = {
    "model", "batch", "threads", "latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "throughput_per_s", "runs", "load_ms",
    "first_ms", "peak_memory_mb", "baseline_memory_mb", "energy_mj", "energy_how", "load_average", "times_faster",
}  # fmt: skip
QUICK: dict[str, Any] = {"threads": [1], "runs": 5, "seconds": 0.0}


class Played:
    """A model whose calls take as long as a test says, and that notes when it has its turn."""

    order: ClassVar[list[str]] = []

    def __init__(self, name: str, ms: float, **more: Any) -> None:
        self.name, self.ms = name, ms
        self.ready = dict.fromkeys(("load_ms", "first_ms", "peak_memory_mb", "baseline_memory_mb"), 1.0) | more

    def block(self, runs: int, seconds: float) -> dict[str, Any]:
        self.order.append(self.name)
        return {"times_ms": [self.ms] * runs, "cpu_s": self.ms * runs / 1e3}

    def close(self) -> None:
        self.order.append(f"{self.name} closed")


def play(monkeypatch: pytest.MonkeyPatch, ms: Mapping[str, float]) -> list[str]:
    """Let models of these names take so many milliseconds; returns the order of their turns."""
    monkeypatch.setattr(Played, "order", [])
    monkeypatch.setattr(MODULE._Model, "open", lambda self, **job: Played(self.name, ms[self.name]))
    monkeypatch.setattr(MODULE, "meter", lambda: Meter("estimated", "of the test", watts=3.0))
    return Played.order


def test_every_figure_of_two_files(tmp_path: Path) -> None:
    small, large = written(tmp_path / "small.onnx"), written(tmp_path / "large.onnx", 1_000_000, external=True)
    made = bench({"large": large, "small": small}, batches=[1, 3], **QUICK)
    assert [(r["model"], r["batch"], r["threads"]) for r in made.rows] == [
        ("large", 1, 1), ("small", 1, 1), ("large", 3, 1), ("small", 3, 1),
    ]  # fmt: skip
    assert all(set(row) == FIGURES for row in made.rows)
    assert all(0 < row["latency_ms_p50"] <= row["latency_ms_p90"] <= row["latency_ms_p99"] for row in made.rows)
    assert all(row["runs"] >= 5 for row in made.rows)
    facts = {fact["model"]: fact for fact in made.models}
    assert facts["large"]["size_bytes"] == large.stat().st_size + large.with_name("large.onnx.data").stat().st_size
    assert facts["small"]["size_bytes"] == small.stat().st_size
    assert facts["small"]["size_compressed_bytes"] == len(zlib.compress(small.read_bytes(), 9))
    assert facts["small"]["times_smaller"] == facts["large"]["size_bytes"] / small.stat().st_size
    page = (Path(__file__).parents[2] / "docs" / "bench.md").read_text()
    names = {*FIGURES, *facts["small"]} - {"model", "batch", "threads", "runtime", "path", "compressed_by"}
    assert [name for name in names if f"`{name}`" not in page] == []
    own = {r["model"]: r["peak_memory_mb"] - r["baseline_memory_mb"] for r in made.rows[:2]}
    assert own["large"] > 12  # 16 MB of weights; the idle runtime is not counted
    assert own["small"] < 8
    assert json.loads(json.dumps(made.results(), allow_nan=False))["rows"] == made.rows


def test_percentiles_throughput_and_energy_are_those_of_all_calls() -> None:
    blocks = [{"times_ms": [1.0] * 89, "energy_mj": 30.0}, {"times_ms": [5.0] * 9 + [50.0] * 2, "energy_mj": 10.0}]
    told = MODULE._figures(blocks, batch=4)
    times = np.array([1.0] * 89 + [5.0] * 9 + [50.0] * 2)
    assert (
        [told[f"latency_ms_p{p}"] for p in (50, 90, 99)]
        == [np.percentile(times, p) for p in (50, 90, 99)]
        == [1, 5, 50]
    )
    assert told["throughput_per_s"] == pytest.approx(400 / (times.sum() / 1000))
    assert told["energy_mj"] == 40 / 400  # of a sample
    assert told["runs"] == 100


def test_models_take_turns_and_the_first_is_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = play(monkeypatch, {"a": 6.0, "b": 2.0})
    file = written(tmp_path / "m.onnx")
    made = bench({"a": file, "b": file}, **QUICK)
    assert order == ["a", "b"] * 5 + ["b closed", "a closed"]
    assert [row["times_faster"] for row in made.rows] == [1.0, 3.0]
    assert [row["energy_mj"] for row in made.rows] == pytest.approx([18.0, 6.0])  # 3 W for 6 and 2 ms
    assert {row["energy_how"] for row in made.rows} == {"estimated"}
    assert "Energy is estimated: of the test." in made.notes


def test_rounding_that_makes_it_slower_is_told_as_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [written(tmp_path / name) for name in ("m.onnx", "m-int8.onnx")]
    names = list(map(str, files))
    play(monkeypatch, {names[0]: 2.0, names[1]: 3.0})
    made = bench(files, **QUICK)
    assert (
        f"{names[1]} computes in int8 and is slower than {names[0]} with a batch of 1 on 1 thread: 3 ms against 2."
        in made.notes
    )
    assert made.rows[1]["times_faster"] == pytest.approx(2 / 3)
    play(monkeypatch, {names[0]: 3.0, names[1]: 2.0})
    assert not any("slower" in note for note in bench(files, **QUICK).notes)  # the control


def test_a_rounded_model_is_held_against_one_of_its_own_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, int8 = written(tmp_path / "m.onnx"), written(tmp_path / "m-int8.onnx")
    play(monkeypatch, {"teacher": 9.0, "plain": 2.0, "int8": 3.0})
    models: dict[str, Any] = {"teacher": nn.Linear(4, 2), "plain": plain, "int8": int8}
    notes = bench(models, torch.zeros(1, 4), **QUICK).notes
    assert any(note.startswith("int8 computes in int8 and is slower than plain with") for note in notes)
    del models["plain"]
    assert not any("slower" in note for note in bench(models, torch.zeros(1, 4), **QUICK).notes)


def test_what_the_processor_can_do_in_few_bits_and_how_busy_it_was_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "m.onnx")
    play(monkeypatch, {"m": 1.0})
    monkeypatch.setattr(MODULE, "low_precision", lambda: ["AVX2"])
    monkeypatch.setattr(MODULE, "load_average", lambda: 99.0)
    notes = bench({"m": file}, **QUICK).notes
    assert "Low-precision instructions of the processor: AVX2." in notes
    assert any(note.startswith("The machine was busy (load 99 on ") for note in notes)
    monkeypatch.setattr(MODULE, "low_precision", list)
    monkeypatch.setattr(MODULE, "load_average", lambda: 0.0)
    notes = bench({"m": file}, **QUICK).notes
    assert "Low-precision instructions of the processor: none." in notes
    assert not any("busy" in note for note in notes)


class Slow(nn.Module):
    """Sleeps."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.keep = lambda: None  # which pickle does not take: it is measured in this process

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x


def test_a_deadline_that_a_sleeping_model_misses() -> None:
    made = bench({"slow": Slow(2e-4), "quick": Slow(0)}, torch.zeros(2, 4), deadline_ms=0.15, **QUICK)
    slow, quick = made.rows
    assert (slow["missed_share"], slow["deadline_ms"], slow["runs"]) == (1.0, 0.15, 1000)
    assert quick["missed_share"] < 0.5
    assert sum("could not be sent to a process of its own" in note for note in made.notes) == 2
    assert slow["peak_memory_mb"] is None


def test_without_a_deadline_nothing_is_told_of_one(tmp_path: Path) -> None:
    made = bench([written(tmp_path / "m.onnx")], **QUICK)
    assert "missed_share" not in made.rows[0]


def test_a_module_goes_to_a_process_of_its_own_as_it_is_and_comes_to_no_harm() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    before = torch.get_num_threads(), [m.training for m in module.modules()]
    made = bench({"m": module}, torch.zeros(2, 4), **QUICK)
    (fact,), (row,) = made.models, made.rows
    assert (fact["parameters"], fact["flops"], fact["macs"], fact["runtime"]) == (15, 24, 12, "torch")
    assert fact["size_bytes"] > 60
    assert row["peak_memory_mb"] >= row["baseline_memory_mb"] > 50
    assert (torch.get_num_threads(), [m.training for m in module.modules()]) == before


def test_the_shape_of_a_sample_comes_from_the_file_what_lies_beside_it_or_the_user(tmp_path: Path) -> None:
    free = written(tmp_path / "free.onnx", axes=("batch", "columns"))
    with pytest.raises(InputError, match=r"free\.onnx: does not say the shape of x \[\?, \?\]\. .* --shape"):
        bench([free], **QUICK)
    assert bench([free], shapes=[4], **QUICK).rows
    with pytest.raises(InputError, match="does not run on x"):  # its matrix has four rows
        bench([free], shapes={"x": [5]}, **QUICK)
    beside = tmp_path / "preprocessing.json"
    beside.write_text(json.dumps({"inputs": {"x": {"shape": [4], "layout": "channels_first"}}}))
    assert bench([tmp_path / "free.onnx"], **QUICK).rows
    beside.write_text("{}")
    with pytest.raises(CorruptError, match=r"preprocessing\.json: does not say"):
        bench([free], **QUICK)


def test_channels_that_are_last_in_a_file_are_first_in_the_model(tmp_path: Path) -> None:
    told = {"inputs": {"x": {"shape": [8, 9, 3], "layout": "channels_last"}}}
    (tmp_path / "preprocessing.json").write_text(json.dumps(told))
    assert MODULE._described(tmp_path / "m.onnx") == {"x": [3, 8, 9], "": [3, 8, 9]}


def test_a_batch_that_a_file_does_not_take_is_told_and_the_others_are_measured(tmp_path: Path) -> None:
    fixed = written(tmp_path / "fixed.onnx", axes=(1, 4))
    made = bench({"fixed": fixed, "any": written(tmp_path / "any.onnx")}, batches=[1, 2], **QUICK)
    assert [(r["model"], r["batch"]) for r in made.rows] == [("fixed", 1), ("any", 1), ("any", 2)]
    assert "fixed: takes x [1, 4], and no batch of 2. Give --batch 1." in made.notes
    assert made.rows[2]["times_faster"] is None
    with pytest.raises(InputError, match="and no batch of 2"):
        bench([fixed], batches=[2], **QUICK)


def test_a_model_that_fails_while_it_is_timed_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, block = play(monkeypatch, {"good": 1.0, "bad": 2.0}), Played.block

    def fails(self: Played, runs: int, seconds: float) -> dict[str, Any]:
        if self.name == "bad" and self.order.count("good") == MODULE.ROUNDS + 3:
            raise Refused("run", "its process ended with -9")
        return block(self, runs, seconds)

    monkeypatch.setattr(Played, "block", fails)
    files = {name: written(tmp_path / f"{name}.onnx") for name in ("good", "bad")}
    made = bench(files, batches=[1, 2], **QUICK)
    assert [(row["model"], row["batch"]) for row in made.rows] == [("good", 1), ("bad", 1), ("good", 2)]
    assert "bad: its process ended with -9" in made.notes
    assert (order.count("good"), order.count("bad")) == (2 * MODULE.ROUNDS, MODULE.ROUNDS + 2)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        bench({}, torch.zeros(0, 4), batches=[0], threads=[], runs=0, seconds=-1.0, deadline_ms=0.0)
    assert str(caught.value).splitlines() == [
        "bench: there is no model; give at least one.",
        "bench: batches is [0]; at least 1 is needed.",
        "bench: threads is []; at least 1 is needed.",
        "bench: runs is [0]; at least 1 is needed.",
        "bench: seconds is -1.0; allowed: a number from 0.",
        "bench: deadline_ms is 0.0; allowed: a number of milliseconds above 0.",
        "bench: the inputs hold no sample; give at least one.",
    ]
    with pytest.raises(InputError) as caught:
        bench([file], batches=[1, 10**12], threads=[99999])
    assert str(caught.value).splitlines() == [
        "bench: batches is [1, 1000000000000]; 1,000,000 at most.",
        "bench: threads is [99999]; 1,024 at most.",
    ]
    with pytest.raises(InputError, match=r"n\.onnx: there is no such file. Did you mean '.*m\.onnx'"):
        bench([tmp_path / "n.onnx"])
    with pytest.raises(InputError, match=r"m\.tflite: its name does not end as that of a model"):
        bench([tmp_path / "m.tflite"])
    with pytest.raises(InputError, match=r"there is no 'phnoe'\. Did you mean 'phone'"):
        bench([file], budget="phnoe")
    with pytest.raises(InputError, match=r"takes x \[N, 4\], but samples of \[5\] were given"):
        bench([file], torch.zeros(1, 5), **QUICK)
    with pytest.raises(InputError, match="of which nobody knows what it takes"):
        bench({"m": nn.Linear(4, 2)})
    with pytest.raises(InputError, match="m: does not run on input"):
        bench({"m": nn.Linear(4, 2)}, torch.zeros(1, 5), **QUICK)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorruptError, match=r"m\.onnx: onnxruntime cannot load it: .*Protobuf parsing failed"):
        bench([file], **QUICK)


def test_a_runtime_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, **job: Any) -> None:
        raise Refused("import", "ModuleNotFoundError: No module named 'openvino'")

    (tmp_path / "m.xml").write_text("<net/>")
    monkeypatch.setattr(MODULE._Model, "open", refuse)
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[openvino\]'"):
        bench([tmp_path / "m.xml"])


def test_within_a_budget_and_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "DEADLINE_RUNS", 20)
    small, large = written(tmp_path / "s.onnx"), written(tmp_path / "l.onnx", 1_500_000)
    made = bench({"small": small, "large": large}, budget="phone", batches=[7], runs=5, seconds=0.0)
    assert [(r["batch"], r["threads"], r["deadline_ms"], r["runs"]) for r in made.rows] == [(1, 1, 33.0, 20)] * 2
    assert [r["within_budget"] for r in made.rows] == [True, False]  # 24 MB is no file for a phone
    assert [r["memory_fits"] for r in made.rows] == [True, True]
    assert made.budget == "phone"
    assert any("is emulated" in note for note in made.notes)
    assert "small is within it." in made.notes
    assert any(note.startswith("large is not within it: its files have 24,0") for note in made.notes)


def test_a_deadline_takes_the_place_of_the_budgets_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "DEADLINE_RUNS", 20)
    given = {"budget": "phone", "runs": 5, "seconds": 0.0}
    made = bench({"small": written(tmp_path / "s.onnx")}, deadline_ms=1e-6, **given)
    assert made.rows[0]["deadline_ms"] == 1e-6
    assert "small is not within it: 100.0% of inferences miss 1e-06 ms, and 1% may." in made.notes


@pytest.mark.long
def test_every_runtime_gives_every_figure(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model, example = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.zeros(2, 4)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    openvino.save_model(openvino.convert_model(written(tmp_path / "m.onnx")), tmp_path / "m.xml")
    found = [tmp_path / name for name in ("m.onnx", "m.pt2", "m.xml")]
    made = bench(found, batches=[1, 4], **QUICK)
    assert [(r["model"], r["batch"]) for r in made.rows] == [(str(f), b) for b, f in itertools.product((1, 4), found)]
    assert all(set(row) == FIGURES and row["peak_memory_mb"] > 10 for row in made.rows)
    assert made.models[2]["size_bytes"] == (tmp_path / "m.xml").stat().st_size + (tmp_path / "m.bin").stat().st_size
