"""A frozen model in a form that is no longer a module of torch: a graph for ONNX Runtime, or one of 8-bit integers.

Both give the model's last output and nothing from within it, run on the CPU, and are made from samples: their shape for a
graph, their values for the ranges of integers. The same model and samples give the same form, so that nothing of it is kept.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.batch import Call, tensors
from understudy.data.order import preserved
from understudy.errors import InputError, MissingExtra
from understudy.modes import evaluating

__all__ = ["FORMS", "Converted", "check_installed", "freezing"]

FORMS = {"onnx": (("onnx", "onnxscript", "onnxruntime"), "onnx"), "int8": (("torchao",), "compress")}
"""By name: the packages that a form needs, and the extra that has them."""

Run = Callable[[Mapping[str, Tensor]], Tensor]


def check_installed(form: str) -> None:
    """Raise MissingExtra if a package is missing that a form needs."""
    packages, extra = FORMS[form]
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtra(f"A teacher that runs as {form}", extra)


class Converted:
    """A model in one of the :data:`FORMS`, as a function of what the model is called with.

    Where inputs have another shape or dtype than the samples, but for their number, the model itself answers: whether it
    does depends on nothing but the inputs.

    Args:
        model: frozen, in eval mode when it is asked; it is not changed.
        form: a name of :data:`FORMS`.
        give: how a batch's inputs reach the model.
        samples: inputs of batches, as ``give`` takes them; the first one's number of samples is that for which code is compiled.

    Raises: InputError for a model or samples of which there is no such form.
    """

    def __init__(self, model: nn.Module, form: str, give: Call, samples: Sequence[Any]) -> None:
        for tensor in (*model.parameters(), *model.buffers(), *tensors(list(samples))):
            if tensor.device.type != "cpu":
                raise InputError(f"run={form!r} is for the CPU, and the teacher is on {tensor.device}. Leave run out.")
        self.model, self.form = model, form
        with _calm(model):
            seen = [_seen(model, give, inputs, form) for inputs in samples]
        batches = [given for given, _ in seen]
        self.shapes = _shapes(batches[0])
        if any(_shapes(given) != self.shapes for given in batches):
            raise InputError(
                f"run={form!r} is for inputs of one shape, and these samples have {', '.join(sorted({str(_shapes(g)) for g in batches}))}."
            )
        self.like = _like(seen[0][1])
        make = {"onnx": _onnx, "int8": _int8}[form]
        with _calm(model):
            self.run: Run = make(model, batches)

    def __call__(self, give: Call, inputs: Any) -> Any:
        """What the model gives for a batch's inputs; a tensor, or a container in which its logits are found as before."""
        return give(_Stand(self.model, self._answer), inputs)

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        given = _named(args, kwargs)
        if given is None or _shapes(given) != self.shapes:
            with _calm(self.model):
                return self.model(*args, **kwargs)
        with _plain():
            return self.like(self.run(given))


class _Stand:
    """What `give` calls in the model's place; it may ask for the names that the model's forward takes."""

    def __init__(self, model: nn.Module, answer: Callable[..., Any]) -> None:
        self.forward, self.answer = model.forward, answer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer(*args, **kwargs)


def _seen(model: nn.Module, give: Call, inputs: Any, form: str) -> tuple[dict[str, Tensor], Any]:
    """What a model is called with for a batch, by name, and what it gives."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def answer(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs, model(*args, **kwargs)))
        return calls[-1][-1]

    give(_Stand(model, answer), inputs)
    if len(calls) != 1 or (given := _named(*calls[0][:2])) is None:
        raise InputError(
            f"run={form!r} is for a teacher that is called once in a batch, with a tensor, or with tensors by name. Leave run out."
        )
    return given, calls[0][-1]


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """One tensor as ``input``, or tensors by their names; None for anything else."""
    if len(args) == 1 and not kwargs:
        kwargs, args = {"": args[0]}, ()
    fit = not args and kwargs and all(isinstance(value, Tensor) and value.ndim for value in kwargs.values())
    return dict(kwargs) if fit and len({len(value) for value in kwargs.values()}) == 1 else None


def _shapes(given: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """But for the number of samples."""
    return {name: (tuple(value.shape[1:]), value.dtype) for name, value in given.items()}


def _inputs(given: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """As an export takes them."""
    return given[""] if "" in given else dict(given)


def _like(output: Any) -> Callable[[Tensor], Any]:
    """How to put the one tensor where it was found in what the model gives."""
    if isinstance(output, Tensor):
        return lambda tensor: tensor
    if isinstance(output, Mapping) and "logits" not in output:
        (key,) = output
        return lambda tensor: {key: tensor}
    if isinstance(output, (tuple, list)) and not hasattr(output, "logits"):
        return lambda tensor: (tensor,)
    return lambda tensor: {"logits": tensor}


def _onnx(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> Run:
    from understudy.export.onnx import TOLERANCE, session, write_checked

    inputs = _inputs(batches[0])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder, "teacher.onnx")
        write_checked(model, inputs, file, inputs, TOLERANCE)
        opened = session(file)
    names = [taken.name for taken in opened.get_inputs()]

    def run(given: Mapping[str, Tensor]) -> Tensor:
        arrays = [given["" if "" in given else name].detach().contiguous().numpy() for name in names]
        return torch.from_numpy(opened.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def _int8(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> Run:
    """Weights by channel and activations by tensor, with the ranges that the samples show; compiled for their number."""
    from understudy.export.graph import quiet, traced
    from understudy.export.model import kind
    from understudy.export.onnx import refuse_mixing

    inputs, names, rows = _inputs(batches[0]), list(batches[0]), len(next(iter(batches[0].values())))
    refuse_mixing(model, inputs)  # a smaller batch is filled up
    program = traced(model, inputs)
    with quiet(), freezing():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        try:
            observed: Callable[..., Tensor] = prepare_pt2e(program.module(), quantizer)
            for given in batches:
                for part in _parts(given, rows):
                    observed(*part.values())
            compiled: Callable[..., Tensor] = torch.compile(convert_pt2e(observed), dynamic=False)
            compiled(*batches[0].values())
        except Exception as error:  # whatever torchao, torch's compiler or that of C++ raises
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise InputError(f"run='int8': {kind(model)} cannot be made one of 8-bit integers: {why}") from error

    def run(given: Mapping[str, Tensor]) -> Tensor:
        ordered = {name: given[name] for name in names}
        count = len(ordered[names[0]])
        with torch.no_grad(), freezing():
            found = [compiled(*part.values()) for part in _parts(ordered, rows)]
        return torch.cat(found)[:count]

    return run


def _parts(given: Mapping[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
    """So many samples at once; the last one again and again where there are fewer."""
    count = len(next(iter(given.values())))
    for at in range(0, count, rows):
        index = torch.arange(at, at + rows).clamp(max=count - 1)
        yield {name: (value if rows == count else value[index]).contiguous() for name, value in given.items()}


@contextlib.contextmanager
def _calm(model: nn.Module) -> Iterator[None]:
    with evaluating(model), preserved(), torch.no_grad(), _plain():
        yield


def _plain() -> contextlib.AbstractContextManager[Any]:
    """Not in the precision in which the student may be learning just now: code would be compiled anew for it."""
    return torch.autocast("cpu", enabled=False)


def freezing() -> Any:
    """Weights are constants of what is compiled; needed both when that is done and when it runs."""
    from torch._inductor import config  # takes a second, which only those pay who compile

    return config.patch(freezing=True)
