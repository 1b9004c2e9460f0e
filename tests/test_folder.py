import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy import folder as folder_module
from understudy.errors import CorruptError, InputError, MachineError
from understudy.folder import Journal, Lock

HOLDER = """
import os, sys, time
from pathlib import Path
from understudy import folder
from understudy.folder import Lock
lock = Lock(Path(sys.argv[1]))
lock.take()
if "keeps" in sys.argv:
    folder._held.clear()
if len(sys.argv) > 2 and (child := os.fork()):
    print(child, flush=True)
elif len(sys.argv) == 2:
    print("holds", flush=True)
time.sleep(60)
"""


def holder(folder: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder, *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_and_names_the_process_that_has_it(tmp_path: Path) -> None:
    process, _ = holder(tmp_path)
    try:
        with pytest.raises(
            InputError, match=rf"{tmp_path}: is in use by process {process.pid} on .*Choose another"
        ) as e:
            Lock(tmp_path).take()
        assert e.value.exit_code == 2
    finally:
        kill(process)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    process, _ = holder(tmp_path)
    kill(process)
    lock = Lock(tmp_path)
    lock.take()
    assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
    lock.release()


def test_a_child_that_outlives_a_killed_process_does_not_hold_its_lock(tmp_path: Path) -> None:
    process, child = holder(tmp_path, "fork")
    try:
        kill(process)
        lock = Lock(tmp_path)
        lock.take()
        lock.release()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_without_letting_go_such_a_child_would_hold_the_lock(tmp_path: Path) -> None:
    process, child = holder(tmp_path, "keeps")
    try:
        kill(process)
        with pytest.raises(InputError, match="is in use"):
            Lock(tmp_path).take()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_lock_is_taken_once_and_again_after_its_release(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    with pytest.raises(InputError, match="is in use by"):
        second.take()
    first.release()
    second.take()
    second.release()
    second.release()


def test_without_a_folder_there_is_no_lock() -> None:
    lock = Lock(None)
    lock.take()
    lock.release()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be used as a run's folder") as caught:
        Lock(tmp_path / "file" / "run").take()
    assert caught.value.exit_code == 4


# -- the journal -------------------------------------------------------------------------------------------------------


def written(path: Path, records: list[dict[str, Any]], at: int = 0) -> int:
    journal = Journal(path)
    journal.open(at)
    for record in records:
        journal.write(record)
    length = journal.sync()
    journal.close()
    return length


def test_a_resumed_journal_cuts_off_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    at = written(path, [{"step": i} for i in range(5)])
    path.write_text(path.read_text() + '{"step": 5}\n{"ste')  # what was written after it, and half a line
    assert written(path, [{"step": 5}, {"step": 6}], at) == path.stat().st_size
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4, 5, 6]


def test_a_new_run_starts_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, [{"step": 0}])
    written(path, [{"step": 1}])
    assert path.read_text() == '{"step": 1}\n'


def test_sync_tells_the_length_that_is_safely_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.open(0)
    journal.write({"name": "ü"})
    assert journal.sync() == len(path.read_bytes())
    journal.close()


@pytest.mark.parametrize("left", [b"", b'{"step": 0}\n', None])
def test_a_journal_that_was_cut_short_is_refused(left: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    at = written(path, [{"step": 0}, {"step": 1}])
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(CorruptError, match=rf"{path}: has [\d,]+ bytes, but the checkpoint was made after {at}"):
        Journal(path).open(at)


def test_what_json_has_no_word_for_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, [{"loss": math.nan, "lr": [math.inf, 1.0], "valid": {"x": (-math.inf, 0.5)}}])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line == {"loss": None, "lr": [None, 1.0], "valid": {"x": [None, 0.5]}}


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.open(0)
    journal.write({"step": 0})
    assert journal.sync() == 0
    journal.close()


@pytest.mark.parametrize("call", ["truncate", "fsync"])
def test_a_disk_that_refuses_is_an_error_of_the_machine(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    at = written(path, [{"step": 0}])

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.os, call, full)
    journal = Journal(path)
    with pytest.raises(MachineError, match=r"metrics\.jsonl: cannot be written: .*No space left"):
        journal.open(at) or journal.sync()
    journal.close()
