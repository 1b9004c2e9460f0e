from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from understudy.errors import MachineError
from understudy.measure.energy import CORE_WATTS, meter


def zone(folder: Path, name: str, energy: int, kind: str = "package-0", most: int = 1000) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    for file, value in (("name", kind), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (made / file).write_text(f"{value}\n")
    return made


@pytest.fixture(autouse=True)
def _no_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon.core.cpu", None)
    monkeypatch.setitem(sys.modules, "codecarbon", None)


def test_counters_that_can_be_read_are_measured(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 900, "package-1")
    zone(tmp_path, "intel-rapl:0:0", 5, "core")  # a part of the first
    zone(tmp_path, "intel-rapl:2", 5, "psys")  # the whole machine
    made = meter(powercap=tmp_path)
    assert (made.how, made.model) == ("measured", "RAPL: package-0, package-1, whole")
    before = made.now()
    (first / "energy_uj").write_text("350")
    (second / "energy_uj").write_text("200")  # it has begun at zero again, after 1000
    assert made.spent(before, cpu_s=77.0) == (250 + 300) / 1000


def test_without_a_counter_it_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    for powercap in (tmp_path / "nothing", tmp_path):
        made = meter(powercap=powercap)
        assert made.how == "estimated"
        assert made.model == "4 W a core (assumed for any processor) x CPU seconds"
        assert made.spent(made.now(), cpu_s=0.5) == CORE_WATTS * 500


@pytest.mark.parametrize("broken", ["forbidden", "no number", "no range"])
def test_a_counter_that_cannot_be_read_is_not_called_measured(broken: str, tmp_path: Path) -> None:
    made = zone(tmp_path, "intel-rapl:0", 100)
    assert meter(powercap=tmp_path).how == "measured"  # the control
    if broken == "forbidden":
        (made / "energy_uj").unlink()
    elif broken == "no number":
        (made / "energy_uj").write_text("?")
    else:
        (made / "max_energy_range_uj").unlink()
    assert meter(powercap=tmp_path).how == "estimated"


def test_a_counter_that_vanishes_meanwhile_is_told(tmp_path: Path) -> None:
    made, counted = zone(tmp_path, "intel-rapl:0", 100), meter(powercap=tmp_path)
    before = counted.now()
    (made / "energy_uj").unlink()
    with pytest.raises(MachineError, match="can no longer be read"):
        counted.spent(before, 1.0)


def test_codecarbon_tells_the_watts_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("codecarbon.core.cpu")
    fake.TDP = lambda: SimpleNamespace(tdp=65)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", ModuleType("codecarbon"))
    monkeypatch.setitem(sys.modules, "codecarbon.core", ModuleType("codecarbon.core"))
    monkeypatch.setitem(sys.modules, "codecarbon.core.cpu", fake)
    monkeypatch.setattr("os.cpu_count", lambda: 10)
    made = meter(powercap=tmp_path)
    assert (made.how, made.watts) == ("estimated", 6.5)
    assert made.model == "6.5 W a core (by codecarbon) x CPU seconds"
    fake.TDP = lambda: 1 / 0  # type: ignore[attr-defined]
    assert meter(powercap=tmp_path).watts == CORE_WATTS


def test_a_gpu_tells_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([500, 500, 530])  # millijoules; the first is asked whether it can be read
    fake = ModuleType("pynvml")
    fake.NVMLError = ValueError  # type: ignore[attr-defined]
    fake.nvmlInit = lambda: None  # type: ignore[attr-defined]
    fake.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    fake.nvmlDeviceGetName = lambda handle: f"card {handle}"  # type: ignore[attr-defined]
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(counted)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    made = meter("cuda:1", powercap=tmp_path)
    assert (made.how, made.model) == ("measured", "NVML: card 1, whole")
    assert made.spent(made.now(), 0.0) == 30
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meter("cuda:1", powercap=tmp_path).how == "estimated"
