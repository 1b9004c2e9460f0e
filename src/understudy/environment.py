"""What else a result depends on: versions, threads, the kind of processor."""

from __future__ import annotations

import platform

import numpy
import torch

from understudy.parallel import ranks

__all__ = ["differences", "environment"]


def environment(device: torch.device) -> dict[str, str]:
    """What must be equal for two runs to be equal to the last bit, by name."""
    facts = {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": device.type,
        "ranks": str(ranks()),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Each fact that has changed, in words."""
    return [f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in {**then, **now} if then.get(k) != now.get(k)]
