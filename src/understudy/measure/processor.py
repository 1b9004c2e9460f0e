"""The machine on which something is measured: its processor, what that can do in few bits, and how busy it is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["LOW_PRECISION", "busy", "cores", "load_average", "low_precision", "processor"]

CPUINFO = Path("/proc/cpuinfo")

LOW_PRECISION = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI (int8)",
    "avx512_vnni": "AVX-512 VNNI (int8)",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX (int8)",
    "amx_bf16": "AMX (bf16)",
    "amx_fp16": "AMX (fp16)",
    "asimdhp": "NEON (fp16)",
    "asimddp": "NEON dot product (int8)",
    "i8mm": "NEON matrix product (int8)",
    "bf16": "NEON (bf16)",
    "sve": "SVE",
    "sme": "SME",
}
"""By the kernel's name of a flag: instructions that make few bits fast. int8 gains speed by those that say so; AVX2 alone gains little."""


def low_precision(cpuinfo: Path = CPUINFO) -> list[str] | None:
    """The low-precision instructions that the processor has; None where the system does not tell."""
    flags = _lines(cpuinfo, ("flags", "Features"))
    return None if flags is None else [told for flag, told in LOW_PRECISION.items() if flag in flags.split()]


def processor(cpuinfo: Path = CPUINFO) -> str:
    """What the processor calls itself."""
    return _lines(cpuinfo, ("model name", "Model")) or platform.processor() or platform.machine()


def _lines(cpuinfo: Path, names: tuple[str, ...]) -> str | None:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() in names), None)


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def busy(load: float | None, threads: int) -> bool:
    """Whether others keep so many cores busy that too few are left for this many threads."""
    return load is not None and load > max(cores() - threads, 0) + 0.5
