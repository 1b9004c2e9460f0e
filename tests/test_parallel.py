"""Many processes. What runs on the ranks is in ``parallel_scripts/``; here it is started and its traces are judged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from understudy import parallel
from understudy.folder import Lock

SCRIPTS = Path(__file__).parent / "parallel_scripts"
SAFETY_S = 60
END_S = 10  # in which a run whose rank has died must be over


class Ended(SimpleNamespace):
    """A run: its exit code, the ranks' codes (forked ones only), what each rank wrote to stderr, when it was over."""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def forked(script: str, *arguments: object, ranks: int = 2, rounds: int = 1, logs: Path) -> list[Ended]:
    """The script on ranks that are forked from a process which has imported torch: cheaper than torchrun."""
    command([str(SCRIPTS / "forked.py"), str(ranks), str(rounds), str(logs)], script, arguments)
    ended = []
    for folder in (logs / str(i) for i in range(rounds)):
        over = json.loads((folder / "over.json").read_text())
        errors = [(folder / f"{r}.err").read_text() for r in range(ranks)]
        ended.append(Ended(code=max(map(abs, over["codes"])), errors=errors, **over))
    return ended


def torchrun(script: str, *arguments: object, ranks: int = 2, rounds: int = 1, logs: Path) -> list[Ended]:
    """The same under the real ``torchrun``."""
    ended = []
    for folder in (logs / str(i) for i in range(rounds)):
        how = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        code = command([*how, "--redirects", "3", "--log-dir", str(folder)], script, arguments)
        at = time.time()
        errors = [next(folder.glob(f"*/attempt_0/{r}/stderr.log")).read_text() for r in range(ranks)]
        ended.append(Ended(code=code, codes=None, errors=errors, at=at, pids=[]))
    return ended


def command(launcher: list[str], script: str, arguments: tuple[object, ...]) -> int:
    whole = [sys.executable, *launcher, str(SCRIPTS / script), *map(str, arguments)]
    process = subprocess.Popen(whole, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(SAFETY_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(40)
        raise


def well(run: list[Ended]) -> None:
    assert run[-1].code == 0, "\n".join(run[-1].errors)


def distance(a: Path, b: Path) -> float:
    """The largest difference of all weights in two files, which must have the same names and shapes."""
    left, right = load_file(a), load_file(b)
    assert {k: v.shape for k, v in left.items()} == {k: v.shape for k, v in right.items()}
    return max(float((left[k] - right[k]).abs().max()) for k in left)


# -- the same result ---------------------------------------------------------------------------------------------------

STEPS = 200


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-process")
    well(forked("equality.py", folder, STEPS, "1", "4", "4-local", ranks=1, logs=folder / "logs"))
    return folder


def test_one_process_with_accumulation_equals_the_whole_batch(one_process: Path) -> None:
    difference = distance(one_process / "weights-4-0", one_process / "weights-1-0")
    print(f"one process, accumulate 4: {difference:.1e}")
    assert 0 < difference <= 1e-10, "0 would mean that nothing was split"
    names = set(load_file(one_process / "weights-1-0"))
    assert {n.split(".")[0] for n in names} == {"models", "terms", "critic"}, "student, projector and critic"


def test_two_ranks_equal_one_process_with_the_whole_batch(tmp_path: Path, one_process: Path) -> None:
    well(torchrun("equality.py", tmp_path, STEPS, "1", "2", "1-local", logs=tmp_path / "logs"))
    for run in ("1", "2"):
        difference = distance(tmp_path / f"weights-{run}-0", one_process / "weights-1-0")
        print(f"2 ranks, accumulate {run}: {difference:.1e}")
        assert 0 < difference <= 1e-10
        assert distance(tmp_path / f"weights-{run}-0", tmp_path / f"weights-{run}-1") == 0
    mistaken = distance(tmp_path / "weights-1-local-0", one_process / "weights-1-0")
    print(f"control, mean of the ranks' means: {mistaken:.1e}")
    assert mistaken > 1e-6


def test_a_mean_over_accumulation_steps_does_not_equal_the_whole_batch(one_process: Path) -> None:
    difference = distance(one_process / "weights-4-local-0", one_process / "weights-1-0")
    print(f"control, mean over accumulation steps: {difference:.1e}")
    assert difference > 1e-6


@pytest.mark.long
def test_three_ranks_equal_one_process_with_the_whole_batch(tmp_path: Path, one_process: Path) -> None:
    well(forked("equality.py", tmp_path, STEPS, "1", "2", ranks=3, logs=tmp_path / "logs"))
    for run in ("1", "2"):
        assert 0 < distance(tmp_path / f"weights-{run}-0", one_process / "weights-1-0") <= 1e-10


# -- what ranks have in common -----------------------------------------------------------------------------------------


def test_every_claim_about_two_ranks_holds(tmp_path: Path) -> None:
    well(forked("checks.py", tmp_path, logs=tmp_path / "logs"))
    claims = [json.loads((tmp_path / f"results-{rank}.json").read_text()) for rank in (0, 1)]
    failed = {f"rank {r}: {claim}": said for r in (0, 1) for claim, said in claims[r].items() if said != "held"}
    assert not failed, "\n".join(f"{claim}\n{said}" for claim, said in failed.items())
    assert list(claims[0]) == list(claims[1])
    assert len(claims[0]) == 15


# -- fully_shard -------------------------------------------------------------------------------------------------------


def test_a_fully_sharded_student_trains_to_the_same_weights_and_resumes_to_them(tmp_path: Path) -> None:
    well(forked("sharded.py", tmp_path, "whole", ranks=1, logs=tmp_path / "logs1"))
    well(forked("sharded.py", tmp_path, "sharded", logs=tmp_path / "logs2"))
    for rank in (0, 1):
        difference = distance(tmp_path / f"sharded-{rank}", tmp_path / "whole-0")
        print(f"fully_shard, rank {rank}: {difference:.1e}")
        assert difference <= 1e-10
        assert distance(tmp_path / f"resumed-{rank}", tmp_path / f"sharded-{rank}") == 0
        assert distance(tmp_path / f"copies-{rank}", tmp_path / "whole-0") <= 1e-10
    assert (tmp_path / "copies/checkpoints/step-00000050/rank-00000.safetensors").exists()
    assert not (tmp_path / "copies/checkpoints/step-00000050/rank-00001.safetensors").exists(), "rank 0 has all of it"
    bare, kept = (load_file(tmp_path / kind / "student.safetensors") for kind in ("whole", "sharded"))
    assert {k: list(v.shape) for k, v in kept.items()} == {
        "body.0.weight": [8, 6], "body.0.bias": [8], "head.weight": [4, 8], "head.bias": [4],
    }  # fmt: skip
    assert max(float((bare[k] - kept[k]).abs().max()) for k in bare) <= 1e-10
    assert torch.equal(kept["head.weight"], load_file(tmp_path / "sharded-0")["models.student.head.weight"])
    saved = tmp_path / "other" / "checkpoints" / "step-00000024"
    parts = [load_file(saved / f"rank-0000{rank}.safetensors") for rank in (0, 1)]
    assert [list(p["method/models.student.body.0.weight"].shape) for p in parts] == [[4, 6]] * 2
    assert [list(p["players/student/optimizer/state/0/exp_avg"].shape) for p in parts] == [[4, 6]] * 2
    assert [list(p["validation/weights/head.weight"].shape) for p in parts] == [[2, 8]] * 2
    assert not [name for name in load_file(saved / "state.safetensors") if "student.body" in name]
    well(forked("sharded.py", tmp_path, "other", ranks=3, logs=tmp_path / "logs3"))
    assert 0 < distance(tmp_path / "other-0", tmp_path / "sharded-0") <= 1e-10, "three ranks go on with what two wrote"
    for control in ("gradient", "shown"):
        assert distance(tmp_path / f"{control}-0", tmp_path / "short-0") > 1e-6, control


@pytest.mark.long
def test_a_student_that_is_sharded_in_one_direction_and_replicated_in_the_other_trains_to_the_same_weights(tmp_path):
    well(forked("sharded.py", tmp_path, "whole", ranks=1, logs=tmp_path / "logs1"))
    well(forked("sharded.py", tmp_path, "hybrid", ranks=4, logs=tmp_path / "logs2"))
    assert distance(tmp_path / "hybrid-0", tmp_path / "whole-0") <= 1e-10
    assert distance(tmp_path / "norm-0", tmp_path / "short-0") > 1e-6, "control"


# -- a rank that dies --------------------------------------------------------------------------------------------------

OURS = re.compile(r"^understudy: ", re.MULTILINE)
TRACEBACK = re.compile(r"^(?:\[rank\d\]: )?Traceback ", re.MULTILINE)  # with torch's own prefix
LOST = "another process of this run has died without a word"
FAULTS = {
    "raise-0": "ValueError: something of the user's is broken",
    "raise-1": "ValueError: something of the user's is broken",
    "sample": "data: sample 40 could not be read: OSError: this file is damaged",
    "disk-0": "the disk is full",
    "kill-0": LOST,
    "kill-1": LOST,
    "leave-1": LOST,
    "validation": LOST,
}


@pytest.fixture(scope="module")
def unbroken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    well(forked("dying.py", folder, "none", logs=folder / "logs"))
    return folder


def dies_and_goes_on(launch, fault: str, folder: Path, whole: Path, ranks: int = 2) -> None:
    died, resumed = launch("dying.py", folder, fault, ranks=ranks, rounds=2, logs=folder / "logs")
    took = died.at - float((folder / "death").read_text())
    print(f"{fault}: over after {took:.1f} s, ranks' exit codes {died.codes}")
    assert died.code != 0
    assert took <= END_S
    said = [len(OURS.findall(text)) + len(TRACEBACK.findall(text)) for text in died.errors]
    assert sorted(said) == [*[0] * (ranks - 1), 1], "\n".join(died.errors)
    assert FAULTS[fault] in "".join(died.errors)
    if died.codes is not None:
        assert 0 not in [code for code, words in zip(died.codes, said, strict=True) if words]
    assert not [pid for pid in died.pids if Path(f"/proc/{pid}").exists()], "left behind"
    equals(resumed, folder, whole, ranks)


def equals(resumed: Ended, folder: Path, whole: Path, ranks: int = 2) -> None:
    """The run that was resumed is to the last bit as if nothing had happened, metrics and checkpoint included."""
    well([resumed])
    for name in (*(f"weights-{rank}" for rank in range(ranks)), "run/student.safetensors", "run/metrics.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    state = "run/checkpoints/step-00000030/state.safetensors"
    assert (folder / state).read_bytes() == (whole / state).read_bytes()


def most_in_long(*normal: str) -> pytest.MarkDecorator:
    """All faults, those that are not named in the long run only."""
    faults = [f if f in normal else pytest.param(f, marks=pytest.mark.long) for f in FAULTS]
    return pytest.mark.parametrize("fault", faults)


@most_in_long("raise-1", "sample", "disk-0", "kill-0", "leave-1", "validation")
def test_a_rank_that_dies_ends_the_run_with_one_message_and_it_resumes_bit_equal(fault, tmp_path, unbroken_run) -> None:
    dies_and_goes_on(forked, fault, tmp_path, unbroken_run)


@most_in_long("kill-1")
def test_the_same_under_torchrun(fault, tmp_path, unbroken_run) -> None:
    dies_and_goes_on(torchrun, fault, tmp_path, unbroken_run)


@pytest.mark.long
def test_of_four_ranks_the_three_that_are_left_end_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    well(forked("dying.py", tmp_path / "whole", "none", ranks=4, logs=tmp_path / "logs"))
    (tmp_path / "broken").mkdir()
    dies_and_goes_on(forked, "kill-1", tmp_path / "broken", tmp_path / "whole", ranks=4)


@pytest.mark.long
def test_a_folder_that_another_run_holds_is_told_of_by_one_rank(tmp_path: Path) -> None:
    holder = Lock(tmp_path / "run")
    holder.take()
    try:
        (ended,) = forked("dying.py", tmp_path, "none", logs=tmp_path / "logs")
    finally:
        holder.release()
    assert ended.codes == [2, 4]
    assert [len(OURS.findall(text)) for text in ended.errors] == [1, 0]
    assert "is in use by process" in ended.errors[0]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_sigterm_to_one_rank_stops_both_at_the_same_step_and_they_resume_bit_equal(
    rank, tmp_path, unbroken_run
) -> None:
    ended, resumed = forked("dying.py", tmp_path, f"term-{rank}", rounds=2, logs=tmp_path / "logs")
    assert ended.codes == [5, 5], "\n".join(ended.errors)
    assert all("understudy: stopped after step 14 of 30." in text for text in ended.errors)
    assert ended.at - float((tmp_path / "death").read_text()) <= END_S
    equals(resumed, tmp_path, unbroken_run)


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_under_torchrun_sigterm_to_one_rank_loses_nothing(rank, tmp_path, unbroken_run) -> None:
    (ended,) = torchrun("dying.py", tmp_path, f"term-{rank}", logs=tmp_path / "first")
    assert ended.code != 0
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().startswith("step-00000014")
    (resumed,) = torchrun("dying.py", tmp_path, f"term-{rank}", logs=tmp_path / "second")
    equals(resumed, tmp_path, unbroken_run)


# -- one process -------------------------------------------------------------------------------------------------------


def test_with_one_process_nothing_is_exchanged() -> None:
    assert (parallel.rank(), parallel.ranks()) == (0, 1)
    rows, parameter = torch.ones(2, 3, requires_grad=True), torch.nn.Parameter(torch.ones(2))
    assert torch.equal(parallel.gather(rows * 2), torch.full((2, 3), 2.0))
    assert not parallel.gather(rows * 2).requires_grad
    parallel.average_gradients([parameter])
    assert parameter.grad is None
    parallel.agree({"seed": "1"}, torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), parallel.first_to_fail():
        raise ZeroDivisionError


def test_each_rank_of_a_machine_takes_a_gpu_of_its_own_and_counts_may_lie_on_the_cpu(monkeypatch) -> None:
    taken, joined = [], []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda backend, **options: joined.append(backend))
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    parallel.start(torch.device("cuda"))
    parallel.start(torch.device("cuda:0"))
    parallel.start(torch.device("cpu"))
    assert taken == [1], "only where no GPU was named"
    assert joined == ["cpu:gloo,cuda:nccl", "cpu:gloo,cuda:nccl", "gloo"]
    monkeypatch.setenv("WORLD_SIZE", "1")
    parallel.start(torch.device("cuda"))
    assert len(joined) == 3
