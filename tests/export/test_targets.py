from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.export import (
    TARGETS,
    Target,
    comparing,
    graph,
    int8,
    load,
    run_file,
    targets,
    to_file,
    to_onnx,
    write_folder,
)
from understudy.export.loaded import Loaded
from understudy.export.model import outputs
from understudy.export.targets import find
from understudy.recipe.frame import Export, deployment

from .models import Bessel, Noise, Text, digits_model, text, varied

CLASSES = ["aardvark", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]
HEAVY = {
    "executorch": "executorch",
    "executorch-int8": "executorch",
    "openvino": "openvino",
    "openvino-int8": "openvino",
}
LIGHT = ("onnx", "onnx-int8")
RUN = [*LIGHT, *(pytest.param(name, marks=pytest.mark.long) for name in ("torch", *HEAVY))]
LINEAR = torch.linspace(-2, 2, 20).reshape(5, 4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def write(folder: Path, target: str, model: nn.Module, samples: Any, **more: Any) -> dict[str, float]:
    if target in HEAVY:
        pytest.importorskip(HEAVY[target])
    few = {k: x[:2] for k, x in samples.items()} if isinstance(samples, Mapping) else samples[:2]
    return write_folder(folder, model, few, samples, task_name="classification", target=target, **more)


def predictions(folder: Path, raw: Any, *, blocked: str = "torch") -> list[int]:
    file = folder.parent / ("raw.npz" if isinstance(raw, Mapping) else "raw.npy")
    if isinstance(raw, Mapping):
        np.savez(file, **{name: x.numpy() for name, x in raw.items()})
    else:
        np.save(file, raw.numpy())
    block = f"import runpy, sys; {blocked} sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", block, str(folder / "predict.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [entry["index"] for entry in json.loads(done.stdout)]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_recipe_knows_the_targets_of_the_table() -> None:
    assert list(get_args(get_type_hints(Export)["target"])) == list(TARGETS)
    assert deployment("here") == ("here", "onnx")
    assert deployment({"target": "torch"}) == ("deploy", "torch")


def test_an_unknown_target_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no target 'onnx-int4'. Did you mean 'onnx-int8'"):
        write_folder(tmp_path / "s", nn.Linear(4, 3), LINEAR, LINEAR, task_name="regression", target="onnx-int4")
    with pytest.raises(InputError, match=r"m\.onnx ends in '\.onnx'; a file for torch ends in \.pt2"):
        to_file(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx", target="torch")
    assert list(tmp_path.iterdir()) == []


def doubling(batches: list[int], off: float = 0.0) -> Target:
    """A target whose file says that the model gives 2 x."""

    def written(model: nn.Module, inputs: Any, file: Path, calibration: Any) -> bool:
        file.write_text(f"{2 + off}")
        return False

    def opened(file: Path, threads: int | None) -> Loaded:
        def run(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
            (x,) = arrays.values()
            batches.append(len(x))
            return (x * float(file.read_text())).astype(x.dtype)

        return Loaded((), run, 2)

    script = TARGETS["onnx"].script
    return Target("a fake", "none", "model.fake", "", (), written, opened, script, 2)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_target_is_a_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    monkeypatch.setitem(TARGETS, "fake", doubling(batches))
    found = write_folder(tmp_path / "s", Twice(), LINEAR, LINEAR, task_name="regression", target="fake")
    assert (found["samples"], found["max_error"], found["agreement"]) == (5, 0, 1)
    facts = json.loads((tmp_path / "s" / "preprocessing.json").read_text())
    assert {k: facts[k] for k in ("target", "runtime", "file", "batch")} == {"target": "fake", "runtime": "none", "file": "model.fake", "batch": 2}  # fmt: skip
    assert max(batches) == 2  # no more than its runtime takes
    assert torch.equal(load(tmp_path / "s")(LINEAR), 2 * LINEAR)
    assert torch.equal(load(tmp_path / "s")(LINEAR.numpy()), 2 * LINEAR)
    with pytest.raises(InputError, match="list: the file takes a tensor, an array, or a mapping"):
        load(tmp_path / "s")([[1.0]])
    assert torch.equal(run_file(tmp_path / "s" / "model.fake", LINEAR), 2 * LINEAR)
    monkeypatch.setitem(TARGETS, "fake", doubling(batches, off=0.01))
    with pytest.raises(InputError, match="what was written is not the model and is not kept: outputs differ by"):
        to_file(Twice(), LINEAR, tmp_path / "m.fake", target="fake")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_what_no_runtime_runs_here_is_written_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    monkeypatch.setitem(TARGETS, "fake", dataclasses.replace(doubling([], off=1.0), load=None))
    found = write_folder(tmp_path / "s", Twice(), LINEAR, LINEAR, task_name="regression", target="fake")
    assert found.keys() == {"samples", "size_mb"}
    assert found["samples"] == 0
    with pytest.raises(InputError, match="is for none, which does not run on this system"):
        load(tmp_path / "s")


def test_inputs_without_names_are_not_mixed_up() -> None:
    opened = Loaded((), lambda arrays: next(iter(arrays.values())))
    with pytest.raises(InputError, match="does not know the names of its inputs"):
        opened({"a": LINEAR, "b": LINEAR})
    named = Loaded(("b", "a"), lambda arrays: next(iter(arrays.values())))
    assert torch.equal(named({"a": LINEAR, "b": 2 * LINEAR}), 2 * LINEAR)
    with pytest.raises(InputError, match="the file takes b, a, but was given a, c"):
        named({"a": LINEAR, "c": LINEAR})


def test_a_folder_is_known_whatever_its_name(tmp_path: Path) -> None:
    for name in ("deploy", "v1.2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"")
        assert find(tmp_path / name) == ("onnx", tmp_path / name / "model.onnx", ())


def test_what_no_export_wrote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(InputError, match=r"note\.txt: is no exported folder, nor a file that ends in \.onnx, "):
        load(tmp_path / "note.txt")
    with pytest.raises(InputError, match=r"none\.pte: there is no such file"):
        load(tmp_path / "none.pte")
    (tmp_path / "preprocessing.json").write_text("[]")
    with pytest.raises(CorruptError, match=r"preprocessing\.json: is damaged"):
        load(tmp_path)


# -- what is written says what the model says --------------------------------------------------------------------------


@pytest.mark.parametrize("target", RUN)
def test_a_folder_predicts_what_its_file_says(target: str, tmp_path: Path) -> None:
    student, images = digits_model(), varied(256)
    found = write(tmp_path / "s", target, student, images, classes=CLASSES)
    made = load(tmp_path / "s")(images)
    assert found["samples"] == 256
    assert found["agreement"] == float((made.argmax(1) == outputs(student, images).argmax(1)).double().mean())
    assert found["agreement"] >= 0.9 if TARGETS[target].calibrated else found["max_error"] < 1e-5
    # The Python runtimes of torch and ExecuTorch are torch; the others do without.
    blocked = "" if TARGETS[target].runtime in ("torch.export", "executorch") else "sys.modules['torch'] = None;"
    assert predictions(tmp_path / "s", images, blocked=blocked) == made.argmax(1).tolist()
    assert predictions(tmp_path / "s", images[:1], blocked=blocked) == made[:1].argmax(1).tolist()
    assert len(made.argmax(1).unique()) > 1


@pytest.mark.parametrize("target", RUN)
def test_inputs_by_name_come_in_any_order(target: str, tmp_path: Path) -> None:
    student, samples = Text(), text(270)
    write(tmp_path / "s", target, student, samples, classes=CLASSES[:3])
    expected, backwards = load(tmp_path / "s")(samples), dict(reversed(samples.items()))
    assert list(backwards) == ["mask", "ids"]
    assert torch.equal(load(tmp_path / "s")(backwards), expected)
    assert predictions(tmp_path / "s", backwards, blocked="") == expected.argmax(1).tolist()


@pytest.mark.parametrize("target", TARGETS)
def test_the_script_of_each_target_speaks_of_its_runtime_only(target: str) -> None:
    template = (Path(targets.__file__).parent / "template" / "predict.py").read_text()
    form = TARGETS[target]
    source = form.script.of(template, form.file)
    for phrase in (form.script.opens, form.script.runs, form.script.imports, f"What {form.file} says"):
        assert source.count(phrase) == 1
    assert len(source.splitlines()) == len(template.splitlines())
    assert ("onnxruntime" in source) == (form.runtime == "onnxruntime")
    roots = {a.name.split(".")[0] for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import) for a in n.names}
    roots |= {n.module.split(".")[0] for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) and n.module}
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "onnxruntime", "torch", "executorch", "openvino", "coremltools", "ai_edge_litert"}  # fmt: skip


# -- 8 bits ------------------------------------------------------------------------------------------------------------


def operators(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file).graph.node]


def test_eight_bits_are_in_the_file(tmp_path: Path) -> None:
    big, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), varied(64)
    to_file(big, images, tmp_path / "whole.onnx")
    to_file(big, images, tmp_path / "eighth.onnx", target="onnx-int8")
    assert "QuantizeLinear" in operators(tmp_path / "eighth.onnx")
    assert "QuantizeLinear" not in operators(tmp_path / "whole.onnx")
    assert (tmp_path / "eighth.onnx").stat().st_size < 0.35 * (tmp_path / "whole.onnx").stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eighth.onnx", "whole.onnx"]


def test_eight_bits_that_disagree_are_refused_with_what_to_do(tmp_path: Path) -> None:
    student, images = digits_model(), varied(256)
    # Ranges that are seen on next to nothing cut everything off.
    with pytest.raises(InputError, match=r"in 8 bits it agrees with the model on \d+% of 256 samples, where 90% is the least") as caught:  # fmt: skip
        to_file(student, images, tmp_path / "m.onnx", target="onnx-int8", calibration=images[:4] * 1e-3)
    assert "Calibrate it with more samples" in str(caught.value)
    assert "qat" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    to_file(student, images, tmp_path / "m.onnx", target="onnx-int8", calibration=images[:64])


def test_control_the_floor_is_what_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "FLOOR", 0.0)
    found = to_file(digits_model(), varied(256), tmp_path / "m.onnx", target="onnx-int8", calibration=varied(4) * 1e-3)
    assert found["agreement"] < 0.9


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (LINEAR[:0], "calibration: export: the inputs hold no sample"),
        (LINEAR[:, :3], r"calibration: input is torch.float32 \[5, 3\]; the model takes torch.float32 \['N', 4\]"),
        (LINEAR.double(), r"calibration: input is torch.float64"),
        (LINEAR / 0, "calibration: input holds NaN or infinity"),
        ({"x": LINEAR}, "calibration: the model takes input, but x is given"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_before_the_export(
    calibration: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "write", lambda *_: pytest.fail("was exported"))
    with pytest.raises(InputError, match=message):
        to_file(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx", target="onnx-int8", calibration=calibration)


def test_what_has_no_int8_form_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its operators has an int8 form in onnxruntime.*Export it as onnx"):
        to_file(nn.Hardtanh(), LINEAR, tmp_path / "m.onnx", target="onnx-int8")
    with pytest.raises(InputError, match=r"made of float32, and it gives float16"):
        to_file(nn.Linear(4, 3).half(), LINEAR.half(), tmp_path / "m.onnx", target="onnx-int8", tolerance=1e-2)


class Rounded(nn.Module):
    """Rounds as a finished quantized model does."""

    def __init__(self) -> None:
        super().__init__()
        import torch.ao.quantization.fx._decomposed

        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = (0.02, 3, -128, 127, torch.int8)
        ops = torch.ops.quantized_decomposed
        return self.layer(ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid))


def test_a_model_that_rounds_keeps_its_own_ranges(tmp_path: Path) -> None:
    to_onnx(Rounded(), LINEAR, tmp_path / "a.onnx")
    to_file(Rounded(), LINEAR, tmp_path / "b.onnx", target="onnx-int8", calibration=LINEAR * 9)
    assert operators(tmp_path / "a.onnx").count("QuantizeLinear") == 1
    assert operators(tmp_path / "b.onnx") == operators(tmp_path / "a.onnx")
    torch.testing.assert_close(run_file(tmp_path / "a.onnx", LINEAR), Rounded()(LINEAR))
    assert graph.rounds(graph.traced(Rounded(), LINEAR))
    assert not graph.rounds(graph.traced(nn.Linear(4, 3), LINEAR))


# -- what stands against it --------------------------------------------------------------------------------------------

LACKS = [
    pytest.param("executorch", "executorch", "ExecuTorch", marks=pytest.mark.long),
    pytest.param("coreml", "coremltools", "Core ML", marks=pytest.mark.long),
    pytest.param("openvino", "openvino", "ONNX", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("target", "package", "runtime"), LACKS)
def test_an_operator_that_a_runtime_lacks_is_named(target: str, package: str, runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    with pytest.raises(InputError, match=rf"{runtime} has no operator for .*bessel_j0, from `return torch\.special.*take it out") as caught:  # fmt: skip
        to_file(Bessel(), LINEAR, tmp_path / f"m{TARGETS[target].suffix}", target=target)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_names_no_operator_is_quoted() -> None:
    program = graph.traced(Bessel(), LINEAR)
    told = str(
        graph.unsupported("Bessel", RuntimeError("out of ideas\nat line 3"), program, "X", r"no kernel for (\w+)")
    )
    assert told == "export of Bessel: the exporter of X cannot convert it: out of ideas"
    told = str(
        graph.unsupported(
            "Bessel", RuntimeError("no kernel for special_bessel_j0"), program, "X", r"no kernel for (\w+)"
        )
    )
    assert "X has no operator for special_bessel_j0, from `return torch.special.bessel_j0(x)`" in told


def test_a_model_that_draws_random_numbers_is_refused_for_every_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="draw random numbers"):
        to_file(Noise(), LINEAR, tmp_path / "m.pt2", target="torch")


@pytest.mark.parametrize(
    ("target", "package", "fix"),
    [
        ("executorch", "executorch", r"pip install 'understudy\[executorch\]'"),
        ("openvino", "openvino", r"pip install 'understudy\[openvino\]'"),
        ("coreml", "coremltools", r"pip install 'understudy\[coreml\]'"),
        ("litert", "litert_torch", r"Make an environment for it alone: python -m venv litert"),
    ],
)
def test_a_package_that_is_missing_is_named(
    target: str, package: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=fix):
        to_file(nn.Linear(4, 3), LINEAR, tmp_path / f"m{TARGETS[target].suffix}", target=target)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_runs_code_is_not_opened_unasked(tmp_path: Path) -> None:
    to_file(Twice(), LINEAR, tmp_path / "m.pt2", target="torch")
    with pytest.raises(InputError, match=r"m\.pt2: to open it is to run the code that is in it.*If you trust it"):
        run_file(tmp_path / "m.pt2", LINEAR)
    assert torch.equal(load(tmp_path / "m.pt2")(LINEAR), 2 * LINEAR)
    assert str(Path(__file__).parent).encode() not in (tmp_path / "m.pt2").read_bytes()


@pytest.mark.parametrize("suffix", [".pt2", *(pytest.param(s, marks=pytest.mark.long) for s in (".pte", ".xml"))])
def test_a_damaged_file_is_told(suffix: str, tmp_path: Path) -> None:
    if suffix != ".pt2":
        pytest.importorskip({".pte": "executorch", ".xml": "openvino"}[suffix])
    (tmp_path / f"m{suffix}").write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptError, match=rf"m\{suffix}: is not "):
        load(tmp_path / f"m{suffix}")


# -- converted, and not run --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_core_ml_is_converted_with_its_names_and_any_batch(tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    found = write(tmp_path / "s", "coreml", Text(), text(8), classes=CLASSES[:3])
    assert found.keys() == {"samples", "size_mb"}
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["model.mlpackage", "predict.py", "preprocessing.json"]
    spec = coremltools.models.MLModel(str(tmp_path / "s" / "model.mlpackage"), skip_model_load=True).get_spec()
    assert [i.name for i in spec.description.input] == ["ids", "mask"]
    assert [o.name for o in spec.description.output] == ["output"]
    sizes = spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert (sizes[0].lowerBound, sizes[0].upperBound, sizes[1].upperBound) == (1, 256, 6)
    write(tmp_path / "s", "coreml", Text(), text(8), classes=CLASSES[:3])  # again, in the same place
    to_file(nn.Linear(4, 3), LINEAR, tmp_path / "m.mlpackage", target="coreml")
    to_file(nn.Linear(4, 3), LINEAR, tmp_path / "m.mlpackage", target="coreml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.mlpackage", "s"]


@pytest.mark.long
def test_lite_rt_runs_one_sample_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    student, images = digits_model(), varied(40)
    found = to_file(student, images, tmp_path / "m.tflite", target="litert")
    assert found["max_error"] < 1e-5
    with pytest.raises(InputError, match=r"LiteRT has no operator for aten\.special_bessel_j0"):
        to_file(Bessel(), LINEAR, tmp_path / "b.tflite", target="litert")


@pytest.mark.long
def test_executorch_takes_batches_of_up_to_32(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    student, images = digits_model(), varied(33)
    to_file(student, images, tmp_path / "m.pte", target="executorch")
    opened = load(tmp_path / "m.pte")
    assert opened.batch == 32
    for size in (1, 7, 32):
        torch.testing.assert_close(
            torch.from_numpy(opened.run({"x": images[:size].numpy()})), outputs(student, images[:size])
        )
    with pytest.raises(RuntimeError):
        opened.run({"x": images.numpy()})


def test_int8_needs_onnxruntime_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[onnx\]'"):
        int8.write(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx", LINEAR)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_tells_of_every_target() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(TARGETS)
    assert f"{comparing.FLOOR:.0%}".replace("%", " %") in page


@pytest.mark.long
def test_the_example_prints_a_row_for_each_model_and_target(capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    main = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "exports.py"))["main"]
    rows = main(["onnx", "onnx-int8"], steps=150)
    assert [row["target"] for row in rows] == ["the model itself", "onnx", "onnx-int8"] * 3
    for whole, plain, eighth in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert plain["accuracy"] == whole["accuracy"] > 0.5
        assert eighth["size"] < plain["size"]
    assert "onnx-int8" in capsys.readouterr().out
