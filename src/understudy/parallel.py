"""Many processes, on torch.distributed: what one rank must know of the others. With one process all of it does nothing.

Replicated parameters get one flat all-reduce after a move's last micro-batch. ``DistributedDataParallel`` is not used:
with two moves under accumulation its ranks drift apart silently, and a loss on an early tap alone raises.
"""

from __future__ import annotations

import atexit
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from understudy.errors import InputError, PeerLost

__all__ = [
    "agree",
    "average_gradients",
    "broadcast",
    "first_to_fail",
    "gather",
    "gather_text",
    "mean_over_ranks",
    "meet",
    "one_process",
    "rank",
    "ranks",
    "start",
    "started",
    "sum_over_ranks",
    "sync_batch_norm",
]

HANG_TIMEOUT = timedelta(minutes=10)
LAST_WORDS_S = 2.0


def started() -> int:
    """The number of processes that ``torchrun`` started, whether they have joined or not."""
    return int(os.environ.get("WORLD_SIZE", 1))


def one_process(what: str) -> None:
    """Raise InputError under ``torchrun``, whose processes would be in each other's way: in one folder, at one clock.

    Every one of them raises. If one left without a word, torchrun might end the other before it has said why.
    """
    if (many := max(started(), ranks())) > 1:
        raise InputError(
            f"{what}: does everything in one process, and this is one of {many}. Start it without torchrun. "
            "What torchrun is for: training alone (understudy.train, in a script of yours), and understudy store build."
        )


def start(device: torch.device) -> None:
    """Join the process group if ``torchrun`` started this process and nobody has joined yet."""
    if started() == 1 or dist.is_initialized():
        return
    if str(device) == "cuda":  # whichever it is
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    # Both: what is counted before the first forward, and texts, may lie on the CPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=HANG_TIMEOUT)
    # A worker of gloo's may wake the main thread and only later drop its tensors, for which it needs the interpreter. Where
    # that has gone meanwhile, the finished process aborts ("terminate called without an active exception").
    atexit.register(_part)


_unfinished = False


def _part() -> None:
    # Gloo waits for an exchange under way only, and all of ours block. NCCL may wait for a rank that an error has ended.
    if dist.is_initialized() and not (_unfinished and "nccl" in dist.get_backend_config()):
        dist.destroy_process_group()


@contextmanager
def _parting_only_from_the_living() -> Iterator[None]:
    """After an error do not wait at the end for ranks that may be dead; a later run that ends well makes up for it."""
    global _unfinished
    _unfinished = True
    yield
    _unfinished = False


def ranks() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of every rank's tensor, in place."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


def meet(device: torch.device) -> None:
    """Wait until every rank is here."""
    sum_over_ranks(torch.zeros(1, device=device))


def mean_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    """The mean of every rank's values, on the CPU."""
    return sum_over_ranks(values.to(device)).cpu() / ranks() if ranks() > 1 else values


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every rank rank 0's values, in place. Sharded tensors are left alone."""
    if ranks() == 1:
        return
    for tensor in tensors:
        if isinstance(tensor, DTensor) or not tensor.numel():
            continue
        # As bytes: gloo knows few dtypes, and takes a tensor with gaps for one without.
        whole = tensor.detach().contiguous()
        dist.broadcast(whole.reshape(-1).view(torch.uint8), src=0)
        if whole.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(whole)


def gather(tensor: Tensor) -> Tensor:
    """Every rank's rows, one rank after the other; the ranks may have different numbers of them. Without gradient."""
    if ranks() == 1:
        return tensor.detach()
    lengths = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(ranks())]
    dist.all_gather(lengths, torch.tensor([tensor.shape[0]], device=tensor.device))
    longest = max(int(n) for n in lengths)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in range(ranks())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])


def gather_text(text: str, device: torch.device) -> list[str]:
    """Every rank's text."""
    data = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8).to(device)
    ends = gather(torch.tensor([data.shape[0]], device=device)).cumsum(0).tolist()
    together = bytes(gather(data).cpu().tolist())
    return [together[a:b].decode().strip("\0") for a, b in zip([0, *ends], ends, strict=False)]


def agree(facts: dict[str, str], device: torch.device) -> None:
    """Raise InputError that names each fact in which the ranks differ."""
    if ranks() == 1:
        return
    problems = []
    for name, fact in facts.items():
        told = gather_text(fact, device)
        if len(set(told)) > 1:
            differ = next(i for i, letters in enumerate(itertools.zip_longest(*told)) if len(set(letters)) > 1)
            at = max(0, differ - 20)
            problems.append(
                f"ranks differ in {name}: "
                + ", ".join(f"rank {i} has {_excerpt(t, at)!r}" for i, t in enumerate(told))
                + "."
            )
    if problems:
        raise InputError("\n".join([*problems, "Every rank must run the same script with the same arguments."]))


def _excerpt(text: str, at: int, length: int = 60) -> str:
    return ("..." if at else "") + text[at : at + length] + ("..." if len(text) > at + length else "")


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The mean over ranks of each gradient, by one all-reduce for each dtype.

    A gradient that is missing here but not elsewhere counts as zero; one that is missing everywhere stays missing, as
    it would in one process. Sharded parameters were reduced in the backward.
    """
    if ranks() == 1:
        return
    alike: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for p in parameters:
        if not isinstance(p, DTensor):
            alike.setdefault((p.dtype, p.device), []).append(p)
    for (dtype, device), members in alike.items():
        there = torch.tensor([p.grad is not None for p in members], dtype=dtype, device=device)
        parts = [
            p.grad.reshape(-1) if p.grad is not None else torch.zeros(p.numel(), dtype=dtype, device=device)
            for p in members
        ]
        flat = torch.cat([*parts, there])
        dist.all_reduce(flat)
        sizes = [p.numel() for p in members]
        *means, present = (flat / ranks()).split([*sizes, len(members)])
        for p, mean, known in zip(members, means, present.tolist(), strict=True):
            p.grad = mean.view_as(p) if known else None


@torch.no_grad()
def sync_batch_norm(model: nn.Module) -> None:
    """Give every rank the mean of the BatchNorm statistics, so that what rank 0 saves is what every rank has.

    So too of any other module that says ``moving``: its buffers are averages over batches.
    """
    if ranks() == 1:
        return
    buffers = [
        b
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) or getattr(module, "moving", False)
        for b in module.buffers(recurse=False)
        if b.is_floating_point()
    ]
    for buffer in buffers:
        dist.all_reduce(buffer)
        buffer /= ranks()


_runs = itertools.count()
_run = 0


@contextmanager
def first_to_fail() -> Iterator[None]:
    """Let one rank alone say why the run ended.

    The rank that fails raises its own error, and leaves a note. On the others the next exchange fails, since the
    connection is gone: they leave without a word where there is a note; without one (the rank was killed) the first
    of them to see it raises :class:`PeerLost`.
    """
    global _run
    _run = next(_runs)  # the notes of a run before, whose error somebody caught, are none of this one's
    try:
        with _parting_only_from_the_living():
            yield
    except dist.DistError as error:
        if ranks() == 1:
            raise
        _leave(error)
    except Exception as error:
        if ranks() > 1:
            if _connection_lost(error):
                _leave(error)
            _note(f"rank {rank()}: {type(error).__name__}: {error}")
        raise


def _connection_lost(error: Exception) -> bool:
    words = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe", "ProcessGroup")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _note(text: str) -> None:
    # The store may have gone with the rank that held it; the error itself is raised all the same.
    with suppress(Exception):
        _store().set(_key("failed"), text)


def _key(name: str) -> str:
    return f"understudy/{_run}/{name}"


def _leave(error: Exception) -> None:
    """Raise PeerLost on one of the ranks that are left, and exit quietly on the others."""
    deadline = time.monotonic() + LAST_WORDS_S
    try:
        while time.monotonic() < deadline:
            if _store().check([_key("failed")]):
                raise SystemExit(PeerLost.exit_code)
            time.sleep(0.1)
        first = _store().add(_key("left"), 1) == 1
    except SystemExit:
        raise
    except Exception:
        first = True
    if not first:
        raise SystemExit(PeerLost.exit_code)
    _note("lost a peer")  # so that ranks which wait for this one alone need not look for another reason
    raise PeerLost(
        f"rank {rank()}: another process of this run has died without a word (killed? out of memory?). "
        "Start the same command again with resume=True to go on from the last checkpoint."
    ) from error
