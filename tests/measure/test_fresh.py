from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.measure import fresh
from understudy.measure.fresh import SCRIPT, Fresh
from understudy.measure.memory import empty_onnx
from understudy.measure.worker import Refused, Taken, inputs

from .files import written

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to such a limit")


def job(file: Path, **more: Any) -> dict[str, Any]:
    empty = file.with_name("empty.onnx")
    empty.write_bytes(empty_onnx())
    return {"runtime": "onnxruntime", "file": str(file), "threads": 1, "batch": 1, "empty": str(empty), **more}


def altered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    """Let the process run another script."""
    source = SCRIPT.read_text()
    assert old in source
    (tmp_path / "altered.py").write_text(source.replace(old, new))
    monkeypatch.setattr(fresh, "SCRIPT", tmp_path / "altered.py")


def runs(given: dict[str, Any]) -> bool:
    """Whether it runs; False if its memory is not enough."""
    try:
        Fresh(given).close()
    except Refused as error:
        if error.kind != "memory":
            raise
        return False
    return True


@LINUX
def test_a_limit_of_memory_stops_a_model_that_needs_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = job(written(tmp_path / "large.onnx", 5_000_000))  # 80 MB of weights
    assert runs({**large, "limit": 250_000_000})
    assert not runs({**large, "limit": 40_000_000})
    assert runs({**job(written(tmp_path / "small.onnx")), "limit": 2_000_000})
    altered(monkeypatch, tmp_path, "resource.setrlimit(", "print(")  # the control
    assert runs({**large, "limit": 40_000_000})


def test_a_process_that_is_killed_under_a_limit_needed_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, tmp_path, "        start = time.perf_counter_ns()\n", "        os.kill(os.getpid(), 9)\n")
    given = job(written(tmp_path / "m.onnx"))
    assert not runs({**given, "limit": 500_000_000})
    with pytest.raises(Refused, match="its process ended with -9") as caught:
        Fresh(given)
    assert caught.value.kind == "run"


def test_the_process_imports_neither_torch_nor_understudy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = "assert not {'torch', 'understudy', 'onnx'} & set(sys.modules), 'too much'"
    given, start = job(written(tmp_path / "m.onnx")), "        say(running.ready())\n"
    altered(monkeypatch, tmp_path, start, f"{start}        {check}\n")
    Fresh(given).close()
    altered(monkeypatch, tmp_path, start, f"        import understudy.errors\n        {check}\n{start}")
    with pytest.raises(Refused, match="too much"):
        Fresh(given)


def test_what_a_runtime_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, tmp_path, "    import onnxruntime\n", "    import onnxruntime\n    os.write(1, b'hello')\n")
    running = Fresh(job(written(tmp_path / "m.onnx")))
    assert running.ready["shapes"] == {"x": [1, 4]}
    running.close()
    assert running.process.returncode == 0


def test_a_block_makes_so_many_calls_for_so_long(tmp_path: Path) -> None:
    running = Fresh(job(written(tmp_path / "m.onnx"), batch=3))
    assert len(running.block(7, 0)["times_ms"]) == 7
    long = running.block(1, 0.05)
    assert len(long["times_ms"]) > 1
    assert sum(long["times_ms"]) <= 50 + max(long["times_ms"])
    assert long["cpu_s"] >= 0
    running.close()


def test_samples_are_taken_from_the_first_again_and_whole_numbers_are_zeros(tmp_path: Path) -> None:
    import numpy as np

    given = {"a": np.arange(6).reshape(3, 2)}
    (made,) = inputs([Taken("x", (None, 2), "int64")], 5, {}, given).values()
    assert made[:, 0].tolist() == [0, 2, 4, 0, 2]
    made = inputs([Taken("x", (None, 2), "int64"), Taken("y", (None, 3), "float32")], 2, {}, None)
    assert not made["x"].any()
    assert made["y"].shape == (2, 3)
    assert made["y"].std() > 0.1
    with pytest.raises(Refused, match="takes y, but was given a, b"):
        inputs([Taken("y", None, None), Taken("a", None, None)], 1, {}, {"a": given["a"], "b": given["a"]})


def test_a_job_is_plain_json(tmp_path: Path) -> None:
    given = job(written(tmp_path / "m.onnx"))
    assert json.loads(json.dumps(given)) == given


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        ("os.kill(os.getpid(), 9)", "its process ended with -9"),
        ("{}['late']", "failed while it was timed: KeyError: 'late'"),
    ],
)
def test_what_happens_while_it_is_timed_is_told(
    happens: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, tmp_path, "            begun, cpu = ", f"            {happens}\n            begun, cpu = ")
    running = Fresh(job(written(tmp_path / "m.onnx")))
    try:
        for _ in range(2):  # the second time there is nobody to ask
            with pytest.raises(Refused, match=told if _ == 0 else "its process ended with") as caught:
                running.block(1, 0.0)
            assert caught.value.kind == "run"
    finally:
        running.close()
