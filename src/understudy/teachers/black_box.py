"""Models of other libraries: arrays go in, outputs come back, and nothing within can be read."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from understudy.errors import CorruptError, InputError, MachineError, MissingExtra, choices

__all__ = ["BlackBox", "Channels", "Gives", "as_logits", "check_options", "fingerprint", "last", "library", "told"]

Gives = Literal["logits", "probabilities", "independent"]
"""What a model puts out: logits, or values too; probabilities of which one is true; or of labels each by itself."""

Channels = Literal["first", "last"]
"""Where a model of pictures wants the channels: ``[N, C, H, W]`` as PyTorch has them, or ``[N, H, W, C]``."""

FLOOR = 1e-6


class BlackBox:
    """A teacher that is a function of arrays: its last output is all that can be read of it, at ``teacher``.

    No gradient flows through it to its input, so that methods which move samples by the teacher's gradient cannot use it. It runs
    where its library runs it; inputs and outputs are copied.

    Args:
        function: from numpy arrays, or arrays by name, to an array ``[N, ...]``.
        what: what it is, for errors: "ONNX model teacher.onnx".
        gives: "probabilities" of classes, of which one is true, are made logits by their logarithm, which softmax takes back;
            "independent" ones, of labels each by itself, are made logits that sigmoid takes back. None is below ``floor``.
        channels: "last" turns pictures ``[N, C, H, W]`` round before they go in.
        floor: smallest probability.
        known_by: files or bytes that identify it: a run is only resumed with a teacher that has the same. None if nothing does.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        *,
        gives: Gives = "logits",
        channels: Channels = "first",
        floor: float = FLOOR,
        known_by: Iterable[bytes | Path] | None = None,
    ) -> None:
        check_options(what, gives, channels, floor)
        self.function, self.what = function, what
        self.gives, self.channels, self.floor = gives, channels, floor
        if known_by is not None:
            digest = fingerprint(known_by)
            self.state_dict = lambda: {"digest": digest}

    def __deepcopy__(self, memo: object) -> BlackBox:
        return self  # it never changes, and other libraries' handles cannot be copied

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        """Its output as a tensor, where the input is."""
        if torch.compiler.is_compiling():  # there is nothing to compile in another library
            return torch.compiler.disable(self._answer)(*inputs, **named)  # type: ignore[no-any-return]
        return self._answer(*inputs, **named)

    def _answer(self, *inputs: Any, **named: Any) -> Tensor:
        given = [t for t in (*inputs, *named.values()) if isinstance(t, Tensor)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in given):
            raise InputError(
                f"{self.what}: no gradient flows through it to its input, and this method needs one. Use a teacher that is an nn.Module."
            )
        try:
            answer = self.function(
                *map(self._array, inputs), **{name: self._array(value) for name, value in named.items()}
            )
        except (InputError, MachineError, MemoryError):
            raise
        except Exception as error:  # whatever the other library raises
            shapes = ", ".join(f"{list(t.shape)} of {t.dtype}" for t in given)
            raise InputError(
                f"{self.what}: cannot take {shapes or 'what it is called with'}: {type(error).__name__}: {told(error)}"
            ) from error
        output = _tensor(answer, self.what)
        if given and output.shape[:1] != given[0].shape[:1]:
            raise InputError(
                f"{self.what}: gave {list(output.shape)} for {given[0].shape[0]} samples; it must have a row for each of them."
            )
        output = output if self.gives == "logits" else as_logits(output, self.gives, self.floor, self.what)
        return output.to(given[0].device) if given else output

    def _array(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # of which numpy knows nothing
        return (last(value) if self.channels == "last" else value).contiguous().numpy()

    def __repr__(self) -> str:
        return self.what


def check_options(what: str, gives: object, channels: object, floor: float) -> None:
    """Raise InputError for an option that is none."""
    for name, value, allowed in (("gives", gives, get_args(Gives)), ("channels", channels, get_args(Channels))):
        if value not in allowed:
            raise InputError(f"{what}: {name}={value!r}. {choices(value, allowed)}")
    if not 0 < floor < 1:
        raise InputError(
            f"{what}: floor={floor!r} must be above 0 and below 1: the smallest probability; 1e-6 is usual."
        )


def last(pictures: Tensor) -> Tensor:
    """Pictures ``[N, C, H, W]`` as ``[N, H, W, C]``; anything else as it is."""
    return pictures.movedim(1, -1) if pictures.ndim == 4 else pictures


def as_logits(probabilities: Tensor, gives: Gives, floor: float, what: str) -> Tensor:
    """What softmax, or sigmoid if they are independent, takes back to these probabilities, none of them below ``floor``; float32.

    Of a single column, as of one sigmoid, two classes are made: no and yes.

    Raises: InputError for what is below 0 or above 1, and for rows of classes that do not add up to 1.
    """
    p = probabilities.double()
    p = p.unsqueeze(-1) if p.ndim == 1 else p
    if bool(((p < -1e-4) | (p > 1 + 1e-4)).any()):
        raise InputError(
            f"{what}: gives values from {float(p.min()):.4g} to {float(p.max()):.4g}, which are no probabilities. Say gives='logits'."
        )
    if gives == "independent":
        return p.clamp(floor, 1 - floor).logit().float()
    p = torch.cat([1 - p, p], -1) if p.shape[-1] == 1 else p
    total = p.sum(-1)
    if bool(((total - 1).abs() > 0.01).any()):
        raise InputError(
            f"{what}: gives rows that add up to {float(total.min()):.4g} to {float(total.max()):.4g}, and not to 1. Say gives='independent' "
            "for labels of which several can be true, or gives='logits'."
        )
    return p.clamp(floor, 1.0).log().float()


def fingerprint(parts: Iterable[bytes | Path]) -> Tensor:
    """A tensor that differs where the files or bytes differ."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            sha.update(len(part).to_bytes(8, "big") + part)
            continue
        try:
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                size = file.tell()
        except (FileNotFoundError, NotADirectoryError) as error:
            near = sorted(p.name for p in part.parent.glob("*")) if part.parent.is_dir() else []
            hint = choices(part.name, near) if near else "Is the folder's name right?"
            raise InputError(f"{part}: there is no such file. {hint}") from error
        except IsADirectoryError as error:
            raise InputError(f"{part}: is a folder; give the file in it.") from error
        except OSError as error:
            raise MachineError(f"{part}: cannot be read: {error.strerror}.") from error
        if not size:
            raise CorruptError(f"{part}: is empty.")
        sha.update(digest)
    return torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8)


def library(module: str, purpose: str, extra: str) -> Any:
    """Another library. Raises: MissingExtra if it is not installed; MachineError if it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module.partition(".")[0]:
            raise MissingExtra(purpose, extra) from error
        raise MachineError(
            f"{purpose}: {module} cannot be imported: {error}. Install it anew with all that it needs."
        ) from error
    except ImportError as error:
        raise MachineError(
            f"{purpose}: {module} cannot be imported: {error}. Install it anew with all that it needs."
        ) from error


def _tensor(answer: Any, what: str) -> Tensor:
    """Float32, whatever the other library puts out."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, dict) and len(answer) == 1:
        (answer,) = answer.values()
    try:
        found = torch.as_tensor(answer) if isinstance(answer, Tensor) else torch.from_numpy(_numpy(answer))
    except (TypeError, ValueError) as error:
        keys = f" with {', '.join(map(str, answer))}" if isinstance(answer, dict) else ""
        raise InputError(
            f"{what}: gave a {type(answer).__name__}{keys}, not one array of numbers. Name its output."
        ) from error
    if found.ndim == 0 or not math.prod(found.shape[1:]):
        raise InputError(f"{what}: gave an array {list(found.shape)}; a teacher's output has a row for each sample.")
    return found.detach().float()


def _numpy(answer: Any) -> Any:
    import numpy as np

    array = np.ascontiguousarray(np.asarray(answer))
    if not array.flags.writeable:
        array = array.copy()  # a tensor of it could be written to
    return array


def told(error: Exception) -> str:
    """What another library says, in a line."""
    return " ".join(str(error).split())[:300]
