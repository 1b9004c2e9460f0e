"""Saving and resuming: safetensors for tensors, strict JSON for the rest, digests of both, and no pickle.

A checkpoint is a folder::

    step-00000120/
        state.safetensors       every tensor
        rank-00000.safetensors  ... but of those that are spread over ranks the parts of this one, and so for each rank
        state.json              everything else, with a reference in each tensor's place
        manifest.json           sizes and SHA-256 of all files and of every tensor, where each part belongs, and of itself

It is written under another name, forced to the disk, and renamed; only then does the file ``latest`` point to it. So a
kill, a full disk or a power cut leaves the old checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from understudy import parallel
from understudy.errors import CorruptError, InputError, MachineError
from understudy.shards import Spread, described, held, own_file, settled
from understudy.writing import disk, plain, sweep, sync, temporary, write_text

__all__ = ["Checkpoints", "freeze", "publish", "read", "thaw"]

FORMAT = 1
CPU = torch.device("cpu")
TENSORS, TREE, MANIFEST, LATEST = "state.safetensors", "state.json", "manifest.json", "latest"
_REAL = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64"
_SMALL = "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"
DTYPES = frozenset(getattr(torch, name) for name in f"{_REAL} {_SMALL}".split())


def freeze(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split nested dictionaries, lists and tuples into strict JSON and named tensors.

    A tensor that appears twice (tied weights) is stored once. One that is spread over ranks stays so where each can write
    its part, and is gathered where not: all ranks must call this.

    Raises: InputError that names what is neither a tensor, a number, a string, a bool nor None.
    """
    tensors: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], str] = {}

    def walk(value: Any, at: str) -> Any:
        if isinstance(value, Tensor):
            if isinstance(value, DTensor):
                value = settled(value)
            if value.layout is not torch.strided or value.dtype not in DTYPES:
                raise InputError(
                    f"checkpoint: {at} is a tensor of {value.dtype}, {value.layout}, which a safetensors file cannot hold; "
                    "give it dense and in another dtype, or as its bytes (.view(torch.uint8))."
                )
            value = value.detach()
            here = value.to_local() if isinstance(value, DTensor) else value
            key = (here.data_ptr(), value.shape, value.stride(), value.dtype, value.device) if here.numel() else (at,)
            if key not in seen:
                while at in tensors:  # {"a/b": ...} beside {"a": {"b": ...}}, or a key 1 beside a key "1"
                    at += "'"
                seen[key] = at
                tensors[at] = value
            return {"tensor": seen[key]}
        if isinstance(value, Mapping):
            return {"map": [[walk(k, at), walk(v, f"{at}/{k}" if at else str(k))] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [walk(v, f"{at}/{i}") for i, v in enumerate(value)]}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise InputError(
            f"checkpoint: {at} is a {type(value).__name__}; a state holds tensors, numbers, strings, bools and None."
        )

    return walk(tree, ""), tensors


def thaw(frozen: Any, tensors: Mapping[str, Tensor | Spread]) -> Any:
    """What :func:`freeze` was given; where a tensor was spread over ranks, what can be read of it."""
    if isinstance(frozen, dict):
        ((kind, value),) = frozen.items()
        match kind:
            case "tensor":
                return tensors[value]
            case "map":
                return {thaw(k, tensors): thaw(v, tensors) for k, v in value}
            case "list":
                return [thaw(v, tensors) for v in value]
            case "tuple":
                return tuple(thaw(v, tensors) for v in value)
            case "float":
                return float(value)
    return frozen


def publish(folder: Path, tree: Any, tensors: Mapping[str, Tensor], device: torch.device = CPU) -> None:
    """Write a checkpoint folder whole or not at all. All ranks must call this; the folder must be one that all of them see.

    Rank 0 writes what is whole, each rank its own parts of what is spread, and rank 0 gives the folder its name once all
    have told what they wrote. ``device`` is where they tell it.

    Raises: MachineError on the first rank that could not write; the others then wait for one that is gone.
    """
    rank = parallel.rank()
    whole = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
    together = len(whole) < len(tensors)
    if rank and not together:
        return
    new = temporary(folder)
    if together:
        new = new.with_name(parallel.gather_text(new.name, device)[0])
    mine = held(tensors)
    files = {own_file(rank): plain({name: tensor.to_local() for name, tensor in mine.items()})} if mine else {}
    text = None if rank else json.dumps({"format": FORMAT, "tree": tree}, allow_nan=False)
    files |= {} if rank else {TENSORS: plain(whole)}
    need, failed = sum(t.nbytes for file in files.values() for t in file.values()) + len(text or ""), None
    try:
        try:
            with disk(folder, need):
                told = {"files": _written(new, files, text), "spread": described(mine, own_file(rank))}
        except MachineError as error:
            told, failed = {}, error
        everybodys = [json.loads(t) for t in parallel.gather_text(json.dumps(told), device)] if together else [told]
        if not all(everybodys):
            if failed is not None and everybodys.index({}) == rank:
                raise failed
            parallel.meet(device)  # which cannot be: the first that failed says why, and all end
        if rank == 0:
            with disk(folder, need):
                _name(new, folder, everybodys)
    finally:
        if rank == 0:
            shutil.rmtree(new, ignore_errors=True)


def _written(new: Path, files: Mapping[str, Mapping[str, Tensor]], text: str | None) -> dict[str, Any]:
    """Write this rank's files and force them to the disk; returns their digests."""
    new.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        safetensors.torch.save_file(dict(tensors), new / name)
    if text is not None:
        (new / TREE).write_text(text)
    names = [*files, *([] if text is None else [TREE])]
    digests = {name: _digests(new / name) for name in names}
    for name in names:
        sync(new / name)
    return digests


def _name(new: Path, folder: Path, everybodys: Sequence[Mapping[str, Any]]) -> None:
    """Give a folder that all ranks have filled its manifest and its name."""
    files = {name: digests for told in everybodys for name, digests in told["files"].items()}
    if absent := [name for name in files if not (new / name).exists()]:
        raise MachineError(
            f"{folder}: {', '.join(absent)} is not here, although its rank has written it. "
            "Give a folder on a file system that all ranks see."
        )
    spread: dict[str, Any] = {}
    for told in everybodys:
        for name, said in told["spread"].items():
            spread.setdefault(name, {**said, "parts": []})["parts"] += said["parts"]
    body = json.dumps({"format": FORMAT, "files": files, **({"spread": spread} if spread else {})}, indent=1)
    (new / MANIFEST).write_text(_sealed(body))
    sync(new / MANIFEST)
    sync(new)
    if folder.exists():
        shutil.rmtree(folder)  # of a run that was resumed from before this step
    new.rename(folder)
    sync(folder.parent)


def _sha(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _digests(path: Path) -> dict[str, Any]:
    data = memoryview(path.read_bytes())
    if path.suffix != ".safetensors":
        return {"bytes": len(data), "sha256": _sha(data)}
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    spans = {n: e["data_offsets"] for n, e in header.items() if n != "__metadata__"}
    parts = {n: _sha(data[start + a : start + b]) for n, (a, b) in spans.items()}
    return {"bytes": len(data), "header_sha256": _sha(data[:start]), "tensors": parts, "start": start, "spans": spans}


def read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """A checkpoint's tree and tensors, all of them whole, every byte checked before any is used.

    Raises: CorruptError that names the file, and the tensor if it is in one.
    """
    tree, tensors = _opened(folder, 0, 1)
    return tree, {name: t.whole() if isinstance(t, Spread) else t for name, t in tensors.items()}


def _opened(folder: Path, rank: int, ranks: int) -> tuple[Any, dict[str, Tensor | Spread]]:
    """A checkpoint's tree and tensors, of which the spread ones are read later. The ranks check the files of parts between them."""
    manifest = _manifest(folder)
    files, parts = manifest["files"], sorted(set(manifest["files"]) - {TENSORS, TREE})
    for name in parts[rank::ranks]:
        _checked(folder / name, files[name])
    raw = {name: _checked(folder / name, files[name]) for name in (TENSORS, TREE)}
    tree = json.loads(bytes(raw[TREE]))["tree"]
    spread = {name: Spread.found(folder, name, said) for name, said in manifest.get("spread", {}).items()}
    return tree, {**safetensors.torch.load(bytes(raw[TENSORS])), **spread}


def _sealed(body: str) -> str:
    return json.dumps({"sha256": _sha(body.encode()), "manifest": body})


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        text = path.read_text()
        body: str = json.loads(text)["manifest"]
        if text != _sealed(body):
            raise CorruptError(f"{path}: is damaged: its digest does not match.")
        manifest: dict[str, Any] = json.loads(body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path}: is damaged or missing: {error}") from error
    if manifest.get("format") != FORMAT:
        raise CorruptError(
            f"{path}: has format {manifest.get('format')!r}; this version reads {FORMAT}. Use the version that wrote it."
        )
    return manifest


def _checked(path: Path, expected: Mapping[str, Any]) -> memoryview:
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise CorruptError(f"{path}: cannot be read: {error}") from error
    if len(data) != expected["bytes"]:
        raise CorruptError(
            f"{path}: has {len(data):,} bytes instead of {expected['bytes']:,}: it was cut short or appended to."
        )
    if "spans" not in expected:
        if _sha(data) != expected["sha256"]:
            raise CorruptError(f"{path}: is damaged: its digest does not match.")
        return data
    start = expected["start"]
    if _sha(data[:start]) != expected["header_sha256"]:
        raise CorruptError(f"{path}: is damaged in its header (bytes 0 to {start}).")
    bad = [n for n, (a, b) in expected["spans"].items() if _sha(data[start + a : start + b]) != expected["tensors"][n]]
    if bad:
        raise CorruptError(
            f"{path}: is damaged in {len(bad)} of {len(expected['spans'])} tensors: {', '.join(bad[:5])}."
        )
    return data


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
        folder: holds one folder for each, and the pointer ``latest``.
        keep: how many stay; the older ones are deleted after a newer one is safe.
        device: where ranks tell each other what they have written and found.
    """

    def __init__(self, folder: Path, keep: int = 2, device: torch.device = CPU) -> None:
        self.folder, self.keep, self.device = Path(folder), max(1, keep), device

    def save(self, step: int, tree: Any, tensors: Mapping[str, Tensor]) -> None:
        """Publish the state after ``step`` steps, then point to it, then delete what is too old. All ranks must call this."""
        name = f"step-{step:08d}"
        publish(self.folder / name, tree, tensors, self.device)
        if parallel.rank():
            return
        write_text(self.folder / LATEST, f"{name} {_sha(name.encode())}")
        found = self.all()
        here = found.index(self.folder / name)
        # What lies above is of a run that was taken up again from before it.
        for old in [*found[: max(0, here + 1 - self.keep)], *found[here + 1 :]]:
            shutil.rmtree(old, ignore_errors=True)
        sweep(self.folder)

    def all(self) -> list[Path]:
        """The folders of whole checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def load(self) -> tuple[Any, dict[str, Tensor | Spread]] | None:
        """The newest state that is undamaged on every rank; None if there is no checkpoint at all.

        A damaged one is named in a warning, and the one before it is used. All ranks must call this.

        Raises: CorruptError if there are checkpoints and all of them are damaged.
        """
        found, complaints = self._newest_first(), []
        parallel.agree({"checkpoints": ", ".join(folder.name for folder in found)}, self.device)
        for folder in found:
            state, complaint = None, ""
            try:
                state = _opened(folder, parallel.rank(), parallel.ranks())
            except CorruptError as error:
                complaint = str(error)
            told = dict.fromkeys(text for text in parallel.gather_text(complaint, self.device) if text)
            if told or state is None:
                complaints.append("\n".join(told))
                continue
            for said in complaints:
                warnings.warn(f"{said} Going on from the older {folder.name}.", stacklevel=2)
            return state
        if complaints:
            raise CorruptError("\n".join(complaints))
        return None

    def _newest_first(self) -> list[Path]:
        """What ``latest`` points to first: a folder above it was published, but the run was killed before it counted."""
        found = self.all()[::-1]
        pointer = self.folder / LATEST
        if not found or (len(found) == 1 and not pointer.exists()):  # the first save was killed before it counted
            return found
        try:
            name, _, sha = pointer.read_text(errors="replace").partition(" ")
        except OSError:
            name = sha = ""
        if _sha(name.encode()) == sha and self.folder / name in found:
            return [f for f in found if f <= self.folder / name]
        wrong = f"points to {name!r}, which is not there" if _sha(name.encode()) == sha else "is damaged or missing"
        warnings.warn(f"{pointer}: {wrong}. Going on from the newest, {found[0].name}.", stacklevel=3)
        return found
