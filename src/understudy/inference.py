"""How a frozen model runs: as it is, or as the inference that it is.

A teacher learns nothing, so that nothing of what training needs must be kept: its weights may be constants of compiled code,
its arithmetic bfloat16 or that of 8-bit integers, its images in the order of channels that convolutions like best. Measured in
``benchmarks/step.py`` and ``benchmarks/ways.py``.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.batch import Call, call, innermost, mapped, tensors
from understudy.converted import Converted, check_installed, freezing
from understudy.errors import InputError, choices
from understudy.modes import evaluating
from understudy.taps import Caught, Tapped, unwrap

__all__ = ["WAYS", "Inference", "Way", "check_layers"]

Shapes = tuple[tuple[int, ...], ...]
SHORT = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Way:
    """A way to run a frozen model.

    Attributes:
        bf16: compute in bfloat16 where autocast holds that to be safe; outputs and taps are float32 again.
        channels_last: lay images out with the channels innermost.
        compiled: by ``torch.compile``, with the weights as constants.
        form: a name of :data:`~understudy.converted.FORMS`, which gives the last output only; None for torch's own modules.
    """

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    form: str | None = None

    @property
    def prepared(self) -> bool:
        """Whether it takes seconds before the first batch."""
        return self.compiled or self.form is not None


WAYS = {
    "fp32": Way(),
    "channels_last": Way(channels_last=True),
    "bf16": Way(bf16=True, channels_last=True),
    "compiled": Way(channels_last=True, compiled=True),
    "compiled-bf16": Way(bf16=True, channels_last=True, compiled=True),
    "onnx": Way(form="onnx"),
    "int8": Way(compiled=True, form="int8"),
}
"""By name; ``fp32`` leaves the model as it is, whatever its own dtype."""


def check_layers(way: str, layers: Iterable[str]) -> None:
    """Raise InputError if layers are read, and this way gives the last output only."""
    if (read := sorted(layers)) and WAYS[way].form is not None:
        raise InputError(
            f"run={way!r} gives the teacher's last output only, and {', '.join(repr(name) for name in read)} is read. "
            f"Ways in which layers can be read: {', '.join(name for name, other in WAYS.items() if other.form is None)}."
        )


class Inference(nn.Module):
    """A model that is only asked, and never trained, in one of the :data:`WAYS`. Give it to a method in the model's place.

    Terms, taps, digests and errors see the model itself, which stays as it is; what runs is a copy. It computes as the way says,
    in whatever precision the student learns. Where a gradient flows through the model into its inputs, as in data-free methods,
    the model itself runs.

    Args:
        model: what is asked.
        way: a name of :data:`WAYS`.
        samples: inputs of some batches, as they will be asked about, from which "onnx" and "int8" are made. What has another shape is
            answered by the model itself, a smaller batch is not.

    Raises: InputError for a way that there is not, or that needs samples, or for what is no module and has nothing to be converted;
        MissingExtra without what "onnx" or "int8" need.
    """

    def __init__(self, model: nn.Module, way: str, samples: Sequence[Any] = ()) -> None:
        super().__init__()
        if way not in WAYS:
            raise InputError(f"run={way!r} is no way to run a teacher. {choices(way, WAYS)}")
        bare = unwrap(model)
        if not isinstance(bare, nn.Module):
            raise InputError(f"run={way!r}: a {type(model).__name__} is no module and runs as it does; leave run out.")
        if (form := WAYS[way].form) is not None:
            check_installed(form)
            if not samples:
                raise InputError(
                    f"run={way!r} is made from samples: give inputs of a few batches, Inference(model, {way!r}, samples=[...])."
                )
        self._orig_mod: nn.Module = bare  # the name under which torch keeps what it wraps; `unwrap` knows it
        self.name = way
        # In a list, where neither parameters() nor state_dict() nor placement finds it.
        self._copy: list[nn.Module] = []
        self._tapped: dict[tuple[frozenset[str], bool], Tapped] = {}
        self._shapes: dict[frozenset[str], Shapes] = {}
        self._samples = list(samples)
        self._form: list[Converted] = []

    @property
    def way(self) -> Way:
        """How it runs."""
        return WAYS[self.name]

    def __deepcopy__(self, memo: dict[int, Any]) -> Inference:
        # Compiled code belongs to this object, and the copy is made anew when it is asked.
        return Inference(copy.deepcopy(self._orig_mod, memo), self.name, self._samples)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives, without gradient."""
        with torch.no_grad():
            self.prepare(call)  # the samples are batches, and not what a model is called with
            output, _ = self.read(lambda model, inputs: model(*inputs[0], **inputs[1]), (args, kwargs), frozenset())
        return output

    def prepare(self, give: Call) -> None:
        """Make now what would be made when it is first asked; raise InputError where that cannot be done."""
        if self.way.form is not None:
            with torch.no_grad():
                self._formed(give)

    def read(
        self, give: Call, inputs: Any, taps: frozenset[str], *, name: str = "teacher"
    ) -> tuple[Any, dict[str, list[Caught]]]:
        """The model's output and what the taps caught, as float32 where it computed in less. Call it without gradient."""
        device = next((t.device.type for t in tensors(inputs)), "cpu")
        if not self.way.bf16 and _is_autocast(device):  # a generator that trains under it gives its dtype
            inputs = mapped(self._own, inputs)
        if self.way.form is not None:
            check_layers(self.name, taps)
            return mapped(_wide, self._formed(give)(give, inputs)), {}
        model = self._converted()
        laid = mapped(innermost, inputs) if self.way.channels_last else inputs
        shapes = tuple(tuple(t.shape) for t in tensors(laid))
        # Compiled for one shape: for the smaller last batch of an epoch it is not worth to do it again.
        compiled = self.way.compiled and self._shapes.setdefault(taps, shapes) == shapes
        tapped = self._tapped.get((taps, compiled))
        if tapped is None:
            tapped = self._tapped[taps, compiled] = Tapped(name, model, taps, compiled)
        with evaluating(model, tapped.modules), self._running(device, compiled):
            output, caught = tapped(give, laid, ())
        if not self.way.bf16:
            return output, caught
        return mapped(_wide, output), {
            tap: [c._replace(output=mapped(_wide, c.output)) for c in calls] for tap, calls in caught.items()
        }

    def _own(self, tensor: Tensor) -> Tensor:
        """A tensor of a short format in that of the weights."""
        weights = (t.dtype for t in itertools.chain(self._orig_mod.parameters(), self._orig_mod.buffers()))
        own = next((dtype for dtype in weights if dtype.is_floating_point), tensor.dtype)
        return tensor.to(own) if tensor.dtype in SHORT else tensor

    def _converted(self) -> nn.Module:
        """The copy that runs, where the model now is."""
        if self.way == Way():
            return self._orig_mod
        if self._copy and _place(self._copy[0]) != _place(self._orig_mod):
            self._copy.clear()
            self._tapped.clear()
            self._shapes.clear()
            self._form.clear()
        if not self._copy:
            made = copy.deepcopy(self._orig_mod).requires_grad_(False)
            if self.way.channels_last:
                _lay_out(made)
            self._copy.append(made)
        return self._copy[0]

    def _formed(self, give: Call) -> Converted:
        """What runs in place of a module; made when it is first asked."""
        model = self._converted()
        if not self._form:
            assert self.way.form is not None
            self._form.append(Converted(model, self.way.form, give, self._samples))
        return self._form[0]

    @contextlib.contextmanager
    def _running(self, device: str, compiled: bool) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.way.bf16:
                stack.enter_context(torch.autocast(device, torch.bfloat16))
            elif _is_autocast(device):  # that of the student
                stack.enter_context(torch.autocast(device, enabled=False))
            if compiled:  # both when it is compiled and when it runs
                stack.enter_context(freezing())
            yield


def _lay_out(model: nn.Module) -> None:
    """Put the channels innermost in what has the four axes for it; torch's own conversion refuses a model with kernels of five."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _place(model: nn.Module) -> torch.device | None:
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def _is_autocast(device: str) -> bool:
    # The meta device knows none and does not even take the question.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in SHORT else tensor
