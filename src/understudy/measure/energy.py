"""The energy of a piece of work: measured where the machine has a counter that can be read, else an estimate that says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import MachineError

__all__ = ["CORE_WATTS", "POWERCAP", "Meter", "meter"]

POWERCAP = Path("/sys/class/powercap")

CORE_WATTS = 4.0
"""Of a core that computes, where nothing better is known. Codecarbon assumes as much for a processor that it does not know."""


@dataclass(frozen=True)
class Meter:
    """Something that tells millijoules.

    Attributes:
        how: "measured" or "estimated".
        model: what was read, or how it was estimated.
        counters: now, in microjoules, by name; and the value at which each begins at zero again.
        watts: of a core, for an estimate.
    """

    how: str
    model: str
    counters: Callable[[], Mapping[str, tuple[int, int]]] | None = None
    watts: float = 0.0

    def now(self) -> Mapping[str, tuple[int, int]]:
        """What is given to :meth:`spent` after the work; nothing for an estimate."""
        return self.counters() if self.counters else {}

    def spent(self, before: Mapping[str, tuple[int, int]], cpu_s: float) -> float:
        """Millijoules since then; ``cpu_s`` are the seconds that the work took of all cores together."""
        if self.counters is None:
            return self.watts * cpu_s * 1e3
        after = self.counters()
        return sum(_rise(before[name][0], value, wrap) for name, (value, wrap) in after.items()) / 1e3


def _rise(before: int, after: int, wrap: int) -> int:
    return after - before if after >= before else after - before + wrap


def meter(device: str = "cpu", *, powercap: Path = POWERCAP) -> Meter:
    """The best meter there is: the processor's RAPL counters, or the GPU's own; else watts of a core times its seconds.

    RAPL and NVML count what the whole processor or the whole GPU takes, other work and idling included.

    Args:
        device: "cpu" or "cuda".
        powercap: where the kernel shows RAPL. It may be there and yet be for the administrator alone.
    """
    if device.startswith("cuda"):
        return _nvml(device) or _estimate()
    return _rapl(powercap) or _estimate()


def _rapl(powercap: Path) -> Meter | None:
    zones = {}
    for zone in sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []:
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):  # parts of a package are in its count already
            continue
        try:
            name = (zone / "name").read_text().strip()
            int((zone / "energy_uj").read_text())
            zones[zone] = (name, int((zone / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):
            return None
    packages = {zone: known for zone, known in zones.items() if known[0].startswith("package")}
    if not packages:
        return None

    def counters() -> dict[str, tuple[int, int]]:
        try:
            return {n: (int((zone / "energy_uj").read_text()), wrap) for zone, (n, wrap) in packages.items()}
        except (OSError, ValueError) as error:
            raise MachineError(f"energy: {powercap} can no longer be read: {error}.") from error

    return Meter("measured", f"RAPL: {', '.join(n for n, _ in packages.values())}, whole", counters)


def _nvml(device: str) -> Meter | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        name = str(pynvml.nvmlDeviceGetName(handle))
    except pynvml.NVMLError:
        return None

    def counters() -> dict[str, tuple[int, int]]:
        return {name: (int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1000, 0)}  # it tells millijoules

    return Meter("measured", f"NVML: {name}, whole", counters)


def _estimate() -> Meter:
    watts, source = _codecarbon() or (CORE_WATTS, "assumed for any processor")
    return Meter("estimated", f"{watts:.3g} W a core ({source}) x CPU seconds", watts=watts)


def _codecarbon() -> tuple[float, str] | None:
    """Watts of a core by codecarbon's table of processors, where it knows this one."""
    try:
        from codecarbon.core.cpu import TDP
    except ImportError:
        return None
    import logging
    import os

    logger = logging.getLogger("codecarbon")
    before, logger.disabled = logger.disabled, True
    try:
        found: Any = TDP()
        return float(found.tdp) / (os.cpu_count() or 1), "by codecarbon"
    except Exception:  # it reads what the system calls itself, which may be anything
        return None
    finally:
        logger.disabled = before
