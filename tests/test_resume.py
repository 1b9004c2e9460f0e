"""Runs that are killed at random progress and resumed end with the same bits as the unbroken run."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Optim, Settings, Term, train
from understudy.checkpoint import Checkpoints
from understudy.errors import CorruptError, InputError
from understudy.losses import cross_entropy, kl

torch.set_num_threads(1)


class Server:
    """See kill_server.py."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "server.log"
        self.file = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", Path(__file__).with_name("kill_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.file,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.unbroken: dict[Any, dict[str, Any]] = {}
        self.read()

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return line

    def __call__(self, run: str, folder: Path, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"run": run, "folder": str(folder), **more}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.read())
        assert answer["status"] != 1, answer.get("error")
        return answer

    def whole(self, run: str, folder: Path, broken: str | None = None) -> dict[str, Any]:
        """The same run, unbroken."""
        if (run, broken) not in self.unbroken:
            answer = self(run, folder / f"whole {run} {broken}", broken=broken)
            assert answer["status"] == 0, answer
            self.unbroken[run, broken] = answer
        return self.unbroken[run, broken]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.file.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def differing(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    """Which of the things that two runs left behind are not equal."""
    assert a["status"] == b["status"] == 0, (a, b)
    return {part for part in a["parts"] if a["parts"][part] != b["parts"][part]}


def position(events: list[str], event: str) -> int:
    return events.index(event) if event in events else -1


def killed(server: Server, run: str, folder: Path, times: int, draw: random.Random) -> tuple[dict[str, Any], list[str]]:
    """Kill a run at ``times`` random events, the next always beyond its last checkpoint; the end, and where kills fell."""
    events = server.whole(run, folder)["events"]
    landed: list[str] = []
    floor = 0
    while len(landed) < times:
        ahead = events[floor + 1 :][: max(6, len(events) // 3)]
        kill = {"after": draw.choice(ahead), "signal": signal.SIGKILL, "delay": draw.random() * 0.003}
        answer = server(run, folder / "killed", signals=[kill])
        if answer["status"] == 0:  # it was faster, or past this event already: no kill, and the run is over
            return answer, landed
        assert answer["status"] == -signal.SIGKILL, answer
        saved = [e for e in answer["events"] if e.startswith("saved ")]
        floor = max(floor, position(events, saved[-1]) if saved else 0)
        landed.append(answer["events"][-1])
    return server(run, folder / "killed"), landed


RUNS = ["everything", "momentum", "adversarial", "bank", "workers"]
MANY = [pytest.param(run, 30, marks=pytest.mark.long) for run in RUNS]


@pytest.mark.parametrize(("run", "kills"), [*((run, 4) for run in RUNS), *MANY])
def test_a_run_that_is_killed_at_random_and_resumed_ends_with_the_same_bits(
    run: str, kills: int, server: Server, tmp_path: Path, record_property: Any
) -> None:
    draw, fell, attempt = random.Random(f"{run} {kills}"), [], 0
    while len(fell) < kills:
        assert attempt < kills + 5, f"kills do not land: {fell}"
        folder = tmp_path / str(attempt)
        answer, landed = killed(server, run, folder, min(4, kills - len(fell)), draw)
        assert differing(server.whole(run, tmp_path), answer) == set(), landed
        assert answer["warnings"] == []
        fell += landed
        attempt += 1
    print(f"{run}: killed after {', '.join(fell)}")
    record_property("killed after", fell)


def test_kills_fall_everywhere_also_into_saves(server: Server, tmp_path: Path) -> None:
    """One kill for each kind of event: in a step, in a validation, and between all stages of a save."""
    events = server.whole("everything", tmp_path)["events"]
    kinds = {re.sub(r" \d+", " N", e, count=1): e for e in events if re.search(r" (18|20)\b", e)}
    kinds["the student's file"] = events[-1]
    assert {"saving N", "published N", "saved N", "syncing N.1", "syncing N.7", "validated N", "step N"} <= set(kinds)
    for kind, event in kinds.items():
        folder = tmp_path / kind
        answer = server("everything", folder, signals=[{"after": event, "signal": signal.SIGKILL}])
        assert answer["status"] == -signal.SIGKILL, kind
        assert differing(server.whole("everything", tmp_path), server("everything", folder)) == set(), kind


LEFT_OUT = {
    "dropout": ("step 24", {"student", "method", "optimizer", "metrics"}),
    "augmentation": ("step 24", {"student", "method", "optimizer", "metrics"}),
    "order": ("step 24", {"student", "method", "optimizer", "metrics"}),
    "optimizer": ("step 24", {"student", "method", "optimizer", "metrics"}),
    "average": ("step 24", {"average", "student"}),
    "validation": ("step 24", {"validation", "result"}),
    "journal": ("syncing 27.1", {"metrics"}),  # its lines are on the disk, and the checkpoint is not
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_the_comparison_finds_out_when_one_thing_is_left_out(what: str, server: Server, tmp_path: Path) -> None:
    whole = server.whole("everything", tmp_path, broken=what)
    assert differing(whole, server("everything", tmp_path / "again", broken=what)) == set()
    event, parts = LEFT_OUT[what]
    kill = {"after": event, "signal": signal.SIGKILL}
    answer = server("everything", tmp_path / "killed", broken=what, signals=[kill])
    assert answer["status"] == -signal.SIGKILL
    answer = server("everything", tmp_path / "killed", broken=what)
    assert answer["events"][0] == "started 18"
    assert differing(whole, answer) >= parts


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("run", ["everything", "workers"])
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint(
    name: str, run: str, server: Server, tmp_path: Path
) -> None:
    number = getattr(signal, name)
    # To the workers too, as a terminal sends Ctrl-C and many schedulers SIGTERM.
    sent = [{"after": "step 21", "signal": number}]
    answer = server(run, tmp_path / "stopped", signals=sent, group=True)
    assert answer["status"] == 5
    made = [e for e in answer["events"] if e.startswith("step ")][-1].removeprefix("step ")
    after = answer["events"][position(answer["events"], "signalled") :]
    assert len([e for e in after if e.startswith("step ")]) <= 1
    assert answer["events"][-1] == f"saved {made}"
    assert f"Interrupted: stopped after step {made} of 42. {tmp_path}" in answer["error"]
    assert "resume=True goes on" in answer["error"]
    assert not answer["left"], "a worker outlives the run"
    assert differing(server.whole(run, tmp_path), server(run, tmp_path / "stopped")) == set()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_a_run_at_once(name: str, server: Server, tmp_path: Path) -> None:
    """The run waits for ever after step 20, so that only an end in the middle of it is an end at all."""
    number = getattr(signal, name)
    twice = [{"after": "blocked", "signal": number}, {"after": "signalled", "signal": number}]
    answer = server("workers", tmp_path / "stopped", signals=twice, block=20, group=True)
    assert answer["status"] == 5
    assert answer["unsent"] == 0
    assert answer["events"][-2:] == ["blocked", "signalled"]
    assert f"stopped at once by a second {name}" in answer["error"]
    assert not answer["left"]
    assert differing(server.whole("workers", tmp_path), server("workers", tmp_path / "stopped")) == set()


def test_without_a_handler_a_second_signal_would_not(server: Server, tmp_path: Path) -> None:
    twice = [{"after": "blocked", "signal": signal.SIGINT}, {"after": "signalled", "signal": signal.SIGINT}]
    last = {"after": "signalled", "signal": signal.SIGKILL, "delay": 0.2}
    answer = server("momentum", tmp_path, signals=[*twice, last], block=20, broken="signals")
    assert answer["status"] == -signal.SIGKILL


def test_the_journal_of_a_killed_run_misses_no_line_and_has_none_twice(server: Server, tmp_path: Path) -> None:
    for event in ("step 12", "step 23", "step 40"):
        server("momentum", tmp_path / "killed", signals=[{"after": event, "signal": signal.SIGKILL}])
    assert server("momentum", tmp_path / "killed")["status"] == 0
    lines = [json.loads(line) for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    steps = server.whole("momentum", tmp_path)["events"]
    last = max(int(e.split()[1]) for e in steps if e.startswith("step "))
    assert [e["step"] for e in lines if "loss" in e] == [*range(2, last, 2), last]
    assert [e["step"] for e in lines if "valid" in e] == [s for s in range(last + 1) if s % 5 == 0 or s == last == 42]


def test_a_changed_number_of_threads_is_warned_of_by_name(server: Server, tmp_path: Path) -> None:
    server("momentum", tmp_path, signals=[{"after": "step 20", "signal": signal.SIGKILL}])
    (warning,) = server("momentum", tmp_path, threads=2)["warnings"]
    assert "resumed where threads was '1' and is '2': the result will not be equal to the last bit" in warning
    assert server("momentum", tmp_path)["warnings"] != [warning]


# -- another run in the same folder ------------------------------------------------------------------------------------


def data(samples: int = 24) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(samples, 4, generator=g), torch.randint(3, (samples,), generator=g)


def method(weight: float = 0.5, width: int = 6, shift: float = 0.0) -> Distillation:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    student = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    with torch.no_grad():
        teacher[0].weight[2, 1] += shift
    terms = [Term(cross_entropy, "student", "batch.label"), Term(kl, "student", "teacher", weight=weight)]
    return Distillation(*terms, student=student, teacher=teacher)


SETTINGS: dict[str, Any] = {"steps": 6, "batch_size": 8, "save_every": 2, "optimizer": Optim("SGD", lr=0.1)}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"settings": {"seed": 1}}, r"seed: was 0, is 1"),
        ({"settings": {"batch_size": 6}}, r"batch_size: was 8, is 6"),
        ({"settings": {"steps": 7}}, r"steps: was 6, is 7"),
        ({"settings": {"precision": "bf16"}}, r"precision: was 'fp32', is 'bf16'"),
        ({"settings": {"ema": 0.9}}, r"ema: was None, is 0.9"),
        ({"settings": {"optimizer": Optim("SGD", lr=0.2)}}, r"optimizer: .*lr=0\.1.*lr=0\.2"),
        ({"settings": {"optimizer": Optim("SGD", lr=0.1, warmup=0.3)}}, r"optimizer: was .*schedule=.*schedule="),
        ({"method": {"weight": 0.6}}, r"method: .*weight=0\.5.*weight=0\.6"),
        ({"method": {"width": 7}}, r"method: .*out_features=6.*out_features=7"),
        ({"method": {"shift": 1e-6}}, r"frozen model 'teacher': was [0-9a-f]{64}, is [0-9a-f]{64}"),
        ({"data": {"samples": 25}}, r"samples: was 24, is 25"),
    ],
    ids=lambda v: "" if isinstance(v, str) else str(v)[:40],
)
def test_a_checkpoint_of_another_run_is_refused_and_what_differs_is_named(
    changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    train(method(), data(), Settings(**SETTINGS), folder=tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"}
    other = method(**changed.get("method", {}))
    weights = [p.clone() for p in other.parameters()]
    settings = Settings(**SETTINGS | changed.get("settings", {}))
    with pytest.raises(
        InputError, match=rf"(?s)holds another run, so it cannot be resumed:.*{told}.*put these back"
    ) as e:
        train(other, data(**changed.get("data", {})), settings, folder=tmp_path, resume=True)
    assert len(str(e.value).splitlines()) == 3
    assert all(torch.equal(a, b) for a, b in zip(weights, other.parameters(), strict=True))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    train(method(), data(), Settings(**SETTINGS), folder=tmp_path)
    with pytest.raises(InputError, match=r"(?s)method: .*seed: .*samples: .*frozen model 'teacher'"):
        train(method(0.6, shift=1.0), data(26), Settings(**SETTINGS, seed=3), folder=tmp_path, resume=True)


@pytest.mark.parametrize("name", ["workers", "log_every", "save_every", "keep"])
def test_what_changes_no_weight_may_change(name: str, tmp_path: Path) -> None:
    train(method(), data(), Settings(**SETTINGS), folder=tmp_path)
    train(method(), data(), Settings(**SETTINGS | {name: 1}), folder=tmp_path, resume=True)


def test_a_run_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    result = train(method(), data(), Settings(**SETTINGS), folder=tmp_path, resume=True)
    assert result.steps == 6


def test_a_damaged_checkpoint_is_warned_of_and_the_run_goes_on_from_the_one_before_it(tmp_path: Path) -> None:
    whole, resumed = method(), method()
    train(whole, data(), Settings(**SETTINGS), folder=tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    path = tmp_path / "checkpoints/step-00000006/state.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match=r"step-00000006/state\.safetensors: is damaged in 1 of .*step-00000004"):
        train(resumed, data(), Settings(**SETTINGS), folder=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert Checkpoints(tmp_path / "checkpoints").load() is not None


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_anew(tmp_path: Path) -> None:
    train(method(), data(), Settings(**SETTINGS), folder=tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        path.write_bytes(path.read_bytes()[:-1])
    for resume in (True, False):
        with pytest.raises(CorruptError, match=r"state\.json: has [\d,]+ bytes instead of"):
            train(method(), data(), Settings(**SETTINGS), folder=tmp_path, resume=resume)


def test_a_cut_journal_is_found(tmp_path: Path) -> None:
    train(method(), data(), Settings(**SETTINGS, log_every=1), folder=tmp_path)
    journal = tmp_path / "metrics.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"metrics\.jsonl: has [\d,]+ bytes, but the checkpoint was made after"):
        train(method(), data(), Settings(**SETTINGS, log_every=1), folder=tmp_path, resume=True)
