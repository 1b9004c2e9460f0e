from __future__ import annotations

import sys
from pathlib import Path

import pytest

from understudy.measure.processor import busy, low_precision, processor

MODULE = sys.modules[busy.__module__]


def test_flags_of_the_processor_are_told_in_words(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 avx2 avx512_vnni amx_int8\n")
    assert low_precision(info) == ["AVX2", "AVX-512 VNNI (int8)", "AMX (int8)"]
    assert processor(info) == "Some CPU"
    info.write_text("model name : Old\nflags : fpu avx2_not\n")
    assert low_precision(info) == []
    info.write_text("Features : fp asimd asimddp i8mm\n")
    assert low_precision(info) == ["NEON dot product (int8)", "NEON matrix product (int8)"]
    assert low_precision(tmp_path / "nowhere") is None


def test_a_machine_is_busy_where_too_few_cores_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "cores", lambda: 4)
    assert [busy(load, 1) for load in (None, 0.0, 3.4, 3.6)] == [False, False, False, True]
    assert busy(1.0, 4)
    assert not busy(0.3, 4)
