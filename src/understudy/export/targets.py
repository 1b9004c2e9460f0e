"""What a model can be exported to: a table of targets, each a file's form and the runtime that runs it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError, choices, raise_all
from understudy.export import coreml, executorch, graph, int8, litert, onnx, openvino, program, web
from understudy.export.comparing import passed
from understudy.export.loaded import Loaded
from understudy.export.model import Inputs, first, kind, named, on_cpu, outputs
from understudy.export.staging import publish_files, staged

__all__ = [
    "FACTS",
    "TARGETS",
    "Script",
    "Target",
    "convertible",
    "find",
    "load",
    "run_file",
    "target",
    "to_file",
    "write_checked",
]

FACTS = "preprocessing.json"


class Write(Protocol):
    """Writes a model that is on the CPU, unchecked; returns whether the file rounds activations to 8 bits."""

    def __call__(self, model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs, /) -> bool: ...


@dataclass(frozen=True)
class Script:
    """What ``predict.py`` says in this runtime's words, in the places where the template speaks of onnxruntime.

    Attributes:
        needs: packages beside numpy, for its docstring.
        imports: one line.
        opens: an expression for what runs the file; ``FOLDER`` is where it is.
        runs: an expression for the output's array; ``session`` is what was opened, ``batch`` the arrays by name.
    """

    needs: str
    imports: str
    opens: str
    runs: str

    def of(self, template: str, file: str) -> str:
        """``predict.py`` for a file of this name, from the template, which is that of onnxruntime."""
        mine, theirs = (
            (script.opens, script.runs, script.imports, f"numpy and {script.needs} only", f"What {name} says")
            for script, name in ((_ONNXRUNTIME, "model.onnx"), (self, file))
        )
        for old, new in zip(mine, theirs, strict=True):
            template = template.replace(old, new)
        return template


@dataclass(frozen=True)
class Target:
    """A form of a file, and who runs it.

    Attributes:
        about: in a line.
        runtime: that runs it.
        file: its name in a folder; the suffix is that of any such file.
        extra: of understudy, that writing and running need; empty for none.
        packages: that have to be there, by the names that are imported.
        write: see :class:`Write`.
        load: opens a file, with so many threads or as many as torch has; None where no runtime exists on this system, and
            what was written is neither compared nor scored: it is marked "not run".
        script: the words of ``predict.py``.
        batch: the most samples in a batch.
        calibrated: whether samples are needed to see ranges on.
        runs_code: whether to open a file is to run code that is in it.
        beside: names of the other files in a folder.
        narrow: whether its integers are of 32 bits where the model's are of 64.
        fix: what to do where a package is missing, if not to install the extra.
        brings: what a folder holds beside the model, by path in it, for a target that is no use without; from a folder of the
            user's, or wherever it is had by itself. Such a target is never a file alone.
    """

    about: str
    runtime: str
    file: str
    extra: str
    packages: tuple[str, ...]
    write: Write
    load: Callable[[Path, int | None], Loaded] | None
    script: Script
    batch: int = 256
    calibrated: bool = False
    runs_code: bool = False
    beside: tuple[str, ...] = ()
    narrow: bool = False
    fix: str = ""
    brings: Callable[[str | Path | None], Mapping[str, bytes]] | None = None

    @property
    def suffix(self) -> str:
        """Of its files, with the dot."""
        return Path(self.file).suffix

    @property
    def endings(self) -> tuple[str, ...]:
        """What a path to write to may end in: nothing for a folder, or the suffix for the file alone."""
        return ("",) if self.brings else ("", self.suffix)

    @property
    def wants(self) -> str:
        """The same in words, after "give"."""
        return (
            "the name of a folder, without an ending"
            if self.brings
            else f"a name that ends in {self.suffix}, or that of a folder"
        )


def convertible(name: str, model: nn.Module, inputs: Inputs) -> None:
    """Try whether a model's graph can be made for a target, before it is worth anything. Weights do not matter.

    Of the targets that go by ONNX the graph is converted too, so that an operator that ONNX has not is found.

    Raises: InputError that says what in the model stands against it.
    """
    model = on_cpu(model)
    if "onnx" not in target(name).packages:
        graph.traced(model, inputs)
        return
    with tempfile.TemporaryDirectory() as folder:
        graph.write(model, inputs, Path(folder) / "model.onnx")


def _write_onnx(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    graph.write(model, inputs, file)
    return onnx.rounds(file)


def _write_int8(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    int8.write(model, inputs, file, calibration)
    return True


def _load_onnx(file: Path, threads: int | None) -> Loaded:
    session = onnx.session(file, threads=threads)

    def run(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        made: np.ndarray = session.run(None, dict(arrays))[0]
        return made

    return Loaded(tuple(i.name for i in session.get_inputs()), run)


_ONNXRUNTIME = Script(
    "onnxruntime",
    "import onnxruntime",
    'onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])',
    "session.run(None, batch)[0]",
)
_OPENVINO = Script(
    "openvino",
    "import openvino",
    'openvino.compile_model(FOLDER / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
    "session(batch)[0]",
)
_EXECUTORCH = Script(
    "executorch, whose Python runtime imports torch,",
    "import executorch.runtime, torch",
    'executorch.runtime.Runtime.get().load_program(FOLDER / "model.pte").load_method("forward")',
    "np.array(session.execute([torch.from_numpy(x) for x in batch.values()])[0])",
)
_TORCH = Script(
    "torch",
    "import torch.ao.quantization.fx._decomposed  # torch, and the operators of quantized models",
    'torch.export.load(FOLDER / "model.pt2").module()',
    "session(*map(torch.from_numpy, batch.values())).numpy(force=True)",
)
_COREML = Script(
    "coremltools on macOS",
    "import coremltools",
    'coremltools.models.MLModel(str(FOLDER / "model.mlpackage"))',
    'session.predict(batch)["output"]',
)
_LITERT = Script(
    "ai-edge-litert",
    "from ai_edge_litert.interpreter import Interpreter",
    'Interpreter(str(FOLDER / "model.tflite")).get_signature_runner()',
    'session(**{f"args_{i}": x for i, x in enumerate(batch.values())})["output_0"]',
)
_ORT = ("onnx", "onnxscript", "onnxruntime")

TARGETS: dict[str, Target] = {
    "onnx": Target(
        "ONNX, for onnxruntime and many others",
        "onnxruntime", "model.onnx", "onnx", _ORT, _write_onnx, _load_onnx, _ONNXRUNTIME, beside=("model.onnx.data",),
    ),
    "onnx-int8": Target(
        "ONNX with weights and activations in 8 bits (QDQ), calibrated on samples",
        "onnxruntime", "model.onnx", "onnx", _ORT, _write_int8, _load_onnx, _ONNXRUNTIME, calibrated=True, beside=("model.onnx.data",),
    ),
    "torch": Target(
        "a program of torch.export, for PyTorch without the model's code",
        "torch.export", "model.pt2", "", (), program.write, program.load, _TORCH, runs_code=True,
    ),
    "executorch": Target(
        "ExecuTorch with XNNPACK, for phones and boards; batches of up to 32",
        "executorch", "model.pte", "executorch", ("executorch",), executorch.write, executorch.load, _EXECUTORCH, executorch.BATCH,
    ),
    "executorch-int8": Target(
        "the same in 8 bits, calibrated on samples",
        "executorch", "model.pte", "executorch", ("executorch", "torchao"), executorch.write_int8, executorch.load, _EXECUTORCH, executorch.BATCH,
        calibrated=True,
    ),
    "openvino": Target(
        "OpenVINO, for processors of Intel and others; by way of ONNX",
        "openvino", "model.xml", "openvino", ("openvino", *_ORT), openvino.write, openvino.load, _OPENVINO, beside=("model.bin",),
    ),
    "openvino-int8": Target(
        "the same in 8 bits, calibrated on samples",
        "openvino", "model.xml", "openvino", ("openvino", *_ORT), openvino.write_int8, openvino.load, _OPENVINO, calibrated=True,
        beside=("model.bin",),
    ),
    "coreml": Target(
        "Core ML, for Apple's devices; converted here, run on macOS only",
        "coremltools", "model.mlpackage", "coreml", ("coremltools",), coreml.write, None, _COREML, narrow=True,
    ),
    "litert": Target(
        "LiteRT (TensorFlow Lite), one sample at a time; needs litert-torch in an environment of its own",
        "ai-edge-litert", "model.tflite", "", ("litert_torch",), litert.write, litert.load, _LITERT, 1, narrow=True, fix=litert.FIX,
    ),
    "web": Target(
        "a page that runs the ONNX file in the browser, with onnxruntime-web; a folder for any static server",
        "onnxruntime", "model.onnx", "onnx", _ORT, web.write, _load_onnx, _ONNXRUNTIME, beside=(*web.PAGE, web.FOLDER), brings=web.files,
    ),
}  # fmt: skip
"""By name. A target is added here: its file's functions, and the words of its ``predict.py``."""


def target(name: str) -> Target:
    """One of the table.

    Raises: InputError that names those that there are.
    """
    if name not in TARGETS:
        raise InputError(f"export: there is no target {name!r}. {choices(name, TARGETS)}")
    return TARGETS[name]


def write_checked(
    name: str,
    model: nn.Module,
    example: Inputs,
    file: Path,
    check: Inputs,
    calibration: Inputs | None = None,
    tolerance: float | None = None,
) -> dict[str, float]:
    """Write a model and compare what was written with it, on batches and on the first sample by itself.

    Args:
        name: of the target.
        calibration: samples to see ranges on, as the model takes them; ``check`` if left out.
        tolerance: the largest ``max_error`` that passes, 1e-4 if left out. A file in 8 bits is held to its agreement instead,
            which has to be 90 % or more.

    Returns: as :func:`~understudy.export.check_onnx`; of a target that does not run here ``samples`` alone, which is 0.
    Raises: InputError where it cannot be written, or does not say what the model says.
    """
    chosen, model = target(name), on_cpu(model)
    if chosen.calibrated:
        _check_calibration(example, check if calibration is None else calibration)
    allowed = onnx.TOLERANCE if tolerance is None else tolerance
    onnx.refuse_mixing(model, example, allowed)
    rounds = chosen.write(model, example, file, check if calibration is None else calibration)
    if chosen.load is None:
        return {"samples": 0}
    run = _names(chosen.load(file, None), tuple(named(example)))
    return passed(kind(model), run(check), run(first(check)), outputs(model, check), None if rounds else allowed)


def _names(loaded: Loaded, names: tuple[str, ...]) -> Loaded:
    return loaded if loaded.names else dataclasses.replace(loaded, names=names)


def _check_calibration(example: Inputs, calibration: Inputs) -> None:
    try:
        wants, given = named(example), named(calibration)
    except InputError as error:
        raise InputError(f"calibration: {error}") from error
    problems = []
    if set(given) != set(wants):
        problems.append(f"calibration: the model takes {', '.join(wants)}, but {', '.join(given)} is given.")
    for name in wants.keys() & given.keys():
        wanted, x = wants[name], given[name]
        if (x.dtype, x.shape[1:]) != (wanted.dtype, wanted.shape[1:]):
            problems.append(
                f"calibration: {name} is {x.dtype} {list(x.shape)}; the model takes {wanted.dtype} {['N', *wanted.shape[1:]]}."
            )
        elif x.is_floating_point() and not bool(torch.isfinite(x).all()):
            problems.append(f"calibration: {name} holds NaN or infinity, from which no range can be seen.")
    raise_all(InputError, problems)


def to_file(
    model: nn.Module,
    example_inputs: Inputs,
    path: str | Path,
    *,
    target: str = "onnx",
    calibration: Inputs | None = None,
    tolerance: float | None = None,
) -> dict[str, float]:
    """Write the model, in eval mode, as a file of any target: see :func:`~understudy.export.to_onnx` and :data:`TARGETS`.

    Args:
        path: ends as the target's files do.
        target: a name of the table.
        calibration: samples to see the ranges of activations on, for 8 bits; the examples if left out. A hundred or more,
            of the kind that the model will meet, and not those that it is scored on.
        tolerance: as in :func:`~understudy.export.check_onnx`; a file in 8 bits is held to its agreement instead.

    Returns: as :func:`~understudy.export.check_onnx` of the examples; ``samples`` is 0 where the target does not run here.
    Raises: InputError, and no file is left, where the model cannot be exported, or the file does not say what the model says,
        or in 8 bits agrees on less than 90 % of the samples; MissingExtra; MachineError if the file cannot be written.
    """
    path = Path(path)
    form = _of(target)
    suffix = form.suffix
    if form.brings:
        raise InputError(f"export: {target} is a folder, and no file alone; give {form.wants}, to write_folder.")
    if path.suffix != suffix:
        raise InputError(f"export: {path} ends in {path.suffix!r}; a file for {target} ends in {suffix}.")
    with staged(path) as folder:
        found = write_checked(target, model, example_inputs, folder / path.name, example_inputs, calibration, tolerance)
        publish_files(folder, path)
    return found


_of = target  # to_file has an argument of this name


def find(path: Path) -> tuple[str, Path, tuple[str, ...]]:
    """The target of an exported folder or file, by what the folder says of itself or by the file's suffix; the file; the
    names of its inputs, as far as they are known.

    Raises: InputError for what no export has written.
    """
    if (path / FACTS).is_file():
        try:
            facts: Any = json.loads((path / FACTS).read_text(encoding="utf-8"))
            chosen, names = str(facts.get("target", "onnx")), tuple(facts["inputs"])
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptError(f"{path / FACTS}: is damaged: {error}") from error
        return chosen, path / target(chosen).file, names
    of = [name for name, t in TARGETS.items() if t.suffix == path.suffix]
    if (path / "model.onnx").is_file():
        return "onnx", path / "model.onnx", ()
    if not of:
        known = ", ".join(dict.fromkeys(t.suffix for t in TARGETS.values()))
        raise InputError(f"{path}: is no exported folder, nor a file that ends in {known}.")
    return of[0], path, ()


def load(path: str | Path, threads: int | None = None) -> Loaded:
    """Open an exported folder or file: a function from samples to outputs.

    Raises: InputError for what no export has written, or if no runtime for it exists on this system; CorruptError if it
        cannot be read; MissingExtra.
    """
    name, file, names = find(Path(path))
    chosen = target(name)
    if chosen.load is None:
        raise InputError(f"{path}: is for {chosen.runtime}, which does not run on this system.")
    if not file.exists():
        raise InputError(f"{file}: there is no such file.")
    return _names(chosen.load(file, threads), names)


def run_file(path: str | Path, inputs: Inputs) -> Tensor:
    """What an exported folder or file says of these samples, in their order.

    Raises: as :func:`load`; InputError also where opening the file would run code that is in it, or if it does not take such
        inputs.
    """
    name, _, _ = find(Path(path))
    if target(name).runs_code:
        raise InputError(
            f"{path}: to open it is to run the code that is in it, which is not done here. If you trust it: understudy.export."
            "load(path)(inputs), or its folder's predict.py."
        )
    return load(path)(inputs)
