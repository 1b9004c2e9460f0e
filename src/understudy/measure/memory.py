"""How much memory a process needs that runs a model and nothing else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from understudy.errors import InputError, MachineError, MissingExtra

__all__ = ["empty_onnx", "peak_memory"]

PURPOSE = "Measuring the memory of an ONNX file"
RUNS = 3  # the second may still allocate

# The kernel's own high-water mark where there is one: ru_maxrss of a child starts at what its parent had when it forked.
SCRIPT = """
import sys
import numpy as np
import onnxruntime
file, samples, threads, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.log_severity_level = 3
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
with np.load(samples) as stored:
    inputs = {i.name: a for i, a in zip(session.get_inputs(), stored.values())} if len(stored) == 1 else dict(stored)
for _ in range(runs):
    session.run(None, inputs)
try:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
except (OSError, StopIteration):
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def peak_memory(path: str | Path, inputs: Tensor | Mapping[str, Tensor], *, threads: int = 1) -> dict[str, float]:
    """Peak resident memory of a fresh process that loads an ONNX file with onnxruntime and runs one sample.

    The process imports numpy and onnxruntime only, so that the figure is that of a deployment, not of training.

    Args:
        path: of the file.
        inputs: samples as the model takes them, of which the first is run; a mapping for a file with several inputs.
        threads: of onnxruntime, each of which has buffers of its own.

    Returns: ``peak_memory_mb``, the whole process; ``baseline_memory_mb``, the same for a file that gives back its input:
        what Python, numpy and an empty session need. The model's own share is the difference. In units of 10^6 bytes.
    Raises: InputError if the file does not run on these inputs; MissingExtra without onnx and onnxruntime; MachineError
        on a system that does not tell.
    """
    given = {"input": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    if not given or not all(x.ndim and len(x) for x in given.values()):
        raise InputError("peak_memory: the inputs hold no sample; give at least one.")
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtra(PURPOSE, "onnx")
    if not Path(path).is_file():
        raise InputError(f"peak_memory: {path}: there is no such file.")
    with tempfile.TemporaryDirectory() as folder:
        empty, samples = Path(folder, "empty.onnx"), Path(folder, "samples.npz")
        empty.write_bytes(empty_onnx())
        np.savez(Path(folder, "one.npz"), input=np.zeros(1, np.float32))
        np.savez(samples, **{name: x[:1].detach().cpu().numpy() for name, x in given.items()})  # type: ignore[arg-type]
        return {
            "peak_memory_mb": _peak(Path(path), samples, threads) / 1e6,
            "baseline_memory_mb": _peak(empty, Path(folder, "one.npz"), threads) / 1e6,
        }


def empty_onnx() -> bytes:
    """An ONNX file that gives back its input."""
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise MissingExtra(PURPOSE, "onnx") from error
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "empty", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _peak(file: Path, samples: Path, threads: int) -> int:
    """In bytes."""
    # -P: a numpy.py in the folder in which the user works is not numpy.
    command = [sys.executable, "-P", "-c", SCRIPT, str(file), str(samples), str(threads), str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return int(done.stdout)
    told = re.split(r"\n(?=\S)", done.stderr.strip())[-1] or f"it ended with {done.returncode}"
    if "No module named 'resource'" in told or done.returncode < 0:  # Windows; or killed, as where memory is short
        raise MachineError(f"peak_memory: the process that ran {file} could not be measured: {told}.")
    raise InputError(f"peak_memory: {file} does not run on the first sample: {told}")
