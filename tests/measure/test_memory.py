from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from understudy.errors import InputError, MachineError, MissingExtra
from understudy.measure.memory import SCRIPT, peak_memory

MODULE = sys.modules[peak_memory.__module__]
ONE = torch.zeros(3, 4)


def written(path: Path, columns: int = 2, inputs: tuple[str, ...] = ("x",)) -> Path:
    """A file that multiplies the sum of its inputs [N, 4] by a matrix of random numbers."""
    matrix = np.random.default_rng(0).random((4, columns), dtype=np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in inputs]
    nodes = [helper.make_node("Sum", inputs, ["sum"]), helper.make_node("MatMul", ["sum", "matrix"], ["y"])]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns])
    graph = helper.make_graph(nodes, "g", ends, [out], [numpy_helper.from_array(matrix, "matrix")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_the_peak_holds_the_models_weights_and_the_baseline_does_not(tmp_path: Path) -> None:
    small = peak_memory(written(tmp_path / "small.onnx"), ONE)
    large = peak_memory(written(tmp_path / "large.onnx", 5_000_000), ONE)
    assert list(small) == ["peak_memory_mb", "baseline_memory_mb"]
    assert large["peak_memory_mb"] - large["baseline_memory_mb"] > 80  # 4 x 5,000,000 numbers of 4 bytes
    assert 20 < small["baseline_memory_mb"] <= small["peak_memory_mb"] + 2 < 300
    assert large["baseline_memory_mb"] == pytest.approx(small["baseline_memory_mb"], abs=10)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a parent's peak down to its children")
def test_what_this_process_holds_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "m.onnx")
    ballast = np.ones(40_000_000)  # 320 MB
    assert peak_memory(file, ONE)["peak_memory_mb"] < 300
    monkeypatch.setattr(MODULE, "SCRIPT", SCRIPT.replace("VmHWM", "nothing"))  # the control: what getrusage says
    assert peak_memory(file, ONE)["peak_memory_mb"] > ballast.nbytes / 1e6


def test_the_process_imports_neither_torch_nor_understudy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = "\nassert not {'torch', 'understudy', 'onnx'} & set(sys.modules), 'too much'\n"
    file = written(tmp_path / "m.onnx")
    monkeypatch.setattr(MODULE, "SCRIPT", SCRIPT + check)
    peak_memory(file, ONE)
    monkeypatch.setattr(MODULE, "SCRIPT", "import understudy.errors" + SCRIPT + check)
    with pytest.raises(InputError, match="too much"):
        peak_memory(file, ONE)


def test_one_sample_is_run_in_as_many_threads_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = "[a.shape for a in inputs.values()] == [(1, 4)]"
    check = f"\nassert file.endswith('empty.onnx') or ({shape} and options.intra_op_num_threads == 2), 'no'\n"
    monkeypatch.setattr(MODULE, "SCRIPT", SCRIPT + check)
    peak_memory(written(tmp_path / "m.onnx"), ONE, threads=2)
    with pytest.raises(InputError, match="no"):
        peak_memory(tmp_path / "m.onnx", ONE, threads=1)


def test_several_inputs_go_by_name(tmp_path: Path) -> None:
    file = written(tmp_path / "m.onnx", inputs=("a", "b"))
    assert peak_memory(file, {"b": ONE, "a": ONE})["peak_memory_mb"] > 20
    with pytest.raises(InputError, match=r"m\.onnx does not run on the first sample: .*\['b'\].*missing"):
        peak_memory(file, {"a": ONE, "c": ONE})


def test_a_numpy_in_the_folder_in_which_one_works_is_not_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path / "m.onnx")
    assert peak_memory(file, ONE)["peak_memory_mb"] > 20


def test_what_cannot_be_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx does not run on the first sample: [^$]*index: 1 Got: 5 Expected: 4"):
        peak_memory(file, torch.zeros(1, 5))
    with pytest.raises(InputError, match=r"nowhere\.onnx: there is no such file"):
        peak_memory(tmp_path / "nowhere.onnx", ONE)
    with pytest.raises(InputError, match="hold no sample"):
        peak_memory(file, ONE[:0])
    (tmp_path / "torn.onnx").write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"torn\.onnx does not run.*Protobuf parsing failed"):
        peak_memory(tmp_path / "torn.onnx", ONE)
    monkeypatch.setattr(MODULE, "SCRIPT", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(MachineError, match="could not be measured: it ended with -9"):
        peak_memory(file, ONE)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(MODULE.importlib.util, "find_spec", lambda name: None if name == missing else "found")
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[onnx\]'"):
        peak_memory(file, ONE)
