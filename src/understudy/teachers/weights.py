"""Weights from a file, into a model, without running anything that the file holds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from understudy.errors import CorruptError, InputError, MachineError, choices, raise_all
from understudy.taps import unwrap

__all__ = ["load_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which names training programs put a state_dict beside their optimizer's."""
TOLD = 5  # problems of a kind in an error


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Put a file's weights into a model: all of them or none.

    Takes safetensors, and what ``torch.save`` made of a ``state_dict``, or of a mapping that holds one under "state_dict",
    "model_state_dict" or "model". Of the latter only tensors are read: code in the file is never run. Prefixes that all
    the file's keys share are taken off where that makes them the model's: ``module.`` of DataParallel, ``_orig_mod.`` of
    ``torch.compile``.

    Args:
        model: made as it was when the weights were saved; its own device and dtypes stay.
        path: of the file; its content says what it is, not its name.

    Returns: the same model.
    Raises: InputError if there is no such file, or if a key is missing, is not the model's, or has another shape (the
        model is left as it was); CorruptError if the file is damaged, is no file of weights, or holds code or NaN.
    """
    path = Path(path)
    bare = unwrap(model)
    if not isinstance(bare, nn.Module):
        raise InputError(
            f"{path}: weights go into a module, and the model is a {type(bare).__name__}, which has its own."
        )
    state = bare.state_dict(keep_vars=True)
    wanted = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for name, tensor in wanted.items():
        if is_lazy(tensor):
            raise InputError(f"model: {name!r} has no size yet. Call the model once on a batch, then load its weights.")
    found = _without_prefix(_tensors(_read(path), path), wanted)
    raise_all(CorruptError, [f"{path}: {name!r} holds NaN." for name, tensor in found.items() if _has_nan(tensor)])
    if problems := _problems(found, wanted):
        fix = "Make the model as it was when these weights were saved."
        raise InputError("\n".join([f"{path}: does not fit the model ({type(bare).__name__}). {fix}", *problems]))
    bare.load_state_dict(found, strict=False)
    return model


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as error:
        near = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise InputError(f"{path}: there is no such file. {choices(path.name, near)}") from error
    except IsADirectoryError as error:
        inside = choices("", sorted(p.name for p in path.glob("*") if p.is_file()))
        raise InputError(f"{path}: is a folder; give the file in it. {inside}") from error
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror}.") from error
    if head[8:] == b"{":
        return _safetensors(path)
    if head.startswith((b"PK", b"\x80")):
        return _saved_by_torch(path)
    what = "is empty" if not head else f"is no file of weights: it begins with {head!r}"
    pointer = " It is a pointer of Git LFS: `git lfs pull` fetches the file itself." * head.startswith(b"version ")
    raise CorruptError(f"{path}: {what}; allowed: safetensors, or what torch.save made of a state_dict.{pointer}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CorruptError(f"{path}: is damaged: {error}. Fetch or copy it anew.") from error


def _saved_by_torch(path: Path) -> Any:
    try:
        with path.open("rb") as file:  # by its name alone torch would take some files for safetensors
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or a hostile file raises whatever it likes
        text = str(error)
        if code := re.search(r"GLOBAL ([\w.]+)|TorchScript", text):
            raise CorruptError(
                f"{path}: holds code ({code[1] or code[0]}), which is never run. Where you trust it, load it yourself and "
                "save the weights only: torch.save(model.state_dict(), path)."
            ) from error
        # What torch says of a pickle that makes no sense is advice to load it regardless.
        what = "its pickle makes no sense" if "eights only load failed" in text else text[:200] or repr(error)
        raise CorruptError(f"{path}: is damaged: {what}. Fetch or copy it anew.") from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict, wherever it lies."""
    while isinstance(content, Mapping) and (
        inner := [content[n] for n in WRAPPERS if isinstance(content.get(n), Mapping)]
    ):
        content = inner[0]
    named = content if isinstance(content, Mapping) else {}
    found = {name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not found:
        what = f"a mapping of {', '.join(map(repr, list(named)[:6]))}" if named else f"a {type(content).__name__}"
        raise InputError(f"{path}: holds {what} and no state_dict. Save one: torch.save(model.state_dict(), path).")
    return found


def _without_prefix(found: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """As many first parts of the keys taken off, of those that all share, as make most keys the model's."""
    wanted, best = set(wanted), found
    while len({key.partition(".")[0] for key in found}) == 1 and all("." in key for key in found):
        found = {key.partition(".")[2]: value for key, value in found.items()}
        best = max(best, found, key=lambda keys: len(wanted & keys.keys()))
    return best


def _has_nan(tensor: Tensor) -> bool:
    checkable = tensor.is_floating_point() and tensor.dtype.itemsize > 1  # floats of 8 bits have no isnan
    return checkable and bool(tensor.isnan().any())


def _problems(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    pairs = {name: (found[name], wanted[name]) for name in found if name in wanted}
    unlike = [n for n, (a, b) in pairs.items() if a.shape != b.shape or a.is_floating_point() != b.is_floating_point()]
    # Tied weights are one tensor under several names, of which safetensors keeps one; BatchNorm's counter came later.
    tied = {id(tensor) for _, tensor in pairs.values()}
    absent = [n for n, t in wanted.items() if id(t) not in tied and not n.endswith("num_batches_tracked")]
    foreign = [name for name in found if name not in wanted]
    size = " in the file, and in the model "
    return [
        *_told(unlike, lambda n: "is " + size.join(f"{list(t.shape)} of {t.dtype}" for t in pairs[n]), []),
        *_told(absent, lambda n: f"{list(wanted[n].shape)} is not in the file", foreign),
        *_told(foreign, lambda n: f"{list(found[n].shape)} is not the model's", set(wanted) - set(found)),
    ]


def _told(names: list[str], what: Callable[[str], str], others: Iterable[str]) -> list[str]:
    lines = []
    for name in names[:TOLD]:
        near = difflib.get_close_matches(name, sorted(others), n=1)
        lines.append(f"  {name!r} {what(name)}." + "".join(f" Is it {other!r}?" for other in near))
    return lines + [f"  ... and {len(names) - TOLD} more like these."] * (len(names) > TOLD)
